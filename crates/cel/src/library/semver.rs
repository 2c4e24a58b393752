//! Semantic versions: `semver`, `isSemver`, their parts and their order.

use std::any::Any;
use std::cmp::Ordering;
use std::sync::LazyLock;

use crate::cost::{CallEstimate, STRING_TRAVERSAL_FACTOR as TRAVERSAL, scale};
use crate::error::EvalError;
use crate::library::{Library, Overload};
use crate::types::Type;
use crate::value::{Opaque, Value};

static SEMVER: LazyLock<Type> = LazyLock::new(|| Type::opaque("kubernetes.Semver"));

/// A version. What it was built from (behind `+`) has no part in its order.
#[derive(Debug)]
struct Semver {
    numbers: [u64; 3],
    pre: Vec<Identifier>,
}

/// A part of what stands behind `-`; numbers come before words.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Identifier {
    Number(u64),
    Word(String),
}

impl Semver {
    fn order(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            // a release is later than everything that leads to it
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => self.pre.cmp(&other.pre),
        })
    }
}

impl Opaque for Semver {
    fn ty(&self) -> &Type {
        &SEMVER
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref::<Self>().is_some_and(|other| self.order(other) == Ordering::Equal)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn number(text: &str, what: &str) -> Result<u64, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("Invalid character(s) found in {what} number {text:?}"));
    }
    if text.len() > 1 && text.starts_with('0') {
        return Err(format!(
            "{}{} number must not contain leading zeroes {text:?}",
            &what[..1].to_uppercase(),
            &what[1..]
        ));
    }
    text.parse().map_err(|_| format!("strconv.ParseUint: parsing {text:?}: value out of range"))
}

fn parse(text: &str) -> Result<Semver, String> {
    if text.is_empty() {
        return Err("Version string empty".to_owned());
    }
    let mut parts = text.splitn(3, '.');
    let (Some(major), Some(minor), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
        return Err("No Major.Minor.Patch elements found".to_owned());
    };
    let (rest, build) = match rest.split_once('+') {
        Some((rest, build)) => (rest, Some(build)),
        None => (rest, None),
    };
    let (patch, pre) = match rest.split_once('-') {
        Some((patch, pre)) => (patch, Some(pre)),
        None => (rest, None),
    };
    let numbers = [number(major, "major")?, number(minor, "minor")?, number(patch, "patch")?];
    let pre = pre.map_or(Ok(Vec::new()), |pre| pre.split('.').map(identifier).collect())?;
    for part in build.into_iter().flat_map(|build| build.split('.')) {
        if part.is_empty() {
            return Err("Build meta data is empty".to_owned());
        }
        if !is_word(part) {
            return Err(format!("Invalid character(s) found in build meta data {part:?}"));
        }
    }
    Ok(Semver { numbers, pre })
}

fn is_word(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn identifier(text: &str) -> Result<Identifier, String> {
    if text.is_empty() {
        return Err("Prerelease is empty".to_owned());
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        if text.len() > 1 && text.starts_with('0') {
            return Err(format!("Numeric PreRelease version must not contain leading zeroes {text:?}"));
        }
        let number = text.parse().map_err(|_| format!("strconv.ParseUint: parsing {text:?}: value out of range"))?;
        return Ok(Identifier::Number(number));
    }
    if is_word(text) {
        Ok(Identifier::Word(text.to_owned()))
    } else {
        Err(format!("Invalid character(s) found in prerelease {text:?}"))
    }
}

/// Reads what people write for versions: with a `v`, leading zeros, or fewer than three numbers.
fn normalized(text: &str) -> Result<Semver, String> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let mut parts: Vec<String> = text.splitn(3, '.').map(str::to_owned).collect();
    for part in parts.iter_mut().filter(|part| part.len() > 1) {
        let digits = part.trim_start_matches('0');
        let zero = if digits.starts_with(|first: char| first.is_ascii_digit()) { "" } else { "0" };
        *part = format!("{zero}{digits}");
    }
    if parts.len() < 3 {
        if parts.last().is_some_and(|last| last.contains(['+', '-'])) {
            return Err("short version cannot contain PreRelease/Build meta data".to_owned());
        }
        parts.resize(3, "0".to_owned());
    }
    parse(&parts.join("."))
}

fn read(args: &[Value<'_>]) -> Result<Result<Semver, String>, EvalError> {
    let text = args[0].str()?;
    let normalize = args.get(1).map_or(Ok(false), Value::bool)?;
    Ok(if normalize { normalized(text) } else { parse(text) })
}

/// As Kubernetes has it since 1.33.
pub(super) fn library() -> Library {
    let parses = |overload: Overload| {
        overload
            .cost(|args, _| scale(args[0].size().unwrap_or(1), TRAVERSAL))
            .estimate(|call| CallEstimate::cost(call.size(0).cost(TRAVERSAL)))
    };
    let nominal = |overload: Overload| overload.cost(|_, _| 1).estimate(|_| CallEstimate::fixed(1));
    let make = |id, args| {
        parses(Overload::global(id, args, SEMVER.clone(), |_, args| {
            read(args)?.map(Value::from_opaque).map_err(EvalError::other)
        }))
    };
    let test =
        |id, args| parses(Overload::global(id, args, Type::Bool, |_, args| Ok(Value::Bool(read(args)?.is_ok()))));
    let part = |id, at: usize| {
        nominal(Overload::member(id, vec![SEMVER.clone()], Type::Int, move |_, args| {
            Ok(Value::Int(args[0].opaque::<Semver>()?.numbers[at].cast_signed()))
        }))
    };
    let two = || vec![SEMVER.clone(), SEMVER.clone()];
    let is = |id, wanted: Ordering| {
        nominal(Overload::member(id, two(), Type::Bool, move |_, args| {
            Ok(Value::Bool(args[0].opaque::<Semver>()?.order(args[1].opaque()?) == wanted))
        }))
    };
    let text = || vec![Type::String];
    let text_and_flag = || vec![Type::String, Type::Bool];
    Library::new()
        .type_name("kubernetes.Semver", SEMVER.clone())
        .function("semver", vec![make("string_to_semver", text()), make("string_bool_to_semver", text_and_flag())])
        .function("isSemver", vec![test("is_semver_string", text()), test("is_semver_string_bool", text_and_flag())])
        .function("major", vec![part("semver_major", 0)])
        .function("minor", vec![part("semver_minor", 1)])
        .function("patch", vec![part("semver_patch", 2)])
        .function("isGreaterThan", vec![is("semver_is_greater_than", Ordering::Greater)])
        .function("isLessThan", vec![is("semver_is_less_than", Ordering::Less)])
        .function(
            "compareTo",
            vec![nominal(Overload::member("semver_compare_to", two(), Type::Int, |_, args| {
                Ok(Value::Int(args[0].opaque::<Semver>()?.order(args[1].opaque()?) as i64))
            }))],
        )
}
