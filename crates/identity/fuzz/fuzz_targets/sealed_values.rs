//! Any bytes as a sealed value, as found on a disk that somebody else wrote, and as an encryption configuration.
#![no_main]

use std::sync::LazyLock;

use identity::encryption::Encryption;
use libfuzzer_sys::fuzz_target;

static ENCRYPTION: LazyLock<Option<Encryption>> = LazyLock::new(|| {
    let key = |name: &str| serde_json::json!({"keys": [{"name": name, "secret": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}]});
    Encryption::parse(serde_json::json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"], "providers": [
            {"aesgcm": key("a")}, {"aescbc": key("b")}, {"secretbox": key("c")}, {"identity": {}}]}]}))
    .ok()
});

fuzz_target!(|bytes: &[u8]| {
    if let Some(encryption) = &*ENCRYPTION {
        let _opened = encryption.open("core/secrets", || "/registry/secrets/a/b".to_owned(), bytes);
        let _stale = encryption.is_stale("core/secrets", bytes);
    }
    if let Ok(document) = serde_json::from_slice(bytes) {
        let _configuration = Encryption::parse(document);
    }
});
