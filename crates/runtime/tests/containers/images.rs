//! Pulling through the mirror, and what can go wrong.

use std::sync::atomic::Ordering;

use runtime::PullErrorKind;

use crate::{
    instance::{Instance, possible},
    registry::{self, Image, Registry},
};

#[tokio::test(flavor = "multi_thread")]
async fn image_is_pulled_once_and_known_by_all_its_names() {
    if !possible() {
        return;
    }
    let instance = Instance::new().await;
    let runtime = instance.runtime();
    let pulls: Vec<_> = (0..4).map(|_| runtime.pull("docker.io/library/probe:latest", None)).collect();
    let images: Vec<_> = futures::future::join_all(pulls).await.into_iter().map(Result::unwrap).collect();
    assert!(images.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(instance.registry.blob_fetches.load(Ordering::Relaxed), 2);
    let image = &images[0];
    assert_eq!(image.repo_tags, ["docker.io/library/probe:latest"]);
    assert_eq!(image.uid, Some(0));
    for name in ["probe", "docker.io/probe", &image.id, &image.repo_digests[0]] {
        assert_eq!(runtime.image(name).as_ref(), Some(image), "{name}");
    }
    let port = instance.config.mirror.unwrap().port();
    let same = runtime.pull(&format!("localhost:{port}/probe"), None).await.unwrap();
    assert_eq!((same.id.as_str(), same.repo_tags.len()), (image.id.as_str(), 2));
    // Another image with the same layer fetches only its configuration.
    runtime.pull("user:1", None).await.unwrap();
    assert_eq!(instance.registry.blob_fetches.load(Ordering::Relaxed), 4);
    assert_eq!(runtime.remove_unused_images().await.unwrap().len(), 2);
    assert!(runtime.images().is_empty() && runtime.image("probe").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn image_in_use_keeps_its_layers() {
    if !possible() {
        return;
    }
    let instance = Instance::new().await;
    let sandbox = instance.sandbox().await;
    let config = instance.container_config("main", "out works").await;
    let id = instance.create(&sandbox, config).await;
    assert!(instance.runtime().remove_unused_images().await.unwrap().is_empty());
    instance.runtime().remove_image("probe").await.unwrap();
    instance.runtime().start_container(&id).await.unwrap();
    assert_eq!(instance.exit(&id).await, 0);
    assert_eq!(instance.log(&id), "works\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn pull_failures_are_told_apart() {
    if !possible() {
        return;
    }
    let instance = Instance::new().await;
    let port = instance.config.mirror.unwrap().port();
    let error = instance.runtime().pull(&format!("localhost:{port}/nothing:1"), None).await.unwrap_err();
    assert_eq!(error.kind, PullErrorKind::NotFound);
    assert_eq!(
        error.to_string(),
        format!(
            "failed to pull and unpack image \"localhost:{port}/nothing:1\": failed to resolve reference \
             \"localhost:{port}/nothing:1\": localhost:{port}/nothing:1: not found"
        )
    );
    let error = instance.runtime().pull("Not A Reference", None).await.unwrap_err();
    assert_eq!(error.kind, PullErrorKind::InvalidReference);
    // Port 9 discards, if anything listens there at all.
    let error = instance.runtime().pull("127.0.0.1:9/x", None).await.unwrap_err();
    assert_eq!(error.kind, PullErrorKind::Network);
}

/// A runtime whose mirror is a registry of this test.
async fn with_registry(
    registry: Registry,
    directory: &std::path::Path,
    tasks: &mut tokio::task::JoinSet<()>,
) -> std::sync::Arc<runtime::Runtime> {
    let mirror = std::sync::Arc::new(registry).serve(tasks).await;
    let config = runtime::api::RuntimeConfig {
        state_dir: directory.join("state"),
        run_dir: directory.join("run"),
        cgroup_root: "keelson-test-images".into(),
        instance: "images".into(),
        shim_executable: "/nonexistent".into(),
        mirror: Some(mirror),
    };
    runtime::Runtime::open(config).await.unwrap()
}

fn small_image() -> Image {
    let uid = nix::unistd::getuid().as_raw();
    Image {
        layers: vec![vec![("file".into(), format!("owner {uid}").into_bytes(), 0o644)]],
        config: serde_json::json!({ "Cmd": ["/file"] }),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn index_is_resolved_for_this_machine() {
    if !possible() {
        return;
    }
    let (directory, mut tasks) = (tempfile::tempdir().unwrap(), tokio::task::JoinSet::new());
    let mut registry = Registry::default();
    let here = registry.add("multi", "only-here", &small_image());
    let entry = |digest: &str, architecture: &str| serde_json::json!({ "digest": digest, "size": 1, "platform": { "os": "linux", "architecture": architecture } });
    let elsewhere = entry(&registry::digest(b"elsewhere"), "s390x");
    let own = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    for (tag, entries) in [("both", vec![elsewhere.clone(), entry(&here, own)]), ("elsewhere", vec![elsewhere])] {
        let index = serde_json::json!({ "schemaVersion": 2, "manifests": entries });
        registry.paths.insert(
            format!("/v2/multi/manifests/{tag}"),
            ("application/vnd.oci.image.index.v1+json".into(), serde_json::to_vec(&index).unwrap()),
        );
    }
    let runtime = with_registry(registry, directory.path(), &mut tasks).await;
    runtime.pull("multi:both", None).await.unwrap();
    let error = runtime.pull("multi:elsewhere", None).await.unwrap_err();
    assert_eq!(error.kind, PullErrorKind::Platform, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_is_not_what_its_digest_says_is_refused() {
    if !possible() {
        return;
    }
    let (directory, mut tasks) = (tempfile::tempdir().unwrap(), tokio::task::JoinSet::new());
    let mut registry = Registry::default();
    let manifest = registry.add("bad", "1", &small_image());
    for (path, (_, body)) in &mut registry.paths {
        if path.contains("/blobs/") && !body.starts_with(b"{") {
            let last = body.len() - 1;
            body[last] ^= 1;
        }
        if path.contains(&manifest) {
            body.push(b' ');
        }
    }
    let runtime = with_registry(registry, directory.path(), &mut tasks).await;
    for reference in ["bad:1".to_owned(), format!("bad@{manifest}")] {
        let error = runtime.pull(&reference, None).await.unwrap_err();
        assert_eq!(error.kind, PullErrorKind::Invalid, "{error}");
        assert!(error.message.contains("expected sha256:"), "{error}");
    }
    assert!(runtime.images().is_empty());
    assert!(std::fs::read_dir(directory.path().join("state/images/layers")).unwrap().next().is_none());
    assert!(std::fs::read_dir(directory.path().join("state/images/tmp")).unwrap().next().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn token_is_fetched_with_the_credentials() {
    if !possible() {
        return;
    }
    let (directory, mut tasks) = (tempfile::tempdir().unwrap(), tokio::task::JoinSet::new());
    let mut registry = Registry { token: Some("sesame".into()), ..Registry::default() };
    registry.add("private", "1", &small_image());
    let runtime = with_registry(registry, directory.path(), &mut tasks).await;
    let error = runtime.pull("private:1", None).await.unwrap_err();
    assert_eq!(error.kind, PullErrorKind::Unauthorized, "{error}");
    let auth = runtime::api::RegistryAuth { username: "user".into(), password: "secret".into() };
    runtime.pull("private:1", Some(auth)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn upper_layers_change_and_hide_lower_ones() {
    if !possible() {
        return;
    }
    let instance = Instance::new().await;
    let sandbox = instance.sandbox().await;
    let image = instance.runtime().pull("layered:1", None).await.unwrap();
    let mut config = instance
        .container_config("main", "cat /keep , cat /change , cat /gone , cat /dir/old , cat /dir/new , cat /deep/kept")
        .await;
    config.image_id = image.id;
    let (code, log) = instance.run(&sandbox, config).await;
    let missing = |path| format!("{path}: No such file or directory\n");
    let expected = format!("kept\nnew\n{}{}new\nkept\n", missing("/gone"), missing("/dir/old"));
    assert_eq!((code, log), (0, expected));
}
