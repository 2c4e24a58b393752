//! The process' own certificates: made at start, and made anew while it runs.
//!
//! The serving certificate and the administrator's are renewed when four fifths of their life are over; new connections
//! get the new one, open ones go on. The roots that clients are believed by are read again every minute, so that a root
//! can be replaced step by step: put the new one beside the old one as `ca-NAME.crt`, have clients renew, remove the old.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use apiserver::SharedTls;
use identity::{Authority, Kubeconfig, validity};
use jiff::Timestamp;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio_util::sync::CancellationToken;

/// How often it is looked whether something is due; upstream reads its files as often.
const CHECK_PERIOD: Duration = Duration::from_secs(60);

/// When something becomes valid and when it ends.
type Validity = (Timestamp, Timestamp);

/// What is in use.
struct InUse {
    serving: Validity,
    trusted: String,
    admin: Option<(PathBuf, Validity)>,
}

/// Makes and renews them.
pub(super) struct Certificates {
    authority: Arc<Authority>,
    names: Vec<String>,
    addresses: Vec<IpAddr>,
    tls: SharedTls,
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
        names: Vec<String>,
        addresses: Vec<IpAddr>,
        now: Timestamp,
    ) -> anyhow::Result<Self> {
        let trusted = authority.trusted_pem().to_owned();
        let (config, serving) = configure(&authority, &names, &addresses, &trusted, now)?;
        if validity(authority.certificate_pem()).is_some_and(|life| is_due(life, now)) {
            tracing::warn!(ends = %authority.not_after(), "the certificate authority ends soon and has to be replaced");
        }
        let in_use = Mutex::new(InUse { serving, trusted, admin: None });
        Ok(Self { authority, names, addresses, tls: SharedTls::new(config), in_use })
    }

    /// What connections are accepted with; stays current.
    pub(super) fn tls(&self) -> SharedTls {
        self.tls.clone()
    }

    /// Writes the administrator's kubeconfig, and keeps it valid from then on.
    pub(super) fn write_admin_kubeconfig(&self, path: PathBuf, url: &str, now: Timestamp) -> anyhow::Result<()> {
        let client = self.authority.client("kubernetes-admin", Some("system:masters"), now)?;
        let valid = validity(&client.certificate_pem).unwrap_or((now, now));
        let kubeconfig = Kubeconfig {
            name: "keelson".to_owned(),
            server: url.to_owned(),
            authority_pem: self.authority.read_trusted()?,
            client,
        };
        identity::write_private(&path, &serde_json::to_vec_pretty(&kubeconfig.document())?)?;
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner).admin = Some((path, valid));
        Ok(())
    }

    /// Renews what is due; says whether something was.
    fn renew(&self, url: &str, now: Timestamp) -> anyhow::Result<bool> {
        let trusted = self.authority.read_trusted()?;
        let (serving_due, admin_due) = {
            let in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
            let admin = in_use.admin.as_ref().filter(|(_, valid)| is_due(*valid, now) || in_use.trusted != trusted);
            (is_due(in_use.serving, now) || in_use.trusted != trusted, admin.map(|(path, _)| path.clone()))
        };
        if serving_due {
            let (config, serving) = configure(&self.authority, &self.names, &self.addresses, &trusted, now)?;
            self.tls.replace(config);
            let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
            (in_use.serving, in_use.trusted) = (serving, trusted);
            tracing::info!(until = %serving.1, "the serving certificate was renewed");
        }
        if let Some(path) = &admin_due {
            self.write_admin_kubeconfig(path.clone(), url, now)?;
            tracing::info!(path = %path.display(), "the administrator's kubeconfig was renewed");
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

/// How connections are accepted: a new certificate, and clients of any of the `trusted` roots.
fn configure(
    authority: &Authority,
    names: &[String],
    addresses: &[IpAddr],
    trusted: &str,
    now: Timestamp,
) -> anyhow::Result<(Arc<ServerConfig>, Validity)> {
    let pair = authority.server("kube-apiserver", names, addresses, now)?;
    let valid = validity(&pair.certificate_pem).unwrap_or((now, now));
    let chain = CertificateDer::pem_slice_iter(pair.certificate_pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes())?;
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(trusted.as_bytes()) {
        roots.add(root?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // Without a certificate a client may still show a token.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((Arc::new(config), valid))
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;

    use super::*;

    const URL: &str = "https://127.0.0.1:1";

    fn after(start: Timestamp, days: i64) -> Timestamp {
        start.checked_add((days * 24).hours()).unwrap()
    }

    #[test]
    fn certificates_are_renewed_at_four_fifths_of_their_life() {
        let directory = tempfile::tempdir().unwrap();
        let start = Timestamp::now();
        let authority = Arc::new(Authority::load_or_create(directory.path(), start).unwrap());
        let certificates = Certificates::new(authority, vec!["localhost".into()], Vec::new(), start).unwrap();
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
        let certificates = Certificates::new(authority, Vec::new(), Vec::new(), now).unwrap();
        let first = certificates.tls().current();
        let next = Authority::load_or_create(other.path(), now).unwrap();
        std::fs::write(directory.path().join("ca-next.crt"), next.certificate_pem()).unwrap();
        assert!(certificates.renew(URL, now).unwrap());
        assert!(!Arc::ptr_eq(&first, &certificates.tls().current()));
        assert!(!certificates.renew(URL, now).unwrap());
    }
}
