//! An API server on a free port with a throw-away certificate authority, for trying clients against it.
//!
//! `cargo run -p apiserver --example serve -- DIR` writes `DIR/admin.kubeconfig` and `DIR/client.pem` and serves until it
//! is interrupted.

use std::{net::Ipv4Addr, path::PathBuf, sync::Arc};

use apiserver::{ApiServer, ApiServerConfig};
use identity::{Authority, Kubeconfig, TokenSigner};
use jiff::Timestamp;
use rustls::{RootCertStore, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

type AnyError = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let directory = PathBuf::from(std::env::args().nth(1).ok_or("usage: serve DIR")?);
    std::fs::create_dir_all(&directory)?;
    let now = Timestamp::now();
    let authority = Authority::load_or_create(&directory, now)?;
    let signer = TokenSigner::load_or_create(&directory.join("sa.key"), "https://kubernetes.default.svc")?;
    let store = store::Store::open(directory.join("store"), store::Options::default())?;
    let server = ApiServer::new(store, ApiServerConfig::default(), Arc::new(signer));
    server.bootstrap().await?;

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let pair = authority.server("kube-apiserver", &["localhost".into()], &[Ipv4Addr::LOCALHOST.into()], now)?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes())?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let chain = vec![CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes())?];
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes())?)?;
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];

    let client = authority.client("admin", Some("system:masters"), now)?;
    let pem = format!("{}{}", client.certificate_pem, client.key_pem);
    std::fs::write(directory.join("client.pem"), pem)?;
    let kubeconfig = Kubeconfig {
        name: "serve".into(),
        server: format!("https://{address}"),
        authority_pem: authority.certificate_pem(),
        client,
    };
    std::fs::write(directory.join("admin.kubeconfig"), kubeconfig.document().to_string())?;
    println!("https://{address}");

    let stop = CancellationToken::new();
    let upkeep = server.clone().run(stop.clone());
    let answering = server.serve(listener, Arc::new(tls), stop.clone());
    let serving = async { tokio::join!(answering, upkeep) };
    let interrupted = async {
        tokio::signal::ctrl_c().await.ok();
        stop.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = serving => {}
        () = interrupted => {}
    }
    Ok(())
}
