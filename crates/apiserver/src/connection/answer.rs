//! One stream of an HTTP/2 connection: a request that is being answered, and then the answer on its way.

use std::{
    cell::RefCell,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::{Buf, Bytes};
use futures::future::BoxFuture;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Sleep;

use super::{stall::STALL_MAX, streams::Run};
use crate::{
    body::{Body, BoxError},
    proxy,
};

/// What one stream gives before the others have their turn: a list goes on for as long as its client takes more.
const TURN_BYTES: usize = 256 * 1024;
const TURN_FRAMES: usize = 4;

/// What a stream that owes nothing may give without asking whether its client's window is open. Events of a watch pass
/// for less, and it bounds, with one piece of a body, what a client that opens no window makes us keep.
const FREE_BYTES: usize = 16 * 1024;

/// Bytes on their way through the HTTP/2 library, which takes them from the front and drops what nobody wants any more.
pub(super) struct Owed {
    bytes: Bytes,
    /// How many bytes their stream owes. An answer in one piece keeps no account.
    account: Option<Arc<AtomicUsize>>,
}

impl Owed {
    fn settle(&self, bytes: usize) {
        if let Some(account) = &self.account {
            account.fetch_sub(bytes, Relaxed);
        }
    }
}

impl Buf for Owed {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.settle(count);
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.settle(self.bytes.len());
    }
}

/// A request's body.
pub(super) struct Received {
    stream: RecvStream,
    length: Option<u64>,
    is_data_over: bool,
}

impl Received {
    pub(super) fn new(stream: RecvStream, headers: &HeaderMap) -> Self {
        let declared = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let length = if stream.is_end_stream() { Some(0) } else { declared };
        Self { stream, length, is_data_over: false }
    }
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if !self.is_data_over {
            match ready!(self.stream.poll_data(cx)).transpose()? {
                Some(data) => {
                    self.length = self.length.map(|length| length.saturating_sub(data.len() as u64));
                    self.stream.flow_control().release_capacity(data.len())?;
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                None => self.is_data_over = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx))?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// One stream.
pub(super) enum Stream {
    Handling { handling: BoxFuture<'static, Response<Body>>, reply: SendResponse<Owed> },
    Giving(Giving),
}

/// An answer on its way.
pub(super) struct Giving {
    body: Body,
    to: SendStream<Owed>,
    owed: Arc<AtomicUsize>,
    pause: Pause,
    /// What was owed when the wait for the client began, and how long it may last.
    stalled: Option<(usize, Pin<Box<Sleep>>)>,
}

/// Why an answer does not go on for now.
#[derive(Clone, Copy, PartialEq)]
enum Pause {
    /// There is nothing to give: a watch may well be silent for an hour.
    Quiet,
    /// It has given enough for one turn.
    Resting,
    /// Its client takes no more.
    Waiting,
}

impl Run for Stream {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self {
                Self::Giving(giving) => return giving.poll(cx),
                Self::Handling { handling, reply } => match handling.as_mut().poll(cx) {
                    Poll::Ready(response) => match begin(response, reply) {
                        Some(giving) => *self = Self::Giving(giving),
                        None => return Poll::Ready(()),
                    },
                    // the client may have lost interest
                    Poll::Pending => return reply.poll_reset(cx).map(drop),
                },
            }
        }
    }

    fn is_quiet(&self) -> bool {
        matches!(self, Self::Giving(giving) if giving.pause == Pause::Quiet)
    }
}

/// Sends the head of an answer; what is left to do is to give its body, if it has one.
fn begin(response: Response<Body>, reply: &mut SendResponse<Owed>) -> Option<Giving> {
    let (head, body) = response.into_parts();
    let mut response = Response::from_parts(head, ());
    let headers = response.headers_mut();
    proxy::drop_hop_by_hop(headers);
    if !headers.contains_key(header::DATE) {
        headers.insert(header::DATE, date());
    }
    let is_end = body.is_end_stream();
    if !is_end
        && let Some(length) = body.size_hint().exact()
        && !headers.contains_key(header::CONTENT_LENGTH)
    {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    match reply.send_response(response, is_end) {
        Ok(_) if is_end => None,
        Ok(to) => Some(Giving::new(body, to)),
        Err(error) => {
            tracing::debug!(%error, "the head of an answer was not sent");
            reply.send_reset(Reason::INTERNAL_ERROR);
            None
        }
    }
}

thread_local! {
    /// The second that was told last, and how.
    static DATE: RefCell<(u64, HeaderValue)> = const { RefCell::new((0, HeaderValue::from_static(""))) };
}

/// The time, as answers tell it.
fn date() -> HeaderValue {
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    DATE.with_borrow_mut(|(told, value)| {
        if *told != second
            && let Ok(text) = HeaderValue::from_str(&httpdate::fmt_http_date(now))
        {
            (*told, *value) = (second, text);
        }
        value.clone()
    })
}

impl Giving {
    fn new(body: Body, to: SendStream<Owed>) -> Self {
        Self { body, to, owed: Arc::default(), pause: Pause::Resting, stalled: None }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (mut frames, mut bytes) = (0, 0);
        let owes_nothing = self.owed.load(Relaxed) == 0;
        loop {
            if frames >= TURN_FRAMES || bytes >= TURN_BYTES {
                (self.pause, self.stalled) = (Pause::Resting, None);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if !(owes_nothing && bytes < FREE_BYTES) {
                match self.poll_window(cx) {
                    Poll::Ready(true) => self.stalled = None,
                    Poll::Ready(false) => return Poll::Ready(()),
                    Poll::Pending => return self.poll_stalled(cx),
                }
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(frame) => match self.give(frame) {
                    Some(given) => (frames, bytes) = (frames + 1, bytes + given),
                    None => return Poll::Ready(()),
                },
                Poll::Pending => {
                    (self.pause, self.stalled) = (Pause::Quiet, None);
                    return self.to.poll_reset(cx).map(drop);
                }
            }
        }
    }

    /// Waits until the client's window has room beyond what waits for it already; false when the client is gone.
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.to.reserve_capacity(1);
        while self.to.capacity() == 0 {
            if !matches!(ready!(self.to.poll_capacity(cx)), Some(Ok(_))) {
                return Poll::Ready(false);
            }
        }
        Poll::Ready(true)
    }

    /// Waits for the client, but not for ever.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.pause = Pause::Waiting;
        loop {
            let owed = self.owed.load(Relaxed);
            let wait = || (owed, Box::pin(tokio::time::sleep(STALL_MAX)));
            let (since, sleep) = self.stalled.get_or_insert_with(wait);
            ready!(sleep.as_mut().poll(cx));
            if *since == owed {
                break;
            }
            // it took something
            self.stalled = None;
        }
        tracing::debug!("a stream was reset whose client stopped reading");
        self.to.send_reset(Reason::CANCEL);
        Poll::Ready(())
    }

    /// Hands over what the body gave and says how much that was; `None` when the answer is over.
    fn give(&mut self, frame: Option<Result<Frame<Bytes>, BoxError>>) -> Option<usize> {
        let frame = match frame.transpose() {
            Ok(frame) => frame,
            Err(error) => {
                tracing::debug!(error, "an answer broke off");
                self.to.send_reset(Reason::INTERNAL_ERROR);
                return None;
            }
        };
        let sent = match frame.map(Frame::into_data) {
            None => self.to.send_data(Owed { bytes: Bytes::new(), account: None }, true).and(Ok(None)),
            Some(Ok(data)) => self.give_data(data),
            Some(Err(frame)) => match frame.into_trailers() {
                Ok(trailers) => self.to.send_trailers(trailers).and(Ok(None)),
                // there are no other kinds
                Err(_) => Ok(Some(0)),
            },
        };
        sent.unwrap_or_else(|error| {
            tracing::debug!(%error, "an answer was not taken");
            None
        })
    }

    fn give_data(&mut self, bytes: Bytes) -> Result<Option<usize>, h2::Error> {
        let (len, is_end) = (bytes.len(), self.body.is_end_stream());
        let account = (!is_end).then(|| {
            self.owed.fetch_add(len, Relaxed);
            self.owed.clone()
        });
        self.to.send_data(Owed { bytes, account }, is_end)?;
        Ok((!is_end).then_some(len))
    }
}

#[cfg(test)]
mod tests;
