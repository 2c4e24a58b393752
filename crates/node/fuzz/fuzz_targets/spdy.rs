//! Any bytes as SPDY frames, whole and in two pieces: both ways must come to the same.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use tokio_util::codec::Decoder as _;

/// The codec alone, compiled from its files: the crate around it runs containers and takes minutes to build.
#[path = "../../src/server/spdy"]
mod spdy {
    pub(crate) mod frame;
    pub(crate) mod headers;
}

use spdy::frame::{Frame, FrameCodec};

fn decode(pieces: &[&[u8]]) -> Vec<Frame> {
    let Ok(mut codec) = FrameCodec::new() else { return Vec::new() };
    let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match codec.decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return frames,
            }
        }
    }
    frames
}

fuzz_target!(|bytes: &[u8]| {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    assert_eq!(decode(&[bytes]), decode(&[first, second]));
});
