//! Who a peer is: its chain leads to a root that is believed, and it carries exactly one name, of the trust domain.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::{SpiffeId, SpiffeIdError, TrustBundle};

/// A certificate does not say which workload holds it.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// It cannot be read.
    #[error("the peer's certificate cannot be read")]
    Unreadable,
    /// It names several, or none.
    #[error("the peer's certificate has {0} URI names, not one")]
    Names(usize),
    /// The name is none of a workload.
    #[error("the peer's name is none of a workload")]
    Id(#[from] SpiffeIdError),
    /// The name is of another trust domain.
    #[error("the peer is {id}, not of trust domain {trust_domain}")]
    TrustDomain {
        /// Who it says it is.
        id: SpiffeId,
        /// Whom we believe.
        trust_domain: Arc<str>,
    },
}

/// The workload that a certificate names.
///
/// # Errors
/// When it does not name exactly one.
pub fn peer_id(certificate: &[u8]) -> Result<SpiffeId, PeerError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| PeerError::Unreadable)?;
    let names = parsed.subject_alternative_name().map_err(|_| PeerError::Unreadable)?;
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let uris: Vec<&str> =
        names.filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None }).collect();
    match uris[..] {
        [uri] => Ok(uri.parse()?),
        _ => Err(PeerError::Names(uris.len())),
    }
}

/// Believes workloads of one trust domain whose certificates its bundle vouches for, on either side of a connection. It
/// does not ask which workload: who connects to somebody compares [`peer_id`] before anything is sent.
#[derive(Debug)]
pub struct PeerVerifier {
    trust_domain: Arc<str>,
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
    provider: Arc<CryptoProvider>,
}

impl PeerVerifier {
    /// Believes what the bundle vouches for.
    ///
    /// # Errors
    /// When a root of the bundle is no certificate, or there is none.
    pub fn new(bundle: &TrustBundle, provider: Arc<CryptoProvider>) -> Result<Arc<Self>, Error> {
        let mut roots = RootCertStore::empty();
        for root in &bundle.roots {
            roots.add(CertificateDer::from(root.clone()))?;
        }
        let roots = Arc::new(roots);
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build();
        let clients = clients.map_err(|error| Error::General(error.to_string()))?;
        Ok(Arc::new(Self { trust_domain: Arc::clone(&bundle.trust_domain), roots, clients, provider }))
    }

    fn named(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let judged = peer_id(certificate).and_then(|id| match id.trust_domain == self.trust_domain {
            true => Ok(()),
            false => Err(PeerError::TrustDomain { id, trust_domain: Arc::clone(&self.trust_domain) }),
        });
        judged.map_err(|error| CertificateError::Other(OtherError(Arc::new(error))).into())
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        self.named(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // they would be sent with every handshake, and every client has but one certificate
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.clients.verify_client_cert(end_entity, intermediates, now)?;
        self.named(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.clients.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.clients.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.clients.supported_verify_schemes()
    }
}
