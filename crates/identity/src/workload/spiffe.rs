//! SPIFFE IDs of the form that Kubernetes workloads have.

use std::{fmt, str::FromStr, sync::Arc};

/// The scheme of every SPIFFE ID.
const SCHEME: &str = "spiffe://";
/// The standard's own limit.
const ID_BYTES_MAX: usize = 2048;
/// The standard's own limit of a trust domain's name.
const TRUST_DOMAIN_BYTES_MAX: usize = 255;

/// `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`: the identity of the workloads of a service account.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    /// Within whose authority the rest means something.
    pub trust_domain: Arc<str>,
    /// The namespace of the service account.
    pub namespace: Arc<str>,
    /// The service account.
    pub service_account: Arc<str>,
}

/// A text is no SPIFFE ID of a workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{id:?} is not the SPIFFE ID of a workload: {rule}")]
pub struct SpiffeIdError {
    /// The text, cut to what a message can hold.
    id: String,
    rule: &'static str,
}

impl SpiffeId {
    /// The identity of a service account.
    ///
    /// # Errors
    /// When one of the three cannot be part of a SPIFFE ID.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, SpiffeIdError> {
        format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}").parse()
    }

    /// The identity as Istio's policies and metrics write it: without the scheme.
    pub fn principal(&self) -> String {
        format!("{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        let wrong = |rule| SpiffeIdError { id: text.chars().take(100).collect(), rule };
        if text.len() > ID_BYTES_MAX {
            return Err(wrong("must have at most 2048 bytes"));
        }
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| wrong("must begin with spiffe://"))?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [trust_domain, "ns", namespace, "sa", service_account] = parts[..] else {
            return Err(wrong("must be spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT"));
        };
        let in_domain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        let sound = (1..=TRUST_DOMAIN_BYTES_MAX).contains(&trust_domain.len()) && trust_domain.bytes().all(in_domain);
        if !sound {
            return Err(wrong("the trust domain must consist of lower case letters, digits, '.', '-' and '_'"));
        }
        let in_path = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let sound = |part: &str| !matches!(part, "" | "." | "..") && part.bytes().all(in_path);
        if !sound(namespace) || !sound(service_account) {
            return Err(wrong("parts of the path must consist of letters, digits, '.', '-' and '_'"));
        }
        Ok(Self {
            trust_domain: trust_domain.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id = SpiffeId::new("cluster.local", "shop", "ledger").unwrap();
        assert_eq!(id.to_string(), "spiffe://cluster.local/ns/shop/sa/ledger");
        assert_eq!(id.to_string().parse(), Ok(id.clone()));
        assert_eq!(id.principal(), "cluster.local/ns/shop/sa/ledger");
    }

    #[test]
    fn what_is_no_workload_is_refused() {
        let long = format!("spiffe://a/ns/b/sa/{}", "c".repeat(ID_BYTES_MAX));
        for text in [
            "",
            "https://cluster.local/ns/a/sa/b",
            "spiffe://cluster.local",
            "spiffe://cluster.local/ns/a/sa/b/c",
            "spiffe://cluster.local/ns/a/sa/",
            "spiffe://cluster.local/ns/../sa/b",
            "spiffe://cluster.local/ns/a b/sa/b",
            "spiffe://cluster.local/NS/a/sa/b",
            "spiffe://Cluster.Local/ns/a/sa/b",
            "spiffe://user@host/ns/a/sa/b",
            "spiffe://host:1/ns/a/sa/b",
            "spiffe:///ns/a/sa/b",
            "spiffe://cluster.local/ns/a/sa/b?x",
            "spiffe://cluster.local/ns/a/sa/%62",
            &long,
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text}");
        }
    }
}
