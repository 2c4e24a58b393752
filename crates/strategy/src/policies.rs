//! ValidatingAdmissionPolicies and their bindings.

use std::collections::HashSet;

use cel::{Env, Type};
use serde_json::{Map, Value};

use super::{
    Strategy, WriteContext, names,
    pod_spec::validate_label_selector,
    tree::{self, default_to, list, some, text},
    webhooks::{check_conditions, check_rule},
};
use crate::{
    expressions::{environment, mistake, variable_environment},
    field_error::{FieldErrors, Path},
};

const SPEC: Path<'static> = Path::new("spec");
/// Audit annotations of one policy at most.
const ANNOTATIONS_MAX: usize = 20;
/// Longest expression of an audit annotation.
const ANNOTATION_EXPRESSION_BYTES_MAX: usize = 5 * 1024;
/// Policies.
pub(super) struct Policy;

/// Bindings.
pub(super) struct Binding;

fn default_constraints(constraints: &mut Value) {
    default_to(constraints, "matchPolicy", "Equivalent");
    default_to(constraints, "namespaceSelector", Map::new());
    default_to(constraints, "objectSelector", Map::new());
    for key in ["resourceRules", "excludeResourceRules"] {
        for rule in tree::list_mut(constraints, key) {
            default_to(rule, "scope", "*");
        }
    }
}

impl Strategy for Policy {
    fn reports_status_alone(&self) -> bool {
        true
    }

    fn default(&self, object: &mut Value) {
        let Some(spec) = tree::child_mut(object, "spec") else { return };
        default_to(spec, "failurePolicy", "Fail");
        if let Some(constraints) = spec.get_mut("matchConstraints").filter(|given| given.is_object()) {
            default_constraints(constraints);
        }
    }

    fn tracks_generation(&self, _resource: &kinds::Resource) -> bool {
        true
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let params = some(spec, "paramKind");
        match text(spec, "failurePolicy") {
            "Fail" | "Ignore" => {}
            "" => errors.required(&SPEC.child("failurePolicy"), ""),
            other => errors.not_supported(&SPEC.child("failurePolicy"), other, &["Fail", "Ignore"]),
        }
        if let Some(kind) = params {
            check_param_kind(kind, &SPEC.child("paramKind"), errors);
        }
        let path = SPEC.child("matchConstraints");
        match some(spec, "matchConstraints") {
            None => errors.required(&path, ""),
            Some(constraints) => {
                check_constraints(constraints, &path, errors);
                if list(constraints, "resourceRules").is_empty() {
                    errors.required(&path.child("resourceRules"), "");
                }
            }
        }
        let old = old.and_then(|old| old.get("spec")).unwrap_or(&Value::Null);
        let same_params = some(old, "paramKind") == params;
        let known = if same_params { list(old, "matchConditions") } else { &[] };
        let conditions = list(spec, "matchConditions");
        check_conditions(conditions, &SPEC.child("matchConditions"), (params.is_some(), known), errors);
        let env = check_variables(spec, environment(params.is_some()), errors);
        let (validations, annotations) = (list(spec, "validations"), list(spec, "auditAnnotations"));
        if validations.is_empty() && annotations.is_empty() {
            let rule = "validations or auditAnnotations must contain at least one item";
            errors.required(&SPEC.child("validations"), rule);
            errors.required(&SPEC.child("auditAnnotations"), rule);
        }
        let path = SPEC.child("validations");
        for (index, validation) in validations.iter().enumerate() {
            check_validation(validation, &env, &path.index(index), errors);
        }
        check_annotations(tree::name(object), annotations, &env, errors);
    }
}

fn check_param_kind(param_kind: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (api_version, kind) = (text(param_kind, "apiVersion"), text(param_kind, "kind"));
    let at = path.child("apiVersion");
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if api_version.is_empty() {
        errors.required(&at, "");
    } else if version.contains('/') {
        errors.invalid(&at, api_version, format!("unexpected GroupVersion string: {api_version}"));
    } else {
        if let Some(message) = names::subdomain(group).filter(|_| !group.is_empty()) {
            errors.invalid(&at, group, message);
        }
        if version.is_empty() {
            errors.invalid(&at, api_version, "version must be specified");
        } else if let Some(message) = names::dns_1035(version) {
            errors.invalid(&at, version, message);
        }
    }
    if kind.is_empty() {
        errors.required(&path.child("kind"), "");
    } else if let Some(message) = names::dns_1035(&kind.to_lowercase()) {
        let rule = format!("may have mixed case, but should otherwise match: {message}");
        errors.invalid(&path.child("kind"), kind, rule);
    }
}

fn check_constraints(constraints: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match text(constraints, "matchPolicy") {
        "Equivalent" | "Exact" => {}
        "" => errors.required(&path.child("matchPolicy"), ""),
        other => errors.not_supported(&path.child("matchPolicy"), other, &["Equivalent", "Exact"]),
    }
    for key in ["namespaceSelector", "objectSelector"] {
        match some(constraints, key) {
            None => errors.required(&path.child(key), ""),
            Some(selector) => validate_label_selector(selector, &path.child(key), errors),
        }
    }
    for key in ["resourceRules", "excludeResourceRules"] {
        let path = path.child(key);
        for (index, rule) in list(constraints, key).iter().enumerate() {
            let path = path.index(index);
            let mut seen = HashSet::new();
            for (index, name) in list(rule, "resourceNames").iter().filter_map(Value::as_str).enumerate() {
                let path = path.child("resourceNames");
                if let Some(message) = names::path_segment(name, false) {
                    errors.invalid(&path.index(index), name, message);
                }
                if !seen.insert(name) {
                    errors.duplicate(&path.index(index), name);
                }
            }
            check_rule(rule, &path, errors);
        }
    }
}

fn is_identifier(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && chars.all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !cel::is_reserved(name)
}

/// Checks the variables, each of which may use those before it; gives the environment that has them all.
fn check_variables(spec: &Value, env: &Env, errors: &mut FieldErrors) -> Env {
    let mut env = variable_environment(env);
    let path = SPEC.child("variables");
    for (index, variable) in list(spec, "variables").iter().enumerate() {
        let path = path.index(index);
        let (name, expression) = (text(variable, "name"), text(variable, "expression"));
        if name.trim().is_empty() {
            errors.required(&path.child("name"), "name is not specified");
        } else if !is_identifier(name) {
            errors.invalid(&path.child("name"), name, "name is not a valid CEL identifier");
        }
        let mut ty = Type::Dyn;
        if expression.trim().is_empty() {
            errors.required(&path.child("expression"), "expression is not specified");
        } else {
            match env.compile(expression, &[]) {
                Ok(program) => ty = program.result_type().clone(),
                Err(error) => errors.invalid(&path.child("expression"), expression, error.to_string()),
            }
        }
        env = env.extend().variable(&format!("variables.{name}"), ty).build();
    }
    env
}

fn check_validation(validation: &Value, env: &Env, path: &Path<'_>, errors: &mut FieldErrors) {
    let (expression, made) = (text(validation, "expression"), text(validation, "messageExpression"));
    if expression.trim().is_empty() {
        errors.required(&path.child("expression"), "expression is not specified");
    } else if let Some(mistake) = mistake(env, expression, &[Type::Bool]) {
        errors.invalid(&path.child("expression"), expression, mistake);
    }
    if !made.is_empty() && made.trim().is_empty() {
        errors.invalid(&path.child("messageExpression"), made, "must be non-empty if specified");
    } else if !made.is_empty()
        && let Some(mistake) = mistake(env, made, &[Type::String])
    {
        errors.invalid(&path.child("messageExpression"), made, mistake);
    }
    let message = text(validation, "message");
    if !message.is_empty() && message.trim().is_empty() {
        errors.invalid(&path.child("message"), message, "message must be non-empty if specified");
    } else if message.trim().contains('\n') {
        errors.invalid(&path.child("message"), message, "message must not contain line breaks");
    } else if message.is_empty() && expression.trim().contains('\n') && made.is_empty() {
        errors.required(&path.child("message"), "message must be specified if expression contains line breaks");
    }
    const REASONS: [&str; 3] = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
    if let Some(reason) = some(validation, "reason").and_then(Value::as_str).filter(|reason| !REASONS.contains(reason))
    {
        errors.not_supported(&path.child("reason"), reason, &REASONS);
    }
}

fn check_annotations(policy: &str, annotations: &[Value], env: &Env, errors: &mut FieldErrors) {
    let path = SPEC.child("auditAnnotations");
    if annotations.len() > ANNOTATIONS_MAX {
        let rule = format!("must not have more than {ANNOTATIONS_MAX} auditAnnotations");
        errors.invalid(&path, annotations.to_vec(), rule);
    }
    let mut seen = HashSet::new();
    for (index, annotation) in annotations.iter().enumerate() {
        let path = path.index(index);
        let (key, expression) = (text(annotation, "key"), text(annotation, "valueExpression"));
        if policy.is_empty() {
            errors.invalid(&path.child("key"), key, "requires metadata.name be non-empty");
        } else if let Some(message) = names::qualified(&format!("{policy}/{key}")) {
            errors.invalid(&path.child("key"), format!("{policy}/{key}"), message);
        }
        let at = path.child("valueExpression");
        if expression.trim().is_empty() {
            errors.required(&at, "valueExpression is not specified");
        } else if expression.trim().len() > ANNOTATION_EXPRESSION_BYTES_MAX {
            errors.required(&at, format!("must not exceed {ANNOTATION_EXPRESSION_BYTES_MAX} bytes in length"));
        } else if let Some(mistake) = mistake(env, expression, &[Type::String, Type::Null]) {
            errors.invalid(&at, expression, mistake);
        }
        if !seen.insert(key) {
            errors.duplicate(&path.child("key"), key);
        }
    }
}

impl Strategy for Binding {
    fn default(&self, object: &mut Value) {
        let Some(spec) = tree::child_mut(object, "spec") else { return };
        if let Some(resources) = spec.get_mut("matchResources").filter(|given| given.is_object()) {
            default_constraints(resources);
        }
        if let Some(reference) = spec.get_mut("paramRef").filter(|given| given.is_object()) {
            default_to(reference, "parameterNotFoundAction", "Deny");
        }
    }

    fn tracks_generation(&self, _resource: &kinds::Resource) -> bool {
        true
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let policy = text(spec, "policyName");
        if policy.is_empty() {
            errors.required(&SPEC.child("policyName"), "");
        } else if let Some(message) = names::subdomain(policy) {
            errors.invalid(&SPEC.child("policyName"), policy, message);
        }
        if let Some(reference) = some(spec, "paramRef") {
            check_param_ref(reference, &SPEC.child("paramRef"), errors);
        }
        if let Some(resources) = some(spec, "matchResources") {
            // upstream's spelling
            check_constraints(resources, &SPEC.child("matchResouces"), errors);
        }
        check_actions(list(spec, "validationActions"), &SPEC.child("validationActions"), errors);
    }
}

fn check_param_ref(reference: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    const EITHER: &str = "name and selector are mutually exclusive";
    let (name, selector) = (text(reference, "name"), some(reference, "selector"));
    if !name.is_empty() {
        if let Some(message) = names::path_segment(name, false) {
            errors.invalid(&path.child("name"), name, message);
        }
        if selector.is_some() {
            errors.forbidden(&path.child("name"), EITHER);
        }
    }
    match selector {
        Some(selector) => {
            validate_label_selector(selector, &path.child("selector"), errors);
            if !name.is_empty() {
                errors.forbidden(&path.child("selector"), EITHER);
            }
        }
        None if name.is_empty() => errors.required(path, "one of name or selector must be specified"),
        None => {}
    }
    match text(reference, "parameterNotFoundAction") {
        "Allow" | "Deny" => {}
        "" => errors.required(&path.child("parameterNotFoundAction"), ""),
        other => errors.not_supported(&path.child("parameterNotFoundAction"), other, &["Allow", "Deny"]),
    }
}

fn check_actions(actions: &[Value], path: &Path<'_>, errors: &mut FieldErrors) {
    const ACTIONS: [&str; 3] = ["Audit", "Deny", "Warn"];
    let mut seen = HashSet::new();
    for (index, action) in actions.iter().filter_map(Value::as_str).enumerate() {
        if !ACTIONS.contains(&action) {
            errors.not_supported(&path.index(index), action, &ACTIONS);
        }
        if !seen.insert(action) {
            errors.duplicate(&path.index(index), action);
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let rule = "must not contain both Deny and Warn (repeating the same validation failure information in the API \
                    response and headers serves no purpose)";
        errors.invalid(path, actions.to_vec(), rule);
    }
    if seen.is_empty() {
        errors.required(path, "at least one validation action is required");
    }
}

#[cfg(test)]
mod tests;
