//! Bodies that were read, and those that were not.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use pin_project_lite::pin_project;

pin_project! {
    /// A body of which the beginning, or all, has been read.
    #[derive(Debug)]
    pub struct Buffered<B> {
        read: Option<Bytes>,
        #[pin]
        rest: Option<B>,
    }
}

impl<B> Buffered<B> {
    /// One of which all is there.
    pub(super) fn whole(bytes: Bytes) -> Self {
        Self { read: Some(bytes), rest: None }
    }

    /// What was read of it, and what is left.
    pub fn into_parts(self) -> (Option<Bytes>, Option<B>) {
        (self.read, self.rest)
    }

    /// One of which nothing has been read.
    pub(super) fn unread(body: B) -> Self {
        Self { read: None, rest: Some(body) }
    }
}

/// What there is of a body within a limit.
pub(super) enum Read<B> {
    /// All of it.
    Whole(Bytes),
    /// More than that: what was read, and the rest.
    TooLarge(Buffered<B>),
}

/// Reads a body up to a limit. Trailers are dropped: what is kept has none.
pub(super) async fn read<B>(mut body: B, bytes_max: usize) -> Result<Read<B>, B::Error>
where
    B: Body<Data = Bytes> + Unpin,
{
    if body.size_hint().lower() > bytes_max as u64 {
        return Ok(Read::TooLarge(Buffered::unread(body)));
    }
    let mut first = Bytes::new();
    let mut more = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        // most bodies are one frame, which is kept as it is
        if first.is_empty() && more.is_empty() {
            first = data;
        } else {
            if more.is_empty() {
                more.extend_from_slice(&first);
            }
            more.extend_from_slice(&data);
        }
        if first.len().max(more.len()) > bytes_max {
            let read = if more.is_empty() { first } else { more.freeze() };
            return Ok(Read::TooLarge(Buffered { read: Some(read), rest: Some(body) }));
        }
    }
    Ok(Read::Whole(if more.is_empty() { first } else { more.freeze() }))
}

impl<B: Body<Data = Bytes>> Body for Buffered<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        if let Some(bytes) = this.read.take().filter(|bytes| !bytes.is_empty()) {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        match this.rest.as_pin_mut() {
            Some(rest) => rest.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.as_ref().is_none_or(Bytes::is_empty) && self.rest.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.read.as_ref().map_or(0, Bytes::len) as u64;
        let Some(rest) = &self.rest else { return SizeHint::with_exact(read) };
        let rest = rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read)) {
            hint.set_upper(upper);
        }
        hint
    }
}
