//! Every flow of the OCI distribution specification against the registry, in process.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use supply_chain::{Collected, Digest, Registry, RegistryOptions};
use tempfile::TempDir;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

struct Setup {
    registry: Registry,
    dir: TempDir,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().unwrap().to_owned()
    }
}

impl Setup {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { registry: Registry::open(dir.path(), RegistryOptions::default()).unwrap(), dir }
    }

    async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
        let (parts, body) = self.registry.handle(request).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], b"").await
    }

    async fn push_blob(&self, name: &str, content: &[u8]) -> Digest {
        let digest = Digest::of(content);
        let path = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        assert_eq!(self.send(Method::POST, &path, &[], content).await.status, StatusCode::CREATED);
        digest
    }

    async fn put_manifest(&self, name: &str, reference: &str, media_type: &str, content: &Value) -> Answer {
        let path = format!("/v2/{name}/manifests/{reference}");
        let content = serde_json::to_vec(content).unwrap();
        self.send(Method::PUT, &path, &[("content-type", media_type)], &content).await
    }

    /// An image of one layer, whose content the seed decides.
    async fn push_image(&self, name: &str, tag: &str, seed: &str) -> (Digest, Value) {
        let config = self.push_blob(name, b"{}").await;
        let layer = self.push_blob(name, seed.as_bytes()).await;
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": seed.len()}]});
        let answer = self.put_manifest(name, tag, MANIFEST, &manifest).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{:?}", answer.body);
        (answer.header("docker-content-digest").parse().unwrap(), manifest)
    }
}

#[tokio::test]
async fn the_base_says_the_version() {
    let setup = Setup::new();
    let answer = setup.get("/v2/").await;
    assert_eq!((answer.status, answer.header("docker-distribution-api-version")), (StatusCode::OK, "registry/2.0"));
    assert_eq!(setup.get("/v1/").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_blob_comes_in_one_request_or_two() {
    let setup = Setup::new();
    let digest = setup.push_blob("a/b", b"one").await;
    let blob = setup.get(&format!("/v2/a/b/blobs/{digest}")).await;
    assert_eq!((blob.status, &blob.body[..]), (StatusCode::OK, &b"one"[..]));
    assert_eq!(blob.header("docker-content-digest"), digest.to_string());

    let start = setup.send(Method::POST, "/v2/a/b/blobs/uploads/", &[], b"").await;
    assert_eq!(start.status, StatusCode::ACCEPTED);
    let digest = Digest::of(b"two");
    let location = start.header("location");
    let put = setup.send(Method::PUT, &format!("{location}?digest={digest}"), &[], b"two").await;
    assert_eq!((put.status, put.header("location")), (StatusCode::CREATED, &*format!("/v2/a/b/blobs/{digest}")));
    let head = setup.send(Method::HEAD, &format!("/v2/a/b/blobs/{digest}"), &[], b"").await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (StatusCode::OK, "3", 0));
}

#[tokio::test]
async fn a_blob_comes_in_chunks_in_order() {
    let setup = Setup::new();
    let start = setup.send(Method::POST, "/v2/a/blobs/uploads/", &[], b"").await;
    let location = start.header("location").to_owned();
    let first = setup.send(Method::PATCH, &location, &[("content-range", "0-2")], b"abc").await;
    assert_eq!((first.status, first.header("range")), (StatusCode::ACCEPTED, "0-2"));
    let gap = setup.send(Method::PATCH, &location, &[("content-range", "5-6")], b"xy").await;
    assert_eq!((gap.status, gap.header("range")), (StatusCode::RANGE_NOT_SATISFIABLE, "0-2"));
    let status = setup.get(&location).await;
    assert_eq!((status.status, status.header("range")), (StatusCode::NO_CONTENT, "0-2"));
    let streamed = setup.send(Method::PATCH, &location, &[], b"def").await;
    assert_eq!(streamed.header("range"), "0-5");
    let digest = Digest::of(b"abcdefgh");
    let last = [("content-range", "6-7")];
    let put = setup.send(Method::PUT, &format!("{location}?digest={digest}"), &last, b"gh").await;
    assert_eq!(put.status, StatusCode::CREATED);
    assert_eq!(&setup.get(&format!("/v2/a/blobs/{digest}")).await.body[..], b"abcdefgh");
    assert_eq!(setup.get(&location).await.code(), "BLOB_UPLOAD_UNKNOWN");
}

#[tokio::test]
async fn an_upload_is_cancelled_or_refused_without_a_trace() {
    let setup = Setup::new();
    let start = setup.send(Method::POST, "/v2/a/blobs/uploads/", &[], b"").await;
    let location = start.header("location").to_owned();
    let elsewhere = location.replace("/v2/a/", "/v2/b/");
    assert_eq!(setup.get(&elsewhere).await.code(), "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(setup.send(Method::DELETE, &location, &[], b"").await.status, StatusCode::NO_CONTENT);

    let wrong = format!("/v2/a/blobs/uploads/?digest={}", Digest::of(b"other"));
    let refused = setup.send(Method::POST, &wrong, &[], b"content").await;
    assert_eq!((refused.status, &*refused.code()), (StatusCode::BAD_REQUEST, "DIGEST_INVALID"));
    let bad = setup.send(Method::POST, "/v2/a/blobs/uploads/?digest=md5:1", &[], b"").await;
    assert_eq!(bad.code(), "DIGEST_INVALID");
    assert_eq!(std::fs::read_dir(setup.dir.path().join("uploads")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(setup.dir.path().join("blobs/sha256")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_blob_is_mounted_from_another_repository_only_when_it_is_there() {
    let setup = Setup::new();
    let digest = setup.push_blob("from", b"shared").await;
    assert_eq!(setup.get(&format!("/v2/to/blobs/{digest}")).await.code(), "BLOB_UNKNOWN");
    let mounted = format!("/v2/to/blobs/uploads/?mount={digest}&from=from");
    assert_eq!(setup.send(Method::POST, &mounted, &[], b"").await.status, StatusCode::CREATED);
    assert_eq!(&setup.get(&format!("/v2/to/blobs/{digest}")).await.body[..], b"shared");
    let missing = format!("/v2/to/blobs/uploads/?mount={}&from=from", Digest::of(b"x"));
    let answer = setup.send(Method::POST, &missing, &[], b"").await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert!(answer.header("location").starts_with("/v2/to/blobs/uploads/"));
}

#[tokio::test]
async fn a_part_of_a_blob_is_served() {
    let setup = Setup::new();
    let digest = setup.push_blob("a", b"0123456789").await;
    let path = format!("/v2/a/blobs/{digest}");
    let part = setup.send(Method::GET, &path, &[("range", "bytes=2-4")], b"").await;
    assert_eq!((part.status, &part.body[..]), (StatusCode::PARTIAL_CONTENT, &b"234"[..]));
    assert_eq!(part.header("content-range"), "bytes 2-4/10");
    let beyond = setup.send(Method::GET, &path, &[("range", "bytes=10-")], b"").await;
    assert_eq!((beyond.status, beyond.header("content-range")), (StatusCode::RANGE_NOT_SATISFIABLE, "bytes */10"));
}

#[tokio::test]
async fn a_manifest_is_found_by_tag_and_digest_and_needs_its_parts() {
    let setup = Setup::new();
    let (digest, manifest) = setup.push_image("a", "v1", "layer").await;
    for reference in ["v1".to_owned(), digest.to_string()] {
        let answer = setup.get(&format!("/v2/a/manifests/{reference}")).await;
        assert_eq!((answer.header("content-type"), Digest::of(&answer.body)), (MANIFEST, digest));
    }
    assert_eq!(setup.get("/v2/a/manifests/v2").await.code(), "MANIFEST_UNKNOWN");
    assert_eq!(setup.put_manifest("b", "v1", MANIFEST, &manifest).await.code(), "MANIFEST_BLOB_UNKNOWN");
    let other = Digest::of(b"x").to_string();
    assert_eq!(setup.put_manifest("a", &other, MANIFEST, &manifest).await.code(), "DIGEST_INVALID");
    for (media_type, content) in [
        (MANIFEST, json!({"schemaVersion": 2})),
        (INDEX, manifest.clone()),
        ("text/plain", json!({"schemaVersion": 2})),
        (MANIFEST, json!("x")),
    ] {
        assert_eq!(setup.put_manifest("a", "bad", media_type, &content).await.code(), "MANIFEST_INVALID");
    }
    let index = json!({"schemaVersion": 2, "mediaType": INDEX,
        "manifests": [{"mediaType": MANIFEST, "digest": digest, "size": 1}]});
    assert_eq!(setup.put_manifest("a", "multi", INDEX, &index).await.status, StatusCode::CREATED);
    assert_eq!(setup.put_manifest("b", "multi", INDEX, &index).await.code(), "MANIFEST_BLOB_UNKNOWN");
    let huge = vec![b' '; 5 << 20];
    let answer = setup.send(Method::PUT, "/v2/a/manifests/x", &[("content-type", MANIFEST)], &huge).await;
    assert_eq!((answer.status, &*answer.code()), (StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID"));
}

#[tokio::test]
async fn tags_and_repositories_are_listed_page_by_page() {
    let setup = Setup::new();
    for tag in ["c", "a", "b"] {
        setup.push_image("x/y", tag, "layer").await;
    }
    setup.push_image("z", "a", "layer").await;
    assert_eq!(setup.get("/v2/x/y/tags/list").await.json(), json!({"name": "x/y", "tags": ["a", "b", "c"]}));
    let page = setup.get("/v2/x/y/tags/list?n=2").await;
    assert_eq!(page.json()["tags"], json!(["a", "b"]));
    assert_eq!(page.header("link"), "</v2/x/y/tags/list?n=2&last=b>; rel=\"next\"");
    let rest = setup.get("/v2/x/y/tags/list?n=2&last=b").await;
    assert_eq!((rest.json()["tags"].clone(), rest.header("link")), (json!(["c"]), ""));
    assert_eq!(setup.get("/v2/x/y/tags/list?n=0").await.json()["tags"], json!([]));
    assert_eq!(setup.get("/v2/none/tags/list").await.code(), "NAME_UNKNOWN");
    assert_eq!(setup.get("/v2/_catalog").await.json(), json!({"repositories": ["x/y", "z"]}));
    assert_eq!(setup.get("/v2/_catalog?n=1").await.header("link"), "</v2/_catalog?n=1&last=x/y>; rel=\"next\"");
}

#[tokio::test]
async fn referrers_are_listed_and_filtered() {
    let setup = Setup::new();
    let (subject, mut manifest) = setup.push_image("a", "v1", "layer").await;
    manifest["subject"] = json!({"mediaType": MANIFEST, "digest": subject, "size": 1});
    manifest["artifactType"] = json!("application/x-sbom");
    manifest["annotations"] = json!({"k": "v"});
    let referrer = setup.put_manifest("a", "sbom", MANIFEST, &manifest).await;
    assert_eq!(referrer.header("oci-subject"), subject.to_string());
    let list = setup.get(&format!("/v2/a/referrers/{subject}")).await;
    assert_eq!(list.header("content-type"), INDEX);
    let found = &list.json()["manifests"][0];
    assert_eq!(found["digest"], referrer.header("docker-content-digest"));
    assert_eq!((&found["artifactType"], &found["annotations"]["k"]), (&json!("application/x-sbom"), &json!("v")));
    let filtered = setup.get(&format!("/v2/a/referrers/{subject}?artifactType=other")).await;
    assert_eq!((filtered.header("oci-filters-applied"), &filtered.json()["manifests"]), ("artifactType", &json!([])));
    let path = format!("/v2/a/manifests/{}", referrer.header("docker-content-digest"));
    assert_eq!(setup.send(Method::DELETE, &path, &[], b"").await.status, StatusCode::ACCEPTED);
    assert_eq!(setup.get(&format!("/v2/a/referrers/{subject}")).await.json()["manifests"], json!([]));
}

#[tokio::test]
async fn deleting_takes_tags_manifests_and_blobs_and_can_be_switched_off() {
    let setup = Setup::new();
    let (digest, _) = setup.push_image("a", "v1", "layer").await;
    setup.push_image("a", "v2", "layer").await;
    assert_eq!(setup.send(Method::DELETE, "/v2/a/manifests/v1", &[], b"").await.status, StatusCode::ACCEPTED);
    assert_eq!(setup.get("/v2/a/tags/list").await.json()["tags"], json!(["v2"]));
    let path = format!("/v2/a/manifests/{digest}");
    assert_eq!(setup.send(Method::DELETE, &path, &[], b"").await.status, StatusCode::ACCEPTED);
    assert_eq!(setup.get("/v2/a/manifests/v2").await.code(), "MANIFEST_UNKNOWN");
    assert_eq!(setup.send(Method::DELETE, &path, &[], b"").await.code(), "MANIFEST_UNKNOWN");
    let blob = format!("/v2/a/blobs/{}", Digest::of(b"layer"));
    assert_eq!(setup.send(Method::DELETE, &blob, &[], b"").await.status, StatusCode::ACCEPTED);
    assert_eq!(setup.get(&blob).await.status, StatusCode::NOT_FOUND);

    let kept = Registry::open(setup.dir.path(), RegistryOptions { allow_delete: false }).unwrap();
    let setup = Setup { registry: kept, dir: setup.dir };
    let answer = setup.send(Method::DELETE, &path, &[], b"").await;
    assert_eq!((answer.status, &*answer.code()), (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED"));
}

#[tokio::test]
async fn garbage_is_what_nothing_refers_to_and_what_is_old() {
    let setup = Setup::new();
    let (old, _) = setup.push_image("a", "v1", "old layer").await;
    setup.push_image("a", "v2", "new layer").await;
    setup.push_blob("a", b"never referred to").await;
    let nothing = Collected::default();
    assert_eq!(setup.registry.collect_garbage(Duration::from_secs(3600)).await.unwrap(), nothing, "all is young");
    setup.send(Method::DELETE, &format!("/v2/a/manifests/{old}"), &[], b"").await;
    let collected = setup.registry.collect_garbage(Duration::ZERO).await.unwrap();
    assert_eq!(collected.blobs, 3, "the old manifest, its layer, and the lone blob");
    assert_eq!(setup.get("/v2/a/manifests/v2").await.status, StatusCode::OK);
    for kept in [&b"new layer"[..], b"{}"] {
        assert_eq!(setup.get(&format!("/v2/a/blobs/{}", Digest::of(kept))).await.status, StatusCode::OK);
    }
    assert_eq!(setup.get(&format!("/v2/a/blobs/{}", Digest::of(b"old layer"))).await.code(), "BLOB_UNKNOWN");
    assert_eq!(setup.registry.collect_garbage(Duration::ZERO).await.unwrap(), nothing);
}

#[tokio::test]
async fn content_outlives_the_process_and_unfinished_uploads_do_not() {
    let setup = Setup::new();
    let (digest, _) = setup.push_image("a", "v1", "layer").await;
    setup.send(Method::POST, "/v2/a/blobs/uploads/", &[], b"").await;
    let registry = Registry::open(setup.dir.path(), RegistryOptions::default()).unwrap();
    let setup = Setup { registry, dir: setup.dir };
    assert_eq!(setup.get("/v2/a/manifests/v1").await.header("docker-content-digest"), digest.to_string());
    assert_eq!(std::fs::read_dir(setup.dir.path().join("uploads")).unwrap().count(), 0);

    std::fs::write(setup.dir.path().join("format"), "9").unwrap();
    let error = Registry::open(setup.dir.path(), RegistryOptions::default()).unwrap_err().to_string();
    assert!(error.contains("\"9\""), "{error}");
}

#[tokio::test]
async fn names_and_methods_that_are_none_are_refused() {
    let setup = Setup::new();
    assert_eq!(setup.get("/v2/A/tags/list").await.code(), "NAME_INVALID");
    assert_eq!(setup.get("/v2/%2e%2e/blobs/sha256:0").await.code(), "NAME_INVALID");
    assert_eq!(setup.get("/v2/a/manifests/-x").await.code(), "MANIFEST_INVALID");
    assert_eq!(setup.send(Method::PUT, "/v2/_catalog", &[], b"").await.status, StatusCode::METHOD_NOT_ALLOWED);
}
