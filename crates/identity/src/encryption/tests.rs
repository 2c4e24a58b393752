use super::*;

fn key(name: &str, byte: u8) -> Value {
    json!({"name": name, "secret": BASE64.encode([byte; 32])})
}

fn configured(resources: &[&str], providers: Value) -> Encryption {
    Encryption::parse(document(resources, providers)).unwrap_or_else(|error| panic!("{error}"))
}

fn document(resources: &[&str], providers: Value) -> Value {
    json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": [{"resources": resources, "providers": providers}]})
}

fn place() -> String {
    "/registry/secrets/default/a".to_owned()
}

const SECRETS: &str = "core/secrets";

#[test]
fn a_fresh_configuration_seals_secrets_and_reads_what_is_plain() {
    let encryption = Encryption::parse(Encryption::fresh().unwrap()).unwrap_or_else(|error| panic!("{error}"));
    let sealed = encryption.seal(SECRETS, place, b"hidden").unwrap().unwrap();
    assert!(sealed.starts_with(b"k8s:enc:aesgcm:v1:key-"));
    assert_eq!(encryption.open(SECRETS, place, &sealed).unwrap().unwrap(), b"hidden");
    assert_eq!(encryption.open(SECRETS, place, b"{}").unwrap(), None);
    assert!(encryption.is_stale(SECRETS, b"{}") && !encryption.is_stale(SECRETS, &sealed));
    assert_eq!(encryption.seal("core/configmaps", place, b"shown").unwrap(), None);
    assert!(!encryption.is_stale("core/configmaps", b"{}"));
}

#[test]
fn the_first_key_seals_and_all_open() {
    let old = configured(&["secrets"], json!([{"aescbc": {"keys": [key("k1", 1)]}}]));
    let sealed = old.seal(SECRETS, place, b"hidden").unwrap().unwrap();
    assert_eq!(old.open(SECRETS, place, b"{}"), Err(EncryptionError::Plain));
    let both = json!([{"secretbox": {"keys": [key("k2", 2)]}}, {"aescbc": {"keys": [key("k1", 1)]}}, {"identity": {}}]);
    let new = configured(&["secrets"], both);
    assert_eq!(new.open(SECRETS, place, &sealed).unwrap().unwrap(), b"hidden");
    assert!(new.is_stale(SECRETS, &sealed));
    assert!(new.seal(SECRETS, place, b"x").unwrap().unwrap().starts_with(b"k8s:enc:secretbox:v1:k2:"));
    // identity first decrypts everything
    let off = configured(&["secrets"], json!([{"identity": {}}, {"aescbc": {"keys": [key("k1", 1)]}}]));
    assert_eq!(off.seal(SECRETS, place, b"x").unwrap(), None);
    assert!(off.is_stale(SECRETS, &sealed) && !off.is_stale(SECRETS, b"{}"));
}

#[test]
fn a_missing_or_wrong_key_is_named() {
    let one = configured(&["secrets"], json!([{"aesgcm": {"keys": [key("k1", 1)]}}]));
    let sealed = one.seal(SECRETS, place, b"hidden").unwrap().unwrap();
    let without = configured(&["secrets"], json!([{"aesgcm": {"keys": [key("k2", 1)]}}]));
    let error = without.open(SECRETS, place, &sealed).unwrap_err().to_string();
    assert_eq!(error, r#"it is sealed with aesgcm key "k1", which is not there"#);
    let wrong = configured(&["secrets"], json!([{"aesgcm": {"keys": [key("k1", 9)]}}]));
    assert!(
        wrong.open(SECRETS, place, &sealed).unwrap_err().to_string().starts_with(r#"aesgcm key "k1" does not open"#)
    );
    let elsewhere = || "/registry/secrets/default/b".to_owned();
    assert!(one.open(SECRETS, elsewhere, &sealed).is_err());
    // nothing names the resource any more
    let none = configured(&["configmaps"], json!([{"identity": {}}]));
    assert!(none.open(SECRETS, place, &sealed).is_err());
}

#[test]
fn the_first_entry_that_names_a_resource_decides() {
    let entries = json!([
        {"resources": ["configmaps", "deployments.apps"], "providers": [{"identity": {}}]},
        {"resources": ["*."], "providers": [{"aesgcm": {"keys": [key("core", 1)]}}]},
        {"resources": ["*.example.com"], "providers": [{"aesgcm": {"keys": [key("example", 1)]}}]},
        {"resources": ["*.*"], "providers": [{"aesgcm": {"keys": [key("rest", 1)]}}]},
    ]);
    let mut all = document(&[], json!([]));
    all["resources"] = entries;
    let encryption = Encryption::parse(all).unwrap_or_else(|error| panic!("{error}"));
    for (collection, name) in [
        ("core/configmaps", None),
        ("apps/deployments", None),
        ("core/pods", Some("core")),
        ("example.com/things", Some("example")),
        ("apps/replicasets", Some("rest")),
    ] {
        let sealed = encryption.seal(collection, place, b"x").unwrap();
        let prefix = name.map(|name| format!("k8s:enc:aesgcm:v1:{name}:").into_bytes());
        assert_eq!(sealed.is_some(), prefix.is_some(), "{collection}");
        assert!(sealed.zip(prefix).is_none_or(|(sealed, prefix)| sealed.starts_with(&prefix)), "{collection}");
    }
}

#[test]
fn everything_that_is_wrong_is_listed_without_showing_a_key() {
    let mut wrong = document(
        &["", "*", "pods/status", "secrets.*", "Secrets"],
        json!([{}, {"kms": {"name": "x"}}, {"identity": {}, "aesgcm": {"keys": []}}, {"aesgcm": {"keys": []}},
            {"aesgcm": {"keys": [{"name": "a:b", "secret": ""}, {"name": "a", "secret": "*"},
                {"name": "a", "secret": BASE64.encode([1; 24])}]}}]),
    );
    wrong["apiVersion"] = "v1".into();
    let EncryptionConfigurationError(errors) = Encryption::parse(wrong).err().unwrap();
    assert_eq!(errors.len(), 13, "{errors:#?}");
    assert!(errors.iter().any(|error| error.contains("kms: Forbidden: key management services are not supported")));
    assert!(errors.iter().any(|error| error.ends_with("got 24, expected one of [16, 32]")));
    let mut unknown = document(&["secrets"], json!([{"identity": {}}]));
    unknown["x"] = 1.into();
    assert!(Encryption::parse(unknown).err().unwrap().to_string().contains("unknown field `x`"));
}
