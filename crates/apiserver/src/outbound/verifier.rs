//! TLS as a client: whose certificates are believed.

use std::sync::{Arc, OnceLock};

use rustls::{
    CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};

use super::{Identity, OutboundError, Trust};

/// The configuration of connections that trust and show this.
pub(crate) fn tls(trust: &Trust, identity: Option<&Identity>) -> Result<Arc<rustls::ClientConfig>, OutboundError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let failed = |error: rustls::Error| OutboundError::Tls(Box::new(error));
    let verifier = Arc::new(Verifier::new(trust, provider.clone())?);
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let pem = |error| OutboundError::Tls(Box::new(error));
            let chain = CertificateDer::pem_slice_iter(identity.certificate_pem.as_bytes());
            let chain = chain.collect::<Result<Vec<_>, _>>().map_err(pem)?;
            let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).map_err(pem)?;
            builder.with_client_auth_cert(chain, key).map_err(failed)?
        }
    };
    // upgraded connections, as for exec through an aggregated server, exist in this version only
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The machine's own certificates, read once.
fn system() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let read = || {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a certificate of the machine cannot be read");
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        Arc::new(roots)
    };
    ROOTS.get_or_init(read).clone()
}

/// Checks the other side's certificate.
#[derive(Debug)]
struct Verifier {
    /// `None` believes everybody.
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// Certificates that are believed as they are. A bundle may hold the server's own certificate, made with one
    /// command and marked as an authority, which Go accepts and a strict check of the chain refuses.
    own: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(trust: &Trust, provider: Arc<CryptoProvider>) -> Result<Self, OutboundError> {
        let (roots, own) = match trust {
            Trust::Insecure => return Ok(Self { chain: None, own: Vec::new(), provider }),
            Trust::System => (system(), Vec::new()),
            Trust::Bundle(pem) => {
                let own: Vec<_> = CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).collect();
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(own.iter().cloned());
                (Arc::new(roots), own)
            }
        };
        if roots.is_empty() {
            return Err(OutboundError::Bundle);
        }
        let chain = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
        let chain = chain.build().map_err(|error| OutboundError::Tls(Box::new(error)))?;
        Ok(Self { chain: Some(chain), own, provider })
    }
}

/// Whether the certificate, which is believed, is for this name and time.
fn check_own(der: &CertificateDer<'_>, name: &ServerName<'_>, now: UnixTime) -> Result<(), rustls::Error> {
    verify_server_name(&ParsedCertificate::try_from(der)?, name)?;
    let bad = || rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
    let (_, parsed) = x509_parser::parse_x509_certificate(der).map_err(|_| bad())?;
    let seconds = i64::try_from(now.as_secs()).map_err(|_| bad())?;
    let validity = parsed.validity();
    if validity.not_before.timestamp() <= seconds && seconds <= validity.not_after.timestamp() {
        return Ok(());
    }
    Err(rustls::Error::InvalidCertificate(CertificateError::Expired))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if self.own.iter().any(|own| own == end_entity) =>
            {
                check_own(end_entity, server_name, now).map(|()| ServerCertVerified::assertion())
            }
            outcome => outcome,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
