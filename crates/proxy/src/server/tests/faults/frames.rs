//! HTTP/2 by the frame, for what no client library would send.

use bytes::{Buf as _, BytesMut};

use super::*;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;

/// A frame.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Frame {
    Frame { kind, flags, stream, payload: payload.as_ref().to_vec() }
}

impl Frame {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], self.kind, self.flags];
        bytes.extend(self.stream.to_be_bytes());
        bytes.extend(&self.payload);
        bytes
    }
}

/// Fields as literals that nobody remembers.
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            length(&mut block, text.len());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// A number with a prefix of seven bits.
fn length(block: &mut Vec<u8>, length: usize) {
    let Some(mut rest) = length.checked_sub(127) else { return block.push(u8::try_from(length).unwrap()) };
    block.push(127);
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
}

/// The fields of a plain request.
pub(super) const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "h")];

/// A whole request.
pub(super) fn get(stream: u32) -> Frame {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, block(&GET))
}

/// What a peer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The connection ends, with this code.
    Gone(u32),
    /// The stream ends, with this code.
    Reset(u32),
    /// The request is answered; 0 for a status that is not told apart.
    Status(u16),
    /// The connection is closed without a word.
    Closed,
}

/// A connection.
pub(super) struct Wire {
    stream: TcpStream,
    read: BytesMut,
}

impl Wire {
    /// A connection whose preface was exchanged.
    pub(super) async fn connect(gateway: &Gateway) -> Wire {
        let mut wire = Wire { stream: TcpStream::connect(gateway.address).await.unwrap(), read: BytesMut::new() };
        wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        wire.put(&frame(SETTINGS, 0, 0, [])).await;
        wire
    }

    pub(super) async fn put(&mut self, frame: &Frame) {
        self.send(&frame.bytes()).await;
    }

    /// The gateway may close the connection before everything was sent.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// The next frame; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        let next = async {
            loop {
                if self.read.len() >= 9 {
                    let length =
                        usize::from(self.read[0]) << 16 | usize::from(self.read[1]) << 8 | usize::from(self.read[2]);
                    if self.read.len() >= 9 + length {
                        let head = self.read.split_to(9);
                        let payload = self.read.split_to(length).to_vec();
                        let stream = (&head[5..9]).get_u32() & 0x7fff_ffff;
                        return Some(Frame { kind: head[3], flags: head[4], stream, payload });
                    }
                }
                if !matches!(self.stream.read_buf(&mut self.read).await, Ok(1..)) {
                    return None;
                }
            }
        };
        tokio::time::timeout(LIMIT, next).await.expect("the gateway neither answers nor closes")
    }

    /// What becomes of the connection or the first of its streams about which something is said.
    pub(super) async fn outcome(&mut self) -> Outcome {
        loop {
            let Some(frame) = self.next().await else { return Outcome::Closed };
            match frame.kind {
                GOAWAY => return Outcome::Gone((&frame.payload[4..8]).get_u32()),
                RST_STREAM => return Outcome::Reset((&frame.payload[..]).get_u32()),
                HEADERS => return Outcome::Status(status(&frame.payload)),
                _ => {}
            }
        }
    }
}

/// The status at the beginning of a header block: one of the static table, or in Huffman's code.
fn status(block: &[u8]) -> u16 {
    match block {
        [0x88, ..] => 200,
        [0x8c, ..] => 400,
        [0x8d, ..] => 404,
        [_, 0x83, 0x69, 0x90, 0xff, ..] => 431,
        _ => 0,
    }
}
