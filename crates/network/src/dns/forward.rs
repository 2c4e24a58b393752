//! Asks the host's resolvers, passing messages on as bytes so that any record type goes through.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::server::Transport;

/// How long one resolver is waited for; half of what the C library's client waits for us.
const TRY_TIMEOUT: Duration = Duration::from_millis(2500);
/// The largest UDP answer that is taken.
const UDP_MAX: usize = 4096;
/// Bytes of the DNS header, before the question.
const HEADER_LEN: usize = 12;
/// Datagrams of somebody else that are passed over before a resolver is given up.
const STRAYS_MAX: usize = 16;

/// The resolvers, asked in order until one answers.
#[derive(Debug)]
pub(super) struct Forwarder {
    resolvers: Vec<SocketAddr>,
}

impl Forwarder {
    pub(super) fn new(resolvers: Vec<SocketAddr>) -> Self {
        Self { resolvers }
    }

    /// Passes a query on, and returns the answer with the query's own identifier; nothing when nobody answers.
    pub(super) async fn ask(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let question = question(query)?;
        for resolver in &self.resolvers {
            let mut packet = query.to_vec();
            // A fresh identifier and a fresh port: what the client chose must not help to forge the answer.
            let id: [u8; 2] = rand::random();
            packet[..2].copy_from_slice(&id);
            let asked = async {
                match transport {
                    Transport::Udp => ask_udp(*resolver, &packet, question).await,
                    Transport::Tcp => ask_tcp(*resolver, &packet, question).await,
                }
            };
            match tokio::time::timeout(TRY_TIMEOUT, asked).await {
                Ok(Ok(mut answer)) => {
                    answer[..2].copy_from_slice(&query[..2]);
                    return Some(answer);
                }
                Ok(Err(error)) => tracing::debug!(%resolver, %error, "resolver failed"),
                Err(_) => tracing::debug!(%resolver, "resolver did not answer in time"),
            }
        }
        None
    }
}

async fn ask_udp(resolver: SocketAddr, packet: &[u8], question: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match resolver {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;
    socket.send(packet).await?;
    let mut buffer = vec![0; UDP_MAX];
    for _ in 0..STRAYS_MAX {
        let length = socket.recv(&mut buffer).await?;
        if answers(&buffer[..length], packet, question) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
    Err(io::Error::other("only stray datagrams came"))
}

async fn ask_tcp(resolver: SocketAddr, packet: &[u8], question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    let length = u16::try_from(packet.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), packet].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    if answers(&answer, packet, question) {
        Ok(answer)
    } else {
        Err(io::Error::other("the answer is to another query"))
    }
}

/// The message is the response to the query: same identifier, same question.
fn answers(answer: &[u8], query: &[u8], asked: &[u8]) -> bool {
    let is_response = answer.get(2).is_some_and(|flags| flags & 0x80 != 0);
    is_response
        && answer.get(..2) == query.get(..2)
        && question(answer).is_some_and(|question| question.eq_ignore_ascii_case(asked))
}

/// The bytes of a message's only question.
fn question(message: &[u8]) -> Option<&[u8]> {
    if message.get(4..6)? != [0, 1] {
        return None;
    }
    let mut end = HEADER_LEN;
    loop {
        match message.get(end)? {
            0 => break,
            // The question is the first name of the message, so it has nothing to point back to.
            length if *length >= 64 => return None,
            length => end += 1 + usize::from(*length),
        }
    }
    message.get(HEADER_LEN..end + 5)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_question_is_found_within_any_bytes_or_not_at_all(
            counts in prop::sample::select(vec![[0u8, 1], [0, 0], [0, 2]]),
            name in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut message = vec![0; 4];
            message.extend_from_slice(&counts);
            message.extend_from_slice(&[0; 6]);
            message.extend_from_slice(&name);
            if let Some(question) = question(&message) {
                prop_assert_eq!(counts, [0, 1]);
                prop_assert!(name.starts_with(question));
            }
        }
    }

    #[test]
    fn only_the_response_to_this_very_query_counts() {
        let query = [7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1];
        let asked = question(&query).unwrap();
        let with = |change: fn(&mut [u8])| {
            let mut answer = query;
            answer[2] |= 0x80;
            change(&mut answer);
            answers(&answer, &query, asked)
        };
        assert!(with(|_| {}));
        assert!(with(|answer| answer[13] = b'A'));
        assert!(!with(|answer| answer[0] = 8));
        assert!(!with(|answer| answer[2] &= 0x7f));
        assert!(!with(|answer| answer[13] = b'b'));
        assert!(!with(|answer| answer[16] = 28));
        assert!(!answers(&query[..3], &query, asked));
    }
}
