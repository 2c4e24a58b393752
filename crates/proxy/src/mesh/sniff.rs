//! Whether a client speaks HTTP, by the first that it says.

use std::{io, time::Duration};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::server::hello::Rewound;

/// How long a client may be silent until it is looked whether the other side speaks first. Clients that speak first do so
/// within a round trip, which is short inside a cluster.
pub(crate) const SILENCE: Duration = Duration::from_millis(100);
/// Bytes that are looked at at most. A request line that is longer is taken for one: nothing else begins like it.
const LIMIT: usize = 8 << 10;
/// What is read at once.
const READ: usize = 2 << 10;
/// How a client begins that knows that it speaks HTTP/2.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The longest method there is, with some room (`VERSION-CONTROL`, RFC 3253).
const METHOD: usize = 24;

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// HTTP/1 or HTTP/2.
    Http,
    /// Anything else.
    Other,
}

/// A client that has been listened to.
pub(crate) struct Sniffer<S> {
    client: S,
    read: BytesMut,
}

impl<S: AsyncRead + Unpin> Sniffer<S> {
    pub(crate) fn new(client: S) -> Self {
        Sniffer { client, read: BytesMut::new() }
    }

    /// Listens until it is clear what the client speaks. May be given up and taken up again.
    pub(crate) async fn spoken(&mut self) -> io::Result<Spoken> {
        loop {
            if let Some(spoken) = spoken(&self.read) {
                return Ok(spoken);
            }
            self.read.reserve(READ);
            if self.client.read_buf(&mut self.read).await? == 0 {
                return Ok(Spoken::Other);
            }
        }
    }

    /// The client itself.
    pub(crate) fn client(&self) -> &S {
        &self.client
    }

    /// The client, as if nobody had listened.
    pub(crate) fn rewound(self) -> Rewound<S> {
        Rewound::new(self.client).put_back(self.read)
    }
}

/// What somebody speaks who begins like this; `None` while it may be either.
fn spoken(begin: &[u8]) -> Option<Spoken> {
    if begin.len() >= PREFACE.len() && begin.starts_with(PREFACE) {
        return Some(Spoken::Http);
    }
    if PREFACE.starts_with(begin) {
        return None;
    }
    let (line, whole) = match begin.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&begin[..end], true),
        None => (begin, begin.len() >= LIMIT),
    };
    let mut parts = line.splitn(3, |byte| *byte == b' ');
    let (method, target, version) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let method_fits = method.len() <= METHOD && method.iter().all(|byte| byte.is_ascii_uppercase() || *byte == b'-');
    let target_fits = target.is_none_or(|target| target.iter().all(u8::is_ascii_graphic));
    let version_fits = version.is_none_or(|version| {
        let version = version.strip_suffix(b"\r").unwrap_or(version);
        let known: &[u8] = b"HTTP/1.";
        known.starts_with(version) || version.strip_prefix(known).is_some_and(|minor| minor.len() <= 1)
    });
    if !(method_fits && target_fits && version_fits) {
        return Some(Spoken::Other);
    }
    match (whole, version) {
        (false, _) => None,
        // Nothing else says so much before its first line ends.
        (true, None) if line.len() >= LIMIT => Some(Spoken::Http),
        (true, Some(version)) if version.starts_with(b"HTTP/1.") => Some(Spoken::Http),
        (true, _) => Some(Spoken::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_is_known_by_its_first_line_or_preface() {
        let long = format!("GET /{}", "x".repeat(LIMIT));
        for (begin, expected) in [
            (&b""[..], None),
            (b"G", None),
            (b"GET", None),
            (b"GET /", None),
            (b"GET / HTT", None),
            (b"GET / HTTP/1.1", None),
            (b"GET / HTTP/1.1\r\n", Some(Spoken::Http)),
            (b"GET / HTTP/1.0\nHost: a\n", Some(Spoken::Http)),
            (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Some(Spoken::Http)),
            (b"VERSION-CONTROL /a HTTP/1.1\r\n", Some(Spoken::Http)),
            (b"CONNECT a:443 HTTP/1.1\r\n", Some(Spoken::Http)),
            (long.as_bytes(), Some(Spoken::Http)),
            (b"PRI", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n", None),
            (PREFACE, Some(Spoken::Http)),
            (b"PRI * HTTP/2.0\r\n\r\nSX", Some(Spoken::Other)),
            (b"PRINT /a HTTP/1.1\r\n", Some(Spoken::Http)),
            (b"GET key\r\n", Some(Spoken::Other)),
            (b"GET / HTTP/3.0\r\n", Some(Spoken::Other)),
            (b"GET / HTTP/1.1 x\r\n", Some(Spoken::Other)),
            (b"get key\r\n", Some(Spoken::Other)),
            (b"\x16\x03\x01\x02\x00", Some(Spoken::Other)),
            (b"*2\r\n$3\r\nGET\r\n", Some(Spoken::Other)),
            (b"\r\n", Some(Spoken::Other)),
            (b"QUIT\r\n", Some(Spoken::Other)),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", Some(Spoken::Other)),
        ] {
            assert_eq!(spoken(begin), expected, "{:?}", String::from_utf8_lossy(&begin[..begin.len().min(40)]));
        }
    }

    #[test]
    fn what_was_clear_stays_so_whatever_follows() {
        for whole in
            [&b"GET /a HTTP/1.1\r\nHost: b\r\n\r\n"[..], PREFACE, b"*2\r\n$3\r\nGET\r\n", b"SELECT 1 FROM x;\n"]
        {
            let mut clear = None;
            for end in 0..=whole.len() {
                let now = spoken(&whole[..end]);
                assert!(clear.is_none() || now == clear, "{end} of {:?}", String::from_utf8_lossy(whole));
                clear = now;
            }
            assert!(clear.is_some());
        }
    }
}
