//! Any bytes as a request to a whole server in process: path, query, headers, and bodies in every encoding, down to what
//! the store is given. The first line is method and address, the second content type, accepted type and an impersonated
//! user, all separated by blanks; the rest is the body.
#![no_main]

use std::sync::{Arc, LazyLock};

use apiserver::{ApiServer, ApiServerConfig, User};
use http::{HeaderName, HeaderValue, Request, Uri};
use http_body_util::BodyExt as _;
use libfuzzer_sys::fuzz_target;
use tower::ServiceExt as _;

struct World {
    runtime: tokio::runtime::Runtime,
    server: Arc<ApiServer>,
    _directory: tempfile::TempDir,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let store = store::Store::open(directory.path().join("store"), store::Options::default()).expect("a store");
    let signer = identity::TokenSigner::load_or_create(&directory.path().join("sa.key"), "https://issuer").expect("a key");
    let server = runtime.block_on(async {
        let server = ApiServer::new(store, ApiServerConfig::default(), Arc::new(signer));
        server.bootstrap().await.expect("the objects every cluster has");
        server
    });
    World { runtime, server, _directory: directory }
});

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(3, |byte| *byte == b'\n');
    let mut line = || std::str::from_utf8(parts.next().unwrap_or_default()).ok();
    let (Some(first), Some(second)) = (line(), line()) else { return };
    let body = parts.next().unwrap_or_default().to_vec();
    let (method, address) = first.split_once(' ').unwrap_or(("GET", first));
    let Ok(uri) = address.parse::<Uri>() else { return };
    // an open watch has no end
    if uri.query().is_some_and(|query| query.contains("watch")) || uri.path().contains("/watch/") {
        return;
    }
    let Ok(mut request) = Request::builder().method(method).uri(uri).body(http_body_util::Full::from(body)) else {
        return;
    };
    for (name, value) in ["content-type", "accept", "impersonate-user"].into_iter().zip(second.split(' ')) {
        if let Ok(value) = HeaderValue::from_str(value) {
            request.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    let world = &*WORLD;
    world.runtime.block_on(async {
        let admin = User::new("admin", &["system:masters", "system:authenticated"]);
        let Ok(response) = world.server.service(Some(admin)).oneshot(request).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        // a panic becomes this answer, and must not be one
        assert!(!body.starts_with(b"This request caused apiserver to panic"), "{first} {second}");
        assert!(parts.headers.contains_key("audit-id"));
    });
});
