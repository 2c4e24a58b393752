//! Bodies on their way through.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
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

mod through;

pub(crate) use through::Change;

/// Why a body broke off.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request to a backend.
pub(crate) enum RequestBody {
    /// All of it, in memory: the request can be sent again.
    Whole(Option<Bytes>),
    /// The client's body, which is gone once it was read.
    Stream(Box<ClientBody>),
    /// What passes through another body.
    Copy(Tapped),
    /// The client's body, the beginning of which is kept.
    Replay(Replay),
}

/// A client's body.
pub(crate) struct ClientBody {
    body: Incoming,
    fate: Arc<Fate>,
    /// Get what passes through; one that is too slow gets no more.
    copies: Vec<Tap>,
    patience: Patience,
    /// Bytes that it may still have.
    left: u64,
    /// Waits for the client; made when there is something to wait for.
    waiting: Option<Pin<Box<Sleep>>>,
}

/// How long a client may take for a body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Without anything of it, and without an answer.
    pub(crate) silence: Option<Duration>,
    /// For all of it.
    pub(crate) until: Option<Instant>,
}

/// How long a client may be silent in the middle of a body: as long as the common servers wait.
const SILENCE: Duration = Duration::from_secs(60);

impl Default for Patience {
    fn default() -> Self {
        Patience { silence: Some(SILENCE), until: None }
    }
}

/// What became of a body.
#[derive(Debug, Default)]
pub(crate) struct Fate {
    state: AtomicU8,
    /// Pieces of it that came.
    pieces: AtomicU32,
    /// The answer has begun.
    answered: AtomicBool,
}

/// States of a [`Fate`]; 0 as long as it is read.
const ENDED: u8 = 1;
const BROKEN: u8 = 2;
const SLOW: u8 = 3;
const LONG: u8 = 4;

/// A client that takes too long for a body.
#[derive(Debug, thiserror::Error)]
#[error("the client takes too long for the body of its request")]
struct TooSlow;

/// A body that is longer than a policy permits.
#[derive(Debug, thiserror::Error)]
#[error("the body of the request is too long")]
struct TooLong;

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
            let (fate, patience) = (Arc::default(), Patience::default());
            RequestBody::Stream(Box::new(ClientBody {
                body,
                fate,
                copies: Vec::new(),
                patience,
                left: u64::MAX,
                waiting: None,
            }))
        }
    }

    /// Lets the client take so long.
    pub(crate) fn within(mut self, patience: Patience) -> Self {
        if let RequestBody::Stream(client) = &mut self {
            client.patience = patience;
        }
        self
    }

    /// Lets the client be silent, unless a policy says for how long.
    pub(crate) fn be_patient(&mut self) {
        if let RequestBody::Stream(client) = self
            && client.patience.silence == Some(SILENCE)
        {
            client.patience.silence = None;
        }
    }

    /// Reads a body that says it is no longer than `limit` into memory; others stay streams.
    pub(crate) async fn keep(self, limit: u64) -> Result<Self, BodyError> {
        match &self {
            RequestBody::Stream(client) if client.body.size_hint().exact().is_some_and(|len| len <= limit) => {}
            _ => return Ok(self),
        }
        match self.whole(usize::try_from(limit).unwrap_or(usize::MAX)).await? {
            Some(whole) => Ok(whole),
            None => Err("the body is longer than it said".into()),
        }
    }

    /// Reads a body into memory; `None` when it is longer than `limit`. Fields after it are not kept.
    pub(crate) async fn whole(mut self, limit: usize) -> Result<Option<Self>, BodyError> {
        if matches!(self, RequestBody::Whole(_)) {
            let fits = self.size_hint().upper().is_some_and(|len| len <= limit as u64);
            return Ok(fits.then_some(self));
        }
        if self.size_hint().lower() > limit as u64 {
            return Ok(None);
        }
        let mut whole = Vec::new();
        while let Some(frame) = poll_fn(|context| Pin::new(&mut self).poll_frame(context)).await {
            if let Ok(data) = frame?.into_data() {
                if whole.len() + data.len() > limit {
                    return Ok(None);
                }
                whole.extend_from_slice(&data);
            }
        }
        Ok(Some(RequestBody::Whole(Some(whole.into()))))
    }

    /// Breaks a body off that turns out to be longer than this.
    pub(crate) fn no_longer_than(&mut self, most: u64) {
        if let RequestBody::Stream(client) = self {
            client.left = most;
        }
    }

    /// A body that gets what passes through this one.
    pub(crate) fn copy(&mut self) -> RequestBody {
        match self {
            RequestBody::Whole(bytes) => RequestBody::Whole(bytes.clone()),
            RequestBody::Stream(client) => {
                let ((sender, pieces), waiting) = (mpsc::channel(WAITING_PIECES), Arc::<AtomicUsize>::default());
                client.copies.push(Tap { pieces: sender, waiting: Arc::clone(&waiting) });
                RequestBody::Copy(Tapped { pieces, waiting })
            }
            RequestBody::Copy(_) | RequestBody::Replay(_) => RequestBody::Whole(None),
        }
    }

    /// Keeps the beginning of a body that would be gone once it was read.
    pub(crate) fn replayed(self) -> RequestBody {
        match self {
            RequestBody::Stream(_) => RequestBody::Replay(Replay::new(self)),
            RequestBody::Whole(_) | RequestBody::Copy(_) | RequestBody::Replay(_) => self,
        }
    }

    /// The same body once more, if it can be had; it must be [rewound](Self::rewound) to be read.
    pub(crate) fn again(&self) -> Option<RequestBody> {
        match self {
            RequestBody::Whole(bytes) => Some(RequestBody::Whole(bytes.clone())),
            RequestBody::Replay(replay) => Some(RequestBody::Replay(replay.again())),
            RequestBody::Stream(_) | RequestBody::Copy(_) => None,
        }
    }

    /// Begins to read anew; `None` when the beginning is gone.
    pub(crate) fn rewound(self) -> Option<RequestBody> {
        match self {
            RequestBody::Replay(replay) => replay.rewound().map(RequestBody::Replay),
            RequestBody::Whole(_) | RequestBody::Stream(_) | RequestBody::Copy(_) => Some(self),
        }
    }

    /// Tells later whether the body was read to its end.
    pub(crate) fn ended(&self) -> Ended {
        match self {
            RequestBody::Whole(_) | RequestBody::Copy(_) | RequestBody::Replay(_) => Ended(None),
            RequestBody::Stream(client) => Ended(Some(Arc::clone(&client.fate))),
        }
    }
}

/// Whether a request's body was sent whole.
#[derive(Clone)]
pub(crate) struct Ended(Option<Arc<Fate>>);

impl Ended {
    fn state(&self) -> u8 {
        self.0.as_ref().map_or(ENDED, |fate| fate.state.load(Ordering::Acquire))
    }

    /// Until then the backend's connection cannot take another request.
    pub(crate) fn get(&self) -> bool {
        self.state() == ENDED
    }

    /// What a client is told whose body was the reason that there is no answer.
    pub(crate) fn blame(&self) -> Option<StatusCode> {
        match self.state() {
            SLOW => Some(StatusCode::REQUEST_TIMEOUT),
            LONG => Some(StatusCode::PAYLOAD_TOO_LARGE),
            BROKEN => Some(StatusCode::BAD_REQUEST),
            _ => None,
        }
    }

    /// The answer has begun: from now on the client need not hurry.
    pub(crate) fn answered(&self) {
        if let Some(fate) = &self.0 {
            fate.answered.store(true, Ordering::Release);
        }
    }

    /// Pieces of the body that came so far.
    pub(crate) fn pieces(&self) -> u32 {
        self.0.as_ref().map_or(0, |fate| fate.pieces.load(Ordering::Relaxed))
    }
}

impl ClientBody {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            return self.wait(context);
        };
        self.waiting = None;
        self.fate.pieces.fetch_add(1, Ordering::Relaxed);
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    match self.left.checked_sub(data.len() as u64) {
                        Some(left) => self.left = left,
                        None => {
                            self.fate.state.store(LONG, Ordering::Release);
                            return Poll::Ready(Some(Err(TooLong.into())));
                        }
                    }
                    self.copies.retain(|copy| copy.copy(data));
                }
            }
            Some(Err(_)) => self.fate.state.store(BROKEN, Ordering::Release),
            None => {}
        }
        if frame.is_none() || self.body.is_end_stream() {
            self.fate.state.store(ENDED, Ordering::Release);
            for copy in self.copies.drain(..) {
                // One that takes nothing more breaks off.
                let _ = copy.pieces.try_send(Piece::End);
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)))
    }

    /// Nothing is there; waits for as long as the client may take. Time in which nobody asks for the body does not count
    /// against it, for then there is something when it is asked for again.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Patience { silence, until } = self.patience;
        let silent = silence.map(|silence| Instant::now() + silence);
        let Some(at) = silent.into_iter().chain(until).min() else { return Poll::Pending };
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        ready!(waiting.as_mut().poll(context));
        if self.fate.answered.load(Ordering::Acquire) {
            self.patience = Patience { silence: None, until: None };
            return Poll::Pending;
        }
        self.fate.state.store(SLOW, Ordering::Release);
        Poll::Ready(Some(Err(TooSlow.into())))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            RequestBody::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            RequestBody::Stream(client) => client.poll(context),
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
            RequestBody::Stream(client) => client.body.is_end_stream(),
            RequestBody::Copy(_) => false,
            RequestBody::Replay(replay) => replay.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            RequestBody::Stream(client) => client.body.size_hint(),
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
    /// Another one, changed on its way.
    Changed(Box<through::Through>),
    /// One of which the beginning was read.
    Begun(Option<Bytes>, Box<ResponseBody>),
}

/// A backend's body and the connection it comes over, which goes back to the pool at its end; none for a shared one.
pub(crate) struct BackendBody {
    body: Incoming,
    connection: Option<Box<Connection>>,
    pool: Pool,
    request: Ended,
    deadline: Option<Pin<Box<Sleep>>>,
    /// How long the backend may be silent.
    silence: Option<(Duration, Pin<Box<Sleep>>)>,
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
        let mut body = BackendBody { body, connection, pool, request, deadline, silence: None, _held: held };
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

impl ResponseBody {
    /// Breaks off when the backend is silent for so long.
    pub(crate) fn unless_silent(mut self, silence: Option<Duration>) -> Self {
        if let (ResponseBody::Backend(body), Some(silence)) = (&mut self, silence) {
            body.silence = Some((silence, Box::pin(tokio::time::sleep(silence))));
        }
        self
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
                let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
                    return self.wait(context);
                };
                frame
            }
        };
        if let Some((silence, sleep)) = &mut self.silence {
            sleep.as_mut().reset(Instant::now() + *silence);
        }
        if frame.is_none() || self.body.is_end_stream() {
            self.release(context);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)))
    }

    /// Nothing is there.
    fn wait(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some((_, sleep)) = &mut self.silence else { return Poll::Pending };
        ready!(sleep.as_mut().poll(context));
        self.connection = None;
        Poll::Ready(Some(Err("the backend is silent for too long".into())))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            ResponseBody::Own(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            ResponseBody::Backend(body) => body.poll(context),
            ResponseBody::Changed(body) => body.poll(context),
            ResponseBody::Begun(begun, rest) => match begun.take() {
                Some(begun) => Poll::Ready(Some(Ok(Frame::data(begun)))),
                None => Pin::new(&mut **rest).poll_frame(context),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Own(text) => text.is_none(),
            ResponseBody::Backend(body) => body.body.is_end_stream(),
            ResponseBody::Changed(body) => body.is_end_stream(),
            ResponseBody::Begun(begun, rest) => begun.is_none() && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Own(text) => SizeHint::with_exact(text.as_ref().map_or(0, |t| t.len() as u64)),
            ResponseBody::Backend(body) => body.body.size_hint(),
            ResponseBody::Changed(_) => SizeHint::default(),
            ResponseBody::Begun(begun, rest) => {
                let (read, rest) = (begun.as_ref().map_or(0, |begun| begun.len() as u64), rest.size_hint());
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower().saturating_add(read));
                if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(read)) {
                    hint.set_upper(upper);
                }
                hint
            }
        }
    }
}
