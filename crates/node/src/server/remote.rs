//! Remote command sessions (exec and attach): the streams of either transport joined to a runtime session.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use runtime::{Resizer, RuntimeError, Session, SessionInput, SessionOutput, api::TerminalSize};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};

use super::{
    spdy::{Connection, StreamReader, StreamWriter, connection::Acceptor},
    upgrade::{Offer, Transport},
    websocket::{ChannelWriter, Channels, Encoding},
};

/// What exec and attach speak.
pub(crate) const OFFER: Offer = Offer {
    websocket: &[
        "v5.channel.k8s.io",
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "channel.k8s.io",
        "base64.channel.k8s.io",
    ],
    spdy: &["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io"],
};

/// Output read at once.
const CHUNK_BYTES: usize = 32 << 10;
/// How long a SPDY client may take to open its streams, as upstream.
const STREAM_CREATION_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of resize messages kept while one is incomplete.
const RESIZE_BYTES_MAX: usize = 4096;

/// Which streams a request wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) stdout: bool,
    pub(crate) stderr: bool,
    pub(crate) tty: bool,
    /// The session ends with the client's input, because the container's stays open for the next client.
    pub(crate) ends_with_input: bool,
}

/// Writes one stream to the client.
pub(crate) enum Sink {
    Spdy(StreamWriter),
    WebSocket(ChannelWriter),
}

impl Sink {
    pub(crate) async fn send(&self, payload: Bytes) -> bool {
        match self {
            Self::Spdy(writer) => writer.send(payload).await,
            Self::WebSocket(writer) => writer.send(&payload).await,
        }
    }

    pub(crate) async fn finish(&self) {
        if let Self::Spdy(writer) = self {
            writer.finish().await;
        }
    }
}

/// The client's ends of a session.
struct Streams {
    stdin: Option<mpsc::Receiver<Bytes>>,
    stdout: Option<Sink>,
    stderr: Option<Sink>,
    error: Sink,
    resize: Option<mpsc::Receiver<Bytes>>,
    /// Whether the error stream carries a `metav1.Status` also on success (v4 and later).
    structured: bool,
    /// Whether the session ends with `stdin`.
    ends_with_input: bool,
    /// Keeps a SPDY connection open until the session is over.
    _acceptor: Option<Acceptor>,
}

/// Serves one session over the upgraded connection; `open` starts the command once the client's streams are there.
pub(crate) async fn serve<T, F>(io: T, transport: Transport, wanted: Wanted, open: F)
where
    T: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Result<Session, RuntimeError>>,
{
    match transport {
        Transport::WebSocket(protocol) => {
            let encoding = if protocol.contains("base64") { Encoding::Base64 } else { Encoding::Binary };
            let mut channels = Channels::new(io, encoding).await;
            let streams = websocket_streams(&mut channels, &protocol, wanted);
            let session = async {
                streams.greet().await;
                streams.run(open).await;
            };
            tokio::pin!(session);
            race(channels.run(), session).await;
        }
        Transport::Spdy(protocol) => {
            let Ok((connection, acceptor)) = Connection::new(io) else { return };
            let session = async {
                let streams = spdy_streams(acceptor, &protocol, wanted);
                match tokio::time::timeout(STREAM_CREATION_TIMEOUT, streams).await {
                    Ok(Some(streams)) => streams.run(open).await,
                    _ => tracing::debug!("client did not open the streams it asked for"),
                }
            };
            tokio::pin!(session);
            race(connection.run(), session).await;
        }
    }
}

/// Runs the transport to its end and the session beside it. A client that leaves ends both; a session that ends lets
/// the transport flush and close.
async fn race<E: std::fmt::Display>(
    transport: impl Future<Output = Result<(), E>>,
    mut session: std::pin::Pin<&mut impl Future<Output = ()>>,
) {
    tokio::pin!(transport);
    let result = tokio::select! {
        result = &mut transport => result,
        () = &mut session => transport.await,
    };
    if let Err(error) = result {
        tracing::debug!(%error, "streaming connection failed");
    }
}

fn websocket_streams<T: AsyncRead + AsyncWrite + Unpin>(
    channels: &mut Channels<T>,
    protocol: &str,
    wanted: Wanted,
) -> Streams {
    Streams {
        stdin: wanted.stdin.then(|| channels.reader(0)),
        stdout: wanted.stdout.then(|| Sink::WebSocket(channels.writer(1))),
        stderr: (wanted.stderr && !wanted.tty).then(|| Sink::WebSocket(channels.writer(2))),
        error: Sink::WebSocket(channels.writer(3)),
        resize: wanted.tty.then(|| channels.reader(4)),
        structured: protocol.starts_with("v4.") || protocol.starts_with("v5."),
        ends_with_input: wanted.ends_with_input,
        _acceptor: None,
    }
}

async fn spdy_streams(mut acceptor: Acceptor, protocol: &str, wanted: Wanted) -> Option<Streams> {
    let (mut stdin, mut stdout, mut stderr, mut error, mut resize) = (None, None, None, None, None);
    let has_resize = wanted.tty && protocol != "v2.channel.k8s.io";
    let complete = |stdin: &Option<StreamReader>,
                    stdout: &Option<Sink>,
                    stderr: &Option<Sink>,
                    error: &Option<Sink>,
                    resize: &Option<StreamReader>| {
        error.is_some()
            && stdin.is_some() == wanted.stdin
            && stdout.is_some() == wanted.stdout
            && stderr.is_some() == (wanted.stderr && !wanted.tty)
            && resize.is_some() == has_resize
    };
    while !complete(&stdin, &stdout, &stderr, &error, &resize) {
        let stream = acceptor.accept().await?;
        match stream.header("streamtype") {
            Some("stdin") => stdin = Some(stream.reader),
            Some("stdout") => stdout = Some(Sink::Spdy(stream.writer)),
            Some("stderr") => stderr = Some(Sink::Spdy(stream.writer)),
            Some("error") => error = Some(Sink::Spdy(stream.writer)),
            Some("resize") => resize = Some(stream.reader),
            _ => stream.writer.reset().await,
        }
    }
    let structured = protocol.starts_with("v4.");
    let (ends_with_input, _acceptor) = (wanted.ends_with_input, Some(acceptor));
    Some(Streams { stdin, stdout, stderr, error: error?, resize, structured, ends_with_input, _acceptor })
}

impl Streams {
    /// Tells a WebSocket client that the session is open, with an empty message on its lowest readable channel.
    async fn greet(&self) {
        self.stdout.as_ref().or(self.stderr.as_ref()).unwrap_or(&self.error).send(Bytes::new()).await;
    }

    async fn run(self, open: impl Future<Output = Result<Session, RuntimeError>>) {
        let Self { stdin, stdout, stderr, error, resize, structured, ends_with_input, _acceptor } = self;
        let outcome = match open.await {
            Ok(mut session) => {
                let resizer = session.resizer();
                let input = pump_input(stdin, session.stdin.take());
                let resizes = pump_resize(resize, resizer);
                let outputs = async {
                    tokio::join!(
                        pump_output(session.stdout.take(), stdout.as_ref()),
                        pump_output(session.stderr.take(), stderr.as_ref()),
                    );
                    session.wait().await
                };
                tokio::pin!(input, resizes, outputs);
                if ends_with_input {
                    tokio::select! {
                        exit = &mut outputs => exit,
                        () = &mut input => Ok(0),
                        never = async { (&mut resizes).await; std::future::pending().await } => never,
                    }
                } else {
                    // Input may end long before the command does, never the other way round.
                    tokio::select! {
                        exit = &mut outputs => exit,
                        _ = async { tokio::join!(&mut input, &mut resizes) } => outputs.await,
                    }
                }
            }
            Err(error) => Err(error),
        };
        if let Some(report) = report(&outcome, structured) {
            error.send(report.into()).await;
        }
        for sink in [Some(error), stdout, stderr].into_iter().flatten() {
            sink.finish().await;
        }
    }
}

async fn pump_input(from: Option<mpsc::Receiver<Bytes>>, to: Option<SessionInput>) {
    let (Some(mut from), Some(mut to)) = (from, to) else { return };
    while let Some(chunk) = from.recv().await {
        if to.write_all(&chunk).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    let _closed_already = to.shutdown().await;
}

async fn pump_output(from: Option<SessionOutput>, to: Option<&Sink>) {
    let (Some(mut from), Some(to)) = (from, to) else { return };
    let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
    while matches!(from.read_buf(&mut chunk).await, Ok(count) if count > 0) {
        if !to.send(chunk.split().freeze()).await {
            return;
        }
        chunk.reserve(CHUNK_BYTES);
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ResizeMessage {
    width: u16,
    height: u16,
}

async fn pump_resize(from: Option<mpsc::Receiver<Bytes>>, resizer: Resizer) {
    let Some(mut from) = from else { return };
    let mut pending = Vec::new();
    while let Some(chunk) = from.recv().await {
        pending.extend_from_slice(&chunk);
        for size in take_sizes(&mut pending) {
            if let Err(error) = resizer.resize(size) {
                tracing::debug!(%error, "cannot resize terminal");
            }
        }
    }
}

/// Takes the complete JSON documents off the front of `pending`.
fn take_sizes(pending: &mut Vec<u8>) -> Vec<TerminalSize> {
    let mut sizes = Vec::new();
    let mut documents = serde_json::Deserializer::from_slice(pending).into_iter::<ResizeMessage>();
    let mut consumed = 0;
    let mut broken = false;
    for document in documents.by_ref() {
        match document {
            Ok(message) => sizes.push(TerminalSize { width: message.width, height: message.height }),
            Err(error) => {
                broken = !error.is_eof();
                break;
            }
        }
    }
    if sizes.is_empty() && !broken {
        consumed = 0;
    } else if !broken {
        consumed = documents.byte_offset();
    }
    if broken || pending.len() > RESIZE_BYTES_MAX {
        pending.clear();
    } else {
        pending.drain(..consumed);
    }
    sizes
}

/// What goes on the error stream: a `metav1.Status` from v4 on, before that only the text of a failure.
fn report(outcome: &Result<i32, RuntimeError>, structured: bool) -> Option<String> {
    let status = match outcome {
        Ok(0) if structured => json!({"metadata": {}, "status": "Success"}),
        Ok(0) => return None,
        Ok(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: {code}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(error) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("Internal error occurred: error executing command in container: {error}"),
            "reason": "InternalError",
            "details": {"causes": [{"message": format!("error executing command in container: {error}")}]},
            "code": 500,
        }),
    };
    if structured { Some(status.to_string()) } else { status["message"].as_str().map(str::to_owned) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_is_a_cause_of_the_status() {
        let status: serde_json::Value = serde_json::from_str(&report(&Ok(7), true).unwrap()).unwrap();
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "7"}));
        assert_eq!(report(&Ok(0), true).unwrap(), r#"{"metadata":{},"status":"Success"}"#);
        assert_eq!(report(&Ok(0), false), None);
        assert!(report(&Ok(7), false).unwrap().contains("exit code: 7"));
    }

    #[test]
    fn resize_messages_may_arrive_in_pieces() {
        let mut pending = br#"{"Width":80,"Height":24}{"Width":1"#.to_vec();
        assert_eq!(take_sizes(&mut pending), [TerminalSize { width: 80, height: 24 }]);
        pending.extend_from_slice(br#"00,"Height":30}"#);
        assert_eq!(take_sizes(&mut pending), [TerminalSize { width: 100, height: 30 }]);
        assert!(pending.is_empty());
        pending.extend_from_slice(b"nonsense");
        assert!(take_sizes(&mut pending).is_empty() && pending.is_empty());
    }
}
