//! Bodies on their way through.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::{
    sync::mpsc,
    time::{Instant, Sleep},
};

use super::{
    exchange::Held,
    replay::Replay,
    upstream::{Connection, Line, Pool},
};

/// Why a body broke off.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request to a backend.
pub(crate) enum RequestBody {
    /// All of it, in memory: the request can be sent again.
    Whole(Option<Bytes>),
    /// The client's body, which is gone once it was read.
    Stream {
        body: Incoming,
        /// Set once it was read to its end: until then the backend's connection cannot take another request.
        ended: Arc<AtomicBool>,
        /// Get what passes through; one that is too slow gets no more.
        copies: Vec<Tap>,
    },
    /// What passes through another body.
    Copy(Tapped),
    /// The client's body, the beginning of which is kept.
    Replay(Replay),
}

/// Where what passes through a body is copied to.
pub(crate) struct Tap {
    pieces: mpsc::Sender<Piece>,
    /// Bytes that were not taken yet.
    waiting: Arc<AtomicUsize>,
}

impl Tap {
    /// Says whether there is room for it.
    fn copy(&self, data: &Bytes) -> bool {
        let waiting = self.waiting.fetch_add(data.len(), Ordering::Relaxed) + data.len();
        waiting <= WAITING_BYTES && self.pieces.try_send(Piece::Data(data.clone())).is_ok()
    }
}

/// The other end of a [`Tap`].
pub(crate) struct Tapped {
    pieces: mpsc::Receiver<Piece>,
    waiting: Arc<AtomicUsize>,
}

/// A part of a body that is copied.
pub(crate) enum Piece {
    Data(Bytes),
    /// It was whole; without this it broke off.
    End,
}

/// Bytes of a body that wait for a slow copy. With more the copy breaks off: nobody waits for it.
const WAITING_BYTES: usize = 1 << 20;

/// Pieces that wait, whatever their size: each costs some memory besides its bytes.
const WAITING_PIECES: usize = 4096;

impl RequestBody {
    pub(crate) fn new(body: Incoming) -> Self {
        if body.is_end_stream() {
            RequestBody::Whole(None)
        } else {
            RequestBody::Stream { body, ended: Arc::new(AtomicBool::new(false)), copies: Vec::new() }
        }
    }

    /// Reads a body that says it is no longer than `limit` into memory; others stay streams.
    pub(crate) async fn keep(self, limit: u64) -> Result<Self, hyper::Error> {
        let RequestBody::Stream { mut body, ended, copies } = self else { return Ok(self) };
        if body.size_hint().exact().is_none_or(|len| len > limit) {
            return Ok(RequestBody::Stream { body, ended, copies });
        }
        let mut whole = Vec::new();
        while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            if let Ok(data) = frame?.into_data() {
                whole.extend_from_slice(&data);
            }
        }
        Ok(RequestBody::Whole(Some(whole.into())))
    }

    /// A body that gets what passes through this one.
    pub(crate) fn copy(&mut self) -> RequestBody {
        match self {
            RequestBody::Whole(bytes) => RequestBody::Whole(bytes.clone()),
            RequestBody::Stream { copies, .. } => {
                let ((sender, pieces), waiting) = (mpsc::channel(WAITING_PIECES), Arc::<AtomicUsize>::default());
                copies.push(Tap { pieces: sender, waiting: Arc::clone(&waiting) });
                RequestBody::Copy(Tapped { pieces, waiting })
            }
            RequestBody::Copy(_) | RequestBody::Replay(_) => RequestBody::Whole(None),
        }
    }

    /// Keeps the beginning of a body that would be gone once it was read.
    pub(crate) fn replayed(self) -> RequestBody {
        match self {
            RequestBody::Stream { .. } => RequestBody::Replay(Replay::new(self)),
            RequestBody::Whole(_) | RequestBody::Copy(_) | RequestBody::Replay(_) => self,
        }
    }

    /// The same body once more, if it can be had; it must be [rewound](Self::rewound) to be read.
    pub(crate) fn again(&self) -> Option<RequestBody> {
        match self {
            RequestBody::Whole(bytes) => Some(RequestBody::Whole(bytes.clone())),
            RequestBody::Replay(replay) => Some(RequestBody::Replay(replay.again())),
            RequestBody::Stream { .. } | RequestBody::Copy(_) => None,
        }
    }

    /// Begins to read anew; `None` when the beginning is gone.
    pub(crate) fn rewound(self) -> Option<RequestBody> {
        match self {
            RequestBody::Replay(replay) => replay.rewound().map(RequestBody::Replay),
            RequestBody::Whole(_) | RequestBody::Stream { .. } | RequestBody::Copy(_) => Some(self),
        }
    }

    /// Tells later whether the body was read to its end.
    pub(crate) fn ended(&self) -> Ended {
        match self {
            RequestBody::Whole(_) | RequestBody::Copy(_) | RequestBody::Replay(_) => Ended(None),
            RequestBody::Stream { ended, .. } => Ended(Some(Arc::clone(ended))),
        }
    }
}

/// Whether a request's body was sent whole.
pub(crate) struct Ended(Option<Arc<AtomicBool>>);

impl Ended {
    fn get(&self) -> bool {
        self.0.as_ref().is_none_or(|ended| ended.load(Ordering::Acquire))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            RequestBody::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            RequestBody::Stream { body, ended, copies } => {
                let frame = ready!(Pin::new(&mut *body).poll_frame(context));
                if let Some(Ok(frame)) = &frame
                    && let Some(data) = frame.data_ref()
                {
                    copies.retain(|copy| copy.copy(data));
                }
                if frame.is_none() || body.is_end_stream() {
                    ended.store(true, Ordering::Release);
                    for copy in copies.drain(..) {
                        // One that takes nothing more breaks off.
                        let _ = copy.pieces.try_send(Piece::End);
                    }
                }
                Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)))
            }
            RequestBody::Copy(tapped) => Poll::Ready(match ready!(tapped.pieces.poll_recv(context)) {
                Some(Piece::Data(data)) => {
                    tapped.waiting.fetch_sub(data.len(), Ordering::Relaxed);
                    Some(Ok(Frame::data(data)))
                }
                Some(Piece::End) => None,
                None => Some(Err("the request broke off".into())),
            }),
            RequestBody::Replay(replay) => replay.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Whole(bytes) => bytes.is_none(),
            RequestBody::Stream { body, .. } => body.is_end_stream(),
            RequestBody::Copy(_) => false,
            RequestBody::Replay(replay) => replay.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            RequestBody::Stream { body, .. } => body.size_hint(),
            RequestBody::Copy(_) => SizeHint::default(),
            RequestBody::Replay(replay) => replay.size_hint(),
        }
    }
}

/// The body of an answer to a client.
pub(crate) enum ResponseBody {
    /// The gateway's own words.
    Own(Option<Bytes>),
    /// A backend's.
    Backend(Box<BackendBody>),
}

/// A backend's body and the connection it comes over, which goes back to the pool at its end; none for a shared one.
pub(crate) struct BackendBody {
    body: Incoming,
    connection: Option<Box<Connection>>,
    pool: Pool,
    request: Ended,
    deadline: Option<Pin<Box<Sleep>>>,
    /// Counts the request until its answer has left.
    _held: Option<Held>,
}

impl ResponseBody {
    /// The backend's body; when it is empty the connection goes back at once.
    pub(crate) async fn backend(
        body: Incoming,
        line: Line,
        pool: Pool,
        request: Ended,
        deadline: Option<Instant>,
        held: Option<Held>,
    ) -> Self {
        let deadline = deadline.map(|at| Box::pin(tokio::time::sleep_until(at)));
        let connection = match line {
            Line::One(connection) => Some(connection),
            // A shared one ends when nobody uses it.
            Line::Many(..) => None,
        };
        let mut body = BackendBody { body, connection, pool, request, deadline, _held: held };
        if body.body.is_end_stream() {
            poll_fn(|context| {
                body.release(context);
                Poll::Ready(())
            })
            .await;
            return ResponseBody::Own(None);
        }
        ResponseBody::Backend(Box::new(body))
    }
}

impl BackendBody {
    /// Gives the connection back when it can take another request.
    fn release(&mut self, context: &mut Context<'_>) {
        if let Some(mut connection) = self.connection.take()
            && self.request.get()
            && connection.poll_reusable(context)
        {
            self.pool.put(connection);
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            self.connection = None;
            return Poll::Ready(Some(Err("request timeout".into())));
        }
        let frame = match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => frame,
            // The connection makes progress only while somebody polls it.
            Poll::Pending => {
                if let Some(connection) = &mut self.connection {
                    connection.drive(context);
                }
                ready!(Pin::new(&mut self.body).poll_frame(context))
            }
        };
        if frame.is_none() || self.body.is_end_stream() {
            self.release(context);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            ResponseBody::Own(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            ResponseBody::Backend(body) => body.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Own(text) => text.is_none(),
            ResponseBody::Backend(body) => body.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, |t| t.len() as u64)),
            ResponseBody::Backend(body) => body.body.size_hint(),
        }
    }
}
