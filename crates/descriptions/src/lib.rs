//! What Kubernetes' types and their fields are for, in the project's own words: what `kubectl explain` prints.
//!
//! The texts come from the JSON schemas of `k8s-openapi`, which the build script asks for every kind; they are kept
//! compressed in the binary and unpacked only while a document is made, so that a server nobody asks holds none of them.
//!
//! Main type: [`Descriptions`].

use std::{collections::HashMap, io::Read as _};

use serde::Deserialize;

const PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.json.gz"));

/// Descriptions by name of the type, for example `io.k8s.api.core.v1.Pod`.
#[derive(Debug, Deserialize)]
pub struct Descriptions(HashMap<String, Described>);

/// A type's description, and those of its fields.
#[derive(Debug, Deserialize)]
pub struct Described(
    /// Of the type; empty where it has none.
    pub String,
    /// Of the fields by name; empty where they have none.
    pub HashMap<String, String>,
);

impl Descriptions {
    /// Unpacks them.
    pub fn unpack() -> Self {
        let mut text = Vec::new();
        let unpacked = flate2::read::GzDecoder::new(PACKED).read_to_end(&mut text);
        // packed by the build script of this crate
        let parsed = unpacked.ok().and_then(|_| serde_json::from_slice(&text).ok());
        parsed.unwrap_or_else(|| Self(HashMap::new()))
    }

    /// What a type is for.
    pub fn of(&self, name: &str) -> Option<&Described> {
        self.0.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_fields_are_described() {
        let descriptions = Descriptions::unpack();
        let pod = descriptions.of("io.k8s.api.core.v1.Pod").unwrap();
        assert!(pod.0.starts_with("Pod is a collection of containers"), "{}", pod.0);
        assert!(pod.1["apiVersion"].starts_with("APIVersion defines the versioned schema"));
        let port = descriptions.of("io.k8s.api.core.v1.ContainerPort").unwrap();
        assert!(port.1["hostPort"].contains("Number of port to expose on the host"));
    }

    #[test]
    fn they_take_little_room_in_the_binary() {
        assert!(PACKED.len() < 300 * 1024, "{} bytes", PACKED.len());
    }
}
