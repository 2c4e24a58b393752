//! Users that a front proxy names in headers, as upstream's request-header authenticator believes them.
//!
//! A front proxy shows a certificate of an authority that signs nothing else. Only then its headers count; from anybody
//! else they are not looked at.

use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderName};
use rustls::{
    pki_types::{CertificateDer, UnixTime},
    server::danger::ClientCertVerifier,
};
use strategy::user::{GROUP_AUTHENTICATED, User};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::path;

/// Whom front proxies may speak for, and how they say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeaderConfig {
    /// Common names of front proxies; empty believes every certificate of the authority.
    pub allowed_names: Vec<String>,
    /// Headers that name the user; the first that is there counts.
    pub username_headers: Vec<String>,
    /// Headers that name the user's uid; the first that is there counts.
    pub uid_headers: Vec<String>,
    /// Headers that name groups; all count.
    pub group_headers: Vec<String>,
    /// What headers of further attributes begin with.
    pub extra_header_prefixes: Vec<String>,
}

impl Default for RequestHeaderConfig {
    /// The names that upstream's installers set.
    fn default() -> Self {
        let one = |name: &str| vec![name.to_owned()];
        Self {
            allowed_names: one("front-proxy-client"),
            username_headers: one("X-Remote-User"),
            uid_headers: one("X-Remote-Uid"),
            group_headers: one("X-Remote-Group"),
            extra_header_prefixes: one("X-Remote-Extra-"),
        }
    }
}

/// The same, ready for use.
#[derive(Debug)]
pub(crate) struct RequestHeader {
    allowed_names: Vec<String>,
    username: Vec<HeaderName>,
    uid: Vec<HeaderName>,
    groups: Vec<HeaderName>,
    extra: Vec<String>,
}

impl RequestHeader {
    pub(crate) fn new(config: RequestHeaderConfig) -> Self {
        // what is no header name is never sent either
        let names = |names: Vec<String>| names.iter().filter_map(|name| name.parse().ok()).collect();
        Self {
            allowed_names: config.allowed_names,
            username: names(config.username_headers),
            uid: names(config.uid_headers),
            groups: names(config.group_headers),
            extra: config.extra_header_prefixes.iter().map(|prefix| prefix.to_ascii_lowercase()).collect(),
        }
    }

    /// Whether a verified certificate is that of a front proxy.
    pub(crate) fn admits(&self, der: &[u8]) -> bool {
        let Ok((_, parsed)) = X509Certificate::from_der(der) else { return false };
        let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok()).unwrap_or_default();
        self.allowed_names.is_empty() || self.allowed_names.iter().any(|allowed| allowed == name)
    }

    /// The user that the headers of a front proxy name; `None` when they name none.
    pub(crate) fn user(&self, headers: &HeaderMap) -> Option<User> {
        let first = |names: &[HeaderName]| {
            let mut values = names.iter().filter_map(|name| headers.get(name)?.to_str().ok());
            values.find(|value| !value.is_empty()).map(str::to_owned)
        };
        let mut user = User::new(first(&self.username)?, &[]);
        user.uid = first(&self.uid).unwrap_or_default();
        for name in &self.groups {
            let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
            user.groups.extend(values.map(str::to_owned));
        }
        for (name, value) in headers {
            let key = self.extra.iter().find_map(|prefix| name.as_str().strip_prefix(prefix.as_str()));
            if let (Some(key), Ok(value)) = (key, value.to_str()) {
                user.extra.entry(path::decode(key).to_lowercase()).or_default().push(value.to_owned());
            }
        }
        if !user.is_in(GROUP_AUTHENTICATED) {
            user.groups.push(GROUP_AUTHENTICATED.to_owned());
        }
        Some(user)
    }
}

/// Tells the certificates of clients from those of front proxies, which a TLS configuration accepts alike.
#[derive(Clone)]
pub struct ClientKinds {
    /// Accepts what stands for a user.
    pub clients: Arc<dyn ClientCertVerifier>,
    /// Accepts front proxies.
    pub front_proxies: Arc<dyn ClientCertVerifier>,
}

impl ClientKinds {
    fn accepts(verifier: &dyn ClientCertVerifier, chain: &[CertificateDer<'_>]) -> bool {
        let Some((own, others)) = chain.split_first() else { return false };
        verifier.verify_client_cert(own, others, UnixTime::now()).is_ok()
    }

    /// Whether the chain is one of a client.
    pub(crate) fn is_client(&self, chain: &[CertificateDer<'_>]) -> bool {
        Self::accepts(&*self.clients, chain)
    }

    /// Whether the chain is one of a front proxy.
    pub(crate) fn is_front_proxy(&self, chain: &[CertificateDer<'_>]) -> bool {
        Self::accepts(&*self.front_proxies, chain)
    }
}

impl fmt::Debug for ClientKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientKinds").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn headers_name_user_uid_groups_and_extras() {
        let config = RequestHeaderConfig {
            username_headers: vec!["X-First".into(), "X-Remote-User".into()],
            ..Default::default()
        };
        let proxies = RequestHeader::new(config);
        let given = headers(&[
            ("x-remote-user", "ann"),
            ("x-remote-uid", "7"),
            ("x-remote-group", "a"),
            ("x-remote-group", "b"),
            ("x-remote-extra-acme.com%2fproject", "one"),
            ("x-remote-extra-acme.com%2fproject", "two"),
            ("x-other", "ignored"),
        ]);
        let user = proxies.user(&given).unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("ann", "7"));
        assert_eq!(user.groups, ["a", "b", "system:authenticated"]);
        assert_eq!(user.extra["acme.com/project"], ["one", "two"]);
        assert_eq!(proxies.user(&headers(&[("x-first", "bob"), ("x-remote-user", "ann")])).unwrap().name, "bob");
        assert_eq!(proxies.user(&headers(&[("x-remote-group", "a")])), None, "nobody is named");
    }

    #[test]
    fn only_allowed_names_are_front_proxies() {
        let directory = tempfile::tempdir().unwrap();
        let now = jiff::Timestamp::now();
        let authority = identity::Authority::load_or_create(directory.path(), now).unwrap();
        let der = |name: &str| {
            let pair = authority.client(name, None, now).unwrap();
            x509_parser::pem::parse_x509_pem(pair.certificate_pem.as_bytes()).unwrap().1.contents
        };
        let usual = RequestHeader::new(RequestHeaderConfig::default());
        assert!(usual.admits(&der("front-proxy-client")) && !usual.admits(&der("someone")) && !usual.admits(b"junk"));
        let any = RequestHeader::new(RequestHeaderConfig { allowed_names: Vec::new(), ..Default::default() });
        assert!(any.admits(&der("someone")));
    }
}
