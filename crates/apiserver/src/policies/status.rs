//! The status of a policy: that it was looked at, and what its expressions get wrong about the types they are for.
//!
//! Policies are compiled with objects of any type. Here their validations are checked once more against each type that
//! the policy's rules name, which finds misspelt fields. It changes nothing about what the policy does.

use std::collections::BTreeMap;

use cel::{CompileError, Env, Type};
use serde_json::{Value, json};
use strategy::{
    expressions::{self, variable_environment},
    tree::{list, some, text, text_at},
};

use crate::resources::Table;

/// Types that a policy is checked against at most, as upstream.
const TYPES_MAX: usize = 10;

/// Writes down that the policy, as it is about to be stored, has been looked at, and what was found.
///
/// Elsewhere a controller does this a moment later. Here it is part of the write, so that who waits for it never waits.
pub(crate) fn observe(object: &mut Value, table: &Table) {
    let generation = object["metadata"]["generation"].clone();
    if object["status"]["observedGeneration"] == generation && object["status"]["typeChecking"].is_object() {
        return;
    }
    let warnings = warnings(&object["spec"], table);
    if !object["status"].is_object() {
        object["status"] = json!({});
    }
    object["status"]["observedGeneration"] = generation;
    object["status"]["typeChecking"] =
        if warnings.is_empty() { json!({}) } else { json!({ "expressionWarnings": warnings }) };
}

/// Group, version and kind, in the order in which types are checked.
type TypeName<'a> = (&'a str, &'a str, &'a str);

fn warnings(spec: &Value, table: &Table) -> Vec<Value> {
    let environments: Vec<(String, Env)> = types(spec, table)
        .into_iter()
        .map(|((group, version, kind), ty)| (format!("{group}/{version}, Kind={kind}"), environment(spec, &ty, table)))
        .collect();
    let mut warnings = Vec::new();
    for (index, validation) in list(spec, "validations").iter().enumerate() {
        for field in ["expression", "messageExpression"] {
            let source = text(validation, field);
            if source.is_empty() {
                continue;
            }
            let found: Vec<String> = environments.iter().filter_map(|(name, env)| check(name, env, source)).collect();
            if !found.is_empty() {
                let place = format!("spec.validations[{index}].{field}");
                warnings.push(json!({"fieldRef": place, "warning": found.join("\n")}));
            }
        }
    }
    warnings
}

fn check(name: &str, env: &Env, source: &str) -> Option<String> {
    match env.compile(source, &[]) {
        Err(CompileError::Issues(issues)) => Some(format!("{name}: {issues}\n")),
        Err(CompileError::ResultType(_) | CompileError::Constant(_)) | Ok(_) => None,
    }
}

/// What an expression of the policy sees when the object is of a type.
fn environment(spec: &Value, object: &Type, table: &Table) -> Env {
    let mut env = expressions::typed(object);
    if some(spec, "paramKind").is_some() {
        env = env.variable("params", param_type(spec, table));
    }
    let mut env = variable_environment(&env.build());
    for variable in list(spec, "variables") {
        let ty = env.compile(text(variable, "expression"), &[]).map_or(Type::Dyn, |found| found.result_type().clone());
        env = env.extend().variable(&format!("variables.{}", text(variable, "name")), ty).build();
    }
    env
}

fn param_type(spec: &Value, table: &Table) -> Type {
    let (api_version, kind) = (text_at(spec, &["paramKind", "apiVersion"]), text_at(spec, &["paramKind", "kind"]));
    let known = table.iter().find(|served| served.api_version == api_version && served.resource.kind == kind);
    known.map_or(Type::Dyn, |served| served.schema().declared_type(kind))
}

/// The types that the policy's rules name; wildcards name none.
fn types<'t>(spec: &Value, table: &'t Table) -> BTreeMap<TypeName<'t>, Type> {
    let constraints = spec.get("matchConstraints").unwrap_or(&Value::Null);
    let mut types = BTreeMap::new();
    for rule in list(constraints, "resourceRules") {
        let words = |key: &str| list(rule, key).iter().filter_map(Value::as_str).collect::<Vec<_>>();
        let (groups, versions) = (words("apiGroups"), words("apiVersions"));
        if groups.iter().chain(&versions).any(|name| name.contains('*')) {
            continue;
        }
        for group in &groups {
            for version in &versions {
                for plural in words("resources").into_iter().filter(|name| !name.contains(['*', '/'])) {
                    let Some(served) = table.find(group, version, plural) else { continue };
                    if types.len() == TYPES_MAX {
                        return types;
                    }
                    let resource = &served.resource;
                    let name = (resource.group.as_str(), resource.version.as_str(), resource.kind.as_str());
                    types.entry(name).or_insert_with(|| served.schema().declared_type(&resource.kind));
                }
            }
        }
    }
    types
}
