//! What is asked of clients in a handshake.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::routing::TextMatch;

/// What is asked of clients.
#[derive(Clone, Debug, Default)]
pub enum Clients {
    /// Nothing.
    #[default]
    Anybody,
    /// A certificate that one of these roots vouches for.
    Verified(Arc<RootCertStore>),
    /// The same, or none.
    Optional(Arc<RootCertStore>),
    /// A certificate, which need not be there nor be valid.
    Asked,
    /// A certificate, which need not be valid.
    Any,
}

/// Which certificates are taken; where something is named, one of it must fit.
#[derive(Clone, Debug, Default)]
pub struct Demands {
    /// Digests of certificates.
    pub certificates: Vec<[u8; 32]>,
    /// Digests of public keys.
    pub keys: Vec<[u8; 32]>,
    /// Hostnames.
    pub hosts: Vec<TextMatch>,
    /// Addresses of people.
    pub emails: Vec<TextMatch>,
    /// Addresses of machines.
    pub addresses: Vec<TextMatch>,
    /// URIs.
    pub uris: Vec<TextMatch>,
}

impl Demands {
    fn is_empty(&self) -> bool {
        self.certificates.is_empty() && self.keys.is_empty() && self.names_nothing()
    }

    fn names_nothing(&self) -> bool {
        self.hosts.is_empty() && self.emails.is_empty() && self.addresses.is_empty() && self.uris.is_empty()
    }

    /// Whether a certificate is among those that are taken. Digests of it and of its key are alternatives, as Envoy has
    /// it; one of the names must fit in any case.
    fn take(&self, der: &CertificateDer<'_>) -> bool {
        let Ok((_, certificate)) = X509Certificate::from_der(der) else { return false };
        let digests = self.certificates.is_empty() && self.keys.is_empty()
            || self.certificates.contains(&Sha256::digest(der).into())
            || self.keys.contains(&Sha256::digest(certificate.public_key().raw).into());
        digests && (self.names_nothing() || self.is_named(&certificate))
    }

    fn is_named(&self, certificate: &X509Certificate<'_>) -> bool {
        let takes = |wanted: &[TextMatch], name: &str| wanted.iter().any(|wanted| wanted.takes(name));
        let names = certificate.subject_alternative_name().ok().flatten();
        names.is_some_and(|names| {
            names.value.general_names.iter().any(|name| match name {
                GeneralName::DNSName(host) => takes(&self.hosts, host),
                GeneralName::RFC822Name(email) => takes(&self.emails, email),
                GeneralName::URI(uri) => takes(&self.uris, uri),
                GeneralName::IPAddress(bytes) => address(bytes).is_some_and(|text| takes(&self.addresses, &text)),
                _ => false,
            })
        })
    }
}

fn address(bytes: &[u8]) -> Option<String> {
    let four = <[u8; 4]>::try_from(bytes).map(std::net::IpAddr::from);
    let address = four.or_else(|_| <[u8; 16]>::try_from(bytes).map(std::net::IpAddr::from));
    address.ok().map(|address| address.to_string())
}

/// Who looks at certificates; nobody where none is asked for.
pub(super) fn verifier(
    clients: &Clients,
    demands: &Demands,
    provider: Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, Error> {
    let verifier: Arc<dyn ClientCertVerifier> = match clients {
        Clients::Anybody => return Ok(None),
        Clients::Verified(roots) | Clients::Optional(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider);
            let verifier = match clients {
                Clients::Optional(_) => verifier.allow_unauthenticated().build(),
                _ => verifier.build(),
            };
            verifier.map_err(|error| Error::General(error.to_string()))?
        }
        Clients::Asked => Arc::new(Unverified { provider, mandatory: false }),
        Clients::Any => Arc::new(Unverified { provider, mandatory: true }),
    };
    Ok(Some(match demands.is_empty() {
        true => verifier,
        false => Arc::new(Demanding { verifier, demands: demands.clone() }),
    }))
}

/// Takes those of the certificates that another verifier takes which are as demanded.
#[derive(Debug)]
struct Demanding {
    verifier: Arc<dyn ClientCertVerifier>,
    demands: Demands,
}

impl ClientCertVerifier for Demanding {
    fn client_auth_mandatory(&self) -> bool {
        self.verifier.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.verifier.verify_client_cert(end_entity, intermediates, now)?;
        match self.demands.take(end_entity) {
            true => Ok(verified),
            false => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// Asks for a certificate and takes any, perhaps also none; only that the client holds its key is verified.
#[derive(Debug)]
struct Unverified {
    provider: Arc<CryptoProvider>,
    mandatory: bool,
}

impl ClientCertVerifier for Unverified {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_must_have_a_digest_and_a_name_that_is_asked_for() {
        let mut parameters = rcgen::CertificateParams::new(vec!["a.test".to_owned(), "10.0.0.1".to_owned()]).unwrap();
        parameters.subject_alt_names.push(rcgen::SanType::URI("spiffe://td/ns/a".try_into().unwrap()));
        let key = rcgen::KeyPair::generate().unwrap();
        let der = parameters.self_signed(&key).unwrap().der().clone();
        let digest: [u8; 32] = Sha256::digest(&der).into();
        let text = |text: &str| vec![TextMatch::Exact(text.into())];
        let none = Demands::default;
        for (demands, taken) in [
            (Demands { certificates: vec![digest], ..none() }, true),
            (Demands { certificates: vec![[0; 32]], ..none() }, false),
            (Demands { certificates: vec![digest], keys: vec![[0; 32]], ..none() }, true),
            (Demands { hosts: text("a.test"), ..none() }, true),
            (Demands { hosts: text("b.test"), ..none() }, false),
            (Demands { hosts: text("b.test"), addresses: text("10.0.0.1"), ..none() }, true),
            (Demands { uris: vec![TextMatch::Prefix("spiffe://td/".into())], ..none() }, true),
            (Demands { certificates: vec![digest], uris: text("spiffe://other"), ..none() }, false),
        ] {
            assert_eq!(demands.take(&der), taken, "{demands:?}");
        }
    }
}
