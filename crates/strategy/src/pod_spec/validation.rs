//! The rules of a pod specification as a whole.

use std::collections::HashSet;

use serde_json::Value;

use super::{containers, platform, scheduling, security, volumes};
use crate::{
    field_error::{FieldErrors, Path},
    metadata, names,
    tree::{int, list, map, text},
};

/// Checks a pod template: labels, annotations and specification.
pub(crate) fn validate_template(template: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(metadata) = template.get("metadata") {
        let path = path.child("metadata");
        metadata::validate_labels(metadata, &path.child("labels"), errors);
        metadata::validate_annotations(metadata, &path.child("annotations"), errors);
    }
    let spec = template.get("spec").unwrap_or(&Value::Null);
    validate_spec(spec, &path.child("spec"), errors);
    if !list(spec, "ephemeralContainers").is_empty() {
        let path = path.child("spec");
        errors.forbidden(&path.child("ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
}

/// Checks a pod specification.
pub(crate) fn validate_spec(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let volumes = volumes::validate(list(spec, "volumes"), &path.child("volumes"), errors);
    containers::validate(spec, &volumes, path, errors);
    validate_policies(spec, path, errors);
    validate_names(spec, path, errors);
    validate_host_aliases(list(spec, "hostAliases"), &path.child("hostAliases"), errors);
    security::validate_pod(spec, path, errors);
    scheduling::validate(spec, path, errors);
    platform::validate(spec, path, errors);
    if let Some(seconds) = int(spec, "activeDeadlineSeconds")
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        errors.invalid(&path.child("activeDeadlineSeconds"), seconds, "must be between 1 and 2147483647, inclusive");
    }
}

fn validate_policies(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    validate_choice(spec, "restartPolicy", &["Always", "OnFailure", "Never"], path, errors);
    validate_choice(spec, "dnsPolicy", &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], path, errors);
    let config = spec.get("dnsConfig").unwrap_or(&Value::Null);
    let path = path.child("dnsConfig");
    let servers = list(config, "nameservers");
    if text(spec, "dnsPolicy") == "None" {
        if config.is_null() {
            errors.required(&path, "must provide `dnsConfig` when `dnsPolicy` is None");
        } else if servers.is_empty() {
            errors.required(
                &path.child("nameservers"),
                "must provide at least one DNS nameserver when `dnsPolicy` is None",
            );
        }
    }
    if servers.len() > MAX_NAMESERVERS {
        errors.invalid(
            &path.child("nameservers"),
            Value::Array(servers.to_vec()),
            format!("must not have more than {MAX_NAMESERVERS} nameservers"),
        );
    }
    validate_searches(config, &path, errors);
    for (index, server) in servers.iter().enumerate() {
        validate_ip(server.as_str().unwrap_or_default(), &path.child("nameservers").index(index), errors);
    }
}

/// The resolver reads no more.
const MAX_NAMESERVERS: usize = 3;
/// Most search domains, and most characters of all of them with the spaces in between.
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_BYTES: usize = 2048;

fn validate_searches(config: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let searches = list(config, "searches");
    let searches_path = path.child("searches");
    if searches.len() > MAX_SEARCHES {
        let rule = format!("must not have more than {MAX_SEARCHES} search paths");
        errors.invalid(&searches_path, Value::Array(searches.to_vec()), rule);
    }
    let domains = || searches.iter().map(|search| search.as_str().unwrap_or_default());
    if domains().map(|domain| domain.len() + 1).sum::<usize>().saturating_sub(1) > MAX_SEARCH_BYTES {
        let rule =
            format!("must not have more than {MAX_SEARCH_BYTES} characters (including spaces) in the search list");
        errors.invalid(&searches_path, Value::Array(searches.to_vec()), rule);
    }
    for (index, domain) in domains().enumerate() {
        // a single dot searches nothing, and services of the past carry underscores
        let plain = domain.strip_suffix('.').unwrap_or(domain).replace('_', "-");
        if domain != "."
            && let Some(message) = names::subdomain(&plain)
        {
            errors.invalid(&searches_path.index(index), domain, message);
        }
    }
    let options = path.child("options");
    for (index, option) in list(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            errors.required(&options.index(index), "must not be empty");
        }
    }
}

/// Checks an IP address.
pub(super) fn validate_ip(address: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    if address.parse::<std::net::IpAddr>().is_err() {
        errors.invalid(path, address, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    }
}

/// Checks a required field that takes one of `supported`.
pub(super) fn validate_choice(
    holder: &Value,
    key: &str,
    supported: &[&str],
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    match text(holder, key) {
        "" => errors.required(&path.child(key), ""),
        value if supported.contains(&value) => {}
        value => errors.not_supported(&path.child(key), value, supported),
    }
}

fn validate_names(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for key in ["serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"] {
        let name = text(spec, key);
        if !name.is_empty()
            && let Some(message) = names::subdomain(name)
        {
            errors.invalid(&path.child(key), name, message);
        }
    }
    for key in ["hostname", "subdomain"] {
        let name = text(spec, key);
        if !name.is_empty()
            && let Some(message) = names::label(name)
        {
            errors.invalid(&path.child(key), name, message);
        }
    }
    let scheduler = text(spec, "schedulerName");
    if !scheduler.is_empty()
        && let Some(message) = names::qualified(scheduler)
    {
        errors.invalid(&path.child("schedulerName"), scheduler, message);
    }
    for (key, value) in map(spec, "nodeSelector") {
        metadata::validate_label(key, value, &path.child("nodeSelector"), errors);
    }
    let secrets = path.child("imagePullSecrets");
    let mut seen = HashSet::new();
    for (index, secret) in list(spec, "imagePullSecrets").iter().enumerate() {
        let name = text(secret, "name");
        if !name.is_empty() && !seen.insert(name) {
            errors.duplicate(&secrets.index(index), secret.clone());
        }
    }
}

fn validate_host_aliases(aliases: &[Value], path: &Path<'_>, errors: &mut FieldErrors) {
    for (index, alias) in aliases.iter().enumerate() {
        let path = path.index(index);
        validate_ip(text(alias, "ip"), &path.child("ip"), errors);
        for (index, name) in list(alias, "hostnames").iter().enumerate() {
            let name = name.as_str().unwrap_or_default();
            if let Some(message) = names::subdomain(name) {
                errors.invalid(&path.child("hostnames").index(index), name, message);
            }
        }
    }
}
