//! TLS towards clients: certificates by server name, and what is asked of clients.

use std::{fmt, sync::Arc};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    client::verify_server_name,
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{
        ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
};

use crate::routing::Certificate;

/// Why a Secret's or ConfigMap's content is no certificate.
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
    Mismatch(#[source] Error),
    /// A root is no certificate.
    #[error("invalid root certificate: {0}")]
    Root(#[source] Error),
}

/// The certificate of a Secret of type `kubernetes.io/tls`, from its two PEM values.
pub fn certificate(chain: &[u8], key: &[u8]) -> Result<Certificate, CertificateError> {
    let chain = read(chain)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(CertificateError::Key)?;
    let certified =
        CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(CertificateError::Mismatch)?;
    certified.keys_match().map_err(CertificateError::Mismatch)?;
    Ok(Arc::new(certified))
}

/// The roots in a PEM text.
pub fn roots(pem: &[u8]) -> Result<RootCertStore, CertificateError> {
    let mut roots = RootCertStore::empty();
    for root in read(pem)? {
        roots.add(root).map_err(CertificateError::Root)?;
    }
    Ok(roots)
}

fn read(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let read: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(CertificateError::Chain)?;
    if read.is_empty() { Err(CertificateError::Empty) } else { Ok(read) }
}

/// What is asked of clients.
#[derive(Clone, Debug, Default)]
pub enum Clients {
    /// Nothing.
    #[default]
    Anybody,
    /// A certificate that one of these roots vouches for.
    Verified(Arc<RootCertStore>),
    /// A certificate, which need not be there nor be valid.
    Asked,
}

/// How a listener terminates TLS, with ALPN for HTTP when `http` is inside.
pub fn termination(certificates: Vec<Certificate>, clients: &Clients, http: bool) -> Result<Arc<ServerConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match clients {
        Clients::Anybody => builder.with_no_client_auth(),
        Clients::Verified(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| Error::General(error.to_string()))?)
        }
        Clients::Asked => builder.with_client_cert_verifier(Arc::new(Unverified(provider))),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Resolver(certificates)));
    if http {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    match clients {
        Clients::Anybody => config.ticketer = ring::Ticketer::new()?,
        // A resumed session would tell of a client that was verified by other rules.
        Clients::Verified(_) | Clients::Asked => {
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
    }
    Ok(Arc::new(config))
}

/// The certificates of a listener.
struct Resolver(Vec<Certificate>);

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Resolver").field(&self.0.len()).finish()
    }
}

impl ResolvesServerCert for Resolver {
    /// Of several the first that is valid for the server name, else the first.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if self.0.len() > 1
            && let Some(name) = hello.server_name().and_then(|name| ServerName::try_from(name).ok())
        {
            let named = self.0.iter().find(|certificate| {
                let parsed = certificate.cert.first().and_then(|leaf| ParsedCertificate::try_from(leaf).ok());
                parsed.is_some_and(|leaf| verify_server_name(&leaf, &name).is_ok())
            });
            if let Some(certificate) = named {
                return Some(Arc::clone(certificate));
            }
        }
        self.0.first().cloned()
    }
}

/// Asks for a certificate and takes any, or none; only that the client holds its key is verified.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ClientCertVerifier for Unverified {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
