//! Encryption at rest: which resources are kept sealed, with which keys, in the formats of upstream's API server.
//!
//! The configuration is an `EncryptionConfiguration` (`apiserver.config.k8s.io/v1`). The first entry that names a
//! resource decides; of its providers the first one's first key seals, and every one opens. A sealed value begins with
//! `k8s:enc:PROVIDER:v1:KEY:`, and the authenticated ciphers bind it to its place, so that a value cannot be moved.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ring::rand::{SecureRandom, SystemRandom};
use serde::Deserialize;
use serde_json::{Value, json};

mod ciphers;

use ciphers::{Cipher, Kind};

/// How every sealed value begins.
const PREFIX: &[u8] = b"k8s:enc:";
/// Bytes of a key that is made here.
const KEY_BYTES: usize = 32;

/// A configuration cannot be used; each line names a field.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct EncryptionConfigurationError(pub Vec<String>);

/// A value cannot be sealed or opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncryptionError {
    /// It is sealed with a key that is not there.
    #[error("it is sealed with {provider} key {key:?}, which is not there")]
    UnknownKey {
        /// Name of the provider.
        provider: String,
        /// Name of the key.
        key: String,
    },
    /// The key does not open it.
    #[error("{provider} key {key:?} does not open it: the key is another one of the same name, or the data is damaged")]
    WrongKey {
        /// Name of the provider.
        provider: &'static str,
        /// Name of the key.
        key: String,
    },
    /// It is not sealed, and reading such data is not configured.
    #[error("it is not sealed, and no identity provider allows that")]
    Plain,
    /// There is no randomness.
    #[error("there is no randomness to seal it with")]
    Random,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Document {
    api_version: String,
    kind: String,
    resources: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    resources: Vec<String>,
    providers: Vec<ProviderEntry>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ProviderEntry {
    aesgcm: Option<Keys>,
    aescbc: Option<Keys>,
    secretbox: Option<Keys>,
    identity: Option<Empty>,
    kms: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Empty {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    keys: Vec<KeyEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    name: String,
    secret: String,
}

/// Which collections an entry is about.
#[derive(Debug, PartialEq, Eq)]
enum Match {
    /// `secrets`, `deployments.apps`: one collection, as the store names it.
    Collection(String),
    /// `*.apps`, `*.`: every collection with this prefix.
    Group(String),
    /// `*.*`.
    Everything,
}

impl Match {
    fn parse(resource: &str) -> Result<Self, &'static str> {
        let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
        let group_folder = if group.is_empty() { "core" } else { group };
        match (plural, group) {
            ("", _) => Err("a resource is named PLURAL or PLURAL.GROUP"),
            ("*", _) if !resource.contains('.') => Err("use '*.' for the core group or '*.*' for everything"),
            ("*", "*") => Ok(Self::Everything),
            ("*", _) => Ok(Self::Group(format!("{group_folder}/"))),
            (_, "*") => Err("a plural in every group cannot be named"),
            _ if resource.contains('/') => Err("subresources are not kept by themselves"),
            _ if resource.chars().any(char::is_uppercase) => Err("resource names are lower case"),
            _ => Ok(Self::Collection(format!("{group_folder}/{plural}"))),
        }
    }

    fn covers(&self, collection: &str) -> bool {
        match self {
            Self::Collection(own) => own == collection,
            Self::Group(prefix) => collection.starts_with(prefix.as_str()),
            Self::Everything => true,
        }
    }
}

struct Key {
    name: String,
    cipher: Cipher,
    prefix: Vec<u8>,
}

/// A key, or the leave to keep data as it is.
enum Provider {
    Sealed(Key),
    Identity,
}

struct Rule {
    matches: Vec<Match>,
    /// Every key of every provider, in order: the first one seals.
    providers: Vec<Provider>,
}

/// What is kept sealed, and how.
pub struct Encryption {
    rules: Vec<Rule>,
}

impl Encryption {
    /// Reads a configuration.
    ///
    /// # Errors
    /// Lists everything that is wrong with it. No key is shown.
    pub fn parse(document: Value) -> Result<Self, EncryptionConfigurationError> {
        let document: Document =
            serde_json::from_value(document).map_err(|error| EncryptionConfigurationError(vec![error.to_string()]))?;
        let mut errors = Vec::new();
        if document.api_version != "apiserver.config.k8s.io/v1" || document.kind != "EncryptionConfiguration" {
            errors.push(format!(
                "apiVersion, kind: Invalid value: \"{}, {}\": must be apiserver.config.k8s.io/v1, EncryptionConfiguration",
                document.api_version, document.kind
            ));
        }
        if document.resources.is_empty() {
            errors.push("resources: Required value: at least one entry is needed".to_owned());
        }
        let rules: Vec<Rule> = document
            .resources
            .into_iter()
            .enumerate()
            .map(|(index, entry)| rule(entry, &format!("resources[{index}]"), &mut errors))
            .collect();
        if errors.is_empty() { Ok(Self { rules }) } else { Err(EncryptionConfigurationError(errors)) }
    }

    /// A new configuration that seals Secrets with a key made for it.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn fresh() -> Result<Value, EncryptionError> {
        let (mut secret, mut name) = ([0; KEY_BYTES], [0; 4]);
        let random = SystemRandom::new();
        random.fill(&mut secret).and_then(|()| random.fill(&mut name)).map_err(|_| EncryptionError::Random)?;
        // a name of its own, so that data of another key is recognised as such
        let name = format!("key-{:08x}", u32::from_be_bytes(name));
        Ok(json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration", "resources": [{
            "resources": ["secrets"],
            "providers": [{"aesgcm": {"keys": [{"name": name, "secret": BASE64.encode(secret)}]}}, {"identity": {}}],
        }]}))
    }

    fn providers(&self, collection: &str) -> Option<&[Provider]> {
        let rule = self.rules.iter().find(|rule| rule.matches.iter().any(|known| known.covers(collection)))?;
        Some(&rule.providers)
    }

    /// The form in which a value of `collection` is kept; `None` when as it is. `place` is bound to it.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn seal(
        &self,
        collection: &str,
        place: impl FnOnce() -> String,
        plain: &[u8],
    ) -> Result<Option<Vec<u8>>, EncryptionError> {
        let Some([Provider::Sealed(key), ..]) = self.providers(collection) else { return Ok(None) };
        let sealed = key.cipher.seal(&key.prefix, place().as_bytes(), plain).ok_or(EncryptionError::Random)?;
        Ok(Some(sealed))
    }

    /// The value of a kept form; `None` when it is kept as it is.
    ///
    /// # Errors
    /// When no key opens it, or it is kept plain and may not be.
    pub fn open(
        &self,
        collection: &str,
        place: impl FnOnce() -> String,
        stored: &[u8],
    ) -> Result<Option<Vec<u8>>, EncryptionError> {
        let providers = self.providers(collection).unwrap_or(&[Provider::Identity]);
        if !stored.starts_with(PREFIX) {
            let allowed = providers.iter().any(|provider| matches!(provider, Provider::Identity));
            return if allowed { Ok(None) } else { Err(EncryptionError::Plain) };
        }
        let found = providers.iter().find_map(|provider| match provider {
            Provider::Sealed(key) => stored.strip_prefix(key.prefix.as_slice()).map(|sealed| (key, sealed)),
            Provider::Identity => None,
        });
        let Some((key, sealed)) = found else { return Err(unknown(stored)) };
        let wrong = || EncryptionError::WrongKey { provider: key.cipher.kind().name(), key: key.name.clone() };
        key.cipher.open(place().as_bytes(), sealed).map(Some).ok_or_else(wrong)
    }

    /// Whether a value should be kept differently from now on.
    pub fn is_stale(&self, collection: &str, stored: &[u8]) -> bool {
        match self.providers(collection) {
            Some([Provider::Sealed(key), ..]) => !stored.starts_with(&key.prefix),
            _ => stored.starts_with(PREFIX),
        }
    }
}

/// Names the key from a value's prefix.
fn unknown(stored: &[u8]) -> EncryptionError {
    // names are short; the rest is not text
    let text = String::from_utf8_lossy(&stored[PREFIX.len()..stored.len().min(256)]).into_owned();
    let mut parts = text.split(':');
    let provider = parts.next().unwrap_or_default().to_owned();
    EncryptionError::UnknownKey { provider, key: parts.nth(1).unwrap_or_default().to_owned() }
}

fn rule(entry: Entry, path: &str, errors: &mut Vec<String>) -> Rule {
    let mut matches = Vec::new();
    if entry.resources.is_empty() {
        errors.push(format!("{path}.resources: Required value: at least one resource is needed"));
    }
    for (index, resource) in entry.resources.iter().enumerate() {
        match Match::parse(resource) {
            Ok(found) => matches.push(found),
            Err(why) => errors.push(format!("{path}.resources[{index}]: Invalid value: {resource:?}: {why}")),
        }
    }
    if entry.providers.is_empty() {
        errors.push(format!("{path}.providers: Required value: at least one provider is needed"));
    }
    let mut providers = Vec::new();
    for (index, entry) in entry.providers.into_iter().enumerate() {
        provider(entry, &format!("{path}.providers[{index}]"), &mut providers, errors);
    }
    Rule { matches, providers }
}

fn provider(entry: ProviderEntry, path: &str, providers: &mut Vec<Provider>, errors: &mut Vec<String>) {
    let named = [(Kind::AesGcm, entry.aesgcm), (Kind::AesCbc, entry.aescbc), (Kind::Secretbox, entry.secretbox)];
    let given = named.iter().filter(|(_, keys)| keys.is_some()).count()
        + usize::from(entry.identity.is_some())
        + usize::from(entry.kms.is_some());
    if given != 1 {
        errors.push(format!("{path}: Invalid value: exactly one of aesgcm, aescbc, secretbox, identity must be given"));
        return;
    }
    if entry.kms.is_some() {
        errors.push(format!("{path}.kms: Forbidden: key management services are not supported; use aesgcm"));
    }
    if entry.identity.is_some() {
        providers.push(Provider::Identity);
    }
    for (kind, keys) in named {
        let Some(keys) = keys else { continue };
        let path = format!("{path}.{}.keys", kind.name());
        if keys.keys.is_empty() {
            errors.push(format!("{path}: Required value: at least one key is needed"));
        }
        for (index, entry) in keys.keys.into_iter().enumerate() {
            match key(kind, entry) {
                Ok(key) => providers.push(Provider::Sealed(key)),
                Err(why) => errors.push(format!("{path}[{index}].{why}")),
            }
        }
    }
}

fn key(kind: Kind, entry: KeyEntry) -> Result<Key, String> {
    if entry.name.is_empty() || entry.name.contains(':') {
        return Err(format!("name: Invalid value: {:?}: must not be empty nor hold a colon", entry.name));
    }
    let redacted = "secret: Invalid value: \"REDACTED\"";
    let secret = BASE64.decode(&entry.secret).map_err(|_| format!("{redacted}: secrets must be base64 encoded"))?;
    let cipher = Cipher::new(kind, &secret).ok_or_else(|| {
        format!(
            "{redacted}: secret is not of the expected length, got {}, expected one of {:?}",
            secret.len(),
            kind.lengths()
        )
    })?;
    let prefix = format!("k8s:enc:{}:v1:{}:", kind.name(), entry.name).into_bytes();
    Ok(Key { name: entry.name, cipher, prefix })
}

#[cfg(test)]
mod tests;
