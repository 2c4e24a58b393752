//! Kubeconfig files (`kubectl config view`): writing our own entry, and merging it into a user's file.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};

use crate::KeyPair;

/// An existing kubeconfig cannot take the entry.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// The document is not an object.
    #[error("the kubeconfig is not a mapping")]
    NotAMapping,
    /// A section is not a list of named entries.
    #[error("the kubeconfig's {0:?} is not a list")]
    NotAList(&'static str),
}

/// One cluster, one user and the context that joins them, all under one name.
#[derive(Clone)]
pub struct Kubeconfig {
    /// Name of the context, the cluster and the user.
    pub name: String,
    /// URL of the API server.
    pub server: String,
    /// PEM of the authority that signed the server's certificate.
    pub authority_pem: String,
    /// The user's certificate.
    pub client: KeyPair,
}

const SECTIONS: [&str; 3] = ["clusters", "contexts", "users"];

impl Kubeconfig {
    /// The whole file. JSON is YAML, and kubectl reads it.
    pub fn document(&self) -> Value {
        let empty = json!({"apiVersion": "v1", "kind": "Config", "preferences": {}, "current-context": self.name});
        self.merge_into(empty).unwrap_or_default()
    }

    /// Adds or replaces this entry in an existing document and leaves everything else as it is. The current context
    /// changes only where none is set.
    ///
    /// # Errors
    /// When the document or one of its sections has a shape that kubectl would refuse too.
    pub fn merge_into(&self, mut document: Value) -> Result<Value, KubeconfigError> {
        if document.is_null() {
            document = json!({"apiVersion": "v1", "kind": "Config"});
        }
        let root = document.as_object_mut().ok_or(KubeconfigError::NotAMapping)?;
        for (section, entry) in SECTIONS.into_iter().zip(self.entries()) {
            let list = root.entry(section).or_insert_with(|| json!([]));
            if list.is_null() {
                *list = json!([]);
            }
            let list = list.as_array_mut().ok_or(KubeconfigError::NotAList(section))?;
            list.retain(|other| other["name"] != self.name.as_str());
            list.push(entry);
        }
        let current = root.entry("current-context").or_insert(Value::Null);
        if current.as_str().unwrap_or_default().is_empty() {
            *current = json!(self.name);
        }
        Ok(document)
    }

    fn entries(&self) -> [Value; 3] {
        let data = |pem: &str| BASE64.encode(pem);
        [
            json!({"name": self.name, "cluster": {
                "server": self.server, "certificate-authority-data": data(&self.authority_pem)}}),
            json!({"name": self.name, "context": {"cluster": self.name, "user": self.name}}),
            json!({"name": self.name, "user": {
                "client-certificate-data": data(&self.client.certificate_pem),
                "client-key-data": data(&self.client.key_pem)}}),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(server: &str) -> Kubeconfig {
        let client = KeyPair { certificate_pem: "c".to_owned(), key_pem: "k".to_owned() };
        Kubeconfig { name: "keelson".to_owned(), server: server.to_owned(), authority_pem: "a".to_owned(), client }
    }

    #[test]
    fn merging_keeps_other_entries_and_the_current_context() {
        let existing = json!({"apiVersion": "v1", "kind": "Config", "current-context": "prod", "extensions": [1],
            "clusters": [{"name": "prod", "cluster": {"server": "https://prod"}}], "contexts": null,
            "users": [{"name": "keelson", "user": {"token": "old"}}]});
        let merged = entry("https://127.0.0.1:1").merge_into(existing).unwrap();
        assert_eq!(merged["current-context"], "prod");
        assert_eq!(merged["extensions"], json!([1]));
        assert_eq!(merged["clusters"].as_array().unwrap().len(), 2);
        assert_eq!(merged["users"].as_array().unwrap().len(), 1);
        assert!(merged["users"][0]["user"]["token"].is_null());
    }

    #[test]
    fn merging_twice_replaces_the_entry() {
        let once = entry("https://127.0.0.1:1").merge_into(Value::Null).unwrap();
        let twice = entry("https://127.0.0.1:2").merge_into(once).unwrap();
        assert_eq!(twice["clusters"].as_array().unwrap().len(), 1);
        assert_eq!(twice["clusters"][0]["cluster"]["server"], "https://127.0.0.1:2");
        assert_eq!(twice["current-context"], "keelson");
    }

    #[test]
    fn a_section_of_the_wrong_shape_is_refused() {
        assert!(entry("s").merge_into(json!({"users": "x"})).is_err());
        assert!(entry("s").merge_into(json!([])).is_err());
    }
}
