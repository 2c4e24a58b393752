//! Envoy's protocol for asking (`envoy.service.auth.v3`): the question is written, and the answer read, as far as it means
//! something here. Of Protocol Buffers only varints and parts with a length are needed.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderName, HeaderValue, StatusCode, Version, uri::PathAndQuery};

use super::{Entrant, Grant, Refusal, Said};

/// Headers of an answer that are looked at: more is no answer of a service in its right mind.
const PARTS: usize = 256;

/// How deep numbers of fields go: bytes of a varint.
const VARINT_BYTES: usize = 10;

/// A message being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    fn part(&mut self, field: u64, write: impl FnOnce(&mut Message)) {
        let mut part = Message::default();
        write(&mut part);
        self.bytes(field, &part.0);
    }

    fn entry(&mut self, field: u64, key: &str, value: &[u8]) {
        self.part(field, |entry| {
            entry.bytes(1, key.as_bytes());
            // Texts have to be UTF-8.
            entry.bytes(2, String::from_utf8_lossy(value).as_bytes());
        });
    }
}

/// The question about a request: `CheckRequest`.
pub(super) fn request(
    entrant: &Entrant<'_>,
    told: Option<&[HeaderName]>,
    context: &[(String, String)],
    body: &Bytes,
) -> Vec<u8> {
    let mut message = Message::default();
    message.part(1, |attributes| {
        // source: address: socket_address
        attributes.part(1, |peer| {
            peer.part(1, |address| {
                address.part(1, |socket| socket.bytes(2, entrant.client.to_canonical().to_string().as_bytes()));
            });
        });
        attributes.part(4, |request| request.part(2, |http| write_http(http, entrant, told, body)));
        for (name, value) in context {
            attributes.entry(10, name, value.as_bytes());
        }
    });
    message.0
}

fn write_http(http: &mut Message, entrant: &Entrant<'_>, told: Option<&[HeaderName]>, body: &Bytes) {
    let parts = &entrant.parts;
    let (method, authority) = (parts.method.as_str().as_bytes(), entrant.authority.as_bytes());
    let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str).as_bytes();
    let scheme: &[u8] = if entrant.tls { b"https" } else { b"http" };
    if let Some(id) = parts.headers.get("x-request-id") {
        http.bytes(1, String::from_utf8_lossy(id.as_bytes()).as_bytes());
    }
    http.bytes(2, method);
    for (name, value) in [(":method", method), (":path", path), (":authority", authority), (":scheme", scheme)] {
        http.entry(3, name, value);
    }
    let is_told = |name: &HeaderName| *name != http::header::HOST && told.is_none_or(|told| told.contains(name));
    for name in parts.headers.keys().filter(|name| is_told(name)) {
        let values: Vec<_> = parts.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
        http.entry(3, name.as_str(), &values.join(&b","[..]));
    }
    http.bytes(4, path);
    http.bytes(5, authority);
    http.bytes(6, scheme);
    http.number(9, body.len() as u64);
    let protocol: &[u8] = match parts.version {
        Version::HTTP_2 => b"HTTP/2",
        Version::HTTP_10 => b"HTTP/1.0",
        _ => b"HTTP/1.1",
    };
    http.bytes(10, protocol);
    if !body.is_empty() {
        http.bytes(11, String::from_utf8_lossy(body).as_bytes());
    }
}

/// A message as gRPC sends it; `None` when it is too long for that.
pub(super) fn framed(message: &[u8]) -> Option<Bytes> {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).ok()?);
    frame.put_slice(message);
    Some(frame.freeze())
}

/// The only message of an answer, uncompressed.
pub(super) fn unframed(body: &[u8]) -> Option<&[u8]> {
    let (head, message) = body.split_first_chunk::<5>()?;
    let [compressed, length @ ..] = head;
    (*compressed == 0 && u32::from_be_bytes(*length) as usize == message.len()).then_some(message)
}

/// A value on the wire.
enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message, in order. It ends where what is left is no field.
struct Fields<'a> {
    rest: &'a [u8],
    broken: bool,
}

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for at in 0..VARINT_BYTES {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f).checked_shl(7 * at as u32)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Wire<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Wire::Number(self.varint()?),
            1 => Wire::Bytes(self.take(8)?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Bytes(self.take(4)?),
            _ => return None,
        };
        Some((tag >> 3, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() || self.broken {
            return None;
        }
        let field = self.field();
        self.broken = field.is_none();
        Some(field)
    }
}

/// The fields of a message; `None` when it is none.
fn fields(message: &[u8]) -> Option<Vec<(u64, Wire<'_>)>> {
    Fields { rest: message, broken: false }.take(PARTS).collect()
}

/// What an answer means: `CheckResponse`. `None` when it is none.
pub fn answer(message: &[u8]) -> Option<Said> {
    let (mut code, mut denied, mut granted) = (0, None, None);
    for field in fields(message)? {
        match field {
            (1, Wire::Bytes(status)) => code = number(status, 1)?,
            (2, Wire::Bytes(response)) => denied = Some(response),
            (3, Wire::Bytes(response)) => granted = Some(response),
            _ => {}
        }
    }
    match code {
        0 => Some(Said::Pass(granted.map_or(Some(Grant::default()), grant)?)),
        _ => Some(Said::Refuse(denied.map_or(Some(Refusal::bare(StatusCode::FORBIDDEN)), refusal)?)),
    }
}

/// A number in a message; 0 when it is not there.
fn number(message: &[u8], of: u64) -> Option<u64> {
    let found = fields(message)?.into_iter().rev().find(|(field, _)| *field == of);
    Some(match found {
        Some((_, Wire::Number(number))) => number,
        _ => 0,
    })
}

fn text(bytes: &[u8]) -> Option<String> {
    String::from_utf8(bytes.to_vec()).ok()
}

/// `DeniedHttpResponse`.
fn refusal(message: &[u8]) -> Option<Refusal> {
    let mut refusal = Refusal { body: Some(Bytes::new()), ..Refusal::bare(StatusCode::FORBIDDEN) };
    for field in fields(message)? {
        match field {
            (1, Wire::Bytes(status)) => {
                let code = u16::try_from(number(status, 1)?).ok()?;
                refusal.status = match code {
                    0 => StatusCode::FORBIDDEN,
                    code => StatusCode::from_u16(code).ok().filter(|status| !status.is_informational())?,
                };
            }
            (2, Wire::Bytes(header)) => {
                let header = option(header)?;
                refusal.headers.push((header.name, header.value));
            }
            (3, Wire::Bytes(body)) => refusal.body = Some(Bytes::copy_from_slice(body)),
            _ => {}
        }
    }
    Some(refusal)
}

/// `OkHttpResponse`.
fn grant(message: &[u8]) -> Option<Grant> {
    let mut grant = Grant::default();
    for field in fields(message)? {
        match field {
            (2, Wire::Bytes(header)) => {
                let Changed { name, value, append } = option(header)?;
                // Who the request is for is not the service's to change.
                if name == http::header::HOST {
                    continue;
                }
                if append { &mut grant.append } else { &mut grant.set }.push((name, value));
            }
            (5, Wire::Bytes(name)) => grant.remove.extend(HeaderName::from_bytes(name).ok()),
            (6, Wire::Bytes(header)) => {
                let Changed { name, value, append } = option(header)?;
                grant.answer.push((name, value, append));
            }
            (7, Wire::Bytes(parameter)) => {
                let (mut key, mut value) = (String::new(), String::new());
                for field in fields(parameter)? {
                    match field {
                        (1, Wire::Bytes(bytes)) => key = text(bytes)?,
                        (2, Wire::Bytes(bytes)) => value = text(bytes)?,
                        _ => {}
                    }
                }
                grant.set_parameters.push((key, value));
            }
            (8, Wire::Bytes(name)) => grant.remove_parameters.push(text(name)?),
            _ => {}
        }
    }
    Some(grant)
}

/// A header, and whether it is added to those that are there.
struct Changed {
    name: HeaderName,
    value: HeaderValue,
    append: bool,
}

/// `HeaderValueOption`.
fn option(message: &[u8]) -> Option<Changed> {
    let (mut name, mut value, mut append) = (None, HeaderValue::from_static(""), false);
    for field in fields(message)? {
        match field {
            (1, Wire::Bytes(header)) => {
                for field in fields(header)? {
                    match field {
                        (1, Wire::Bytes(key)) => name = Some(HeaderName::from_bytes(key).ok()?),
                        (2 | 3, Wire::Bytes(bytes)) if !bytes.is_empty() => {
                            value = HeaderValue::from_bytes(bytes).ok()?
                        }
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(wrapped)) => append = number(wrapped, 1)? != 0,
            _ => {}
        }
    }
    Some(Changed { name: name?, value, append })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Message)) -> Vec<u8> {
        let mut message = Message::default();
        write(&mut message);
        message.0
    }

    fn header(message: &mut Message, field: u64, (name, value): (&str, &str), append: bool) {
        message.part(field, |option| {
            option.part(1, |header| {
                header.bytes(1, name.as_bytes());
                header.bytes(2, value.as_bytes());
            });
            if append {
                option.part(2, |wrapped| wrapped.number(1, 1));
            }
        });
    }

    fn name(name: &'static str) -> HeaderName {
        HeaderName::from_static(name)
    }

    fn value(value: &'static str) -> HeaderValue {
        HeaderValue::from_static(value)
    }

    #[test]
    fn answers_are_read_as_far_as_they_mean_something() {
        assert_eq!(answer(&[]), Some(Said::Pass(Grant::default())));
        let granted = written(|response| {
            response.part(1, |status| status.number(1, 0));
            response.part(3, |ok| {
                header(ok, 2, ("x-user", "ada"), false);
                header(ok, 2, ("x-group", "a"), true);
                header(ok, 2, ("host", "evil"), false);
                ok.bytes(5, b"x-secret");
                header(ok, 6, ("set-cookie", "a=b"), true);
                ok.part(7, |parameter| {
                    parameter.bytes(1, b"k");
                    parameter.bytes(2, b"v");
                });
                ok.bytes(8, b"gone");
                ok.part(3, |dynamic_metadata| dynamic_metadata.bytes(1, b"?"));
            });
        });
        let expected = Grant {
            set: vec![(name("x-user"), value("ada"))],
            append: vec![(name("x-group"), value("a"))],
            remove: vec![name("x-secret")],
            answer: vec![(name("set-cookie"), value("a=b"), true)],
            set_parameters: vec![("k".to_owned(), "v".to_owned())],
            remove_parameters: vec!["gone".to_owned()],
        };
        assert_eq!(answer(&granted), Some(Said::Pass(expected)));
        let denied = written(|response| {
            response.part(1, |status| status.number(1, 16));
            response.part(2, |denied| {
                denied.part(1, |status| status.number(1, 401));
                header(denied, 2, ("www-authenticate", "Bearer"), false);
                denied.bytes(3, b"who are you");
            });
        });
        let refusal = Refusal::new(StatusCode::UNAUTHORIZED, "who are you");
        assert_eq!(answer(&denied), Some(Said::Refuse(refusal.with(name("www-authenticate"), value("Bearer")))));
        let bare = written(|response| response.part(1, |status| status.number(1, 7)));
        assert_eq!(answer(&bare), Some(Said::Refuse(Refusal::bare(StatusCode::FORBIDDEN))));
    }

    #[test]
    fn what_is_no_answer_never_lets_pass() {
        let denying = |code| {
            written(|response| {
                response.part(1, |status| status.number(1, 7));
                response.part(2, |denied| denied.part(1, |status| status.number(1, code)));
            })
        };
        for broken in [
            vec![0x0a],
            vec![0x0a, 0x05, 0x08],
            vec![0x0b],
            vec![0xff; 11],
            denying(100),
            denying(9999),
            written(|response| response.part(3, |ok| header(ok, 2, ("not a name", "x"), false))),
            written(|response| response.part(3, |ok| header(ok, 2, ("x", "a\nb"), false))),
        ] {
            assert_eq!(answer(&broken), None, "{broken:x?}");
        }
        assert!(unframed(&framed(b"abc").unwrap()).is_some_and(|message| message == b"abc"));
        for frame in [&b""[..], b"\0\0\0\0", b"\x01\0\0\0\x01a", b"\0\0\0\0\x02a", b"\0\0\0\0\x01ab"] {
            assert_eq!(unframed(frame), None, "{frame:x?}");
        }
    }
}
