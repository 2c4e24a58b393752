//! The process' own certificates: made at start, and made anew while it runs.
//!
//! The serving certificate and the administrator's are renewed when four fifths of their life are over; new connections
//! get the new one, open ones go on. The authority and the roots that clients are believed by are read again every minute,
//! so that a root can be replaced step by step while Keelson runs: put the new one beside the old one as `ca-NAME.crt`, swap
//! them, have clients renew, remove the old.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use apiserver::{ClientKinds, SharedTls, Tls};
use identity::{Authority, Kubeconfig, validity};
use jiff::Timestamp;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often it is looked whether something is due; upstream reads its files as often.
const CHECK_PERIOD: Duration = Duration::from_secs(60);

/// When something becomes valid and when it ends.
type Validity = (Timestamp, Timestamp);

/// By whom clients are believed, as PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Roots {
    /// Authorities of client certificates, the cluster's own first.
    pub(super) clients: String,
    /// Authorities of front proxies.
    pub(super) front_proxies: String,
}

/// Where the authorities of front proxies are.
pub(super) enum FrontProxyRoots {
    /// Where the certificate comes from by which aggregated servers know this one.
    Own(Arc<Authority>),
    /// A file of the operator's.
    File(PathBuf),
}

impl FrontProxyRoots {
    fn read(&self) -> anyhow::Result<String> {
        match self {
            Self::Own(authority) => {
                authority.reload()?;
                Ok(authority.trusted_pem())
            }
            Self::File(path) => {
                let named = || format!("requestHeader.clientCaFile {}", path.display());
                std::fs::read_to_string(path).with_context(named)
            }
        }
    }
}

/// What is in use.
struct InUse {
    serving: Validity,
    admin: Option<(PathBuf, Validity)>,
}

/// Makes and renews them.
pub(super) struct Certificates {
    authority: Arc<Authority>,
    front_proxies: FrontProxyRoots,
    names: Vec<String>,
    addresses: Vec<IpAddr>,
    tls: SharedTls,
    roots: watch::Sender<Roots>,
    in_use: Mutex<InUse>,
}

/// Whether four fifths of a life are over.
fn is_due((from, until): Validity, now: Timestamp) -> bool {
    let life = until.as_second() - from.as_second();
    now.as_second() >= from.as_second() + life / 5 * 4
}

impl Certificates {
    /// Makes the serving certificate for these names and addresses.
    pub(super) fn new(
        authority: Arc<Authority>,
        front_proxies: FrontProxyRoots,
        names: Vec<String>,
        addresses: Vec<IpAddr>,
        now: Timestamp,
    ) -> anyhow::Result<Self> {
        let roots = Roots { clients: authority.trusted_pem(), front_proxies: front_proxies.read()? };
        let (tls, serving) = configure(&authority, &names, &addresses, &roots, now)?;
        if validity(&authority.certificate_pem()).is_some_and(|life| is_due(life, now)) {
            tracing::warn!(ends = %authority.not_after(), "the certificate authority ends soon and has to be replaced");
        }
        let in_use = Mutex::new(InUse { serving, admin: None });
        let (tls, roots) = (SharedTls::new(tls), watch::Sender::new(roots));
        Ok(Self { authority, front_proxies, names, addresses, tls, roots, in_use })
    }

    /// What connections are accepted with; stays current.
    pub(super) fn tls(&self) -> SharedTls {
        self.tls.clone()
    }

    /// By whom clients are believed; stays current.
    pub(super) fn roots(&self) -> watch::Receiver<Roots> {
        self.roots.subscribe()
    }

    /// Writes the administrator's kubeconfig, and keeps it valid from then on.
    pub(super) fn write_admin_kubeconfig(&self, path: PathBuf, url: &str, now: Timestamp) -> anyhow::Result<()> {
        let client = self.authority.client("kubernetes-admin", Some("system:masters"), now)?;
        let valid = validity(&client.certificate_pem).unwrap_or((now, now));
        let kubeconfig = Kubeconfig {
            name: "keelson".to_owned(),
            server: url.to_owned(),
            authority_pem: self.authority.trusted_pem(),
            client,
        };
        identity::write_private(&path, &serde_json::to_vec_pretty(&kubeconfig.document())?)?;
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner).admin = Some((path, valid));
        Ok(())
    }

    /// The roots as the files say now. Files that cannot be used, as while a pair is being replaced, change nothing.
    fn read_roots(&self) -> Roots {
        let mut roots = self.roots.borrow().clone();
        match self.authority.reload() {
            Ok(_) => roots.clients = self.authority.trusted_pem(),
            Err(error) => tracing::warn!(%error, "the certificate authority stays as it was"),
        }
        match self.front_proxies.read() {
            Ok(pem) => roots.front_proxies = pem,
            Err(error) => {
                tracing::warn!(error = %format!("{error:#}"), "the authorities of front proxies stay as they were")
            }
        }
        roots
    }

    /// Renews what is due; says whether something was.
    fn renew(&self, url: &str, now: Timestamp) -> anyhow::Result<bool> {
        let roots = self.read_roots();
        let replaced = *self.roots.borrow() != roots;
        let (serving_due, admin_due) = {
            let in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
            let admin = in_use.admin.as_ref().filter(|(_, valid)| is_due(*valid, now) || replaced);
            (is_due(in_use.serving, now) || replaced, admin.map(|(path, _)| path.clone()))
        };
        if serving_due {
            let (tls, serving) = configure(&self.authority, &self.names, &self.addresses, &roots, now)?;
            self.tls.replace(tls);
            self.in_use.lock().unwrap_or_else(PoisonError::into_inner).serving = serving;
            tracing::info!(until = %serving.1, "the serving certificate was renewed");
        }
        if let Some(path) = &admin_due {
            self.write_admin_kubeconfig(path.clone(), url, now)?;
            tracing::info!(path = %path.display(), "the administrator's kubeconfig was renewed");
        }
        if replaced {
            self.roots.send_replace(roots);
        }
        Ok(serving_due || admin_due.is_some())
    }

    /// Renews until `stop`. What fails is tried again at the next look, long before anything ends.
    pub(super) async fn run(self: Arc<Self>, url: String, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(CHECK_PERIOD) => {}
            }
            if let Err(error) = self.renew(&url, Timestamp::now()) {
                tracing::warn!(error = %format!("{error:#}"), "certificates could not be renewed");
            }
        }
    }
}

/// How connections are accepted: a new certificate, and clients and front proxies of the roots.
fn configure(
    authority: &Authority,
    names: &[String],
    addresses: &[IpAddr],
    roots: &Roots,
    now: Timestamp,
) -> anyhow::Result<(Tls, Validity)> {
    let pair = authority.server("kube-apiserver", names, addresses, now)?;
    let valid = validity(&pair.certificate_pem).unwrap_or((now, now));
    let chain = CertificateDer::pem_slice_iter(pair.certificate_pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes())?;
    let kinds = ClientKinds {
        clients: verifier(&[&roots.clients]).context("the roots of clients")?,
        front_proxies: verifier(&[&roots.front_proxies]).context("the roots of front proxies")?,
    };
    let either = verifier(&[&roots.clients, &roots.front_proxies])?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(either)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((Tls { config: Arc::new(config), kinds: Some(kinds) }, valid))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Accepts certificates of these roots, and none: a client may still show a token.
fn verifier(pems: &[&str]) -> anyhow::Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for root in pems.iter().flat_map(|pem| CertificateDer::pem_slice_iter(pem.as_bytes())) {
        roots.add(root?)?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    Ok(builder.allow_unauthenticated().build()?)
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;

    use super::*;

    const URL: &str = "https://127.0.0.1:1";

    fn after(start: Timestamp, days: i64) -> Timestamp {
        start.checked_add((days * 24).hours()).unwrap()
    }

    /// The certificates of an authority in a folder of its own.
    fn made(authority: Arc<Authority>, folder: &std::path::Path, now: Timestamp) -> Certificates {
        let front = Authority::load_or_create_named(folder, "front-proxy-ca", "front", now).unwrap();
        let front = FrontProxyRoots::Own(Arc::new(front));
        Certificates::new(authority, front, vec!["localhost".into()], Vec::new(), now).unwrap()
    }

    #[test]
    fn certificates_are_renewed_at_four_fifths_of_their_life() {
        let directory = tempfile::tempdir().unwrap();
        let start = Timestamp::now();
        let authority = Arc::new(Authority::load_or_create(directory.path(), start).unwrap());
        let certificates = made(authority, directory.path(), start);
        let kubeconfig = directory.path().join("admin.kubeconfig");
        certificates.write_admin_kubeconfig(kubeconfig.clone(), URL, start).unwrap();
        let written = || std::fs::read_to_string(&kubeconfig).unwrap();
        let (first, before) = (certificates.tls().current(), written());
        assert!(!certificates.renew(URL, after(start, 290)).unwrap());
        assert!(Arc::ptr_eq(&first, &certificates.tls().current()));
        assert!(certificates.renew(URL, after(start, 293)).unwrap());
        assert!(!Arc::ptr_eq(&first, &certificates.tls().current()));
        assert_ne!(before, written());
        assert!(!certificates.renew(URL, after(start, 294)).unwrap());
    }

    #[test]
    fn a_root_that_is_put_beside_the_other_is_believed_without_a_restart() {
        let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let now = Timestamp::now();
        let authority = Arc::new(Authority::load_or_create(directory.path(), now).unwrap());
        let certificates = made(authority, directory.path(), now);
        let first = certificates.tls().current();
        let next = Authority::load_or_create(other.path(), now).unwrap();
        std::fs::write(directory.path().join("ca-next.crt"), next.certificate_pem()).unwrap();
        assert!(certificates.renew(URL, now).unwrap());
        assert!(!Arc::ptr_eq(&first, &certificates.tls().current()));
        assert!(!certificates.renew(URL, now).unwrap());
    }
    #[test]
    fn clients_and_front_proxies_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let authority = Arc::new(Authority::load_or_create(directory.path(), now).unwrap());
        let certificates = made(authority.clone(), directory.path(), now);
        let front = Authority::load_or_create_named(directory.path(), "front-proxy-ca", "front", now).unwrap();
        let kinds = certificates.tls().current().kinds.clone().unwrap();
        let accepted = |verifier: &dyn ClientCertVerifier, by: &Authority| {
            let pair = by.client("a", None, now).unwrap();
            let own = CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).unwrap();
            verifier.verify_client_cert(&own, &[], rustls::pki_types::UnixTime::now()).is_ok()
        };
        assert!(accepted(&*kinds.clients, &authority) && !accepted(&*kinds.clients, &front));
        assert!(accepted(&*kinds.front_proxies, &front) && !accepted(&*kinds.front_proxies, &authority));
    }

    #[test]
    fn a_swapped_authority_signs_without_a_restart() {
        let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let now = Timestamp::now();
        let authority = Arc::new(Authority::load_or_create(directory.path(), now).unwrap());
        let certificates = made(authority.clone(), directory.path(), now);
        let mut roots = certificates.roots();
        let old = authority.certificate_pem();
        let next = Authority::load_or_create(other.path(), now).unwrap();
        std::fs::copy(other.path().join("ca.crt"), directory.path().join("ca.crt")).unwrap();
        assert!(!certificates.renew(URL, now).unwrap(), "the key is still missing");
        std::fs::copy(other.path().join("ca.key"), directory.path().join("ca.key")).unwrap();
        std::fs::write(directory.path().join("ca-old.crt"), &old).unwrap();
        assert!(certificates.renew(URL, now).unwrap());
        assert!(roots.has_changed().unwrap());
        let clients = roots.borrow_and_update().clients.clone();
        assert!(clients.starts_with(&next.certificate_pem()) && clients.contains(&old));
        assert!(!certificates.renew(URL, now).unwrap());
    }
}
