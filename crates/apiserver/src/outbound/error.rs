//! Why another server could not be asked, in words close to those of Go's HTTP client, which users know.

use std::error::Error;

use rustls::CertificateError;

use crate::body::BoxError;

/// A request that got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutboundError {
    /// Neither a URL nor a Service.
    #[error("neither a URL nor a service is given")]
    NoTarget,
    /// The bundle holds no certificate.
    #[error("unable to load root certificates: unable to parse bytes as PEM block")]
    Bundle,
    /// The client certificate or its key is broken, or TLS cannot be set up.
    #[error("unable to set up TLS: {0}")]
    Tls(#[source] BoxError),
    /// The URL is broken.
    #[error("invalid address: {0}")]
    Address(#[source] http::Error),
    /// The Service does not exist.
    #[error("service {0:?} not found")]
    NoService(String),
    /// The Service does not have the port.
    #[error("no service port {port} found for service {name:?}")]
    NoPort { name: String, port: u16 },
    /// Nothing ready is behind the Service.
    #[error("no endpoints available for service {0:?}")]
    NoEndpoints(String),
    /// No connection.
    #[error("dial tcp {address}: {reason}")]
    Dial { address: String, reason: String },
    /// The TLS handshake failed.
    #[error("{0}")]
    Handshake(String),
    /// The connection ended, or what came is no HTTP.
    #[error("{0}")]
    Http(String),
    /// The answer ended early or is too large.
    #[error("reading the answer: {0}")]
    Answer(#[source] BoxError),
    /// The time is over.
    #[error("context deadline exceeded")]
    Deadline,
}

impl OutboundError {
    /// Takes the connector's error out of the client's.
    pub(super) fn from_client(error: hyper_util::client::legacy::Error) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            if let Some(own) = inner.downcast_ref::<Self>() {
                return own.copy();
            }
            text = format!("{text}: {inner}");
            source = inner.source();
        }
        // a server that closes without a word
        if text.contains("IncompleteMessage") || text.contains("connection closed before message completed") {
            text = "EOF".into();
        }
        Self::Http(text)
    }

    /// The errors that a connector makes, out of a shared reference.
    fn copy(&self) -> Self {
        match self {
            Self::NoService(name) => Self::NoService(name.clone()),
            Self::NoPort { name, port } => Self::NoPort { name: name.clone(), port: *port },
            Self::NoEndpoints(name) => Self::NoEndpoints(name.clone()),
            Self::Dial { address, reason } => Self::Dial { address: address.clone(), reason: reason.clone() },
            Self::Handshake(text) => Self::Handshake(text.clone()),
            Self::NoTarget => Self::NoTarget,
            Self::Bundle => Self::Bundle,
            Self::Deadline => Self::Deadline,
            other @ (Self::Tls(_) | Self::Address(_) | Self::Http(_) | Self::Answer(_)) => {
                Self::Http(other.to_string())
            }
        }
    }

    /// A failed handshake with `host`.
    pub(super) fn handshake(host: &str, error: &std::io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let verification = |what: String| format!("tls: failed to verify certificate: x509: {what}");
        Self::Handshake(match inner {
            Some(rustls::Error::InvalidCertificate(problem)) => verification(match problem {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    "certificate signed by unknown authority".into()
                }
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "certificate has expired or is not yet valid".into()
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "certificate has expired or is not yet valid".into()
                }
                CertificateError::NotValidForName => format!("certificate is not valid for {host}"),
                CertificateError::NotValidForNameContext { presented, .. } => {
                    format!("certificate is valid for {}, not {host}", presented.join(", "))
                }
                other => other.to_string(),
            }),
            Some(other) => format!("tls: {other}"),
            None => format!("tls: {error}"),
        })
    }
}
