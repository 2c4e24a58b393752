//! How aggregated API servers know that a request comes from this server, and whom it speaks for.
//!
//! The API server shows them a certificate of an authority that signs nothing else, and names the user in headers. What
//! they need to check that is published where upstream's servers look for it.

use std::{sync::Arc, time::Duration};

use apiserver::ApiServer;
use identity::{Authority, AuthorityError};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::data_dir::Layout;

/// Who the certificate says we are, as everywhere.
const CLIENT: &str = "front-proxy-client";
/// How often a new certificate is made; each lives for a year.
const RENEWAL_PERIOD: Duration = Duration::from_secs(24 * 3600);

/// The authority and what it signs.
pub(super) struct FrontProxy {
    authority: Authority,
    server: Arc<ApiServer>,
}

impl FrontProxy {
    /// Loads or makes the authority, and gives the server its certificate.
    pub(super) fn start(layout: &Layout, server: Arc<ApiServer>, now: Timestamp) -> Result<Self, AuthorityError> {
        let authority =
            Authority::load_or_create_named(&layout.pki(), "front-proxy-ca", "keelson-front-proxy-ca", now)?;
        let proxy = Self { authority, server };
        proxy.renew(now)?;
        Ok(proxy)
    }

    fn renew(&self, now: Timestamp) -> Result<(), AuthorityError> {
        let pair = self.authority.client(CLIENT, None, now)?;
        self.server.set_front_proxy(&pair.certificate_pem, &pair.key_pem);
        Ok(())
    }

    /// Renews the certificate until `stop`. What fails is tried again long before the old one ends.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RENEWAL_PERIOD) => {}
            }
            if let Err(error) = self.renew(Timestamp::now()) {
                tracing::warn!(%error, "the front proxy's certificate could not be renewed");
            }
        }
    }

    /// The ConfigMap `extension-apiserver-authentication`; `clients_pem` are the roots of client certificates.
    pub(super) fn published(&self, clients_pem: &str) -> Value {
        let list = |name: &str| json!([name]).to_string();
        json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {
            "client-ca-file": clients_pem,
            "requestheader-allowed-names": list(CLIENT),
            "requestheader-client-ca-file": self.authority.trusted_pem(),
            "requestheader-extra-headers-prefix": list("X-Remote-Extra-"),
            "requestheader-group-headers": list("X-Remote-Group"),
            "requestheader-uid-headers": list("X-Remote-Uid"),
            "requestheader-username-headers": list("X-Remote-User"),
        }})
    }
}
