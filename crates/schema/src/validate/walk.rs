//! The walk that checks an object against the rules of its nodes, in the order and words of upstream's validator.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::{FieldError, unique::duplicates};
use crate::path::Path;
use crate::types::{Bound, JsonType, Kind, ListKind, Origin, Ref, Rules, Schema};

/// Enough to mend an object by; a huge list of broken elements must not grow the answer without bound.
const MAX_ERRORS: usize = 100;
/// What upstream prints for errors of the object as a whole, and for alternatives of which none fits.
const NOWHERE: &str = "<nil>";

/// Checks an object against the schema of its CustomResourceDefinition. With `old`, the state before an update, what is
/// wrong in a part that did not change is not reported: a schema that became stricter does not lock its objects.
/// CEL rules are not part of this.
pub fn validate(schema: &Schema, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut report = Report::default();
    check(schema.root(), object, old, &Path::Root, &mut report);
    let mut errors = report.errors;
    for error in errors.iter_mut().filter(|error| error.path.is_empty()) {
        error.path = NOWHERE.to_owned();
    }
    let broken = |object: &Value| {
        let mut errors = Vec::new();
        duplicates(schema.root(), object, &Path::Root, &mut errors);
        errors
    };
    let repeated = broken(object);
    if !repeated.is_empty() && old.is_none_or(|old| broken(old).is_empty()) {
        errors.extend(repeated);
    }
    errors.truncate(MAX_ERRORS);
    errors
}

/// Checks one value, for example a default, against its node. Paths of errors are relative to the value.
pub(crate) fn check_value(node: Ref<'_>, value: &Value) -> Vec<FieldError> {
    let mut report = Report::default();
    check(node, value, None, &Path::Root, &mut report);
    report.errors
}

/// A resource inside of another one.
#[derive(Debug)]
pub struct Embedded<'a> {
    /// Where it stands.
    pub path: String,
    /// The resource.
    pub value: &'a Map<String, Value>,
}

/// The resources embedded in an object, whose own `metadata` is to be checked.
pub fn embedded<'a>(schema: &Schema, object: &'a Value) -> Vec<Embedded<'a>> {
    embedded_in(schema.root(), object)
}

/// [`embedded`] for one value and its node.
pub(crate) fn embedded_in<'a>(node: Ref<'_>, value: &'a Value) -> Vec<Embedded<'a>> {
    let mut found = Vec::new();
    find_embedded(node, value, &Path::Root, &mut found);
    found
}

fn find_embedded<'a>(node: Ref<'_>, value: &'a Value, path: &Path<'_>, found: &mut Vec<Embedded<'a>>) {
    if !node.node.below.embedded {
        return;
    }
    match value {
        Value::Object(map) => {
            if node.rules().is_some_and(|rules| rules.embedded) {
                found.push(Embedded { path: path.bracketed(), value: map });
            }
            let is_map = matches!(node.node.kind, Kind::Map { .. });
            for (name, value) in map {
                let Some(inner) = node.member(name) else { continue };
                let path = if is_map { Path::Key(path, name) } else { Path::Field(path, name) };
                find_embedded(inner, value, &path, found);
            }
        }
        Value::Array(items) => {
            let Some(inner) = node.item() else { return };
            for (at, value) in items.iter().enumerate() {
                find_embedded(inner, value, &Path::Item(path, at), found);
            }
        }
        _ => {}
    }
}

/// What a check found. Upstream shows of several alternatives that all fail the one that comes closest, so that checks
/// that pass are counted.
#[derive(Default)]
struct Report {
    errors: Vec<FieldError>,
    matches: usize,
}

impl Report {
    fn invalid(&mut self, path: &Path<'_>, value: &Value, rule: &str) {
        let path = path.to_string();
        let detail = format!("{path} in body {rule}");
        self.errors.push(FieldError::invalid(path, value.clone(), detail));
    }

    fn mistyped(&mut self, path: &Path<'_>, found: Value, wanted: &str) {
        let path = path.to_string();
        let detail = format!("{path} in body must be of type {wanted}: {found}");
        self.errors.push(FieldError::type_invalid(path, found, detail));
    }

    /// An alternative failed: upstream's validator knows no place for these.
    fn unfit(&mut self, path: &Path<'_>, rule: &str) {
        let detail = format!("{:?} {rule}", path.to_string());
        self.errors.push(FieldError::invalid("", "", detail));
    }

    fn merge(&mut self, other: Self) {
        self.matches += other.matches;
        for error in other.errors {
            if !self.errors.contains(&error) {
                self.errors.push(error);
            }
        }
    }
}

fn check(node: Ref<'_>, value: &Value, old: Option<&Value>, path: &Path<'_>, report: &mut Report) {
    if node.arena.origin == Origin::Builtin || report.errors.len() >= MAX_ERRORS {
        return;
    }
    let before = report.errors.len();
    check_all(node, value, old, path, report);
    // comparing waits until there is something to forgive
    if report.errors.len() > before && old == Some(value) {
        report.errors.truncate(before);
    }
}

fn check_all(node: Ref<'_>, value: &Value, old: Option<&Value>, path: &Path<'_>, report: &mut Report) {
    let Some(rules) = node.rules() else {
        check_type(node, None, value, path, report);
        if !value.is_null() {
            children(node, None, value, old, path, report);
        }
        return;
    };
    check_type(node, Some(rules), value, path, report);
    if value.is_null() {
        if !node.node.nullable {
            choice(rules, value, path, report);
        }
        return;
    }
    combined(node, rules, value, path, report);
    match value {
        Value::String(text) => {
            string(rules, text, value, path, report);
            format(rules, text, path, report);
        }
        Value::Number(_) => number(rules, value, path, report),
        _ => {}
    }
    if value.is_array() {
        children(node, Some(rules), value, old, path, report);
    }
    choice(rules, value, path, report);
    if value.is_object() {
        children(node, Some(rules), value, old, path, report);
    }
    report.matches += 1;
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn check_type(node: Ref<'_>, rules: Option<&Rules>, value: &Value, path: &Path<'_>, report: &mut Report) {
    if value.is_null() && node.node.nullable {
        return;
    }
    let int_or_string = rules.is_some_and(|rules| rules.int_or_string);
    let integral = || value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0);
    let fits = match node.node.json_type {
        _ if int_or_string => value.is_string() || integral(),
        None => true,
        Some(JsonType::Array) => value.is_array(),
        Some(JsonType::Boolean) => value.is_boolean(),
        Some(JsonType::Integer) => integral(),
        Some(JsonType::Number) => value.is_number(),
        Some(JsonType::Object) => value.is_object(),
        Some(JsonType::String) => value.is_string(),
    };
    if fits {
        report.matches += 2;
        return;
    }
    if let Some(format) = rules.and_then(|rules| rules.format.as_ref())
        && !value.is_null()
        && !value.is_array()
    {
        let found = match value {
            Value::Number(number) if number.is_f64() => "float64",
            Value::Number(_) => "int64",
            _ => "",
        };
        return report.mistyped(path, found.into(), format.name());
    }
    let wanted = if int_or_string { "integer,string" } else { node.node.json_type.map_or("", JsonType::name) };
    report.mistyped(path, json_type(value).into(), wanted);
}

fn children(
    node: Ref<'_>,
    rules: Option<&Rules>,
    value: &Value,
    old: Option<&Value>,
    path: &Path<'_>,
    report: &mut Report,
) {
    match value {
        Value::Object(map) => object(node, rules, map, old, path, report),
        Value::Array(items) => {
            if let Some(inner) = node.item() {
                for (at, value) in items.iter().enumerate() {
                    check(inner, value, counterpart(node, value, old), &Path::Item(path, at), report);
                }
            }
            if let Some(rules) = rules {
                item_rules(rules, items, path, report);
            }
            report.matches += 2;
        }
        _ => {}
    }
}

/// The same element before the update; only elements of map-like lists can be told.
fn counterpart<'a>(node: Ref<'_>, item: &Value, old: Option<&'a Value>) -> Option<&'a Value> {
    let old = old?.as_array()?;
    match node.list() {
        ListKind::Map { .. } => old.iter().find(|old| node.keys().all(|key| old.get(key) == item.get(key))),
        ListKind::Atomic | ListKind::Set => None,
    }
}

fn item_rules(rules: &Rules, items: &[Value], path: &Path<'_>, report: &mut Report) {
    let count = items.len();
    if let Some(min) = rules.min_items.filter(|min| (count as u64) < *min) {
        report.invalid(path, &Value::from(count), &format!("should have at least {min} items"));
    }
    if let Some(max) = rules.max_items.filter(|max| count as u64 > *max) {
        report.errors.push(FieldError::too_many(path.to_string(), count, max));
    }
    if rules.unique_items {
        let mut seen = HashSet::new();
        if !items.iter().all(|item| seen.insert(item.to_string())) {
            report.invalid(path, &Value::from(""), "shouldn't contain duplicates");
        }
    }
}

fn object(
    node: Ref<'_>,
    rules: Option<&Rules>,
    map: &Map<String, Value>,
    old: Option<&Value>,
    path: &Path<'_>,
    report: &mut Report,
) {
    if let Some(rules) = rules {
        let count = map.len();
        // upstream looks no further into an object of the wrong size
        if let Some(min) = rules.min_properties.filter(|min| (count as u64) < *min) {
            return report.invalid(path, &Value::from(count), &format!("should have at least {min} properties"));
        }
        if let Some(max) = rules.max_properties.filter(|max| count as u64 > *max) {
            return report.errors.push(FieldError::too_many(path.to_string(), count, max));
        }
    }
    let is_map = matches!(node.node.kind, Kind::Map { .. });
    for (name, value) in map {
        let Some(inner) = node.member(name) else { continue };
        let path = if is_map { Path::Key(path, name) } else { Path::Field(path, name) };
        let old = old.and_then(|old| old.get(name));
        if let Some(restrictions) = rules.and_then(|rules| rules.metadata).filter(|_| name == "metadata") {
            check(node.at(restrictions), value, old, &path, report);
        }
        check(inner, value, old, &path, report);
    }
    for name in rules.map(|rules| rules.required.as_slice()).unwrap_or_default() {
        if !map.contains_key(name) {
            report.errors.push(FieldError::required(Path::Field(path, name).to_string(), ""));
        }
    }
    report.matches += 1;
}

fn choice(rules: &Rules, value: &Value, path: &Path<'_>, report: &mut Report) {
    let same = |choice: &Value| {
        choice == value || matches!((choice.as_f64(), value.as_f64()), (Some(choice), Some(value)) if choice == value)
    };
    if rules.choices.is_empty() || rules.choices.iter().any(same) {
        report.matches += 1;
        return;
    }
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let supported: Vec<String> = rules.choices.iter().map(plain).collect();
    let supported: Vec<&str> = supported.iter().map(String::as_str).collect();
    report.errors.push(FieldError::not_supported(path.to_string(), value.clone(), &supported));
}

/// A limit as the value's type sees it: upstream compares integers with the limit's integral part.
fn limit_for(value: &Value, limit: f64) -> f64 {
    if value.is_f64() { limit } else { limit.trunc() }
}

fn number(rules: &Rules, value: &Value, path: &Path<'_>, report: &mut Report) {
    let Some(number) = value.as_f64() else { return };
    let or_equal = |bound: &Bound| if bound.exclusive { "" } else { "or equal to " };
    if let Some(factor) = rules.multiple_of.filter(|factor| *factor > 0.0) {
        let times = if factor < 1.0 { 1.0 / factor * number } else { number / limit_for(value, factor) };
        if (times - times.round()).abs() > 1e-9 {
            report.invalid(path, value, &format!("should be a multiple of {factor}"));
        }
    }
    if let Some(bound) = &rules.minimum {
        let limit = limit_for(value, bound.limit);
        if number < limit || (bound.exclusive && number == limit) {
            report.invalid(path, value, &format!("should be greater than {}{limit}", or_equal(bound)));
        }
    }
    if let Some(bound) = &rules.maximum {
        let limit = limit_for(value, bound.limit);
        if number > limit || (bound.exclusive && number == limit) {
            report.invalid(path, value, &format!("should be less than {}{limit}", or_equal(bound)));
        }
    }
    report.matches += 2;
}

/// The first broken rule of a text: upstream stops there.
fn string(rules: &Rules, text: &str, value: &Value, path: &Path<'_>, report: &mut Report) {
    if rules.max_length.is_some() || rules.min_length.is_some() {
        let length = text.chars().count() as u64;
        if let Some(max) = rules.max_length.filter(|max| length > *max) {
            return report.errors.push(FieldError::too_long(path.to_string(), max));
        }
        if let Some(min) = rules.min_length.filter(|min| length < *min) {
            return report.invalid(path, value, &format!("should be at least {min} chars long"));
        }
    }
    if let Some(pattern) = rules.pattern.as_ref().filter(|pattern| !pattern.is_match(text)) {
        return report.invalid(path, value, &format!("should match '{}'", pattern.as_str()));
    }
    report.matches += 1;
}

fn format(rules: &Rules, text: &str, path: &Path<'_>, report: &mut Report) {
    let Some(format) = &rules.format else { return };
    if format.fits(text) {
        report.matches += 1;
    } else {
        report.mistyped(path, text.into(), format.name());
    }
}

/// Each alternative on its own. Nothing below is forgiven for being unchanged, as upstream has it.
fn alternatives(node: Ref<'_>, ids: &[u32], value: &Value, path: &Path<'_>) -> Vec<Report> {
    let one = |id: &u32| {
        let mut report = Report::default();
        check(node.at(*id), value, None, path, &mut report);
        report
    };
    ids.iter().map(one).collect()
}

/// The failure that came closest, the first of equals.
fn closest(failures: Vec<Report>) -> Option<Report> {
    failures.into_iter().reduce(|best, next| if next.matches > best.matches { next } else { best })
}

fn combined(node: Ref<'_>, rules: &Rules, value: &Value, path: &Path<'_>, report: &mut Report) {
    if !rules.any_of.is_empty() {
        let tried = alternatives(node, &rules.any_of, value, path);
        if let Some(fit) = tried.iter().find(|tried| tried.errors.is_empty()) {
            report.matches += fit.matches;
        } else {
            report.unfit(path, "must validate at least one schema (anyOf)");
            closest(tried).into_iter().for_each(|closest| report.merge(closest));
        }
    }
    if !rules.one_of.is_empty() {
        let tried = alternatives(node, &rules.one_of, value, path);
        match tried.iter().filter(|tried| tried.errors.is_empty()).count() {
            1 => report.matches += tried.iter().find(|tried| tried.errors.is_empty()).map_or(0, |fit| fit.matches),
            0 => {
                report.unfit(path, "must validate one and only one schema (oneOf). Found none valid");
                closest(tried).into_iter().for_each(|closest| report.merge(closest));
            }
            fitting => {
                let rule = format!("must validate one and only one schema (oneOf). Found {fitting} valid alternatives");
                report.unfit(path, &rule);
            }
        }
    }
    if !rules.all_of.is_empty() {
        let tried = alternatives(node, &rules.all_of, value, path);
        let fitting = tried.iter().filter(|tried| tried.errors.is_empty()).count();
        let all = fitting == tried.len();
        tried.into_iter().for_each(|tried| report.merge(tried));
        if !all {
            let none = if fitting == 0 { ". None validated" } else { "" };
            report.unfit(path, &format!("must validate all the schemas (allOf){none}"));
        }
    }
    if let Some(id) = rules.not
        && alternatives(node, &[id], value, path).iter().all(|tried| tried.errors.is_empty())
    {
        report.unfit(path, "must not validate the schema (not)");
    }
    report.matches += 2;
}
