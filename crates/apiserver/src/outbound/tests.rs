use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// An authority, and a TLS server with a certificate of it that answers every connection's first request with `answer`.
struct Peer {
    authority_pem: String,
    port: u16,
    _directory: tempfile::TempDir,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn peer(name: &str, answer: &'static str) -> Peer {
    let directory = tempfile::tempdir().unwrap();
    let now = jiff::Timestamp::now();
    let authority = identity::Authority::load_or_create(directory.path(), now).unwrap();
    let pair = authority.server(name, &[name.to_owned()], &[], now).unwrap();
    let chain = CertificateDer::pem_slice_iter(pair.certificate_pem.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).unwrap();
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // a client that does not trust us ends the handshake
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = [0; 4096];
            let _read = stream.read(&mut head).await.unwrap();
            if answer.is_empty() {
                std::future::pending::<()>().await;
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
        }
    });
    Peer { authority_pem: authority.certificate_pem(), port, _directory: directory, serving }
}

fn config(target: Value, pem: &str) -> ClientConfig {
    let mut config = target;
    config["caBundle"] = STANDARD.encode(pem).into();
    ClientConfig::decode(&config).unwrap()
}

async fn post(outbound: &Outbound, config: &ClientConfig) -> Result<String, String> {
    let answer = outbound.post(config, &config.url(), b"{}".to_vec(), SECOND * 20).await;
    answer.map(|(_, bytes)| String::from_utf8_lossy(&bytes).into_owned()).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_service_is_asked_under_its_own_name_and_only_that() {
    let directory = tempfile::tempdir().unwrap();
    let store = crate::testing::store(directory.path());
    let peer = peer("hook.n.svc", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
    for name in ["hook", "other"] {
        let service = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 443}]}});
        crate::testing::put(&store, SERVICES_FOR_TESTS, &format!("n/{name}"), &service).await;
        let slice = json!({"metadata": {"labels": {"kubernetes.io/service-name": name}},
            "ports": [{"port": peer.port}], "endpoints": [{"addresses": ["127.0.0.1"]}]});
        crate::testing::put(&store, "discovery.k8s.io/endpointslices", &format!("n/{name}-1"), &slice).await;
    }
    let outbound = Outbound::new(store);
    let hook = config(json!({"service": {"name": "hook", "namespace": "n", "path": "/a"}}), &peer.authority_pem);
    assert_eq!(hook.url(), "https://hook.n.svc:443/a");
    assert_eq!(post(&outbound, &hook).await.unwrap(), "hi");
    let other = config(json!({"service": {"name": "other", "namespace": "n"}}), &peer.authority_pem);
    let refused = post(&outbound, &other).await.unwrap_err();
    assert!(refused.contains("not other.n.svc"), "{refused}");
    let missing = config(json!({"service": {"name": "none", "namespace": "n"}}), &peer.authority_pem);
    assert_eq!(post(&outbound, &missing).await.unwrap_err(), "service \"none\" not found");
}

const SERVICES_FOR_TESTS: &str = crate::server::SERVICES;

#[tokio::test]
async fn who_is_not_in_the_bundle_is_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let outbound = Outbound::new(crate::testing::store(directory.path()));
    let peer = peer("localhost", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
    let stranger = tempfile::tempdir().unwrap();
    let stranger = identity::Authority::load_or_create(stranger.path(), jiff::Timestamp::now()).unwrap();
    let target = || json!({"url": format!("https://localhost:{}/x", peer.port)});
    let refused = post(&outbound, &config(target(), &stranger.certificate_pem())).await.unwrap_err();
    assert_eq!(refused, "tls: failed to verify certificate: x509: certificate signed by unknown authority");
    assert_eq!(post(&outbound, &config(target(), &peer.authority_pem)).await.unwrap(), "hi");
    let broken = post(&outbound, &config(target(), "junk")).await.unwrap_err();
    assert_eq!(broken, "unable to load root certificates: unable to parse bytes as PEM block");
    let insecure = ClientConfig { trust: Trust::Insecure, ..config(target(), "") };
    assert_eq!(post(&outbound, &insecure).await.unwrap(), "hi");
}

#[tokio::test]
async fn who_does_not_answer_is_waited_for_no_longer_than_asked() {
    let directory = tempfile::tempdir().unwrap();
    let outbound = Outbound::new(crate::testing::store(directory.path()));
    let silent = peer("localhost", "").await;
    let config = config(json!({"url": format!("https://localhost:{}/", silent.port)}), &silent.authority_pem);
    let late = outbound.post(&config, &config.url(), Vec::new(), Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(late, OutboundError::Deadline), "{late}");
    let closed = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap().port();
    let nobody = ClientConfig { target: Target::Url(format!("https://127.0.0.1:{closed}/")), ..config };
    let refused = post(&outbound, &nobody).await.unwrap_err();
    assert_eq!(refused, format!("dial tcp 127.0.0.1:{closed}: connect: connection refused"));
}
