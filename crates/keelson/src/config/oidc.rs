//! The settings of the OpenID Connect provider.

use std::{collections::BTreeMap, path::PathBuf};

use apiserver::OidcConfig;
use identity::jwt::Algorithm;

use super::{Values, path};

/// The provider as the settings describe it; its authorities are still in their file.
#[derive(Clone, Debug)]
pub(crate) struct Oidc {
    /// Everything but the authorities.
    pub provider: OidcConfig,
    /// Where they are.
    pub ca_file: Option<PathBuf>,
}

/// Reads the settings; `None` without a provider.
pub(super) fn parse(values: &mut Values<'_>) -> Option<Oidc> {
    let text = |values: &Values<'_>, key: &str| values.text(key).to_owned();
    let issuer_url = values
        .parsed("oidc.issuerUrl", String::new(), |t| (t.is_empty() || t.starts_with("https://")).then(|| t.to_owned()));
    let signing_algorithms = values.parsed("oidc.signingAlgs", Vec::new(), |t| {
        t.split(',').map(str::trim).map(Algorithm::named).collect::<Option<Vec<_>>>()
    });
    let required_claims = values.parsed("oidc.requiredClaims", BTreeMap::new(), |t| {
        let pair = |t: &str| t.split_once('=').map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()));
        t.split(',').filter(|t| !t.trim().is_empty()).map(pair).collect()
    });
    let username_claim = values.parsed("oidc.usernameClaim", String::new(), |t| (!t.is_empty()).then(|| t.to_owned()));
    if issuer_url.is_empty() {
        return None;
    }
    let client_id = values.parsed("oidc.clientId", String::new(), |t| (!t.is_empty()).then(|| t.to_owned()));
    let provider = OidcConfig {
        issuer_url,
        client_id,
        username_claim,
        username_prefix: text(values, "oidc.usernamePrefix"),
        groups_claim: text(values, "oidc.groupsClaim"),
        groups_prefix: text(values, "oidc.groupsPrefix"),
        required_claims,
        signing_algorithms,
        ca_pem: None,
    };
    Some(Oidc { provider, ca_file: path(values.text("oidc.caFile")) })
}
