//! FlowSchemas and PriorityLevelConfigurations.

use kinds::Resource;
use serde_json::{Value, json};

use super::{
    NameRule, Strategy, WriteContext,
    tree::{self, default_to, flag, int, list, some, text, text_at},
};
use crate::field_error::{FieldErrors, Path};

pub mod objects;

use objects::{EXEMPT, LEVELS, SCHEMAS};

const SPEC: Path<'static> = Path::new("spec");
const PRECEDENCE: i64 = 1000;
const PRECEDENCE_MAX: i64 = 10_000;
const QUEUES_MAX: i64 = 10_000_000;
/// Bits of the hash that hands are dealt by.
const HASH_BITS: f64 = 60.0;
const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

/// FlowSchemas.
pub(super) struct FlowSchema;

impl Strategy for FlowSchema {
    fn reports_status_alone(&self) -> bool {
        true
    }

    fn tracks_generation(&self, _resource: &Resource) -> bool {
        true
    }

    fn default(&self, object: &mut Value) {
        if let Some(spec) = tree::child_mut(object, "spec") {
            default_to(spec, "matchingPrecedence", PRECEDENCE);
        }
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let name = tree::name(object);
        let spec = object.get("spec").unwrap_or(&Value::Null);
        check_precedence(name, int(spec, "matchingPrecedence").unwrap_or(0), errors);
        if let Some(method) = some(spec, "distinguisherMethod") {
            let kind = text(method, "type");
            if !matches!(kind, "ByUser" | "ByNamespace") {
                let path = SPEC.child("distinguisherMethod");
                errors.not_supported(&path.child("type"), kind, &["ByNamespace", "ByUser"]);
            }
        }
        let reference = SPEC.child("priorityLevelConfiguration");
        let level = text_at(spec, &["priorityLevelConfiguration", "name"]);
        if level.is_empty() {
            errors.required(&reference.child("name"), "must reference a priority level");
        } else if let Some(message) = NameRule::Subdomain.check(level, false) {
            errors.invalid(&reference.child("name"), level, message);
        }
        let rules = SPEC.child("rules");
        for (index, rule) in list(spec, "rules").iter().enumerate() {
            check_rule(rule, &rules.index(index), errors);
        }
        if objects::mandatory(SCHEMAS, name).is_some_and(|fixed| fixed != spec) {
            errors.invalid(&SPEC, spec.clone(), format!("spec of '{name}' must equal the fixed value"));
        }
    }

    fn check_status(&self, _cx: &WriteContext<'_>, new: &Value, _old: &Value, errors: &mut FieldErrors) {
        check_conditions(new, errors);
    }
}

fn check_precedence(name: &str, precedence: i64, errors: &mut FieldErrors) {
    let path = SPEC.child("matchingPrecedence");
    if precedence <= 0 {
        errors.invalid(&path, precedence, "must be a positive value");
    }
    if precedence > PRECEDENCE_MAX {
        errors.invalid(&path, precedence, format!("must not be greater than {PRECEDENCE_MAX}"));
    }
    if precedence == 1 && name != EXEMPT {
        errors.invalid(&path, precedence, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
}

fn check_rule(rule: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let subjects = path.child("subjects");
    if list(rule, "subjects").is_empty() {
        errors.required(&subjects, "subjects must contain at least one value");
    }
    for (index, subject) in list(rule, "subjects").iter().enumerate() {
        check_subject(subject, &subjects.index(index), errors);
    }
    let (resources, urls) = (list(rule, "resourceRules"), list(rule, "nonResourceRules"));
    if resources.is_empty() && urls.is_empty() {
        errors.required(path, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for (index, rule) in resources.iter().enumerate() {
        check_resource_rule(rule, &path.child("resourceRules").index(index), errors);
    }
    for (index, rule) in urls.iter().enumerate() {
        let rules = path.child("nonResourceRules");
        let path = rules.index(index);
        check_verbs(rule, &path, errors);
        let urls = path.child("nonResourceURLs");
        check_words(
            rule,
            &urls,
            "nonResourceURLs",
            "nonResourceURLs must contain at least one value",
            "non-resource URLs",
            errors,
        );
        for (index, url) in list(rule, "nonResourceURLs").iter().filter_map(Value::as_str).enumerate() {
            if let Some(problem) = url_problem(url) {
                errors.invalid(&urls.index(index), url, problem);
            }
        }
    }
}

fn url_problem(url: &str) -> Option<&'static str> {
    match url {
        "*" | "/" => None,
        "" => Some("must not be empty"),
        _ if !url.starts_with('/') => Some("must start with slash"),
        _ if url.contains(' ') => Some("must not contain white-space"),
        _ if url.contains("//") => Some("must not contain double slash"),
        _ if url.contains('*') && url.find("/*") != Some(url.len() - 2) => Some("wildcard can only do suffix matching"),
        _ => None,
    }
}

fn check_subject(subject: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    const KINDS: [(&str, &str); 3] = [("Group", "group"), ("ServiceAccount", "serviceAccount"), ("User", "user")];
    let kind = text(subject, "kind");
    if !KINDS.iter().any(|(known, _)| *known == kind) {
        errors.not_supported(&path.child("kind"), kind, &KINDS.map(|(kind, _)| kind));
        return;
    }
    for (other, field) in KINDS {
        let path = path.child(field);
        match some(subject, field) {
            Some(_) if other != kind => {
                errors.forbidden(&path, format!("{field} is forbidden when subject kind is not '{other}'"));
            }
            None if other == kind => {
                errors.required(&path, format!("{field} is required when subject kind is '{kind}'"));
            }
            Some(given) if kind == "ServiceAccount" => {
                let (name, namespace) = (text(given, "name"), text(given, "namespace"));
                if name.is_empty() {
                    errors.required(&path.child("name"), "");
                } else if let Some(message) = (name != "*").then(|| NameRule::Subdomain.check(name, false)).flatten() {
                    errors.invalid(&path.child("name"), name, message);
                }
                if namespace.is_empty() {
                    errors.required(&path.child("namespace"), "must specify namespace for service account");
                } else if let Some(message) = NameRule::Label.check(namespace, false) {
                    errors.invalid(&path.child("namespace"), namespace, message);
                }
            }
            Some(given) if text(given, "name").is_empty() => errors.required(&path.child("name"), ""),
            _ => {}
        }
    }
}

fn check_verbs(rule: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let path = path.child("verbs");
    check_words(rule, &path, "verbs", "verbs must contain at least one value", "verbs", errors);
    let verbs = list(rule, "verbs");
    let known = |verb: &Value| verb == "*" || VERBS.iter().any(|known| verb == known);
    if !verbs.iter().any(|verb| verb == "*") && !verbs.iter().all(known) {
        errors.not_supported(&path, rule["verbs"].clone(), &VERBS);
    }
}

/// A list of words must not be empty, and `*` stands alone.
fn check_words(rule: &Value, path: &Path<'_>, key: &str, missing: &str, what: &str, errors: &mut FieldErrors) {
    let words = list(rule, key);
    if words.is_empty() {
        errors.required(path, missing);
    } else if words.len() > 1 && words.iter().any(|word| word == "*") {
        errors.invalid(path, rule[key].clone(), format!("if '*' is present, must not specify other {what}"));
    }
}

fn check_resource_rule(rule: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    check_verbs(rule, path, errors);
    let missing = "resource rules must supply at least one api group";
    check_words(rule, &path.child("apiGroups"), "apiGroups", missing, "api groups", errors);
    let missing = "resource rules must supply at least one resource";
    check_words(rule, &path.child("resources"), "resources", missing, "resources", errors);
    let namespaces = path.child("namespaces");
    let given = list(rule, "namespaces");
    if !(given.is_empty() && flag(rule, "clusterScope")) {
        let missing = "resource rules that are not cluster scoped must supply at least one namespace";
        check_words(rule, &namespaces, "namespaces", missing, "namespaces", errors);
    }
    for (index, namespace) in given.iter().filter_map(Value::as_str).enumerate().filter(|(_, name)| *name != "*") {
        if let Some(message) = NameRule::Label.check(namespace, false) {
            let message = format!("each member of this list must be '*' or a DNS-1123 label; {message}");
            errors.invalid(&namespaces.index(index), namespace, message);
        }
    }
}

fn check_conditions(object: &Value, errors: &mut FieldErrors) {
    let status = Path::new("status");
    let conditions = object.get("status").map(|status| list(status, "conditions")).unwrap_or_default();
    let path = status.child("conditions");
    for (index, condition) in conditions.iter().enumerate() {
        let kind = text(condition, "type");
        if conditions[..index].iter().any(|earlier| text(earlier, "type") == kind) {
            errors.duplicate(&path.index(index).child("type"), kind);
        }
        if kind.is_empty() {
            errors.required(&path.index(index).child("type"), "must not be empty");
        }
    }
}

/// PriorityLevelConfigurations.
pub(super) struct PriorityLevel;

impl Strategy for PriorityLevel {
    fn reports_status_alone(&self) -> bool {
        true
    }

    fn tracks_generation(&self, _resource: &Resource) -> bool {
        true
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = tree::child_mut(object, "spec") else { return };
        let zeros = |numbers: &mut Value, shares: i64| {
            default_to(numbers, "nominalConcurrencyShares", shares);
            default_to(numbers, "lendablePercent", 0);
        };
        if text(spec, "type") == "Exempt" {
            default_to(spec, "exempt", json!({}));
            if let Some(exempt) = tree::child_mut(spec, "exempt") {
                zeros(exempt, 0);
            }
        }
        let given = |value: &&mut Value| value.is_object();
        if let Some(limited) = spec.get_mut("limited").filter(given) {
            zeros(limited, 30);
            let response = limited.get_mut("limitResponse").filter(given);
            if let Some(queuing) = response.and_then(|response| response.get_mut("queuing")).filter(given) {
                default_to(queuing, "queues", 64);
                default_to(queuing, "handSize", 8);
                default_to(queuing, "queueLengthLimit", 50);
            }
        }
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let name = tree::name(object);
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let kind = text(spec, "type");
        if (name == EXEMPT) != (kind == "Exempt") {
            errors.invalid(&SPEC.child("type"), kind, "type must be 'Exempt' if and only if name is 'exempt'");
        }
        let (exempt, limited) = (some(spec, "exempt"), some(spec, "limited"));
        match kind {
            "Exempt" => {
                if limited.is_some() {
                    errors.forbidden(&SPEC.child("limited"), "must be nil if the type is not Limited");
                }
                if let Some(exempt) = exempt {
                    check_shares(exempt, &SPEC.child("exempt"), errors);
                }
            }
            "Limited" => {
                if exempt.is_some() {
                    errors.forbidden(&SPEC.child("exempt"), "must be nil if the type is Limited");
                }
                match limited {
                    Some(limited) => check_limited(limited, errors),
                    None => errors.required(&SPEC.child("limited"), "must not be empty when type is Limited"),
                }
            }
            _ => errors.not_supported(&SPEC.child("type"), kind, &["Exempt", "Limited"]),
        }
        check_fixed(name, spec, errors);
    }

    fn check_status(&self, _cx: &WriteContext<'_>, new: &Value, _old: &Value, errors: &mut FieldErrors) {
        check_conditions(new, errors);
    }
}

fn check_fixed(name: &str, spec: &Value, errors: &mut FieldErrors) {
    let Some(mut fixed) = objects::mandatory(LEVELS, name).cloned() else { return };
    let but = if name == EXEMPT {
        // how much the exempt level counts and lends is free to choose
        fixed["exempt"] = spec["exempt"].clone();
        " except the 'spec.exempt' field"
    } else {
        ""
    };
    if fixed != *spec {
        errors.invalid(&SPEC, spec.clone(), format!("spec of '{name}'{but} must equal the fixed value"));
    }
}

fn check_shares(numbers: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(shares) = int(numbers, "nominalConcurrencyShares").filter(|shares| *shares < 0) {
        errors.invalid(&path.child("nominalConcurrencyShares"), shares, "must be a non-negative integer");
    }
    if let Some(percent) = int(numbers, "lendablePercent").filter(|percent| !(0..=100).contains(percent)) {
        errors.invalid(&path.child("lendablePercent"), percent, "must be between 0 and 100, inclusive");
    }
}

fn check_limited(limited: &Value, errors: &mut FieldErrors) {
    let path = SPEC.child("limited");
    check_shares(limited, &path, errors);
    if let Some(percent) = int(limited, "borrowingLimitPercent").filter(|percent| *percent < 0) {
        errors.invalid(&path.child("borrowingLimitPercent"), percent, "if specified, must be a non-negative integer");
    }
    let path = path.child("limitResponse");
    let response = limited.get("limitResponse").unwrap_or(&Value::Null);
    match (text(response, "type"), some(response, "queuing")) {
        ("Reject", Some(_)) => {
            errors.forbidden(&path.child("queuing"), "must be nil if limited.limitResponse.type is not Limited");
        }
        ("Reject", None) => {}
        ("Queue", Some(queuing)) => check_queuing(queuing, &path.child("queuing"), errors),
        ("Queue", None) => {
            errors.required(&path.child("queuing"), "must not be empty if limited.limitResponse.type is Limited");
        }
        (other, _) => errors.not_supported(&path.child("type"), other, &["Queue", "Reject"]),
    }
}

fn check_queuing(queuing: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let number = |key: &str| int(queuing, key).unwrap_or(0);
    let (queues, hand, length) = (number("queues"), number("handSize"), number("queueLengthLimit"));
    if length <= 0 {
        errors.invalid(&path.child("queueLengthLimit"), length, "must be positive");
    }
    if queues <= 0 {
        errors.invalid(&path.child("queues"), queues, "must be positive");
    } else if queues > QUEUES_MAX {
        errors.invalid(&path.child("queues"), queues, format!("must not be greater than {QUEUES_MAX}"));
    }
    let path = path.child("handSize");
    let bits = ((queues.max(1) as f64).log2() * hand as f64).ceil();
    if hand <= 0 {
        errors.invalid(&path, hand, "must be positive");
    } else if hand > queues {
        errors.invalid(&path, hand, format!("should not be greater than queues ({queues})"));
    } else if bits > HASH_BITS {
        let rule = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
        );
        errors.invalid(&path, hand, rule);
    }
}
