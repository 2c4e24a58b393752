//! Bodies of answers that are changed on their way to the client.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body as _, Frame};

use super::{BodyError, ResponseBody};

/// Changes a body piece by piece.
pub(crate) trait Change: Send {
    /// What becomes of a piece; nothing where it is held back.
    fn piece(&mut self, data: Bytes) -> Result<Bytes, BodyError>;

    /// What is held back and can be given out, now that the backend makes a pause.
    fn pause(&mut self) -> Result<Bytes, BodyError>;

    /// What comes after the last piece.
    fn end(&mut self) -> Result<Bytes, BodyError>;
}

/// A body that is changed.
pub(crate) struct Through {
    body: ResponseBody,
    change: Box<dyn Change>,
    state: State,
}

/// How far a changed body is.
enum State {
    /// There may be more; whether something came since the last pause.
    Reading(bool),
    /// All came; the fields after it are left.
    Ended(Option<HeaderMap>),
}

impl ResponseBody {
    /// This body, changed on its way.
    pub(crate) fn through(self, change: Box<dyn Change>) -> ResponseBody {
        let state = State::Reading(false);
        ResponseBody::Changed(Box::new(Through { body: self, change, state }))
    }
}

impl Through {
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let State::Reading(fresh) = &mut self.state else { return Poll::Ready(self.trailers()) };
            let change = &mut self.change;
            let (made, ended) = match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Pending if !std::mem::take(fresh) => return Poll::Pending,
                // Who writes now and then means every piece to arrive.
                Poll::Pending => (change.pause(), None),
                Poll::Ready(None) => (change.end(), Some(None)),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => {
                        *fresh = true;
                        (change.piece(data), None)
                    }
                    Err(frame) => (change.end(), Some(frame.into_trailers().ok())),
                },
            };
            if let Some(trailers) = ended {
                self.state = State::Ended(trailers);
            }
            match made {
                Ok(made) if made.is_empty() => {}
                Ok(made) => return Poll::Ready(Some(Ok(Frame::data(made)))),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    fn trailers(&mut self) -> Option<Result<Frame<Bytes>, BodyError>> {
        match &mut self.state {
            State::Ended(trailers) => trailers.take().map(|trailers| Ok(Frame::trailers(trailers))),
            State::Reading(_) => None,
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match &self.state {
            State::Ended(trailers) => trailers.is_none(),
            State::Reading(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes everything twice, and says at the end that it did.
    struct Twice;

    impl Change for Twice {
        fn piece(&mut self, data: Bytes) -> Result<Bytes, BodyError> {
            Ok([&data[..], &data[..]].concat().into())
        }

        fn pause(&mut self) -> Result<Bytes, BodyError> {
            Ok(Bytes::new())
        }

        fn end(&mut self) -> Result<Bytes, BodyError> {
            Ok(Bytes::from_static(b"."))
        }
    }

    fn own(text: &'static str) -> ResponseBody {
        ResponseBody::Own(Some(Bytes::from_static(text.as_bytes())))
    }

    async fn read(body: ResponseBody) -> Bytes {
        http_body_util::BodyExt::collect(body).await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn pieces_are_changed_and_something_comes_after_the_last() {
        assert_eq!(read(own("ab").through(Box::new(Twice))).await, "abab.");
        assert_eq!(read(ResponseBody::Own(None).through(Box::new(Twice))).await, ".");
        assert_eq!(read(own("a").through(Box::new(Twice)).through(Box::new(Twice))).await, "aaaa...");
    }
}
