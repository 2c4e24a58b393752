//! TLS termination: certificates by server name, looked up in the table at each handshake.

use std::{fmt, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_rustls::TlsAcceptor;

use super::Shared;
use crate::routing::Certificate;

/// Why a Secret's content is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The certificate chain cannot be read.
    #[error("invalid certificate chain")]
    Chain(#[source] rustls::pki_types::pem::Error),
    /// The chain is empty.
    #[error("no certificate in the chain")]
    Empty,
    /// The key cannot be read.
    #[error("invalid private key")]
    Key(#[source] rustls::pki_types::pem::Error),
    /// The key is of a kind that is not supported, or not the certificate's.
    #[error("unusable private key: {0}")]
    Mismatch(#[source] rustls::Error),
}

/// The certificate of a Secret of type `kubernetes.io/tls`, from its two PEM values.
pub fn certificate(chain: &[u8], key: &[u8]) -> Result<Certificate, CertificateError> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(CertificateError::Chain)?;
    if chain.is_empty() {
        return Err(CertificateError::Empty);
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(CertificateError::Key)?;
    let certified =
        CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(CertificateError::Mismatch)?;
    certified.keys_match().map_err(CertificateError::Mismatch)?;
    Ok(Arc::new(certified))
}

/// Accepts TLS for a port of the table.
pub(crate) fn acceptor(shared: &Arc<Shared>, port: u16) -> Result<TlsAcceptor, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let resolver = Resolver { shared: Arc::downgrade(shared), port };
    let mut config =
        builder.with_safe_default_protocol_versions()?.with_no_client_auth().with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = ring::Ticketer::new()?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

struct Resolver {
    shared: std::sync::Weak<Shared>,
    port: u16,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("port", &self.port).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shared = self.shared.upgrade()?;
        let table = shared.table.load();
        table.certificate(self.port, hello.server_name().unwrap_or(""))
    }
}
