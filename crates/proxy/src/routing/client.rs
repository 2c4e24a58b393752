//! How a listener treats its clients: compiled, immutable, part of the listener's configuration, so that a change of it
//! compiles no route.
//!
//! What a policy leaves open stays as it is without one.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{edit::HeaderEdits, text::TextMatch};

mod address;
mod path;

pub use address::AddressBy;
pub use path::{Cleaned, Paths, Slashes};

/// How a listener treats its clients.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// Whether connections begin with a PROXY header.
    pub proxied: Option<Proxied>,
    /// How a client's address is known.
    pub address: AddressBy,
    /// Whether the connection's address is not added to `X-Forwarded-For`.
    pub unappended: bool,
    /// Changes of requests before they are routed.
    pub early: ClientEdits,
    /// Changes of answers when all else is done.
    pub late: ClientEdits,
    /// What becomes of headers whose names have underscores.
    pub underscores: Underscores,
    /// What becomes of certificates that clients tell of.
    pub certificates: ToldCertificates,
    /// What becomes of the number that requests are followed by.
    pub request_id: RequestId,
    /// Whether headers are added that tell what the gateway did.
    pub telling: bool,
    /// Whether a dot at the end of the host goes.
    pub undotted: bool,
    /// How paths are made uniform.
    pub paths: Option<Paths>,
    /// A path that is answered by the gateway while it serves.
    pub health: Option<Box<str>>,
    /// How many connections there may be, and how long each lasts.
    pub connections: ConnectionTerms,
    /// How long things may take.
    pub times: Times,
    /// HTTP/1.
    pub http1: Http1Terms,
    /// HTTP/2.
    pub http2: Http2Terms,
}

/// Whether connections begin with a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxied {
    /// All do; others are closed.
    Always,
    /// Some do.
    Maybe,
}

/// Changes of headers.
#[derive(Clone, Debug, Default)]
pub struct ClientEdits {
    /// By name.
    pub edits: HeaderEdits,
    /// Headers that get a value if they have none.
    pub missing: Vec<(HeaderName, HeaderValue)>,
    /// Headers that go, by their names.
    pub unwanted: Vec<TextMatch>,
}

impl ClientEdits {
    /// Applies the changes.
    pub fn apply(&self, headers: &mut HeaderMap) {
        if !self.unwanted.is_empty() {
            let is_unwanted = |name: &&HeaderName| self.unwanted.iter().any(|unwanted| unwanted.takes(name.as_str()));
            let names: Vec<_> = headers.keys().filter(is_unwanted).cloned().collect();
            for name in names {
                headers.remove(name);
            }
        }
        self.edits.apply(headers);
        for (name, value) in &self.missing {
            headers.entry(name).or_insert_with(|| value.clone());
        }
    }
}

/// What becomes of headers whose names have underscores, which some backends take for hyphens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Underscores {
    /// Nothing.
    #[default]
    Keep,
    /// The request is refused.
    Refuse,
    /// They go.
    Drop,
}

/// What becomes of `X-Forwarded-Client-Cert`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ToldCertificates {
    /// Whether what the client sent stays.
    pub kept: Kept,
    /// Whether the client's own certificate is told of.
    pub told: bool,
    /// What is told of it besides its digest.
    pub details: Vec<CertificateDetail>,
}

/// Whether what a client tells of certificates stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kept {
    /// Never.
    #[default]
    Never,
    /// Where the client has shown a certificate itself.
    Known,
    /// Always.
    Always,
}

/// What is told of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateDetail {
    /// Whose it is.
    Subject,
    /// All of it.
    Certificate,
    /// It and those that vouch for it.
    Chain,
    /// Its hostnames.
    Hosts,
    /// Its URIs.
    Uris,
}

/// What becomes of `X-Request-ID`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestId {
    /// It stays, or is made.
    #[default]
    KeepOrMake,
    /// It stays.
    Keep,
    /// It is made.
    Make,
    /// It goes.
    Drop,
}

/// How many connections there may be, and how long each lasts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionTerms {
    /// How many at a time, on each address.
    pub most: Option<u64>,
    /// How long those that are too many are kept before they are closed.
    pub close_delay: Duration,
    /// How long one lasts.
    pub lifetime: Option<Duration>,
    /// How many requests it carries.
    pub requests: Option<u32>,
    /// How long one request may last.
    pub stream: Option<Duration>,
    /// Bytes that are held back for it.
    pub buffer: Option<usize>,
    /// The same in the kernel.
    pub socket_buffer: Option<usize>,
    /// How it is found out that nobody is there any more.
    pub keepalive: Option<Keepalive>,
}

/// How it is found out that nobody is there any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// How long a connection is silent before it is asked.
    pub idle: Option<Duration>,
    /// The time between two questions.
    pub interval: Option<Duration>,
    /// Questions without an answer until it is dead.
    pub probes: Option<u32>,
}

/// How long things may take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// Until it is known what is spoken.
    pub inspection: Option<Duration>,
    /// A handshake of TLS.
    pub handshake: Option<Duration>,
    /// Silence on a connection that is not HTTP.
    pub silence: Option<Duration>,
    /// A whole request, from the end of its head.
    pub received: Option<Duration>,
    /// The head of a request, from its first byte.
    pub head: Option<Duration>,
    /// Time without requests.
    pub idle: Option<Duration>,
    /// Time in which nothing happens to a request.
    pub stream_idle: Option<Duration>,
}

/// HTTP/1.
#[derive(Clone, Debug, Default)]
pub struct Http1Terms {
    /// Whether fields after bodies are asked for.
    pub trailers: bool,
    /// Whether names of headers are passed on as they were written.
    pub case: bool,
    /// Bytes of the longest head.
    pub head_bytes: Option<usize>,
    /// The host of requests in HTTP/1.0 that name none.
    pub default_host: Option<HeaderValue>,
    /// Whether connections that lasted too long are closed without another request.
    pub abrupt: bool,
    /// Protocols that nobody switches to.
    pub ignored: Vec<TextMatch>,
}

/// HTTP/2.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Http2Terms {
    /// Bytes that may be sent ahead on a stream.
    pub stream_window: Option<u32>,
    /// The same for all streams of a connection.
    pub connection_window: Option<u32>,
    /// Streams at a time.
    pub streams: Option<u32>,
    /// How often a client is asked whether it is still there, and how long the answer may take.
    pub ping: Option<(Duration, Option<Duration>)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_drop_by_pattern_then_change_then_fill_in() {
        let name = HeaderName::from_static;
        let edits = ClientEdits {
            edits: HeaderEdits {
                remove: vec![name("gone")],
                set: vec![(name("x-a"), HeaderValue::from_static("new"))],
                add: vec![(name("y"), HeaderValue::from_static("2"))],
            },
            missing: vec![(name("y"), HeaderValue::from_static("no")), (name("z"), HeaderValue::from_static("yes"))],
            unwanted: vec![TextMatch::Prefix("x-".into())],
        };
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-a", "1"), ("x-b", "1"), ("gone", "1"), ("y", "1")] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        edits.apply(&mut headers);
        let mut left: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        left.sort_unstable();
        assert_eq!(left, [("x-a", "new"), ("y", "1,2"), ("z", "yes")]);
    }
}
