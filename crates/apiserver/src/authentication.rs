//! Who makes a request: a client certificate, a bearer token, a fixed in-process user, or nobody.
//!
//! A bearer token is a service account's, a bootstrap token, an identity provider's, or nobody's; its form and issuer say which, so that one
//! authenticator decides about it and gives the reason when it is refused.

use std::sync::Arc;

use http::{HeaderMap, header};
use identity::{BootstrapToken, TokenSigner, jwt::Unverified};
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use store::Snapshot;
use strategy::user::{GROUP_AUTHENTICATED, User};
use x509_parser::{
    asn1_rs::{Oid, oid},
    prelude::{FromDer, X509Certificate},
};

mod bootstrap_token;
mod last_used;
mod oidc;
mod request_header;
mod service_account;

pub(crate) use oidc::Oidc;
pub use oidc::OidcConfig;
use request_header::RequestHeader;
pub use request_header::{ClientKinds, RequestHeaderConfig};

pub(crate) use last_used::{LastUsed, day, patch as last_used_patch};

/// `1.3.6.1.4.1.57683.2`: the attribute of a certificate's subject that names the user's uid.
const UID_ATTRIBUTE: Oid<'static> = oid!(1.3.6.1.4.1.57683.2);

/// Checks credentials.
pub(crate) struct Authenticator {
    signer: Arc<TokenSigner>,
    /// What a token must be meant for to be good for this API.
    audiences: Vec<String>,
    accounts: service_account::Accounts,
    /// The identity provider that is believed besides.
    pub(crate) oidc: Option<Oidc>,
    /// Front proxies that name users in headers.
    pub(crate) request_header: RequestHeader,
    pub(crate) last_used: LastUsed,
}

/// A token was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RefusedToken {
    /// Nobody here knows it.
    #[error("invalid bearer token")]
    Unknown,
    /// It is a service account's, and not good.
    #[error("[invalid bearer token, {0}]")]
    Account(#[from] identity::TokenError),
    /// It is an identity provider's, and not good.
    #[error("[invalid bearer token, {0}]")]
    IdToken(#[from] oidc::RefusedIdToken),
    /// It is meant for somebody else.
    #[error("[invalid bearer token, token audiences {found:?} is invalid for the target audiences {wanted:?}]")]
    Audience { found: Vec<String>, wanted: Vec<String> },
    /// What it is bound to has changed or gone.
    #[error("[invalid bearer token, {0}]")]
    Invalidated(String),
}

/// What a good token says.
#[derive(Debug)]
pub(crate) struct Identified {
    /// Whom it stands for.
    pub(crate) user: Arc<User>,
    /// For which of the audiences that were asked about it is meant.
    pub(crate) audiences: Vec<String>,
    /// Key and value of what the audit is told about it.
    pub(crate) note: Option<(&'static str, String)>,
}

impl Authenticator {
    pub(crate) fn new(
        signer: Arc<TokenSigner>,
        audiences: Vec<String>,
        oidc: Option<OidcConfig>,
        request_header: RequestHeaderConfig,
    ) -> Self {
        let (accounts, last_used) = (service_account::Accounts::default(), LastUsed::default());
        let request_header = RequestHeader::new(request_header);
        Self { signer, audiences, accounts, oidc: oidc.map(Oidc::new), request_header, last_used }
    }

    pub(crate) fn signer(&self) -> &TokenSigner {
        &self.signer
    }

    /// The user a bearer token stands for, when it is meant for one of `audiences` and all it is bound to still lives.
    pub(crate) fn token(
        &self,
        token: &str,
        audiences: &[String],
        snapshot: &Snapshot,
        now: Timestamp,
    ) -> Result<Identified, RefusedToken> {
        if let Some(parsed) = BootstrapToken::parse(token) {
            let user = bootstrap_token::authenticate(parsed, snapshot, now).ok_or(RefusedToken::Unknown)?;
            return self.for_this_api(Arc::new(user), audiences);
        }
        if let Some(known) = self.accounts.remembered(token) {
            return self.account(&known, token, audiences, snapshot, now);
        }
        let parsed = Unverified::parse(token).map_err(|_| RefusedToken::Unknown)?;
        if !self.signer.issued(&parsed) {
            let oidc = self.oidc.as_ref().filter(|oidc| oidc.issued(&parsed)).ok_or(RefusedToken::Unknown)?;
            return self.for_this_api(Arc::new(oidc.authenticate(&parsed, now)?), audiences);
        }
        let known = self.accounts.remember(token, self.signer.verify_parsed(&parsed, now)?);
        self.account(&known, token, audiences, snapshot, now)
    }

    fn account(
        &self,
        known: &service_account::Remembered,
        token: &str,
        audiences: &[String],
        snapshot: &Snapshot,
        now: Timestamp,
    ) -> Result<Identified, RefusedToken> {
        // a token without an audience is one that a Secret keeps, and meant for this API
        let own = known.audiences().unwrap_or(&self.audiences);
        let shared: Vec<String> = own.iter().filter(|own| audiences.contains(own)).cloned().collect();
        if shared.is_empty() {
            return Err(RefusedToken::Audience { found: own.to_vec(), wanted: audiences.to_vec() });
        }
        known.check(token, snapshot, now, &self.last_used)?;
        Ok(Identified { user: known.user.clone(), audiences: shared, note: known.note(now) })
    }

    /// Credentials that name no audience are meant for this API.
    fn for_this_api(&self, user: Arc<User>, audiences: &[String]) -> Result<Identified, RefusedToken> {
        let shared: Vec<String> = self.audiences.iter().filter(|own| audiences.contains(own)).cloned().collect();
        if shared.is_empty() {
            return Err(RefusedToken::Unknown);
        }
        Ok(Identified { user, audiences: shared, note: None })
    }
}

/// What a connection's certificate says.
#[derive(Debug)]
pub(crate) struct Presented {
    /// Whom it stands for.
    pub(crate) user: Option<Arc<User>>,
    /// Second from which it is no good any more.
    pub(crate) until: i64,
    /// Whether it names users in headers.
    pub(crate) is_front_proxy: bool,
}

impl Presented {
    /// No certificate.
    pub(crate) const NOTHING: Presented = Presented { user: None, until: i64::MAX, is_front_proxy: false };
}

impl Authenticator {
    /// What a verified chain says; `kinds` tells what it was verified as.
    pub(crate) fn presented(&self, chain: &[CertificateDer<'_>], kinds: Option<&ClientKinds>) -> Presented {
        let Some(own) = chain.first() else { return Presented::NOTHING };
        let is_client = kinds.is_none_or(|kinds| kinds.is_client(chain));
        let is_front_proxy = kinds.is_some_and(|kinds| kinds.is_front_proxy(chain)) && self.request_header.admits(own);
        let user = is_client.then(|| certificate(own)).flatten().map(Arc::new);
        let until = X509Certificate::from_der(own).map_or(0, |(_, parsed)| parsed.validity().not_after.timestamp());
        Presented { user, until, is_front_proxy }
    }
}

/// The user a verified client certificate names: the common name is the user, the organisations are its groups.
pub(crate) fn certificate(der: &[u8]) -> Option<User> {
    let (_, parsed) = X509Certificate::from_der(der).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    if name.is_empty() {
        return None;
    }
    let mut user = User::new(name, &[]);
    user.groups.extend(parsed.subject().iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned));
    user.groups.push(GROUP_AUTHENTICATED.to_owned());
    // an attribute of Kubernetes' own arc carries the uid, where the authority gives one
    let uid = parsed.subject().iter_by_oid(&UID_ATTRIBUTE).next().and_then(|uid| uid.as_str().ok());
    user.uid = uid.unwrap_or_default().to_owned();
    let digest = format!("X509SHA256={}", hex::encode(Sha256::digest(der)));
    user.extra.insert("authentication.kubernetes.io/credential-id".into(), vec![digest]);
    Some(user)
}

/// What stands before the token that a WebSocket client hides in its list of protocols.
pub(crate) const PROTOCOL_OF_TOKEN: &str = "base64url.bearer.authorization.k8s.io.";

/// The bearer token of a request, also the one a WebSocket client hides in its list of protocols.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<String> {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned());
    }
    let protocols = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    let encoded = protocols.split(',').find_map(|protocol| protocol.trim().strip_prefix(PROTOCOL_OF_TOKEN))?;
    String::from_utf8(URL_SAFE_NO_PAD.decode(encoded).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_names_user_and_groups() {
        let directory = tempfile::tempdir().unwrap();
        let authority = identity::Authority::load_or_create(directory.path(), Timestamp::now()).unwrap();
        let pair = authority.client("alice", Some("system:masters"), Timestamp::now()).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(pair.certificate_pem.as_bytes()).unwrap();
        let user = certificate(&pem.contents).unwrap();
        assert_eq!(user.name, "alice");
        assert_eq!(user.groups, ["system:masters", "system:authenticated"]);
        assert!(certificate(b"junk").is_none());
    }
}
