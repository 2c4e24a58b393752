//! Asks the endpoints of backends whether they are well, where a policy wants it: one task for each view of a backend.

use std::{
    collections::HashMap,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::stream::{self, StreamExt as _};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use hyper::body::{Body as _, Incoming};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tracing::{debug, info};

use super::{
    Shared,
    answer::call_code,
    body::RequestBody,
    upstream::{Line, Way},
};
use crate::routing::{Backend, Check, Group, Health, Question, Reply};

/// Endpoints of one backend that are asked at a time.
const AT_ONCE: usize = 16;

/// Bytes of an answer that are looked at.
const ANSWER_BYTES: usize = 64 << 10;

/// Views of backends that are asked at a time: each is a task. Those beyond are used without being asked.
const TASKS: usize = 4096;

/// Begins to ask the endpoints of a backend, unless somebody does already; ends when no policy wants it any more.
pub(crate) fn watch(shared: &Arc<Shared>, backend: &Arc<Backend>, group: &Arc<Group>, http2: bool) {
    let Some(check) = group.begin_checks() else { return };
    if shared.checks.len() >= TASKS {
        debug!(backend = backend.name(), "endpoints are not asked whether they are well: too many are");
        return;
    }
    let asking = Asking {
        shared: Arc::downgrade(shared),
        backend: Arc::downgrade(backend),
        group: Arc::downgrade(group),
        check: Arc::new(check),
        http2,
    };
    let kill = shared.kill.clone();
    shared.checks.spawn(async move {
        tokio::select! {
            () = kill.cancelled() => {}
            () = asking.run() => {}
        }
    });
}

struct Asking {
    shared: Weak<Shared>,
    backend: Weak<Backend>,
    group: Weak<Group>,
    check: Arc<Check>,
    http2: bool,
}

impl Asking {
    async fn run(self) {
        tokio::time::sleep(self.check.jitter.mul_f64(rand::random())).await;
        let mut known: HashMap<SocketAddr, Health> = HashMap::new();
        while self.round(&mut known).await.is_some() {
            // A tenth of it is left to chance, so that backends are not all asked in the same moment.
            tokio::time::sleep(self.check.interval.mul_f64(0.95 + 0.1 * rand::random::<f64>())).await;
        }
    }

    /// `None` when nobody wants to know any more.
    async fn round(&self, known: &mut HashMap<SocketAddr, Health>) -> Option<()> {
        let (shared, backend) = (self.shared.upgrade()?, self.backend.upgrade()?);
        let endpoints = backend.endpoints();
        known.retain(|address, _| endpoints.contains(address));
        let way = Way::to(&backend, self.http2 || matches!(self.check.question, Question::Grpc { .. }), None);
        let mut asking = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints.iter() {
            asking.push(ask(Arc::clone(&shared), way.clone(), Arc::clone(&self.check), *endpoint));
        }
        let replies: Vec<_> = stream::iter(asking).buffer_unordered(AT_ONCE).collect().await;
        let group = self.group.upgrade().filter(|group| !group.is_orphan())?;
        for (endpoint, reply) in replies {
            let before = known.get(&endpoint).copied().unwrap_or_default();
            let after = before.after(reply, &self.check);
            if after.is_sick() != before.is_sick() {
                let (backend, sick) = (backend.name(), after.is_sick());
                info!(backend, %endpoint, sick, "an endpoint's health has changed");
            }
            known.insert(endpoint, after);
        }
        group.set_sick(|address| known.get(&address).is_some_and(|health| health.is_sick()));
        Some(())
    }
}

async fn ask(shared: Arc<Shared>, way: Way, check: Arc<Check>, endpoint: SocketAddr) -> (SocketAddr, Reply) {
    let at = SocketAddr::new(endpoint.ip(), check.port.unwrap_or(endpoint.port()));
    let reply = tokio::time::timeout(check.timeout, async {
        match &check.question {
            Question::Tcp { send, receive } => tcp(&way, at, check.timeout, send.as_ref(), receive.as_ref()).await,
            Question::Http { .. } | Question::Grpc { .. } => request(&shared, &way, &check, at).await,
        }
    });
    let reply = match reply.await {
        Ok(Ok(reply)) => reply,
        Ok(Err(error)) => {
            debug!(%endpoint, %error, "an endpoint does not say whether it is well");
            Reply::Failed
        }
        Err(_) => Reply::Failed,
    };
    (endpoint, reply)
}

/// Connects, says something, and waits for an answer that has what is expected.
async fn tcp(
    way: &Way,
    at: SocketAddr,
    limit: Duration,
    send: Option<&Bytes>,
    receive: Option<&Bytes>,
) -> io::Result<Reply> {
    let mut stream = way.connect(at, limit, false).await?;
    if let Some(send) = send {
        stream.write_all(send).await?;
    }
    let Some(expected) = receive else { return Ok(Reply::Well) };
    let mut read = BytesMut::new();
    while read.len() < ANSWER_BYTES && stream.read_buf(&mut read).await? > 0 {
        if has(&read, expected) {
            return Ok(Reply::Well);
        }
    }
    Ok(Reply::Failed)
}

fn has(bytes: &[u8], expected: &[u8]) -> bool {
    expected.is_empty() || bytes.windows(expected.len()).any(|window| window == expected)
}

async fn request(shared: &Arc<Shared>, way: &Way, check: &Check, at: SocketAddr) -> io::Result<Reply> {
    let (request, expected) = question(&check.question, way, at).map_err(io::Error::other)?;
    // On a connection of its own: whether new ones are taken is part of the question.
    let mut line = Line::single(shared, way, at, check.timeout).await?;
    let response = line.send(request).await.map_err(|failed| io::Error::other(failed.error))?;
    let (parts, body) = response.into_parts();
    let (body, trailers) = read(body, ANSWER_BYTES, |context| line.drive(context)).await?;
    Ok(judge(&check.question, parts.status, &parts.headers, trailers.as_ref(), &body, expected.as_ref()))
}

fn question(
    question: &Question,
    way: &Way,
    at: SocketAddr,
) -> Result<(Request<RequestBody>, Option<Bytes>), http::Error> {
    let (method, path, host, body, expected) = match question {
        Question::Http { method, path, host, text, .. } => (method, &**path, host.clone(), None, text.clone()),
        Question::Grpc { service } => {
            (&Method::POST, "/grpc.health.v1.Health/Check", None, Some(message(service)), None)
        }
        Question::Tcp { .. } => (&Method::GET, "/", None, None, None),
    };
    let host = host.unwrap_or_else(|| HeaderValue::try_from(at.to_string()).unwrap_or(HeaderValue::from_static("-")));
    let builder = Request::builder().method(method);
    let builder = match way.http2 {
        true => builder
            .version(http::Version::HTTP_2)
            .uri(http::Uri::builder().scheme(way.scheme()).authority(host.as_bytes()).path_and_query(path).build()?),
        false => builder.uri(path).header(header::HOST, host),
    };
    let builder = match question {
        Question::Grpc { .. } => {
            builder.header(header::CONTENT_TYPE, "application/grpc").header(header::TE, "trailers")
        }
        Question::Http { .. } | Question::Tcp { .. } => builder,
    };
    let request = builder.header(header::USER_AGENT, "keelson-health-check").body(RequestBody::Whole(body))?;
    Ok((request, expected))
}

/// A `HealthCheckRequest` as gRPC frames it: field 1 is the name of the service.
fn message(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    // The schema bounds names; one that is longer is cut rather than framed wrongly.
    let name = service.as_bytes().get(..service.len().min(127)).unwrap_or_default();
    let length = u32::try_from(name.len()).unwrap_or(0);
    message.put_u8(0);
    message.put_u32(if length == 0 { 0 } else { length + 2 });
    if length > 0 {
        message.put_u8(0x0a);
        message.put_u8(u8::try_from(length).unwrap_or(0));
        message.put_slice(name);
    }
    message.freeze()
}

/// What an answer amounts to.
fn judge(
    question: &Question,
    status: StatusCode,
    headers: &HeaderMap,
    trailers: Option<&HeaderMap>,
    body: &[u8],
    expected: Option<&Bytes>,
) -> Reply {
    match question {
        Question::Http { statuses, retriable, .. } => {
            let code = status.as_u16();
            if statuses.contains(&code) {
                let fits = expected.is_none_or(|expected| has(body, expected));
                return if fits { Reply::Well } else { Reply::Sick };
            }
            // Who can say that it is not well is not asked again, as in Envoy; only silence is.
            if retriable.contains(&code) { Reply::Failed } else { Reply::Sick }
        }
        Question::Grpc { .. } => {
            let code = trailers.and_then(call_code).or_else(|| call_code(headers));
            // The message of an answer has one field: its status, of which 1 is `SERVING`.
            let serving = body.get(5..7) == Some(&[0x08, 0x01]);
            if status == StatusCode::OK && code.unwrap_or(0) == 0 && serving { Reply::Well } else { Reply::Sick }
        }
        Question::Tcp { .. } => Reply::Failed,
    }
}

/// The beginning of a body, and the fields after it.
async fn read(
    mut body: Incoming,
    limit: usize,
    mut drive: impl FnMut(&mut std::task::Context<'_>),
) -> io::Result<(Bytes, Option<HeaderMap>)> {
    let (mut read, mut trailers) = (BytesMut::new(), None);
    while read.len() < limit {
        let frame = poll_fn(|context| {
            let polled = Pin::new(&mut body).poll_frame(context);
            if polled.is_ready() {
                return polled;
            }
            // The connection makes progress only while somebody polls it.
            drive(context);
            Pin::new(&mut body).poll_frame(context)
        });
        match frame.await.transpose().map_err(io::Error::other)? {
            None => break,
            Some(frame) => match frame.into_data() {
                Ok(data) => read.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            },
        }
    }
    Ok((read.freeze(), trailers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_framed_and_its_answer_read() {
        assert_eq!(&message("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&message("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let grpc = Question::Grpc { service: "".into() };
        let none = HeaderMap::new();
        let reply = |body: &[u8], headers| judge(&grpc, StatusCode::OK, headers, None, body, None);
        assert_eq!(reply(&[0, 0, 0, 0, 2, 8, 1], &none), Reply::Well);
        assert_eq!(reply(&[0, 0, 0, 0, 2, 8, 2], &none), Reply::Sick);
        let mut failed = HeaderMap::new();
        failed.insert("grpc-status", HeaderValue::from_static("5"));
        assert_eq!(reply(&[0, 0, 0, 0, 2, 8, 1], &failed), Reply::Sick);
    }

    #[test]
    fn statuses_tell_failures_that_may_pass_from_the_end() {
        let http = |retriable: &[u16]| Question::Http {
            method: Method::GET,
            path: "/".into(),
            host: None,
            statuses: vec![200],
            retriable: retriable.to_vec(),
            text: Some(Bytes::from_static(b"ok")),
        };
        let expected = Bytes::from_static(b"ok");
        let reply = |retriable: &[u16], status: u16, body: &[u8]| {
            let status = StatusCode::from_u16(status).unwrap();
            judge(&http(retriable), status, &HeaderMap::new(), None, body, Some(&expected))
        };
        assert_eq!(reply(&[], 200, b"all ok"), Reply::Well);
        assert_eq!((reply(&[], 200, b"no"), reply(&[], 503, b"")), (Reply::Sick, Reply::Sick));
        assert_eq!((reply(&[503], 503, b""), reply(&[503], 500, b"")), (Reply::Failed, Reply::Sick));
    }
}
