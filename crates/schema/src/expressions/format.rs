//! Named formats in expressions: `format.dns1123Label().validate(self)`.

use std::{any::Any, sync::LazyLock};

use cel::{
    EvalError, Library, Opaque, Overload, Type, Value,
    cost::{CallEstimate, REGEX_LENGTH_FACTOR, STRING_TRAVERSAL_FACTOR, scale},
};

use crate::{names, validate::Format};

static FORMAT: LazyLock<Type> = LazyLock::new(|| Type::opaque("kubernetes.NamedFormat"));

/// What estimates take for the longest expression of any format.
const REGEX_MAX: f64 = 128.0;

/// A format: how functions call it, what is wrong with a text, and the length of the expression that stands for its cost.
#[derive(Clone, Copy)]
struct Named {
    function: &'static str,
    name: &'static str,
    problems: fn(&str) -> Vec<String>,
    regex: u64,
}

impl std::fmt::Debug for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Opaque for Named {
    fn ty(&self) -> &Type {
        &FORMAT
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref::<Self>().is_some_and(|other| self.name == other.name)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A prefix of names may end in a dash.
fn unmasked(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(rest) if !rest.is_empty() => format!("{rest}a"),
        _ => text.to_owned(),
    }
}

fn of_schema(format: &str, text: &str, problem: &str) -> Vec<String> {
    let fits = Format::of(format).is_none_or(|format| format.fits(text));
    if fits { Vec::new() } else { vec![problem.to_owned()] }
}

const FORMATS: [Named; 13] = [
    named("format.dns1123Label", "DNS1123Label", names::dns1123_label, 30),
    named("format.dns1123Subdomain", "DNS1123Subdomain", names::dns1123_subdomain, 60),
    named("format.dns1035Label", "DNS1035Label", names::dns1035_label, 30),
    named("format.qualifiedName", "QualifiedName", names::qualified_name, 60),
    named("format.dns1123LabelPrefix", "DNS1123LabelPrefix", |text| names::dns1123_label(&unmasked(text)), 30),
    named(
        "format.dns1123SubdomainPrefix",
        "DNS1123SubdomainPrefix",
        |text| names::dns1123_subdomain(&unmasked(text)),
        60,
    ),
    named("format.dns1035LabelPrefix", "DNS1035LabelPrefix", |text| names::dns1035_label(&unmasked(text)), 30),
    named("format.labelValue", "LabelValue", names::label_value, 40),
    named("format.uri", "URI", |text| cel::library::Url::parse(text).err().into_iter().collect(), 1103),
    named("format.uuid", "uuid", |text| of_schema("uuid", text, "does not match the UUID format"), 70),
    named("format.byte", "byte", |text| of_schema("byte", text, "invalid base64"), 84),
    named("format.date", "date", |text| of_schema("date", text, "invalid date"), 71),
    named("format.datetime", "datetime", |text| of_schema("datetime", text, "invalid datetime"), 71),
];

const fn named(function: &'static str, name: &'static str, problems: fn(&str) -> Vec<String>, regex: u64) -> Named {
    Named { function, name, problems, regex }
}

/// As Kubernetes has it since 1.31.
pub(super) fn library() -> Library {
    let mut library = Library::new().type_name("kubernetes.NamedFormat", FORMAT.clone());
    for format in FORMATS {
        let make =
            Overload::global(format.function, vec![], FORMAT.clone(), move |_, _| Ok(Value::from_opaque(format)));
        library = library.function(format.function, vec![make]);
    }
    let texts = Type::optional(Type::list(Type::String));
    library
        .function(
            "format.named",
            vec![
                Overload::global("format-named", vec![Type::String], Type::optional(FORMAT.clone()), |_, args| {
                    let name = args[0].str()?;
                    let known = FORMATS.iter().find(|format| format.function.strip_prefix("format.") == Some(name));
                    Ok(known.map_or_else(Value::none, |format| Value::some(Value::from_opaque(*format))))
                })
                .cost(|_, _| 1)
                .estimate(|_| CallEstimate::fixed(1)),
            ],
        )
        .function(
            "validate",
            vec![
                Overload::member("format-validate", vec![FORMAT.clone(), Type::String], texts, |_, args| {
                    validate(args)
                })
                .cost(|args, _| {
                    let regex = args[0].opaque::<Named>().map_or(1, |format| format.regex);
                    let text = scale(args[1].size().unwrap_or(1).saturating_add(1), STRING_TRAVERSAL_FACTOR);
                    text.saturating_mul(scale(regex, REGEX_LENGTH_FACTOR))
                })
                .estimate(|call| {
                    let text = call.size(1).cost(STRING_TRAVERSAL_FACTOR);
                    CallEstimate::cost(text.scale(REGEX_MAX * REGEX_LENGTH_FACTOR))
                }),
            ],
        )
}

fn validate<'a>(args: &[Value<'a>]) -> Result<Value<'a>, EvalError> {
    let problems = (args[0].opaque::<Named>()?.problems)(args[1].str()?);
    if problems.is_empty() {
        return Ok(Value::none());
    }
    Ok(Value::some(Value::list(problems.into_iter().map(Value::string).collect())))
}
