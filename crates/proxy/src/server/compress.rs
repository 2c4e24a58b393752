//! Answers in gzip.

use std::io::{self, Write as _};

use bytes::Bytes;
use flate2::{Compression as Level, write::GzEncoder};
use http::{Method, Request};
use hyper::body::Body as _;

use super::{
    answer::Answer,
    body::{BodyError, Change},
};
use crate::routing::{Compression, head_in_gzip, takes_gzip, vary};

/// What a request says of how its answer may be sent.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    method: Method,
    gzip: bool,
}

impl Wanted {
    pub(crate) fn by<B>(request: &Request<B>) -> Self {
        Wanted { method: request.method().clone(), gzip: takes_gzip(request.headers()) }
    }
}

/// Compresses an answer if it is worth it and the client takes it.
pub(crate) fn apply(compression: &Compression, wanted: &Wanted, mut answer: Answer) -> Answer {
    let length = answer.body().size_hint().exact();
    if answer.body().is_end_stream() || !compression.is_for(&wanted.method, answer.status(), answer.headers(), length) {
        return answer;
    }
    vary(answer.headers_mut());
    if !wanted.gzip {
        return answer;
    }
    head_in_gzip(answer.headers_mut());
    answer.map(|body| body.through(Box::new(Gzip::new())))
}

/// Compresses piece by piece. The level is the fastest: what it saves further does not pay for what it costs here.
struct Gzip {
    encoder: GzEncoder<Vec<u8>>,
}

impl Gzip {
    fn new() -> Self {
        Gzip { encoder: GzEncoder::new(Vec::new(), Level::fast()) }
    }

    fn take(&mut self, done: io::Result<()>) -> Result<Bytes, BodyError> {
        done?;
        Ok(std::mem::take(self.encoder.get_mut()).into())
    }
}

impl Change for Gzip {
    fn piece(&mut self, data: Bytes) -> Result<Bytes, BodyError> {
        let done = self.encoder.write_all(&data);
        self.take(done)
    }

    fn pause(&mut self) -> Result<Bytes, BodyError> {
        let done = self.encoder.flush();
        self.take(done)
    }

    fn end(&mut self) -> Result<Bytes, BodyError> {
        let done = self.encoder.try_finish();
        self.take(done)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn pieces_arrive_at_every_pause_and_make_one_whole() {
        let mut gzip = Gzip::new();
        let mut sent = Vec::new();
        let text = "event after event ".repeat(1000);
        for piece in text.as_bytes().chunks(4096) {
            sent.extend(gzip.piece(Bytes::copy_from_slice(piece)).unwrap());
            sent.extend(gzip.pause().unwrap());
        }
        let mut early = Vec::new();
        let mut decoder = flate2::read::GzDecoder::new(&sent[..]);
        // It breaks off, for the end is not there yet; all that was written is.
        assert!(decoder.read_to_end(&mut early).is_err());
        assert_eq!(early.len(), text.len());
        sent.extend(gzip.end().unwrap());
        let mut whole = String::new();
        flate2::read::GzDecoder::new(&sent[..]).read_to_string(&mut whole).unwrap();
        assert!(whole == text && sent.len() < text.len() / 10);
    }
}
