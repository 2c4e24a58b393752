//! A body that can be sent again for as long as little of it was sent.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;

use super::body::{BodyError, RequestBody};

/// Bytes that are kept to be sent again; a request of which more was sent is not tried again. Envoy's limit for a
/// connection, as Envoy Gateway sets it, is half of it.
const KEPT_BYTES: usize = 64 << 10;

/// One reading of a body. Only the last one that was begun gets anything.
pub(crate) struct Replay {
    source: Arc<Mutex<Source>>,
    turn: u32,
    /// Pieces of what is kept that it has given out.
    at: usize,
}

/// A client's body, and what was read of it.
struct Source {
    body: RequestBody,
    /// As the client announced it.
    length: SizeHint,
    kept: Vec<Bytes>,
    bytes: usize,
    /// More was read than is kept.
    over: bool,
    ended: bool,
    trailers: Option<HeaderMap>,
    turn: u32,
}

impl Replay {
    pub(crate) fn new(body: RequestBody) -> Self {
        let length = body.size_hint();
        let source =
            Source { body, length, kept: Vec::new(), bytes: 0, over: false, ended: false, trailers: None, turn: 0 };
        Replay { source: Arc::new(Mutex::new(source)), turn: 0, at: 0 }
    }

    /// Another reading, which has not begun.
    pub(crate) fn again(&self) -> Self {
        Replay { source: Arc::clone(&self.source), turn: self.turn, at: 0 }
    }

    /// Begins this reading, which ends all others; `None` when its beginning is not there any more.
    pub(crate) fn rewound(mut self) -> Option<Self> {
        let mut source = self.source.lock();
        if source.over {
            return None;
        }
        source.turn += 1;
        self.turn = source.turn;
        drop(source);
        Some(self)
    }

    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let source = &mut *self.source.lock();
        if source.turn != self.turn {
            return Poll::Ready(Some(Err("the request is sent elsewhere".into())));
        }
        if let Some(piece) = source.kept.get(self.at) {
            self.at += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        if source.ended {
            // The trailers come once, after the last piece.
            let trailers = source.trailers.clone().filter(|_| self.at == source.kept.len());
            self.at = usize::MAX;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = match ready!(Pin::new(&mut source.body).poll_frame(context)) {
            None => {
                source.ended = true;
                self.at = usize::MAX;
                return Poll::Ready(None);
            }
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                source.over = true;
                return Poll::Ready(Some(Err(error)));
            }
        };
        match frame.into_data() {
            Ok(data) => {
                source.bytes += data.len();
                source.over |= source.bytes > KEPT_BYTES;
                if source.over {
                    source.kept.clear();
                } else {
                    source.kept.push(data.clone());
                    self.at = source.kept.len();
                }
                source.ended |= source.body.is_end_stream();
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                source.trailers = Some(trailers.clone());
                source.ended = true;
                self.at = usize::MAX;
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
        }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        let source = self.source.lock();
        source.ended && self.at >= source.kept.len() && (source.trailers.is_none() || self.at == usize::MAX)
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.source.lock().length
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn read(replay: &mut Replay) -> String {
        let mut text = Vec::new();
        while let Some(frame) = poll_fn(|context| replay.poll(context)).await {
            text.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    #[tokio::test]
    async fn a_small_body_is_read_as_often_as_it_takes() {
        let mut first = Replay::new(RequestBody::Whole(Some("pay".into())));
        let (second, third) = (first.again(), first.again());
        assert_eq!(first.size_hint().exact(), Some(3));
        assert_eq!(read(&mut first).await, "pay");
        assert!(first.is_end_stream());
        let mut second = second.rewound().unwrap();
        assert!(!second.is_end_stream() && second.size_hint().exact() == Some(3));
        let mut third = third.rewound().unwrap();
        assert!(poll_fn(|context| second.poll(context)).await.unwrap().is_err(), "the newest one gets it");
        assert_eq!(read(&mut third).await, "pay");
    }

    #[tokio::test]
    async fn what_is_too_long_is_read_once() {
        let long = "x".repeat(KEPT_BYTES + 1);
        let mut first = Replay::new(RequestBody::Whole(Some(long.clone().into())));
        let again = first.again();
        assert_eq!(read(&mut first).await, long);
        assert!(again.rewound().is_none());
    }
}
