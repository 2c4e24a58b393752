//! How connections to endpoints are made, and how long they are used.

use std::time::Duration;

use crate::routing::Keepalive;

/// How connections to endpoints are made, and how long they are used; what is left open stays as it is without a policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LineTerms {
    /// How it is found out that nobody is there any more.
    pub keepalive: Option<Keepalive>,
    /// Bytes that are held back for a connection.
    pub buffer: Option<usize>,
    /// The same in the kernel.
    pub socket_buffer: Option<usize>,
    /// Bytes that may be sent ahead on a stream of HTTP/2.
    pub stream_window: Option<u32>,
    /// The same for all streams of a connection.
    pub connection_window: Option<u32>,
    /// How often an endpoint is asked whether it is still there, and how long the answer may take.
    pub ping: Option<(Duration, Option<Duration>)>,
    /// How long a connection may be idle.
    pub idle: Option<Duration>,
    /// How long a connection may be used.
    pub lifetime: Option<Duration>,
    /// How many requests it carries.
    pub requests: Option<u32>,
    /// Whether the endpoint is told who the client is before anything else.
    pub proxy: Option<ProxyVersion>,
}

/// A version of PROXY headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// Text.
    One,
    /// Bytes.
    Two,
}

impl LineTerms {
    /// Whether nothing is said.
    pub fn is_default(&self) -> bool {
        *self == LineTerms::default()
    }
}
