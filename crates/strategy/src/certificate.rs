//! CertificateSigningRequests.

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use x509_parser::{
    pem::Pem,
    prelude::{FromDer, X509Certificate},
};

use super::{
    NameRule, Strategy, WriteContext, keep_all_but_status, names,
    tree::{self, int, list, text},
};
use crate::field_error::{FieldErrors, Path};

const SPEC: Path<'static> = Path::new("spec");
const STATUS: Path<'static> = Path::new("status");
/// Shortest validity that can be asked for; shorter ones could not be renewed in time.
const SECONDS_MIN: i64 = 600;
const APPROVED: &str = "Approved";
const DENIED: &str = "Denied";
const FAILED: &str = "Failed";
/// Only requests made through an API version that is gone may name this signer.
const LEGACY_UNKNOWN: &str = "kubernetes.io/legacy-unknown";
/// Longest signer: a domain, a slash, and a path that can hold a label, a dot and a subdomain.
const SIGNER_BYTES_MAX: usize = names::SUBDOMAIN_BYTES_MAX * 2 + names::LABEL_BYTES_MAX + 2;
/// What a certificate can be asked to be good for.
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// CertificateSigningRequests.
pub(super) struct SigningRequest;

impl Strategy for SigningRequest {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn prepare_new(&self, cx: &WriteContext<'_>, object: &mut Value) {
        // Who asks is what the server knows, never what the request says.
        if let Some(spec) = tree::map_mut(object, "spec") {
            let user = cx.user;
            for key in ["username", "uid", "groups", "extra"] {
                spec.remove(key);
            }
            spec.insert("username".to_owned(), user.name.as_str().into());
            if !user.uid.is_empty() {
                spec.insert("uid".to_owned(), user.uid.as_str().into());
            }
            if !user.groups.is_empty() {
                spec.insert("groups".to_owned(), json!(user.groups));
            }
            if !user.extra.is_empty() {
                spec.insert("extra".to_owned(), json!(user.extra));
            }
        }
        if let Some(object) = object.as_object_mut() {
            object.insert("status".to_owned(), json!({}));
        }
    }

    fn resets(&self, subresource: &str) -> &'static [&'static str] {
        match subresource {
            "status" => &["spec", "status.conditions"],
            "approval" => &["spec", "status.certificate"],
            _ => &["spec", "status"],
        }
    }

    fn prepare_update(&self, cx: &WriteContext<'_>, new: &mut Value, old: &Value) {
        match cx.subresource {
            Some("approval") => {
                let conditions = new.get_mut("status").and_then(|status| tree::remove(status, "conditions"));
                keep_all_but_status(new, old);
                tree::keep(new, old, "status");
                if let Some(status) = tree::map_mut(new, "status") {
                    status.remove("conditions");
                    status.extend(conditions.map(|conditions| ("conditions".to_owned(), conditions)));
                }
                stamp(new, old, cx.now);
            }
            Some("status") => {
                keep_all_but_status(new, old);
                for kind in [APPROVED, DENIED] {
                    preserve(new, old, kind);
                }
                stamp(new, old, cx.now);
            }
            _ => {
                tree::keep(new, old, "spec");
                tree::keep(new, old, "status");
            }
        }
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        // what was let in before is not judged again
        if old.is_none() {
            let request = STANDARD.decode(text(spec, "request")).unwrap_or_default();
            if let Err(error) = identity::CertificateRequest::parse(&request) {
                errors.invalid(&SPEC.child("request"), text(spec, "request"), error.to_string());
            }
            check_usages(spec, errors);
            check_signer(text(spec, "signerName"), errors);
            if let Some(seconds) = int(spec, "expirationSeconds")
                && seconds < SECONDS_MIN
            {
                let rule = "may not specify a duration less than 600 seconds (10 minutes)";
                errors.invalid(&SPEC.child("expirationSeconds"), seconds, rule);
            }
        }
        check_conditions(object, old, errors);
    }

    fn check_change(&self, cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        check_transition(new, old, cx.subresource == Some("approval"), false, errors);
    }

    fn check_status(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        check_conditions(new, Some(old), errors);
        if certificate(new) != certificate(old)
            && let Some(why) = wrong_certificate(certificate(new))
        {
            errors.invalid(&STATUS.child("certificate"), "<certificate data>", why);
        }
        check_transition(new, old, false, true, errors);
    }

    fn fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("spec.signerName", tree::text_at(object, &["spec", "signerName"]).to_owned())]
    }
}

fn conditions(object: &Value) -> &[Value] {
    object.get("status").map_or(&[], |status| list(status, "conditions"))
}

fn of_type<'a>(object: &'a Value, kind: &str) -> Vec<&'a Value> {
    conditions(object).iter().filter(|condition| text(condition, "type") == kind).collect()
}

fn certificate(object: &Value) -> &str {
    tree::text_at(object, &["status", "certificate"])
}

/// Conditions of `kind` stay what they were, unless there are more or fewer of them now.
fn preserve(new: &mut Value, old: &Value, kind: &str) {
    let before = of_type(old, kind);
    if before.len() != of_type(new, kind).len() {
        return;
    }
    let Some(status) = new.get_mut("status") else { return };
    let now = tree::list_mut(status, "conditions").iter_mut().filter(|condition| text(condition, "type") == kind);
    for (now, before) in now.zip(before) {
        *now = before.clone();
    }
}

/// Gives each condition the times it lacks: of its last change, and of the change of its state.
fn stamp(new: &mut Value, old: &Value, now: jiff::Timestamp) {
    let now = format!("{now:.0}");
    let Some(status) = new.get_mut("status") else { return };
    for condition in tree::list_mut(status, "conditions") {
        tree::default_to(condition, "lastUpdateTime", now.as_str());
        let same = |other: &&Value| ["type", "status"].iter().all(|key| text(other, key) == text(condition, key));
        let before = conditions(old).iter().find(same).map(|before| text(before, "lastTransitionTime"));
        let at = before.filter(|at| !at.is_empty()).unwrap_or(&now).to_owned();
        tree::default_to(condition, "lastTransitionTime", at);
    }
}

fn check_usages(spec: &Value, errors: &mut FieldErrors) {
    let usages = list(spec, "usages");
    let path = SPEC.child("usages");
    if usages.is_empty() {
        errors.required(&path, "usages must be provided");
    }
    let mut seen = BTreeSet::new();
    for (index, usage) in usages.iter().filter_map(Value::as_str).enumerate() {
        if !USAGES.contains(&usage) {
            errors.not_supported(&path.index(index), usage, &USAGES);
        }
        if !seen.insert(usage) {
            errors.duplicate(&path.index(index), usage);
        }
    }
}

fn check_signer(signer: &str, errors: &mut FieldErrors) {
    let path = SPEC.child("signerName");
    if signer == LEGACY_UNKNOWN {
        errors.invalid(&path, signer, "the legacy signerName is not allowed via this API version");
        return;
    }
    if signer.is_empty() {
        errors.required(&path, "signerName must be provided");
        return;
    }
    let (domain, rest) = match signer.split_once('/') {
        Some((domain, rest)) if !rest.contains('/') => (domain, rest),
        _ => {
            let rule = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
            errors.invalid(&path, signer, rule);
            return;
        }
    };
    if domain.len() > names::SUBDOMAIN_BYTES_MAX {
        errors.too_long(&path, names::SUBDOMAIN_BYTES_MAX);
    }
    let wrong = |part: &str, check: fn(&str) -> Option<String>| {
        part.split('.').find_map(|label| Some(format!("validating label {label:?}: {}", check(label)?)))
    };
    if let Some(message) = wrong(domain, names::label) {
        errors.invalid(&path, domain, message);
    }
    if !domain.contains('.') {
        errors.invalid(&path, domain, "should be a domain with at least two segments separated by dots");
    }
    if let Some(message) = wrong(rest, names::subdomain) {
        errors.invalid(&path, rest, message);
    }
    if signer.len() > SIGNER_BYTES_MAX {
        errors.too_long(&path, SIGNER_BYTES_MAX);
    }
}

fn check_conditions(object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let both = |object: &Value| !of_type(object, APPROVED).is_empty() && !of_type(object, DENIED).is_empty();
    let twice = |object: &Value| {
        let mut seen = BTreeSet::new();
        conditions(object).iter().any(|condition| !seen.insert(text(condition, "type")))
    };
    let (allows_both, allows_twice) = (old.is_some_and(both), old.is_some_and(twice));
    let path = STATUS.child("conditions");
    let mut seen = BTreeSet::new();
    for (index, condition) in conditions(object).iter().enumerate() {
        let (kind, status, path) = (text(condition, "type"), text(condition, "status"), path.index(index));
        if kind.is_empty() {
            errors.required(&path.child("type"), "");
        }
        let decision = matches!(kind, APPROVED | DENIED | FAILED);
        let allowed: &[&str] = if decision { &["True"] } else { &["False", "True", "Unknown"] };
        if status.is_empty() {
            errors.required(&path.child("status"), "");
        } else if !allowed.contains(&status) {
            errors.not_supported(&path.child("status"), status, allowed);
        }
        let excluded = (kind == APPROVED && seen.contains(DENIED)) || (kind == DENIED && seen.contains(APPROVED));
        if excluded && !allows_both {
            let rule = "Approved and Denied conditions are mutually exclusive";
            errors.invalid(&path.child("type"), kind, rule);
        }
        if !seen.insert(kind) && !allows_twice {
            errors.duplicate(&path.child("type"), kind);
        }
    }
}

/// What a write through a subresource may change: who approves decides, who signs gives the certificate, and nobody takes
/// anything back.
fn check_transition(new: &Value, old: &Value, decides: bool, signs: bool, errors: &mut FieldErrors) {
    let path = STATUS.child("conditions");
    for kind in [APPROVED, DENIED, FAILED] {
        let (mut before, mut now) = (of_type(old, kind), of_type(new, kind));
        let by_text = |condition: &&Value| condition.to_string();
        before.sort_by_key(by_text);
        now.sort_by_key(by_text);
        if before.len() < now.len() {
            if kind != FAILED && !decides {
                errors.forbidden(&path, format!("updates may not add a condition of type {kind:?}"));
            }
        } else if before.len() > now.len() {
            errors.forbidden(&path, format!("updates may not remove a condition of type {kind:?}"));
        } else if before != now {
            errors.forbidden(&path, format!("updates may not modify a condition of type {kind:?}"));
        }
    }
    if certificate(new) != certificate(old) {
        let path = STATUS.child("certificate");
        if !signs {
            errors.forbidden(&path, "updates may not set certificate content");
        } else if !certificate(old).is_empty() {
            errors.forbidden(&path, "updates may not modify existing certificate content");
        }
    }
}

/// What is wrong with an issued certificate.
fn wrong_certificate(encoded: &str) -> Option<String> {
    if encoded.is_empty() {
        return None;
    }
    let bytes = STANDARD.decode(encoded).unwrap_or_default();
    let mut blocks = 0;
    for block in Pem::iter_from_buffer(&bytes) {
        let Ok(block) = block else { return Some("a PEM block is malformed".to_owned()) };
        if block.label != "CERTIFICATE" {
            return Some(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        if X509Certificate::from_der(&block.contents).is_err() {
            return Some("a PEM block does not hold a certificate".to_owned());
        }
        blocks += 1;
    }
    (blocks == 0).then(|| "must contain at least one CERTIFICATE PEM block".to_owned())
}

#[cfg(test)]
mod tests;
