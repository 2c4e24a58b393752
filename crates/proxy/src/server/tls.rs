//! TLS towards clients: certificates by server name, and what is asked of clients.

use std::{fmt, sync::Arc};

use rustls::{
    Error, RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{SupportedKxGroup, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerSessionMemoryCache},
    sign::CertifiedKey,
};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::routing::{Certificate, covers};

mod clients;

pub use clients::{Clients, Demands};

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

/// How TLS is spoken, where a policy says so; what is left open stays as it is without one.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// Versions.
    pub versions: Option<Vec<&'static SupportedProtocolVersion>>,
    /// Cipher suites of TLS 1.2.
    pub suites: Option<Vec<SupportedCipherSuite>>,
    /// Groups for the key exchange.
    pub groups: Option<Vec<&'static dyn SupportedKxGroup>>,
    /// Protocols inside.
    pub protocols: Option<Vec<Vec<u8>>>,
    /// What is asked of clients, in place of what the Gateway asks.
    pub clients: Option<Clients>,
    /// Which of the certificates that are valid are taken.
    pub demands: Demands,
    /// Whether sessions go on in another connection: by what the gateway remembers, by what the client was given.
    pub resumption: Option<(bool, bool)>,
}

/// Sessions that the gateway remembers: some hundred bytes each.
const SESSIONS: usize = 4096;

/// How a listener terminates TLS, with ALPN for HTTP when `http` is inside.
pub fn termination(certificates: Vec<Certificate>, clients: &Clients, http: bool) -> Result<Arc<ServerConfig>, Error> {
    termination_by(certificates, clients, http, &Terms::default())
}

/// The same, as a policy says.
pub fn termination_by(
    certificates: Vec<Certificate>,
    clients: &Clients,
    http: bool,
    terms: &Terms,
) -> Result<Arc<ServerConfig>, Error> {
    let mut provider = ring::default_provider();
    if let Some(suites) = &terms.suites {
        // Those of TLS 1.3 cannot be chosen among.
        provider.cipher_suites.retain(|suite| suite.tls13().is_some());
        provider.cipher_suites.extend(suites);
    }
    if let Some(groups) = &terms.groups {
        provider.kx_groups.clone_from(groups);
    }
    let provider = Arc::new(provider);
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = match &terms.versions {
        Some(versions) => builder.with_protocol_versions(versions)?,
        None => builder.with_safe_default_protocol_versions()?,
    };
    let clients = terms.clients.as_ref().unwrap_or(clients);
    let builder = match clients::verifier(clients, &terms.demands, provider)? {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Resolver::new(certificates)));
    if http {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    if let Some(protocols) = &terms.protocols {
        config.alpn_protocols.clone_from(protocols);
    }
    match (clients, terms.resumption) {
        (Clients::Anybody, None) => config.ticketer = ring::Ticketer::new()?,
        (Clients::Anybody, Some((remembered, given))) => {
            config.session_storage = match remembered {
                true => ServerSessionMemoryCache::new(SESSIONS),
                false => Arc::new(NoServerSessionStorage {}),
            };
            match given {
                true => config.ticketer = ring::Ticketer::new()?,
                false if !remembered => config.send_tls13_tickets = 0,
                false => {}
            }
        }
        // A resumed session would tell of a client that was verified by other rules.
        (Clients::Verified(_) | Clients::Optional(_) | Clients::Asked | Clients::Any, _) => {
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
    }
    Ok(Arc::new(config))
}

/// The certificates of a listener, and the hostnames that each is valid for.
struct Resolver(Vec<(Certificate, Vec<String>)>);

impl Resolver {
    fn new(certificates: Vec<Certificate>) -> Self {
        let named = certificates.into_iter().map(|certificate| {
            let names = certificate.cert.first().map(hostnames).unwrap_or_default();
            (certificate, names)
        });
        Resolver(named.collect())
    }

    /// Of several the one with the most specific name for the server name, else the first.
    fn find(&self, server_name: &str) -> Option<&Certificate> {
        let specific = |name: &String| (name == server_name, name.len());
        let best = |names: &[String]| names.iter().filter(|name| covers(name, server_name)).map(specific).max();
        let named = self.0.iter().filter_map(|(certificate, names)| Some((best(names)?, certificate)));
        // Of equally specific ones the first, which is the last to be met in the reversed order.
        let found = named.rev().max_by_key(|(specific, _)| *specific).map(|(_, certificate)| certificate);
        found.or_else(|| self.0.first().map(|(certificate, _)| certificate))
    }
}

/// The hostnames in a certificate, in lower case.
fn hostnames(der: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Vec::new() };
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.into_iter().flat_map(|names| names.value.general_names.iter());
    let hostname = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    };
    names.filter_map(hostname).collect()
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Resolver").field(&self.0.len()).finish()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(&hello.server_name().unwrap_or("").to_ascii_lowercase()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_specific_name_wins_and_the_first_certificate_is_for_everybody_else() {
        let issue = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            let made = rcgen::generate_simple_self_signed(names).unwrap();
            certificate(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes()).unwrap()
        };
        let all =
            [issue(&["other.test"]), issue(&["*.a.test"]), issue(&["x.a.test", "y.test"]), issue(&["*.b.a.test"])];
        let resolver = Resolver::new(all.to_vec());
        for (name, expected) in
            [("x.a.test", 2), ("z.a.test", 1), ("y.test", 2), ("z.b.a.test", 3), ("unknown.test", 0), ("", 0)]
        {
            assert!(Arc::ptr_eq(resolver.find(name).unwrap(), &all[expected]), "{name}");
        }
    }
}
