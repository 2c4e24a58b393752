//! How aggregated API servers know that a request comes from this server, and whom it speaks for.
//!
//! The API server shows them a certificate of an authority that signs nothing else, and names the user in headers. What
//! they need to check that is published where upstream's servers look for it.

use std::{sync::Arc, time::Duration};

use apiserver::{ApiServer, RequestHeaderConfig};
use identity::{Authority, AuthorityError};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::certificates::Roots;
use crate::data_dir::Layout;

/// Who the certificate says we are, as everywhere.
const CLIENT: &str = "front-proxy-client";
/// How often a new certificate is made; each lives for a year.
const RENEWAL_PERIOD: Duration = Duration::from_secs(24 * 3600);

/// The authority and what it signs.
pub(super) struct FrontProxy {
    authority: Arc<Authority>,
    server: Arc<ApiServer>,
    believed: RequestHeaderConfig,
}

impl FrontProxy {
    /// Loads or makes the authority.
    pub(super) fn authority(layout: &Layout, now: Timestamp) -> Result<Arc<Authority>, AuthorityError> {
        Authority::load_or_create_named(&layout.pki(), "front-proxy-ca", "keelson-front-proxy-ca", now).map(Arc::new)
    }

    /// Gives the server its certificate. Front proxies are `believed` when they call this server.
    pub(super) fn start(
        authority: Arc<Authority>,
        server: Arc<ApiServer>,
        believed: RequestHeaderConfig,
        now: Timestamp,
    ) -> Result<Self, AuthorityError> {
        let proxy = Self { authority, server, believed };
        proxy.renew(now)?;
        Ok(proxy)
    }

    fn renew(&self, now: Timestamp) -> Result<(), AuthorityError> {
        let pair = self.authority.client(CLIENT, None, now)?;
        self.server.set_front_proxy(&pair.certificate_pem, &pair.key_pem);
        Ok(())
    }

    /// Renews the certificate until `stop`, and at once when its authority was replaced. What fails is tried again long
    /// before the old one ends.
    pub(super) async fn run(self: Arc<Self>, mut roots: watch::Receiver<Roots>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = roots.changed() => {}
                () = tokio::time::sleep(RENEWAL_PERIOD) => {}
            }
            if let Err(error) = self.renew(Timestamp::now()) {
                tracing::warn!(%error, "the front proxy's certificate could not be renewed");
            }
        }
    }

    /// The ConfigMap `extension-apiserver-authentication`: how this server knows clients and front proxies, for servers
    /// that ask it.
    pub(super) fn published(&self, roots: &Roots) -> Value {
        let list = |names: &[String]| json!(names).to_string();
        let mut believed = self.believed.clone();
        // the certificate of this server counts, whoever else is believed
        if !believed.allowed_names.is_empty() && !believed.allowed_names.iter().any(|name| name == CLIENT) {
            believed.allowed_names.push(CLIENT.to_owned());
        }
        let mut front_proxies = roots.front_proxies.clone();
        let own = self.authority.trusted_pem();
        if !front_proxies.contains(own.trim()) {
            front_proxies = format!("{}\n{own}", front_proxies.trim_end());
        }
        json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {
            "client-ca-file": roots.clients,
            "requestheader-allowed-names": list(&believed.allowed_names),
            "requestheader-client-ca-file": front_proxies,
            "requestheader-extra-headers-prefix": list(&believed.extra_header_prefixes),
            "requestheader-group-headers": list(&believed.group_headers),
            "requestheader-uid-headers": list(&believed.uid_headers),
            "requestheader-username-headers": list(&believed.username_headers),
        }})
    }
}
