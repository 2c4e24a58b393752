//! TLS towards backends.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DEFAULT_VERSIONS, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// A name of which a backend's certificate must have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A hostname.
    Host(ServerName<'static>),
    /// A URI, such as a SPIFFE identity.
    Uri(Box<str>),
}

/// How certificates of backends are verified: one of the roots vouches for them, and they have one of the names; without
/// names, the name that is asked for.
pub fn verification(roots: RootCertStore, expected: Vec<Expected>) -> Result<Arc<ClientConfig>, Error> {
    client(Trust::Verified(roots, expected), DEFAULT_VERSIONS)
}

/// Takes any certificate: what is sent is encrypted, to whoever answers.
pub fn unverified() -> Result<Arc<ClientConfig>, Error> {
    client(Trust::Anybody, DEFAULT_VERSIONS)
}

/// Encryption towards backends in these versions of TLS.
pub fn client(trust: Trust, versions: &[&'static SupportedProtocolVersion]) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions)?;
    let verifier = Arc::new(Verifier { trust, provider });
    Ok(Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

/// Whose certificates are taken.
#[derive(Debug)]
pub enum Trust {
    /// Anybody's.
    Anybody,
    /// Those that one of the roots vouches for and that have one of the names; without names, the one that is asked for.
    Verified(RootCertStore, Vec<Expected>),
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

/// Whether a certificate has one of the names, or without any the one that is asked for.
fn named(
    expected: &[Expected],
    der: &CertificateDer<'_>,
    leaf: &ParsedCertificate<'_>,
    asked: &ServerName<'_>,
) -> bool {
    let host = |name: &ServerName<'_>| verify_server_name(leaf, name).is_ok();
    match expected {
        [] => host(asked),
        expected => expected.iter().any(|expected| match expected {
            Expected::Host(name) => host(name),
            Expected::Uri(uri) => has_uri(der, uri),
        }),
    }
}

fn has_uri(der: &CertificateDer<'_>, uri: &str) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
    let names = certificate.subject_alternative_name().ok().flatten();
    names.is_some_and(|names| {
        names.value.general_names.iter().any(|name| matches!(name, GeneralName::URI(u) if *u == uri))
    })
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Trust::Verified(roots, expected) = &self.trust else { return Ok(ServerCertVerified::assertion()) };
        let leaf = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, roots, intermediates, now, algorithms)?;
        if named(expected, end_entity, &leaf, server_name) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::NotValidForName))
        }
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
