//! CertificateSigningRequests.

use serde_json::{Value, json};

use super::{
    NameRule, Strategy, WriteContext, keep_all_but_status,
    tree::{self, int, list, text},
};
use crate::field_error::{FieldErrors, Path};

const SPEC: Path<'static> = Path::new("spec");
/// Shortest validity that can be asked for; shorter ones could not be renewed in time.
const SECONDS_MIN: i64 = 600;

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

    fn prepare_update(&self, cx: &WriteContext<'_>, new: &mut Value, old: &Value) {
        match cx.subresource {
            Some("approval") => {
                let conditions = new.get_mut("status").and_then(|status| tree::remove(status, "conditions"));
                keep_all_but_status(new, old);
                tree::keep(new, old, "status");
                if let (Some(conditions), Some(status)) = (conditions, tree::map_mut(new, "status")) {
                    status.insert("conditions".to_owned(), stamped(conditions, cx.now));
                }
            }
            Some("status") => keep_all_but_status(new, old),
            _ => {
                tree::keep(new, old, "spec");
                tree::keep(new, old, "status");
            }
        }
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        if text(spec, "request").is_empty() {
            errors.invalid(&SPEC.child("request"), "", "PEM block type must be CERTIFICATE REQUEST");
        }
        if list(spec, "usages").is_empty() {
            errors.required(&SPEC.child("usages"), "");
        }
        let signer = text(spec, "signerName");
        if signer.is_empty() {
            errors.required(&SPEC.child("signerName"), "");
        } else if !signer.contains('/') {
            errors.invalid(
                &SPEC.child("signerName"),
                signer,
                "must be a fully qualified domain and path of the form 'example.com/signer-name'",
            );
        }
        if let Some(seconds) = int(spec, "expirationSeconds")
            && seconds < SECONDS_MIN
        {
            errors.invalid(
                &SPEC.child("expirationSeconds"),
                seconds,
                "may not specify a duration less than 600 seconds (10 minutes)",
            );
        }
        let conditions = object.get("status").map_or(&[][..], |status| list(status, "conditions"));
        let has = |kind: &str| conditions.iter().any(|condition| text(condition, "type") == kind);
        if has("Approved") && has("Denied") {
            let path = Path::new("status");
            errors.invalid(
                &path.child("conditions"),
                "Denied",
                "Approved and Denied conditions are mutually exclusive",
            );
        }
    }

    fn fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("spec.signerName", tree::text_at(object, &["spec", "signerName"]).to_owned())]
    }
}

/// The conditions, each with the time it was given.
fn stamped(mut conditions: Value, now: jiff::Timestamp) -> Value {
    let now = format!("{now:.0}");
    for condition in conditions.as_array_mut().into_iter().flatten() {
        for key in ["lastUpdateTime", "lastTransitionTime"] {
            tree::default_to(condition, key, now.as_str());
        }
    }
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        strategy::fixture::{created, prepared, resource, with},
        user::User,
    };

    fn request() -> Value {
        json!({"metadata": {"name": "a:b"}, "spec": {
            "request": "AA==", "usages": ["client auth"], "signerName": "a.io/b", "username": "somebody else"
        }})
    }

    #[test]
    fn the_server_says_who_asks() {
        let mut requests = resource("certificates.k8s.io", "certificatesigningrequests");
        requests.namespaced = false;
        assert_eq!(prepared(&requests, request())["spec"]["username"], "tester");
        assert_eq!(created(&requests, request()), "[]");
    }

    #[test]
    fn approval_changes_conditions_only() {
        let requests = resource("certificates.k8s.io", "certificatesigningrequests");
        let old =
            json!({"metadata": {"name": "a"}, "spec": {"signerName": "a.io/b"}, "status": {"certificate": "AA=="}});
        let mut new = json!({"metadata": {"name": "a"}, "spec": {"signerName": "evil.io/b"},
            "status": {"certificate": "BB==", "conditions": [{"type": "Approved", "status": "True"}]}});
        let user = User::new("u", &[]);
        with(&requests, |strategy, cx| {
            let cx = WriteContext { subresource: Some("approval"), user: &user, ..*cx };
            strategy.prepare_update(&cx, &mut new, &old);
        });
        assert_eq!(new["spec"], old["spec"]);
        assert_eq!(new["status"]["certificate"], "AA==");
        let condition = &new["status"]["conditions"][0];
        assert_eq!(
            (&condition["type"], &condition["lastUpdateTime"]),
            (&json!("Approved"), &json!("1970-01-01T00:00:00Z"))
        );
    }
}
