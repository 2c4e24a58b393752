//! What is told of requests of clients in the mesh, once the last of an answer has left or it broke off.

use std::{
    fmt::Debug,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Version, header};
use hyper::body::{Body as _, Frame, Incoming};

use super::{
    answer::{Answer, call_code, is_grpc},
    body::BodyError,
};
use crate::routing::{Backend, Owner};

/// Says in which trace a request is (W3C Trace Context). It is passed on as it came, like every header.
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Is told of requests.
pub trait Observer: Debug + Send + Sync {
    /// A request is over.
    fn over(&self, exchange: &Exchanged);
}

/// A request, and what came of it.
#[derive(Clone, Debug)]
pub struct Exchanged {
    /// The method.
    pub method: Method,
    /// The host, as it was sent.
    pub authority: Option<HeaderValue>,
    /// The path without the query, which may hold secrets.
    pub path: Box<str>,
    /// The version of HTTP that the client speaks.
    pub version: Version,
    /// Whether it is a call of gRPC.
    pub grpc: bool,
    /// In which trace it is.
    pub trace: Option<HeaderValue>,
    /// By which name others know it.
    pub id: Option<HeaderValue>,
    /// Bytes of its body, where it says how many there are.
    pub received: Option<u64>,
    /// The status of the answer.
    pub status: StatusCode,
    /// The code of gRPC there.
    pub code: Option<u16>,
    /// Which way it went; `None` where no rule took it or it went nowhere.
    pub went: Option<Went>,
    /// Who answered; `None` where the proxy did.
    pub endpoint: Option<SocketAddr>,
    /// Bytes of the answer's body.
    pub sent: u64,
    /// How long it took.
    pub duration: Duration,
    /// Whether all of the answer was sent.
    pub whole: bool,
}

/// Which way a request went.
#[derive(Clone, Debug)]
pub struct Went {
    /// Whose rule took it.
    pub route: Owner,
    /// Its name there.
    pub rule: Option<Box<str>>,
    /// Where it was sent.
    pub backend: Arc<Backend>,
}

/// Who answered a request.
#[derive(Clone, Copy)]
pub(crate) struct Answerer(pub(crate) SocketAddr);

/// A request that is told of when this is dropped.
pub(crate) struct Account {
    exchange: Exchanged,
    since: Instant,
    observer: Arc<dyn Observer>,
}

impl Account {
    /// A request comes in.
    pub(crate) fn of(observer: &Arc<dyn Observer>, request: &Request<Incoming>) -> Box<Self> {
        let headers = request.headers();
        let authority = request.uri().authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        let exchange = Exchanged {
            method: request.method().clone(),
            authority: authority.or_else(|| headers.get(header::HOST).cloned()),
            path: request.uri().path().into(),
            version: request.version(),
            grpc: is_grpc(headers),
            trace: headers.get(TRACEPARENT).cloned(),
            id: headers.get(X_REQUEST_ID).cloned(),
            received: request.body().size_hint().exact(),
            status: StatusCode::OK,
            code: None,
            went: None,
            endpoint: None,
            sent: 0,
            duration: Duration::ZERO,
            whole: false,
        };
        Box::new(Account { exchange, since: Instant::now(), observer: Arc::clone(observer) })
    }

    /// Its answer is there.
    pub(crate) fn answered(&mut self, answer: &mut Answer) {
        let exchange = &mut self.exchange;
        exchange.status = answer.status();
        exchange.code = call_code(answer.headers());
        exchange.went = answer.extensions_mut().remove();
        exchange.endpoint = answer.extensions_mut().remove().map(|Answerer(endpoint)| endpoint);
        // Of an answer to HEAD nobody reads the body.
        exchange.whole = answer.body().is_end_stream() || exchange.method == Method::HEAD;
    }

    /// A part of its answer's body leaves; whether it is the last.
    pub(crate) fn sent(&mut self, frame: &Option<Result<Frame<Bytes>, BodyError>>, last: bool) {
        let exchange = &mut self.exchange;
        match frame {
            None => exchange.whole = true,
            Some(Ok(frame)) => {
                exchange.whole |= last;
                exchange.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
                exchange.code = frame.trailers_ref().and_then(call_code).or(exchange.code);
            }
            Some(Err(_)) => {}
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.exchange.duration = self.since.elapsed();
        self.observer.over(&self.exchange);
    }
}
