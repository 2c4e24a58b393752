//! ConfigMaps, Secrets and ServiceAccounts.

use serde_json::Value;

use super::{
    Strategy, WriteContext, metadata, names,
    tree::{self, default_to, flag, map, same, text},
};
use crate::field_error::{FieldErrors, Path};

/// Longest total of all values.
const DATA_BYTES_MAX: usize = 1024 * 1024;
const DATA: Path<'static> = Path::new("data");

/// ConfigMaps.
pub(super) struct ConfigMap;

impl Strategy for ConfigMap {
    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let (data, binary) = (map(object, "data"), map(object, "binaryData"));
        let mut bytes = 0;
        for (key, value) in data {
            if let Some(message) = names::config_key(key) {
                errors.invalid(&DATA.key(key), key.as_str(), message);
            }
            if binary.contains_key(key) {
                errors.invalid(&DATA.key(key), key.as_str(), "duplicate of key present in binaryData");
            }
            bytes += value.as_str().map_or(0, str::len);
        }
        let path = Path::new("binaryData");
        for (key, value) in binary {
            if let Some(message) = names::config_key(key) {
                errors.invalid(&path.key(key), key.as_str(), message);
            }
            bytes += decoded_bytes(value);
        }
        if bytes > DATA_BYTES_MAX {
            errors.too_long(&Path::new(""), DATA_BYTES_MAX);
        }
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        check_immutable(new, old, &["data", "binaryData"], errors);
    }
}

/// Bytes that a base64 text decodes to.
fn decoded_bytes(value: &Value) -> usize {
    let text = value.as_str().unwrap_or_default();
    text.len() / 4 * 3 - text.bytes().rev().take(2).filter(|byte| *byte == b'=').count().min(text.len() / 4 * 3)
}

/// What is marked immutable stays so, and keeps its data.
fn check_immutable(new: &Value, old: &Value, keys: &[&str], errors: &mut FieldErrors) {
    const RULE: &str = "field is immutable when `immutable` is set";
    if !flag(old, "immutable") {
        return;
    }
    if !flag(new, "immutable") {
        errors.forbidden(&Path::new("immutable"), RULE);
    }
    for key in keys {
        if !same(new, old, key) {
            errors.forbidden(&Path::new(key), RULE);
        }
    }
}

/// Secrets.
pub(super) struct Secret;

impl Strategy for Secret {
    fn default(&self, object: &mut Value) {
        default_to(object, "type", "Opaque");
        // What is written in clear text joins the rest, base64-coded; it is never read back.
        let Some(Value::Object(clear)) = tree::remove(object, "stringData") else { return };
        if clear.is_empty() {
            return;
        }
        let Some(data) = tree::map_mut(object, "data") else { return };
        for (key, value) in clear {
            data.insert(key, encode(value.as_str().unwrap_or_default()).into());
        }
    }

    fn prepare_changed(&self, _cx: &WriteContext<'_>, new: &mut Value, old: &Value) {
        // A write that names no type means the type it has.
        if text(new, "type").is_empty() {
            tree::keep(new, old, "type");
        }
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let data = map(object, "data");
        let mut bytes = 0;
        for (key, value) in data {
            if let Some(message) = names::config_key(key) {
                errors.invalid(&DATA.key(key), key.as_str(), message);
            }
            bytes += decoded_bytes(value);
        }
        if bytes > DATA_BYTES_MAX {
            errors.too_long(&DATA, DATA_BYTES_MAX);
        }
        let needs: &[&str] = match text(object, "type") {
            "kubernetes.io/dockercfg" => &[".dockercfg"],
            "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
            "kubernetes.io/tls" => &["tls.crt", "tls.key"],
            "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
            "kubernetes.io/basic-auth" if !data.contains_key("username") && !data.contains_key("password") => {
                &["username", "password"]
            }
            "kubernetes.io/service-account-token" => {
                let account = "kubernetes.io/service-account.name";
                let path = Path::new("metadata");
                if tree::text_at(object, &["metadata", "annotations", account]).is_empty() {
                    errors.required(&path.child("annotations").key(account), "");
                }
                &[]
            }
            _ => &[],
        };
        for key in needs.iter().filter(|key| !data.contains_key(**key)) {
            errors.required(&DATA.key(key), "");
        }
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        if !same(new, old, "type") {
            errors.invalid(&Path::new("type"), text(new, "type"), metadata::IMMUTABLE);
        }
        check_immutable(new, old, &["data"], errors);
    }

    fn fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("type", text(object, "type").to_owned())]
    }
}

fn encode(text: &str) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.encode(text)
}

/// ServiceAccounts.
pub(super) struct ServiceAccount;

impl Strategy for ServiceAccount {
    fn prepare_new(&self, _cx: &WriteContext<'_>, object: &mut Value) {
        // Of a reference to a secret only the name counts.
        for secret in tree::list_mut(object, "secrets") {
            if let Some(secret) = secret.as_object_mut() {
                secret.retain(|key, _| key == "name");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixture::{created, resource, updated};

    #[test]
    fn config_maps() {
        let resource = resource("", "configmaps");
        let ok = json!({"metadata": {"name": "a", "namespace": "b"}, "data": {"k": "v"}});
        assert_eq!(created(&resource, ok.clone()), "[]");
        let mut bad = ok.clone();
        bad["data"] = json!({"a/b": ""});
        assert!(created(&resource, bad).starts_with(r#"data[a/b]: Invalid value: "a/b": a valid config key"#));
        let mut twice = ok.clone();
        twice["binaryData"] = json!({"k": "AA=="});
        assert_eq!(created(&resource, twice), r#"data[k]: Invalid value: "k": duplicate of key present in binaryData"#);
        let mut fixed = ok.clone();
        fixed["immutable"] = true.into();
        let mut changed = fixed.clone();
        changed["data"]["k"] = "w".into();
        assert_eq!(updated(&resource, changed, &fixed), "data: Forbidden: field is immutable when `immutable` is set");
        assert_eq!(updated(&resource, ok, &fixed), "immutable: Forbidden: field is immutable when `immutable` is set");
    }

    #[test]
    fn secrets() {
        let resource = resource("", "secrets");
        let mut clear = json!({"stringData": {"a": "b"}, "data": {"a": "eA==", "c": "eA=="}});
        super::super::of(&resource).default(&mut clear);
        assert_eq!(clear, json!({"type": "Opaque", "data": {"a": "Yg==", "c": "eA=="}}));
        let tls =
            json!({"metadata": {"name": "a", "namespace": "b"}, "type": "kubernetes.io/tls", "data": {"tls.key": ""}});
        assert_eq!(created(&resource, tls.clone()), "data[tls.crt]: Required value");
        let opaque = json!({"metadata": {"name": "a", "namespace": "b"}, "type": "Opaque"});
        let mut other = opaque.clone();
        other["type"] = "x".into();
        assert_eq!(updated(&resource, other, &opaque), r#"type: Invalid value: "x": field is immutable"#);
    }

    #[test]
    fn base64_sizes() {
        for (text, bytes) in [("", 0), ("Yg==", 1), ("YmI=", 2), ("YmJi", 3)] {
            assert_eq!(decoded_bytes(&text.into()), bytes, "{text}");
        }
    }
}
