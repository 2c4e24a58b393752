//! Bodies: the one body type of requests and answers, reading with a limit, and chunked writing of many stored objects.

use std::{
    io::Write as _,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full};

use crate::status::ApiError;

/// What travels as a body's error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of requests and answers, also between the API server and the node.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

/// Largest request body: upstream's limit of 3 MiB for an object in JSON.
pub const REQUEST_BYTES_MAX: usize = 3 * 1024 * 1024;

/// Bytes gathered before a piece of a list is handed to the connection: large enough that per-chunk work (TLS records,
/// HTTP/2 frames, wake-ups) vanishes, small enough that a list's memory stays flat.
const CHUNK_BYTES: usize = 128 * 1024;

/// A body of known bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// No body.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Reads a whole request body, at most [`REQUEST_BYTES_MAX`].
pub(crate) async fn read(mut body: Body) -> Result<Bytes, ApiError> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::bad_request(format!("reading the request body: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + rest.len() + data.len() > REQUEST_BYTES_MAX {
            return Err(ApiError::too_large(REQUEST_BYTES_MAX));
        }
        // nearly every body is one frame, which is taken as it is
        match (first.is_empty(), rest.is_empty()) {
            (true, true) => first = data,
            (false, true) => {
                rest.extend_from_slice(&std::mem::take(&mut first));
                rest.extend_from_slice(&data);
            }
            _ => rest.extend_from_slice(&data),
        }
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

/// Bytes of stored objects that are made into another shape for one piece of a list: a millisecond of work or two, after
/// which others have their turn.
const SHAPED_BYTES: u64 = 64 * 1024;

/// Appends what a client is shown of a stored object.
pub(crate) type Shape = Box<dyn Fn(Bytes, &mut Vec<u8>) -> Result<(), ApiError> + Send>;

/// The body of a list: a head, stored objects separated by commas, a tail. Objects are copied into large chunks, or made
/// into another shape, only as the connection takes them, so that a list of any size costs one chunk of memory.
pub(crate) struct ListBody {
    head: Bytes,
    items: std::vec::IntoIter<Bytes>,
    tail: Bytes,
    /// `None` for objects as they are stored.
    shape: Option<Shape>,
    first: bool,
    /// Counts objects as they are stored.
    remaining: u64,
}

impl ListBody {
    /// Joins `items` between `head` and `tail`.
    pub(crate) fn new(head: Bytes, items: Vec<Bytes>, tail: Bytes) -> Self {
        let commas = items.len().saturating_sub(1);
        let bytes = head.len() + tail.len() + commas + items.iter().map(Bytes::len).sum::<usize>();
        Self { head, items: items.into_iter(), tail, shape: None, first: true, remaining: bytes as u64 }
    }

    /// The same with the objects in another shape. The first piece is made now, so that what is small has a length, and
    /// what cannot be shown has an answer that says so.
    pub(crate) fn shaped(head: Bytes, items: Vec<Bytes>, tail: Bytes, shape: Shape) -> Result<Self, ApiError> {
        let mut body = Self { shape: Some(shape), ..Self::new(head, items, tail) };
        let begin = body.chunk().transpose()?.unwrap_or_default();
        if body.remaining == 0 {
            return Ok(Self::new(begin, Vec::new(), Bytes::new()));
        }
        body.remaining += begin.len() as u64;
        body.head = begin;
        Ok(body)
    }

    /// How many bytes are still to come; of objects that are shaped, what they have in the store.
    pub(crate) fn remaining(&self) -> u64 {
        self.remaining
    }

    /// The next chunk, `None` at the end.
    pub(crate) fn chunk(&mut self) -> Option<Result<Bytes, ApiError>> {
        if self.remaining == 0 {
            return None;
        }
        match self.shape.take() {
            None => Some(Ok(self.copied())),
            Some(shape) => {
                let chunk = self.shaped_with(&shape);
                self.shape = Some(shape);
                Some(chunk)
            }
        }
    }

    fn shaped_with(&mut self, shape: &Shape) -> Result<Bytes, ApiError> {
        let mut chunk = Vec::from(std::mem::take(&mut self.head));
        let mut looked = chunk.len() as u64;
        while looked < SHAPED_BYTES {
            let Some(item) = self.items.next() else {
                chunk.extend_from_slice(&std::mem::take(&mut self.tail));
                self.remaining = 0;
                return Ok(chunk.into());
            };
            if !std::mem::take(&mut self.first) {
                chunk.push(b',');
            }
            looked += item.len() as u64;
            shape(item, &mut chunk)?;
        }
        // the tail is still to come, whatever the objects were counted as
        self.remaining = self.remaining.saturating_sub(looked).max(1);
        Ok(chunk.into())
    }

    fn copied(&mut self) -> Bytes {
        let capacity = usize::try_from(self.remaining).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES + 16 * 1024));
        let mut chunk = BytesMut::with_capacity(capacity);
        chunk.extend_from_slice(&std::mem::take(&mut self.head));
        while chunk.len() < CHUNK_BYTES {
            let Some(item) = self.items.next() else {
                chunk.extend_from_slice(&std::mem::take(&mut self.tail));
                break;
            };
            if !std::mem::take(&mut self.first) {
                chunk.extend_from_slice(b",");
            }
            chunk.extend_from_slice(&item);
        }
        self.remaining = self.remaining.saturating_sub(chunk.len() as u64);
        chunk.freeze()
    }
}

impl http_body::Body for ListBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Poll::Ready(self.chunk().map(|chunk| chunk.map(Frame::data).map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self.shape {
            None => http_body::SizeHint::with_exact(self.remaining),
            Some(_) => http_body::SizeHint::default(),
        }
    }
}

/// A [`ListBody`] on its way through gzip, chunk by chunk.
pub(crate) struct GzipBody {
    list: ListBody,
    /// Gone once the trailer is written.
    encoder: Option<flate2::write::GzEncoder<Vec<u8>>>,
}

impl GzipBody {
    /// Compresses `list`, quickly rather than well: the same level as upstream.
    pub(crate) fn new(list: ListBody) -> Self {
        let encoder = flate2::write::GzEncoder::new(Vec::with_capacity(CHUNK_BYTES), flate2::Compression::fast());
        Self { list, encoder: Some(encoder) }
    }

    fn chunk(&mut self) -> Option<Result<Bytes, BoxError>> {
        while let Some(encoder) = &mut self.encoder {
            let Some(plain) = self.list.chunk() else {
                return self.encoder.take().map(|encoder| Ok(encoder.finish()?.into()));
            };
            if let Err(error) = plain.map_err(Into::into).and_then(|plain| Ok(encoder.write_all(&plain)?)) {
                return Some(Err(error));
            }
            if encoder.get_ref().len() >= CHUNK_BYTES / 4 {
                return Some(Ok(std::mem::take(encoder.get_mut()).into()));
            }
        }
        None
    }
}

impl http_body::Body for GzipBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Poll::Ready(self.chunk().map(|chunk| chunk.map(Frame::data)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_list_is_joined_with_commas_and_its_length_is_known() {
        let items: Vec<Bytes> = (0..40_000).map(|i| Bytes::from(format!("{{\"i\":{i}}}"))).collect();
        let body = ListBody::new(Bytes::from_static(b"{\"items\":["), items, Bytes::from_static(b"]}"));
        let announced = body.remaining();
        let bytes = body.collect().await.unwrap().to_bytes();
        assert_eq!(announced, bytes.len() as u64);
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(value["items"].as_array().unwrap().len(), 40_000);
        assert_eq!(value["items"][39_999]["i"], 39_999);
    }

    #[tokio::test]
    async fn a_compressed_list_unpacks_to_the_same() {
        let items: Vec<Bytes> = (0..20_000).map(|i| Bytes::from(format!("{{\"i\":{i}}}"))).collect();
        let list = || ListBody::new(Bytes::from_static(b"["), items.clone(), Bytes::from_static(b"]"));
        let plain = list().collect().await.unwrap().to_bytes();
        let packed = GzipBody::new(list()).collect().await.unwrap().to_bytes();
        assert!(packed.len() < plain.len());
        let mut unpacked = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed[..]), &mut unpacked).unwrap();
        assert_eq!(unpacked, plain);
    }

    #[tokio::test]
    async fn a_shaped_list_comes_in_pieces_and_fails_at_once_or_in_between() {
        let shaped = |items: usize, bad: usize| {
            let items = (0..items).map(|i| Bytes::from(format!("{i:1000}"))).collect();
            let shape: Shape = Box::new(move |item, out| {
                let number = String::from_utf8_lossy(&item).trim().parse::<usize>().map_err(ApiError::internal)?;
                if number == bad {
                    return Err(ApiError::internal("bad"));
                }
                out.extend_from_slice(number.to_string().as_bytes());
                Ok(())
            });
            ListBody::shaped(Bytes::from_static(b"["), items, Bytes::from_static(b"]"), shape)
        };
        let small = shaped(3, usize::MAX).unwrap();
        assert_eq!(http_body::Body::size_hint(&small).exact(), Some(7));
        assert_eq!(small.collect().await.unwrap().to_bytes(), "[0,1,2]");
        let mut large = shaped(1000, usize::MAX).unwrap();
        assert_eq!(http_body::Body::size_hint(&large).exact(), None);
        let mut pieces = Vec::new();
        while let Some(piece) = large.frame().await {
            pieces.push(piece.unwrap().into_data().unwrap());
        }
        assert!(pieces.len() > 10, "{}", pieces.len());
        let numbers: Vec<usize> = serde_json::from_slice(&pieces.concat()).unwrap();
        assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
        assert_eq!(shaped(1000, 5).err().unwrap().code, 500);
        assert!(shaped(1000, 500).unwrap().collect().await.is_err());
    }

    #[tokio::test]
    async fn an_empty_list_is_valid() {
        let body = ListBody::new(Bytes::from_static(b"{\"items\":["), vec![], Bytes::from_static(b"]}"));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "{\"items\":[]}");
    }

    #[tokio::test]
    async fn a_body_in_pieces_is_joined() {
        let pieces = ["ab", "", "c", "def"].map(|piece| Ok::<_, BoxError>(Frame::data(Bytes::from(piece))));
        let body = http_body_util::StreamBody::new(futures::stream::iter(pieces)).boxed_unsync();
        assert_eq!(read(body).await.unwrap(), "abcdef");
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused() {
        let error = read(full(vec![b' '; REQUEST_BYTES_MAX + 1])).await.unwrap_err();
        assert_eq!((error.code, &*error.reason), (413, "RequestEntityTooLarge"));
    }
}
