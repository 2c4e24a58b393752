//! The certificates of the pods that take part, one per service account, each renewed at half of its life.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use arc_swap::ArcSwap;
use identity::{
    SpiffeId,
    workload::{PeerVerifier, Svid, WorkloadAuthority, WorkloadAuthorityError},
};
use jiff::Timestamp;
use parking_lot::Mutex;
use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::NoServerSessionStorage,
    version::TLS13,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// The protocol inside the mesh's TLS.
const ALPN: &[u8] = b"h2";
/// How often what is due is looked for: often enough that a clock that jumped is noticed long before a certificate ends.
const LOOK: Duration = Duration::from_secs(60);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The authority could not be opened, or could not sign.
    #[error(transparent)]
    Authority(#[from] WorkloadAuthorityError),
    /// What it signed cannot be used.
    #[error("the certificate of {id} cannot be used")]
    Unusable {
        /// Whose.
        id: SpiffeId,
        /// Why not.
        source: rustls::Error,
    },
}

/// Opens the authority, once somebody needs it.
pub type OpenAuthority = Arc<dyn Fn(Timestamp) -> Result<WorkloadAuthority, WorkloadAuthorityError> + Send + Sync>;

/// What a service account's pods show and believe at the moment.
pub(crate) struct Material {
    /// For those who connect to them.
    pub(crate) server: Arc<ServerConfig>,
    /// For whom they connect to.
    pub(crate) client: Arc<ClientConfig>,
    /// The certificate.
    pub(crate) svid: Svid,
}

/// The identity of a service account.
pub(crate) struct Identity {
    /// Its name.
    pub(crate) id: SpiffeId,
    material: ArcSwap<Material>,
}

impl Identity {
    /// What its pods show and believe at the moment.
    pub(crate) fn material(&self) -> Arc<Material> {
        self.material.load_full()
    }
}

/// All identities that somebody has.
pub(crate) struct Identities {
    open: OpenAuthority,
    authority: OnceLock<WorkloadAuthority>,
    known: Mutex<HashMap<SpiffeId, Arc<Identity>>>,
    provider: Arc<CryptoProvider>,
}

impl Identities {
    pub(crate) fn new(open: OpenAuthority) -> Self {
        let provider = Arc::new(ring::default_provider());
        Self { open, authority: OnceLock::new(), known: Mutex::default(), provider }
    }

    /// The authority, opened or made when it is needed first. Touches the disk then.
    pub(crate) fn authority(&self) -> Result<&WorkloadAuthority, IdentityError> {
        // two at a time would each make a root, and the second one would win
        let _one = self.known.lock();
        if let Some(authority) = self.authority.get() {
            return Ok(authority);
        }
        let opened = (self.open)(Timestamp::now())?;
        Ok(self.authority.get_or_init(|| opened))
    }

    /// The identity of a service account, with a certificate that is good.
    pub(crate) fn get(&self, id: &SpiffeId) -> Result<Arc<Identity>, IdentityError> {
        let authority = self.authority()?;
        let mut known = self.known.lock();
        if let Some(identity) = known.get(id) {
            return Ok(Arc::clone(identity));
        }
        let material = self.make(authority, id)?;
        let identity = Arc::new(Identity { id: id.clone(), material: ArcSwap::from_pointee(material) });
        known.insert(id.clone(), Arc::clone(&identity));
        Ok(identity)
    }

    fn make(&self, authority: &WorkloadAuthority, id: &SpiffeId) -> Result<Material, IdentityError> {
        let svid = authority.issue(id, Timestamp::now())?;
        self.material(authority, svid)
    }

    fn material(&self, authority: &WorkloadAuthority, svid: Svid) -> Result<Material, IdentityError> {
        let unusable = |source| IdentityError::Unusable { id: svid.id.clone(), source };
        let verifier = PeerVerifier::new(&authority.bundle(), Arc::clone(&self.provider)).map_err(unusable)?;
        let chain: Vec<_> = svid.chain.iter().cloned().map(CertificateDer::from).collect();
        let key = || PrivateKeyDer::from(PrivatePkcs8KeyDer::from(svid.key.clone()));
        let server = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(Arc::clone(&verifier) as Arc<_>)
            .with_single_cert(chain.clone(), key());
        let mut server = server.map_err(unusable)?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        // a resumed session would outlive the certificate that it began with
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let client = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(chain, key());
        let mut client = client.map_err(unusable)?;
        client.alpn_protocols = vec![ALPN.to_vec()];
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        Ok(Material { server: Arc::new(server), client: Arc::new(client), svid })
    }

    /// Does what is due at a moment: the authority's own work, then certificates past half of their life and those of a
    /// root that signs no more; forgets those that nobody uses.
    pub(crate) fn renew(&self, now: Timestamp) {
        let Some(authority) = self.authority.get() else { return };
        let tended = authority.tend(now).unwrap_or_else(|error| {
            warn!(%error, "the authority of workloads could not be tended");
            Default::default()
        });
        if tended.bundle {
            info!(roots = authority.bundle().roots.len(), "the roots that workloads believe have changed");
        }
        let mut known = self.known.lock();
        known.retain(|_, identity| Arc::strong_count(identity) > 1);
        let all: Vec<Arc<Identity>> = known.values().cloned().collect();
        drop(known);
        for identity in all {
            let current = identity.material();
            let made = if tended.signing || current.svid.renew_at() <= now {
                self.make(authority, &identity.id)
            } else if tended.bundle {
                self.material(authority, current.svid.clone())
            } else {
                continue;
            };
            match made {
                Ok(material) => {
                    debug!(id = %identity.id, until = %material.svid.not_after, "a workload's certificate was renewed");
                    identity.material.store(Arc::new(material));
                }
                Err(error) => warn!(id = %identity.id, %error, "a workload's certificate could not be renewed"),
            }
        }
    }

    /// Renews until `stop`.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => self.renew(Timestamp::now()),
            }
        }
    }
}
