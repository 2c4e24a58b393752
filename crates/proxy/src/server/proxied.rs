//! PROXY headers, versions 1 and 2: what a proxy says before the bytes of the connection that it passes on.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use bytes::BytesMut;
use tokio::io::AsyncReadExt as _;

use super::hello::Rewound;
use crate::routing::{Proxied, ProxyVersion};

/// The longest header in version 1, with its end of line.
const TEXT_BYTES: usize = 107;

/// The longest header in version 2. Addresses take 216 bytes at most; the rest are extensions, such as a certificate.
const BINARY_BYTES: usize = 16 << 10;

const TEXT: &[u8] = b"PROXY ";
const BINARY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What the beginning of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// Too little to know.
    Unknown,
    /// No PROXY header.
    Other,
    /// A header so many bytes long, and who the client is where it says so.
    Header(usize, Option<SocketAddr>),
}

/// A header that is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed PROXY header: {0}")]
pub struct Malformed(&'static str);

/// What these bytes are the beginning of.
///
/// # Errors
/// When they begin as a header does and are none.
pub fn beginning(bytes: &[u8]) -> Result<Beginning, Malformed> {
    let begins = |signature: &[u8]| {
        let known = bytes.len().min(signature.len());
        bytes[..known] == signature[..known]
    };
    if begins(BINARY) {
        if bytes.len() < BINARY.len() + 4 {
            return Ok(Beginning::Unknown);
        }
        return binary(bytes);
    }
    if !begins(TEXT) {
        return Ok(Beginning::Other);
    }
    let line = &bytes[..bytes.len().min(TEXT_BYTES)];
    match line.iter().position(|byte| *byte == b'\n') {
        None if line.len() < TEXT_BYTES => Ok(Beginning::Unknown),
        None => Err(Malformed("the line is too long")),
        Some(end) => {
            let line = line[..end].strip_suffix(b"\r").ok_or(Malformed("a line feed alone"))?;
            Ok(Beginning::Header(end + 1, text(line)?))
        }
    }
}

/// `PROXY TCP4 SOURCE DESTINATION PORT PORT`.
fn text(line: &[u8]) -> Result<Option<SocketAddr>, Malformed> {
    let line = std::str::from_utf8(line).map_err(|_| Malformed("not ASCII"))?;
    let mut words = line.split(' ').skip(1);
    let family = words.next().unwrap_or("");
    if family == "UNKNOWN" {
        return Ok(None);
    }
    let mut address = || -> Option<IpAddr> {
        match family {
            "TCP4" => words.next()?.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => words.next()?.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let (Some(source), Some(_)) = (address(), address()) else { return Err(Malformed("no addresses")) };
    // Nothing but digits: a sign would be taken too.
    let mut port = || words.next().filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))?.parse::<u16>().ok();
    let (Some(port), Some(_)) = (port(), port()) else { return Err(Malformed("no ports")) };
    if words.next().is_some() {
        return Err(Malformed("more than addresses and ports"));
    }
    Ok(Some(SocketAddr::new(source, port)))
}

/// The signature, version and command, family, length, addresses, extensions.
fn binary(bytes: &[u8]) -> Result<Beginning, Malformed> {
    let [command, family, high, low] = bytes[BINARY.len()..BINARY.len() + 4] else { return Ok(Beginning::Unknown) };
    let begin = BINARY.len() + 4;
    let whole = begin + usize::from(u16::from_be_bytes([high, low]));
    if whole > BINARY_BYTES {
        return Err(Malformed("the header is too long"));
    }
    if command >> 4 != 2 {
        return Err(Malformed("an unknown version"));
    }
    let Some(rest) = bytes.get(begin..whole) else { return Ok(Beginning::Unknown) };
    let local = match command & 0xf {
        // The proxy speaks for itself.
        0 => true,
        1 => false,
        _ => return Err(Malformed("an unknown command")),
    };
    let port = |at: usize| Some(u16::from_be_bytes([*rest.get(at)?, *rest.get(at + 1)?]));
    let source = match family >> 4 {
        1 if rest.len() >= 12 => rest.first_chunk::<4>().map(|ip| (Ipv4Addr::from(*ip).into(), port(8))),
        2 if rest.len() >= 36 => rest.first_chunk::<16>().map(|ip| (Ipv6Addr::from(*ip).into(), port(32))),
        1 | 2 => None,
        // No family, or names of sockets.
        0 | 3 => return Ok(Beginning::Header(whole, None)),
        _ => return Err(Malformed("an unknown family")),
    };
    let source = source.and_then(|(ip, port): (IpAddr, _)| Some(SocketAddr::new(ip, port?)));
    match source {
        _ if local => Ok(Beginning::Header(whole, None)),
        None => Err(Malformed("no addresses")),
        source => Ok(Beginning::Header(whole, source)),
    }
}

/// Takes the header off a connection; who the client is, where it says so.
pub(crate) async fn read(mut stream: Rewound, proxied: Proxied) -> io::Result<(Option<SocketAddr>, Rewound)> {
    let mut read = BytesMut::with_capacity(2 << 10);
    loop {
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match (beginning(&read).map_err(io::Error::other)?, proxied) {
            (Beginning::Unknown, _) => {}
            (Beginning::Header(length, source), _) => {
                let _header = read.split_to(length);
                return Ok((source, stream.put_back(read)));
            }
            (Beginning::Other, Proxied::Maybe) => return Ok((None, stream.put_back(read))),
            (Beginning::Other, Proxied::Always) => return Err(io::Error::other("no PROXY header")),
        }
    }
}

/// The header that tells of a connection between these.
pub(crate) fn header(version: ProxyVersion, source: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let (source, local) = (canonical(source), canonical(local));
    match version {
        ProxyVersion::One => {
            let family = match (source.ip(), local.ip()) {
                (IpAddr::V4(_), IpAddr::V4(_)) => "TCP4",
                (IpAddr::V6(_), IpAddr::V6(_)) => "TCP6",
                _ => return b"PROXY UNKNOWN\r\n".to_vec(),
            };
            let (from, to) = (source.ip(), local.ip());
            format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), local.port()).into_bytes()
        }
        ProxyVersion::Two => {
            let mut bytes = BINARY.to_vec();
            let (family, mut addresses) = match (source.ip(), local.ip()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => (0x11, [from.octets(), to.octets()].concat()),
                (IpAddr::V6(from), IpAddr::V6(to)) => (0x21, [from.octets(), to.octets()].concat()),
                _ => (0, Vec::new()),
            };
            if family != 0 {
                addresses.extend(source.port().to_be_bytes());
                addresses.extend(local.port().to_be_bytes());
            }
            bytes.extend([0x21, family]);
            bytes.extend(u16::try_from(addresses.len()).unwrap_or(0).to_be_bytes());
            bytes.extend(addresses);
            bytes
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [BINARY, &[command, family], &length, rest].concat()
    }

    fn address(text: &str) -> Option<SocketAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn headers_of_both_versions_are_read() {
        let four = [&[192, 0, 2, 1, 192, 0, 2, 2][..], &[0x12, 0x34, 0, 80]].concat();
        let tlv = [&four[..], &[4, 0, 3, 1, 2, 3]].concat();
        let six = [&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0; 16], &[0, 7, 0, 80]].concat();
        for (bytes, source) in [
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 4660 80\r\n".to_vec(), address("192.0.2.1:4660")),
            (b"PROXY TCP6 2001:db8::1 ::1 7 80\r\n".to_vec(), address("[2001:db8::1]:7")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (v2(0x21, 0x11, &four), address("192.0.2.1:4660")),
            (v2(0x21, 0x11, &tlv), address("192.0.2.1:4660")),
            (v2(0x21, 0x21, &six), address("[2001:db8::1]:7")),
            (v2(0x20, 0x00, &[]), None),
            (v2(0x20, 0x11, &four), None),
            (v2(0x21, 0x31, &[0; 216]), None),
        ] {
            let length = bytes.len();
            let more = [&bytes[..], b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(beginning(&more), Ok(Beginning::Header(length, source)), "{bytes:?}");
            for cut in 0..length {
                assert_eq!(beginning(&bytes[..cut]), Ok(Beginning::Unknown), "{cut} of {bytes:?}");
            }
        }
    }

    #[test]
    fn what_only_begins_like_a_header_is_refused_and_the_rest_is_none() {
        for bytes in [
            b"PROXY TCP4 192.0.2.1 192.0.2.2 4660\r\n".to_vec(),
            b"PROXY TCP4 ::1 ::1 1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n".to_vec(),
            b"PROXY UNKNOWN\n".to_vec(),
            [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 100]].concat(),
            v2(0x11, 0x11, &[0; 12]),
            v2(0x22, 0x11, &[0; 12]),
            v2(0x21, 0x11, &[0; 11]),
            v2(0x21, 0x51, &[0; 12]),
            v2(0x21, 0x11, &vec![0; 17 << 10]),
        ] {
            assert!(beginning(&bytes).is_err(), "{bytes:?}");
        }
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01", b"PROXIES", b"\r\n\r\nGET"] {
            assert_eq!(beginning(bytes), Ok(Beginning::Other), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for version in [ProxyVersion::One, ProxyVersion::Two] {
            for (source, local) in [("192.0.2.1:1", "192.0.2.2:80"), ("[2001:db8::1]:1", "[::1]:80")] {
                let bytes = header(version, source.parse().unwrap(), local.parse().unwrap());
                assert_eq!(beginning(&bytes), Ok(Beginning::Header(bytes.len(), address(source))), "{version:?}");
            }
            let bytes = header(version, "192.0.2.1:1".parse().unwrap(), "[::1]:80".parse().unwrap());
            assert_eq!(beginning(&bytes), Ok(Beginning::Header(bytes.len(), None)));
        }
    }
}
