//! Webhook configurations, and how any webhook is reached.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::{
    Strategy, WriteContext, names,
    pod_spec::validate_label_selector,
    tree::{self, default_to, int, list, some, text},
};
use crate::{
    expressions,
    field_error::{FieldErrors, Path},
};

/// ValidatingWebhookConfigurations and MutatingWebhookConfigurations.
pub(super) struct Webhooks {
    /// Whether the webhooks change objects.
    pub(super) mutating: bool,
}

/// Longest time a webhook may take.
const SECONDS_MAX: i64 = 30;
/// Match conditions of one webhook at most.
const CONDITIONS_MAX: usize = 64;
/// Versions of reviews that this server speaks.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];

impl Strategy for Webhooks {
    fn default(&self, object: &mut Value) {
        for webhook in tree::list_mut(object, "webhooks") {
            default_to(webhook, "failurePolicy", "Fail");
            default_to(webhook, "matchPolicy", "Equivalent");
            default_to(webhook, "namespaceSelector", Map::new());
            default_to(webhook, "objectSelector", Map::new());
            default_to(webhook, "timeoutSeconds", 10);
            if self.mutating {
                default_to(webhook, "reinvocationPolicy", "Never");
            }
            for rule in tree::list_mut(webhook, "rules") {
                default_to(rule, "scope", "*");
            }
            if let Some(service) = webhook.pointer_mut("/clientConfig/service") {
                default_to(service, "port", 443);
            }
        }
    }

    fn tracks_generation(&self, _resource: &kinds::Resource) -> bool {
        true
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
        let path = Path::new("webhooks");
        // what was stored before a rule existed may stay as it is
        let tolerates =
            |accepted: fn(&Value) -> bool| old.is_some_and(|old| !list(old, "webhooks").iter().all(accepted));
        let any_effects = tolerates(|webhook| matches!(text(webhook, "sideEffects"), "None" | "NoneOnDryRun"));
        let any_version = tolerates(knows_version);
        let mut seen = HashSet::new();
        for (index, webhook) in list(object, "webhooks").iter().enumerate() {
            let path = path.index(index);
            // what compiled once is not compiled again, so that old conditions do not get in the way of other changes
            let same = |other: &&Value| text(other, "name") == text(webhook, "name");
            let known = old.and_then(|old| list(old, "webhooks").iter().find(same));
            let known = known.map_or(&[][..], |known| list(known, "matchConditions"));
            self.check_webhook(webhook, &path, (any_effects, known), errors);
            check_review_versions(webhook, &path.child("admissionReviewVersions"), any_version, errors);
            let name = text(webhook, "name");
            if !name.is_empty() && !seen.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
        }
    }
}

fn knows_version(webhook: &Value) -> bool {
    let versions = list(webhook, "admissionReviewVersions");
    versions.is_empty() || versions.iter().any(|version| REVIEW_VERSIONS.iter().any(|known| version == known))
}

impl Webhooks {
    fn check_webhook(
        &self,
        webhook: &Value,
        path: &Path<'_>,
        (any_effects, known): (bool, &[Value]),
        errors: &mut FieldErrors,
    ) {
        check_name(text(webhook, "name"), &path.child("name"), errors);
        for (index, rule) in list(webhook, "rules").iter().enumerate() {
            check_rule(rule, &path.child("rules").index(index), errors);
        }
        let mut one_of = |key: &str, supported: &[&str]| {
            if let Some(given) = webhook.get(key).and_then(Value::as_str).filter(|given| !supported.contains(given)) {
                errors.not_supported(&path.child(key), given, supported);
            }
        };
        one_of("failurePolicy", &["Fail", "Ignore"]);
        one_of("matchPolicy", &["Equivalent", "Exact"]);
        let effects: &[&str] =
            if any_effects { &["None", "NoneOnDryRun", "Some", "Unknown"] } else { &["None", "NoneOnDryRun"] };
        one_of("sideEffects", effects);
        if self.mutating {
            one_of("reinvocationPolicy", &["IfNeeded", "Never"]);
        }
        if some(webhook, "sideEffects").is_none() {
            errors.required(&path.child("sideEffects"), format!("must specify one of {}", effects.join(", ")));
        }
        if let Some(seconds) = int(webhook, "timeoutSeconds").filter(|seconds| !(1..=SECONDS_MAX).contains(seconds)) {
            let rule = "the timeout value must be between 1 and 30 seconds";
            errors.invalid(&path.child("timeoutSeconds"), seconds, rule);
        }
        for key in ["namespaceSelector", "objectSelector"] {
            if let Some(selector) = some(webhook, key) {
                validate_label_selector(selector, &path.child(key), errors);
            }
        }
        check_client(webhook.get("clientConfig").unwrap_or(&Value::Null), &path.child("clientConfig"), errors);
        let conditions = list(webhook, "matchConditions");
        check_conditions(conditions, &path.child("matchConditions"), (false, known), errors);
    }
}

fn check_name(name: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if name.is_empty() {
        errors.required(path, "");
    } else if let Some(message) = names::subdomain(name) {
        errors.invalid(path, name, message);
    } else if name.split('.').count() < 3 {
        errors.invalid(path, name, "should be a domain with at least three segments separated by dots");
    }
}

fn check_review_versions(webhook: &Value, path: &Path<'_>, any: bool, errors: &mut FieldErrors) {
    let versions = list(webhook, "admissionReviewVersions");
    if versions.is_empty() {
        errors.required(path, format!("must specify one of {}", REVIEW_VERSIONS.join(", ")));
    }
    let mut seen = HashSet::new();
    for (index, version) in versions.iter().enumerate() {
        let version = version.as_str().unwrap_or_default();
        if !seen.insert(version) {
            errors.invalid(&path.index(index), version, "duplicate version");
        } else if let Some(message) = names::dns_1035(version) {
            errors.invalid(&path.index(index), version, message);
        }
    }
    if !any && !knows_version(webhook) {
        let rule = format!("must include at least one of {}", REVIEW_VERSIONS.join(", "));
        errors.invalid(path, versions.to_vec(), rule);
    }
}

/// Values of a list and whether one of them is the wildcard.
fn texts<'a>(holder: &'a Value, key: &str) -> (Vec<&'a str>, bool) {
    let texts: Vec<&str> = list(holder, key).iter().filter_map(Value::as_str).collect();
    let wild = texts.contains(&"*");
    (texts, wild)
}

/// Checks which resources and operations a rule means.
pub(super) fn check_rule(rule: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    let lists = [("operations", "operations"), ("apiGroups", "API groups"), ("apiVersions", "API versions")];
    for (key, what) in lists {
        let (values, wild) = texts(rule, key);
        let path = path.child(key);
        if values.is_empty() {
            errors.required(&path, "");
        }
        if values.len() > 1 && wild {
            let rule = format!("if '*' is present, must not specify other {what}");
            errors.invalid(&path, values.clone(), rule);
        }
        for (index, value) in values.iter().enumerate() {
            match key {
                "operations" if !OPERATIONS.contains(value) => {
                    errors.not_supported(&path.index(index), *value, &OPERATIONS);
                }
                "apiVersions" if value.is_empty() => errors.required(&path.index(index), ""),
                _ => {}
            }
        }
    }
    check_resources(&texts(rule, "resources").0, &path.child("resources"), errors);
    const SCOPES: [&str; 3] = ["*", "Cluster", "Namespaced"];
    if let Some(scope) = rule.get("scope").and_then(Value::as_str).filter(|scope| !SCOPES.contains(scope)) {
        errors.not_supported(&path.child("scope"), scope, &SCOPES);
    }
}

/// Wildcards must not make other entries of the list pointless.
fn check_resources(resources: &[&str], path: &Path<'_>, errors: &mut FieldErrors) {
    if resources.is_empty() {
        errors.required(path, "");
    }
    let (mut all_of, mut everywhere) = (HashSet::new(), HashSet::new());
    let mut plain = false;
    for (index, resource) in resources.iter().enumerate() {
        if resource.is_empty() {
            errors.required(&path.index(index), "");
            continue;
        }
        let Some((main, sub)) = resource.split_once('/') else {
            plain = *resource != "*";
            continue;
        };
        if all_of.contains(main) {
            let rule = format!("if '{main}/*' is present, must not specify {resource}");
            errors.invalid(&path.index(index), *resource, rule);
        }
        if everywhere.contains(sub) {
            let rule = format!("if '*/{sub}' is present, must not specify {resource}");
            errors.invalid(&path.index(index), *resource, rule);
        }
        if sub == "*" {
            all_of.insert(main);
        }
        if main == "*" {
            everywhere.insert(sub);
        }
    }
    if resources.len() > 1 && resources.contains(&"*/*") {
        errors.invalid(path, resources.to_vec(), "if '*/*' is present, must not specify other resources");
    }
    if resources.contains(&"*") && plain {
        let rule = "if '*' is present, must not specify other resources without subresources";
        errors.invalid(path, resources.to_vec(), rule);
    }
}

/// Checks match conditions: `params` says whether they may use parameters, `known` which of them were accepted before.
pub(super) fn check_conditions(
    conditions: &[Value],
    path: &Path<'_>,
    (params, known): (bool, &[Value]),
    errors: &mut FieldErrors,
) {
    if conditions.len() > CONDITIONS_MAX {
        errors.too_many(path, conditions.len(), CONDITIONS_MAX);
    }
    let mut seen = HashSet::new();
    for (index, condition) in conditions.iter().enumerate() {
        let path = path.index(index);
        let expression = text(condition, "expression");
        if expression.trim().is_empty() {
            errors.required(&path.child("expression"), "");
        } else if !known.contains(condition)
            && let Some(mistake) =
                expressions::mistake(expressions::environment(params), expression, &[cel::Type::Bool])
        {
            errors.invalid(&path.child("expression"), expression, mistake);
        }
        let name = text(condition, "name");
        if name.is_empty() {
            errors.required(&path.child("name"), "");
        } else if let Some(message) = names::qualified(name) {
            errors.invalid(&path.child("name"), name, message);
        } else if !seen.insert(name) {
            errors.duplicate(&path.child("name"), name);
        }
    }
}

/// Checks where a webhook is.
pub(super) fn check_client(client: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match (client.get("url").and_then(Value::as_str), some(client, "service")) {
        (Some(url), None) => check_url(url, &path.child("url"), errors),
        (None, Some(service)) => check_service(service, &path.child("service"), errors),
        (Some(_), Some(_)) | (None, None) => errors.required(path, "exactly one of url or service is required"),
    }
}

fn check_url(url: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if scheme != "https" {
        errors.invalid(path, scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    let authority = if scheme.is_empty() { "" } else { rest.split(['/', '?', '#']).next().unwrap_or_default() };
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
    if host.is_empty() {
        errors.invalid(path, host, format!("host must be provided{FORM}"));
    }
    if let Some(user) = user {
        errors.invalid(path, user, "user information is not permitted in the URL");
    }
    let (before, fragment) = url.split_once('#').unwrap_or((url, ""));
    if !fragment.is_empty() {
        errors.invalid(path, fragment, "fragments are not permitted in the URL");
    }
    if let Some((_, query)) = before.split_once('?').filter(|(_, query)| !query.is_empty()) {
        errors.invalid(path, query, "query parameters are not permitted in the URL");
    }
}

fn check_service(service: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for key in ["name", "namespace"] {
        if text(service, key).is_empty() {
            errors.required(&path.child(key), format!("service {key} is required"));
        }
    }
    let port = int(service, "port").unwrap_or(443);
    if let Some(message) = names::port_number(port) {
        errors.invalid(&path.child("port"), port, format!("port is not valid: {message}"));
    }
    let target = text(service, "path");
    let path = path.child("path");
    if matches!(target, "" | "/") {
        return;
    }
    if target == "//" {
        errors.invalid(&path, target, "segment[0] may not be empty");
        return;
    }
    let Some(relative) = target.strip_prefix('/') else {
        errors.invalid(&path, target, "must start with a '/'");
        return;
    };
    for (index, step) in relative.strip_suffix('/').unwrap_or(relative).split('/').enumerate() {
        let problem = if step.is_empty() { Some("may not be empty".to_owned()) } else { None };
        if let Some(problem) = problem {
            errors.invalid(&path, target, format!("segment[{index}] {problem}"));
        } else if let Some(message) = names::subdomain(step) {
            errors.invalid(&path, target, format!("segment[{index}]: {message}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn webhook() -> Value {
        json!({"name": "a.b.c", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": "https://example.org/x"},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]})
    }

    fn check(change: impl FnOnce(&mut Value)) -> String {
        let mut object = json!({"webhooks": [webhook()]});
        let strategy = Webhooks { mutating: true };
        strategy.default(&mut object);
        change(&mut object["webhooks"][0]);
        let (resource, user) = (super::super::fixture::resource("", "x"), crate::User::new("u", &[]));
        let now = jiff::Timestamp::UNIX_EPOCH;
        let cx = WriteContext { now, resource: &resource, subresource: None, user: &user, dry_run: false };
        let mut errors = FieldErrors::default();
        strategy.check(&cx, &object, None, &mut errors);
        if errors.is_empty() { String::new() } else { errors.to_string() }
    }

    #[test]
    fn defaults_make_a_short_webhook_valid() {
        assert_eq!(check(|_| {}), "");
        assert_eq!(check(|hook| hook["rules"][0]["resources"] = json!(["*", "*/status"])), "");
    }

    #[test]
    fn what_is_wrong_is_said_as_upstream_says_it() {
        let said = |change: fn(&mut Value), expected: &str| assert_eq!(check(change), expected);
        said(
            |hook| hook["name"] = "a.b".into(),
            "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots",
        );
        said(
            |hook| hook["sideEffects"] = "Some".into(),
            "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
        );
        said(
            |hook| hook["timeoutSeconds"] = 31.into(),
            "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
        );
        said(
            |hook| hook["admissionReviewVersions"] = json!(["v9"]),
            "webhooks[0].admissionReviewVersions: Invalid value: [\"v9\"]: must include at least one of v1, v1beta1",
        );
        said(
            |hook| hook["clientConfig"] = json!({}),
            "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
        );
        said(
            |hook| hook["clientConfig"]["url"] = "http://a@b/?c#d".into(),
            "[webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired \
             format: https://host[/path], webhooks[0].clientConfig.url: Invalid value: \"a\": user information is not \
             permitted in the URL, webhooks[0].clientConfig.url: Invalid value: \"d\": fragments are not permitted in \
             the URL, webhooks[0].clientConfig.url: Invalid value: \"c\": query parameters are not permitted in the URL]",
        );
        said(
            |hook| hook["rules"][0]["resources"] = json!(["pods/*", "pods/status"]),
            "webhooks[0].rules[0].resources[1]: Invalid value: \"pods/status\": if 'pods/*' is present, must not specify \
             pods/status",
        );
        said(
            |hook| hook["rules"][0]["operations"] = json!(["*", "CREATE"]),
            "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other \
             operations",
        );
    }
}
