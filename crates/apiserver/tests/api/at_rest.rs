//! What lies on the disk: Secrets sealed, with whichever key is the first, and nothing readable left of them.

use std::{path::Path, sync::Arc, time::Duration};

use apiserver::{ApiServer, ApiServerConfig, EncryptionAtRest};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::Method;
use identity::TokenSigner;
use serde_json::{Value, json};

use crate::fixture::{JSON, admin, request, send};

/// Small segments, so that a few objects make a checkpoint.
fn options(configuration: &Path) -> store::Options {
    let at_rest = EncryptionAtRest::load_or_create(configuration).unwrap();
    store::Options { at_rest: Some(Arc::new(at_rest)), segment_bytes: 16 << 10, ..store::Options::default() }
}

fn open(directory: &Path, configuration: &Path) -> Arc<ApiServer> {
    let signer = TokenSigner::load_or_create(&directory.join("sa.key"), "https://kubernetes.default.svc").unwrap();
    let store = store::Store::open(directory.join("store"), options(configuration)).unwrap();
    ApiServer::new(store, ApiServerConfig::default(), Arc::new(signer))
}

/// Whether any file of the store holds this text.
fn on_disk(directory: &Path, text: &str) -> bool {
    let files = std::fs::read_dir(directory.join("store")).unwrap();
    // an open store removes what it has written anew
    let mut contents = files.filter_map(|file| std::fs::read(file.unwrap().path()).ok());
    contents.any(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}

/// Waits until an open store has written its state anew: one that is closed before leaves that to its next start.
async fn rewritten(directory: &Path, gone: &str, there: &str) {
    let done = async {
        while on_disk(directory, gone) || !on_disk(directory, there) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), done).await.expect("the state is written anew");
}

async fn post(server: &Arc<ApiServer>, kind: &str, object: &Value) {
    let path = format!("/api/v1/namespaces/default/{kind}");
    send(server.service(Some(admin())), request(Method::POST, &path, JSON, &object.to_string())).await.ok();
}

async fn value_of(server: &Arc<ApiServer>, name: &str) -> String {
    let path = format!("/api/v1/namespaces/default/secrets/{name}");
    let secret = send(server.service(Some(admin())), request(Method::GET, &path, "", "")).await.ok();
    String::from_utf8(BASE64_STANDARD.decode(secret["data"]["k"].as_str().unwrap()).unwrap()).unwrap()
}

#[tokio::test]
async fn no_text_of_a_secret_is_on_the_disk_in_logs_and_checkpoints() {
    let directory = tempfile::tempdir().unwrap();
    let (root, configuration) = (directory.path(), directory.path().join("encryption.json"));
    let server = open(root, &configuration);
    server.bootstrap().await.unwrap();
    let (hidden, encoded) = ("unmistakable-text", BASE64_STANDARD.encode("unmistakable-text"));
    for number in 0..40 {
        let name = format!("s-{number}");
        post(
            &server,
            "secrets",
            &json!({"metadata": {"name": name}, "stringData": {"k": hidden, "pad": "x".repeat(2048)}}),
        )
        .await;
    }
    post(&server, "configmaps", &json!({"metadata": {"name": "c"}, "data": {"k": "in-clear-text"}})).await;
    let path = "/api/v1/namespaces/default/secrets/s-1";
    send(server.service(Some(admin())), request(Method::DELETE, path, "", "")).await.ok();
    drop(server);
    let checkpoints = || {
        let names = std::fs::read_dir(root.join("store")).unwrap().map(|file| file.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().contains("checkpoint")).count()
    };
    assert!(checkpoints() > 0, "the test is about checkpoints too");
    assert!(on_disk(root, "in-clear-text") && on_disk(root, "k8s:enc:aesgcm:v1:key-"));
    assert!(!on_disk(root, hidden) && !on_disk(root, &encoded[..20]));
    let server = open(root, &configuration);
    assert_eq!(value_of(&server, "s-7").await, hidden);
}

#[tokio::test]
async fn a_new_first_key_seals_everything_at_the_next_start_and_a_lost_key_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let (root, configuration) = (directory.path(), directory.path().join("encryption.yaml"));
    let key = |name: &str, byte: u8| json!({"aesgcm": {"keys": [{"name": name, "secret": BASE64_STANDARD.encode([byte; 32])}]}});
    let write = |providers: Value| {
        let document = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
            "resources": [{"resources": ["secrets"], "providers": providers}]});
        std::fs::write(&configuration, document.to_string()).unwrap();
    };
    // what was stored before anything was sealed
    write(json!([{"identity": {}}]));
    let server = open(root, &configuration);
    server.bootstrap().await.unwrap();
    post(&server, "secrets", &json!({"metadata": {"name": "s"}, "stringData": {"k": "hidden"}})).await;
    drop(server);
    assert!(on_disk(root, "aGlkZGVu"));
    write(json!([key("one", 1), {"identity": {}}]));
    let server = open(root, &configuration);
    assert_eq!(value_of(&server, "s").await, "hidden");
    rewritten(root, "aGlkZGVu", "k8s:enc:aesgcm:v1:one:").await;
    drop(server);
    write(json!([key("two", 2), key("one", 1)]));
    let server = open(root, &configuration);
    rewritten(root, "k8s:enc:aesgcm:v1:one:", "k8s:enc:aesgcm:v1:two:").await;
    drop(server);
    for (providers, expected) in [
        (json!([key("three", 3)]), r#"sealed with aesgcm key "two", which is not there"#),
        (json!([key("two", 9)]), r#"aesgcm key "two" does not open it"#),
    ] {
        write(providers);
        let error = store::Store::open(root.join("store"), options(&configuration)).err().unwrap();
        let error = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source())
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(": ");
        assert!(
            error.contains(expected) && error.contains("encryption.yaml") && error.contains("default/s"),
            "{error}"
        );
    }
    write(json!([key("two", 2)]));
    assert_eq!(value_of(&open(root, &configuration), "s").await, "hidden");
}
