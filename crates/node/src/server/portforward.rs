//! Port forwarding: pairs of data and error streams, each pair one TCP connection into the pod.

use std::{collections::HashMap, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use runtime::RuntimeError;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
};

use super::{
    remote::Sink,
    spdy::{Connection, connection::Stream},
    upgrade::{Offer, Transport},
    websocket::{Channels, Encoding, tunnel},
};

/// The WebSocket subprotocol that carries a whole SPDY connection.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// What port forwarding speaks.
pub(crate) const OFFER: Offer = Offer {
    websocket: &[
        TUNNEL,
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "portforward.k8s.io",
        "channel.k8s.io",
        "base64.channel.k8s.io",
    ],
    spdy: &["portforward.k8s.io"],
};

/// Bytes read at once from the pod.
const CHUNK_BYTES: usize = 32 << 10;
/// Bytes between the tunnel and the SPDY connection inside it.
const TUNNEL_BUFFER_BYTES: usize = 64 << 10;
/// How long the second stream of a pair may be missing, as upstream.
const PAIR_TIMEOUT: Duration = Duration::from_secs(30);
/// Pairs waiting for their second stream; a client opens both at once.
const PENDING_PAIRS_MAX: usize = 1024;
/// Ports of one WebSocket: the channel number is one byte and two are used per port.
const WEBSOCKET_PORTS_MAX: usize = 127;

/// Connects to a port of the pod.
pub(crate) type Dial = std::sync::Arc<dyn Fn(u16) -> BoxFuture<'static, Result<TcpStream, RuntimeError>> + Send + Sync>;

/// Serves one client over the upgraded connection.
pub(crate) async fn serve<T>(io: T, transport: Transport, ports: Vec<u16>, dial: Dial)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match transport {
        Transport::Spdy(_) => serve_spdy(io, dial).await,
        Transport::WebSocket(protocol) if protocol == TUNNEL => {
            let (inner, outer) = tokio::io::duplex(TUNNEL_BUFFER_BYTES);
            let (result, ()) = tokio::join!(tunnel(io, outer), serve_spdy(inner, dial));
            if let Err(error) = result {
                tracing::debug!(%error, "port-forward tunnel failed");
            }
        }
        Transport::WebSocket(protocol) => {
            let encoding = if protocol.contains("base64") { Encoding::Base64 } else { Encoding::Binary };
            serve_channels(io, encoding, &ports, &dial).await;
        }
    }
}

async fn serve_channels<T: AsyncRead + AsyncWrite + Unpin>(io: T, encoding: Encoding, ports: &[u16], dial: &Dial) {
    let mut channels = Channels::new(io, encoding).await;
    let mut pairs = JoinSet::new();
    for (index, port) in ports.iter().take(WEBSOCKET_PORTS_MAX).enumerate() {
        let channel = index as u8 * 2;
        let pair = Pair {
            port: *port,
            input: channels.reader(channel),
            output: Sink::WebSocket(channels.writer(channel)),
            error: Sink::WebSocket(channels.writer(channel + 1)),
        };
        let dial = dial.clone();
        pairs.spawn(async move {
            let number = Bytes::copy_from_slice(&pair.port.to_le_bytes());
            pair.output.send(number.clone()).await;
            pair.error.send(number).await;
            pair.run(&dial).await;
        });
    }
    if let Err(error) = channels.run().await {
        tracing::debug!(%error, "port-forward connection failed");
    }
}

async fn serve_spdy<T: AsyncRead + AsyncWrite + Unpin>(io: T, dial: Dial) {
    let Ok((connection, mut acceptor)) = Connection::new(io) else { return };
    let accept = async {
        let mut pending: HashMap<String, (Stream, tokio::time::Instant)> = HashMap::new();
        let mut pairs = JoinSet::new();
        loop {
            let stream = tokio::select! {
                stream = acceptor.accept() => match stream { Some(stream) => stream, None => break },
                Some(_) = pairs.join_next() => continue,
            };
            let now = tokio::time::Instant::now();
            pending.retain(|_, (_, since)| now.duration_since(*since) < PAIR_TIMEOUT);
            let id = stream.header("requestid").or_else(|| stream.header("port")).unwrap_or_default().to_owned();
            let Some((other, _)) = pending.remove(&id) else {
                if pending.len() < PENDING_PAIRS_MAX {
                    pending.insert(id, (stream, now));
                } else {
                    stream.writer.reset().await;
                }
                continue;
            };
            let (data, error) =
                if stream.header("streamtype") == Some("data") { (stream, other) } else { (other, stream) };
            let Some(port) = data.header("port").and_then(|port| port.parse().ok()) else {
                data.writer.reset().await;
                error.writer.reset().await;
                continue;
            };
            let pair =
                Pair { port, input: data.reader, output: Sink::Spdy(data.writer), error: Sink::Spdy(error.writer) };
            let dial = dial.clone();
            pairs.spawn(async move { pair.run(&dial).await });
        }
    };
    let (result, ()) = tokio::join!(connection.run(), accept);
    if let Err(error) = result {
        tracing::debug!(%error, "port-forward connection failed");
    }
}

struct Pair {
    port: u16,
    input: mpsc::Receiver<Bytes>,
    output: Sink,
    error: Sink,
}

impl Pair {
    async fn run(self, dial: &Dial) {
        let Self { port, input, output, error } = self;
        match dial(port).await {
            Ok(socket) => {
                if let Err(failure) = carry(socket, input, &output).await {
                    tracing::debug!(port, error = %failure, "forwarded connection broke");
                }
            }
            Err(failure) => {
                let text = format!("error forwarding port {port} to pod: {failure}");
                error.send(text.into()).await;
            }
        }
        error.finish().await;
        output.finish().await;
    }
}

/// Copies both ways until both have ended, or the pod's side is gone for writing too.
async fn carry(socket: TcpStream, mut input: mpsc::Receiver<Bytes>, output: &Sink) -> std::io::Result<()> {
    let (mut from_pod, mut to_pod) = socket.into_split();
    let inward = async {
        while let Some(chunk) = input.recv().await {
            to_pod.write_all(&chunk).await?;
        }
        to_pod.shutdown().await
    };
    let outward = async {
        let mut chunk = BytesMut::with_capacity(CHUNK_BYTES);
        while from_pod.read_buf(&mut chunk).await? > 0 {
            if !output.send(chunk.split().freeze()).await {
                break;
            }
            chunk.reserve(CHUNK_BYTES);
        }
        Ok::<(), std::io::Error>(())
    };
    tokio::pin!(inward, outward);
    // A pod that has said everything ends the connection even if the client keeps its half open.
    tokio::select! {
        result = &mut outward => result,
        result = &mut inward => {
            result?;
            outward.await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::spdy::{Frame, FrameCodec};
    use futures::{FutureExt, SinkExt, StreamExt};
    use tokio_util::codec::Framed;

    async fn echo_server() -> (u16, tokio::task::JoinHandle<()>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let (mut reader, mut writer) = socket.split();
            tokio::io::copy(&mut reader, &mut writer).await.unwrap();
        });
        (port, task)
    }

    fn dialer() -> Dial {
        std::sync::Arc::new(|port| {
            async move {
                TcpStream::connect(("127.0.0.1", port))
                    .await
                    .map_err(|source| RuntimeError::System { action: "connect", source })
            }
            .boxed()
        })
    }

    fn open(stream: u32, kind: &str, port: u16) -> Frame {
        let headers = [("streamtype", kind), ("port", &port.to_string()), ("requestid", "0")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        Frame::SynStream { stream, fin: kind == "error", unidirectional: false, headers }
    }

    #[tokio::test]
    async fn a_spdy_pair_is_one_connection_into_the_pod() {
        let (port, echo) = echo_server().await;
        let (near, far) = tokio::io::duplex(1 << 16);
        let serving = tokio::spawn(serve(far, Transport::Spdy("portforward.k8s.io".into()), vec![], dialer()));
        let mut client = Framed::new(near, FrameCodec::new().unwrap());
        client.send(open(1, "error", port)).await.unwrap();
        client.send(open(3, "data", port)).await.unwrap();
        client.send(Frame::Data { stream: 3, fin: true, payload: Bytes::from_static(b"hello") }).await.unwrap();
        let (mut received, mut finished) = (Vec::new(), 0);
        while finished < 2 {
            if let Frame::Data { payload, fin, .. } = client.next().await.unwrap().unwrap() {
                received.extend_from_slice(&payload);
                finished += u32::from(fin);
            }
        }
        assert_eq!(received, b"hello");
        drop(client);
        serving.await.unwrap();
        echo.await.unwrap();
    }

    #[tokio::test]
    async fn a_refused_connection_is_told_on_the_error_stream() {
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let (near, far) = tokio::io::duplex(1 << 16);
        let serving = tokio::spawn(serve(far, Transport::Spdy("portforward.k8s.io".into()), vec![], dialer()));
        let mut client = Framed::new(near, FrameCodec::new().unwrap());
        client.send(open(1, "error", closed)).await.unwrap();
        client.send(open(3, "data", closed)).await.unwrap();
        let text = loop {
            if let Frame::Data { stream: 1, payload, .. } = client.next().await.unwrap().unwrap() {
                break payload;
            }
        };
        assert!(text.starts_with(format!("error forwarding port {closed} to pod").as_bytes()));
        drop(client);
        serving.await.unwrap();
    }
}
