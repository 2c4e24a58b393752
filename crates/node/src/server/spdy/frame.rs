//! SPDY/3.1 frames and their codec.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use super::headers::{Deflater, HeaderList, Inflater};

/// Payload a control frame may have; header blocks are a few hundred bytes.
const CONTROL_BYTES_MAX: usize = 64 << 10;
/// Payload a data frame may have: the length field's own limit is 24 bits.
const DATA_BYTES_MAX: usize = 4 << 20;
const VERSION: u16 = 3;
const FLAG_FIN: u8 = 1;
const FLAG_UNIDIRECTIONAL: u8 = 2;

/// What can be wrong with a SPDY connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpdyError {
    /// The transport failed.
    #[error("spdy transport failed")]
    Io(#[from] std::io::Error),
    /// Another protocol version.
    #[error("spdy version {0} is not supported")]
    Version(u16),
    /// A frame ended early.
    #[error("spdy frame is truncated")]
    Truncated,
    /// A frame or header block beyond the bound.
    #[error("spdy frame of {0} bytes is too large")]
    TooLarge(usize),
    /// A header block did not decompress.
    #[error("spdy header block is corrupt")]
    Compression,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// Opens a stream.
    SynStream { stream: u32, fin: bool, unidirectional: bool, headers: HeaderList },
    /// Accepts a stream.
    SynReply { stream: u32, fin: bool, headers: HeaderList },
    /// Ends a stream abnormally.
    Rst { stream: u32, status: u32 },
    /// Asks for, or is, an echo.
    Ping(u32),
    /// No further streams.
    GoAway { last: u32, status: u32 },
    /// More headers.
    Headers { stream: u32, fin: bool, headers: HeaderList },
    /// Payload.
    Data { stream: u32, fin: bool, payload: Bytes },
    /// SETTINGS, WINDOW_UPDATE and what else needs no answer.
    Ignored(u16),
}

/// Encodes and decodes frames; holds both compression streams of a connection.
pub(crate) struct FrameCodec {
    deflater: Deflater,
    inflater: Inflater,
}

impl FrameCodec {
    pub(crate) fn new() -> Result<Self, SpdyError> {
        Ok(Self { deflater: Deflater::new()?, inflater: Inflater::new() })
    }

    fn control(&mut self, kind: u16, flags: u8, mut body: Bytes) -> Result<Frame, SpdyError> {
        let need = |body: &Bytes, length: usize| if body.len() < length { Err(SpdyError::Truncated) } else { Ok(()) };
        let fin = flags & FLAG_FIN != 0;
        match kind {
            1 => {
                need(&body, 10)?;
                let stream = body.get_u32() & 0x7fff_ffff;
                body.advance(6); // associated stream, priority and slot
                let headers = self.inflater.decode(&body)?;
                Ok(Frame::SynStream { stream, fin, unidirectional: flags & FLAG_UNIDIRECTIONAL != 0, headers })
            }
            2 | 8 => {
                need(&body, 4)?;
                let stream = body.get_u32() & 0x7fff_ffff;
                let headers = self.inflater.decode(&body)?;
                if kind == 2 {
                    Ok(Frame::SynReply { stream, fin, headers })
                } else {
                    Ok(Frame::Headers { stream, fin, headers })
                }
            }
            3 => {
                need(&body, 8)?;
                Ok(Frame::Rst { stream: body.get_u32() & 0x7fff_ffff, status: body.get_u32() })
            }
            6 => {
                need(&body, 4)?;
                Ok(Frame::Ping(body.get_u32()))
            }
            7 => {
                need(&body, 8)?;
                Ok(Frame::GoAway { last: body.get_u32() & 0x7fff_ffff, status: body.get_u32() })
            }
            other => Ok(Frame::Ignored(other)),
        }
    }
}

impl Decoder for FrameCodec {
    type Item = Frame;
    type Error = SpdyError;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, SpdyError> {
        let Some(head) = buffer.first_chunk::<8>().copied() else {
            return Ok(None);
        };
        let word = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let flags = head[4];
        let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
        let is_control = word & 0x8000_0000 != 0;
        if length > if is_control { CONTROL_BYTES_MAX } else { DATA_BYTES_MAX } {
            return Err(SpdyError::TooLarge(length));
        }
        if buffer.len() < 8 + length {
            buffer.reserve(8 + length - buffer.len());
            return Ok(None);
        }
        buffer.advance(8);
        let body = buffer.split_to(length).freeze();
        if !is_control {
            return Ok(Some(Frame::Data { stream: word, fin: flags & FLAG_FIN != 0, payload: body }));
        }
        let version = (word >> 16) as u16 & 0x7fff;
        if version != VERSION {
            return Err(SpdyError::Version(version));
        }
        self.control(word as u16, flags, body).map(Some)
    }
}

fn put_control(out: &mut BytesMut, kind: u16, flags: u8, parts: &[&[u8]]) {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    out.reserve(8 + length);
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32(u32::from(flags) << 24 | length as u32);
    for part in parts {
        out.put_slice(part);
    }
}

impl Encoder<Frame> for FrameCodec {
    type Error = SpdyError;

    fn encode(&mut self, frame: Frame, out: &mut BytesMut) -> Result<(), SpdyError> {
        match frame {
            Frame::SynStream { stream, fin, unidirectional, headers } => {
                let flags = u8::from(fin) * FLAG_FIN + u8::from(unidirectional) * FLAG_UNIDIRECTIONAL;
                let block = self.deflater.encode(&headers)?;
                put_control(out, 1, flags, &[&stream.to_be_bytes(), &[0; 6], &block]);
            }
            Frame::SynReply { stream, fin, headers } => {
                let block = self.deflater.encode(&headers)?;
                put_control(out, 2, u8::from(fin), &[&stream.to_be_bytes(), &block]);
            }
            Frame::Headers { stream, fin, headers } => {
                let block = self.deflater.encode(&headers)?;
                put_control(out, 8, u8::from(fin), &[&stream.to_be_bytes(), &block]);
            }
            Frame::Rst { stream, status } => {
                put_control(out, 3, 0, &[&stream.to_be_bytes(), &status.to_be_bytes()]);
            }
            Frame::Ping(id) => put_control(out, 6, 0, &[&id.to_be_bytes()]),
            Frame::GoAway { last, status } => {
                put_control(out, 7, 0, &[&last.to_be_bytes(), &status.to_be_bytes()]);
            }
            Frame::Data { stream, fin, payload } => {
                if payload.len() > DATA_BYTES_MAX {
                    return Err(SpdyError::TooLarge(payload.len()));
                }
                out.reserve(8 + payload.len());
                out.put_u32(stream);
                out.put_u32(u32::from(u8::from(fin)) << 24 | payload.len() as u32);
                out.put_slice(&payload);
            }
            Frame::Ignored(_) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_survives_a_round_trip_also_byte_by_byte() {
        let frames = [
            Frame::SynStream {
                stream: 1,
                fin: true,
                unidirectional: false,
                headers: vec![("streamtype".into(), "stdin".into())],
            },
            Frame::SynReply { stream: 1, fin: false, headers: vec![] },
            Frame::Headers { stream: 3, fin: true, headers: vec![("a".into(), "b".into())] },
            Frame::Rst { stream: 5, status: 1 },
            Frame::Ping(7),
            Frame::GoAway { last: 9, status: 0 },
            Frame::Data { stream: 1, fin: true, payload: Bytes::from_static(b"hello") },
        ];
        let (mut sender, mut receiver) = (FrameCodec::new().unwrap(), FrameCodec::new().unwrap());
        let mut wire = BytesMut::new();
        for frame in &frames {
            sender.encode(frame.clone(), &mut wire).unwrap();
        }
        let (mut buffer, mut decoded) = (BytesMut::new(), Vec::new());
        for byte in wire {
            buffer.put_u8(byte);
            decoded.extend(receiver.decode(&mut buffer).unwrap());
        }
        assert_eq!(decoded, frames);
    }

    #[test]
    fn oversized_and_foreign_frames_are_refused() {
        let mut codec = FrameCodec::new().unwrap();
        let mut huge = BytesMut::from(&[0, 0, 0, 1, 0, 0xff, 0xff, 0xff][..]);
        assert!(matches!(codec.decode(&mut huge), Err(SpdyError::TooLarge(_))));
        let mut old = BytesMut::from(&[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1][..]);
        assert!(matches!(codec.decode(&mut old), Err(SpdyError::Version(2))));
        let mut short = BytesMut::from(&[0x80, 3, 0, 3, 0, 0, 0, 2, 0, 0][..]);
        assert!(matches!(codec.decode(&mut short), Err(SpdyError::Truncated)));
    }
}
