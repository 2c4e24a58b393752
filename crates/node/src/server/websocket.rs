//! WebSocket transports: the channel protocols (`channel.k8s.io` and its versions) and the byte tunnel that
//! `SPDY/3.1+portforward.k8s.io` wraps around a SPDY connection.

use std::collections::HashMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error as WsError, Message,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::spdy::connection::linger;

/// Messages waiting for the transport; beyond it writers wait.
const OUTGOING_MESSAGES_MAX: usize = 32;
/// Messages waiting for one channel's consumer; beyond it the connection stops reading.
const CHANNEL_BACKLOG_MAX: usize = 16;
/// A client's message; kubectl sends at most 32 KiB at a time.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Bytes read at once from the tunnelled connection.
const TUNNEL_CHUNK_BYTES: usize = 32 << 10;
/// Channel of v5 that names a channel the client has closed.
const CLOSE_CHANNEL: u8 = 255;

/// How channel numbers and payloads are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Binary messages, one byte of channel number.
    Binary,
    /// Text messages: a digit, then base64.
    Base64,
}

/// Sends on one channel.
#[derive(Clone)]
pub(crate) struct ChannelWriter {
    channel: u8,
    encoding: Encoding,
    messages: mpsc::Sender<Message>,
}

impl ChannelWriter {
    /// Sends one payload; `false` when the connection is gone.
    pub(crate) async fn send(&self, payload: &[u8]) -> bool {
        let message = match self.encoding {
            Encoding::Binary => {
                let mut bytes = BytesMut::with_capacity(payload.len() + 1);
                bytes.extend_from_slice(&[self.channel]);
                bytes.extend_from_slice(payload);
                Message::Binary(bytes.freeze())
            }
            Encoding::Base64 => {
                let mut text = String::from(char::from(b'0' + self.channel));
                STANDARD.encode_string(payload, &mut text);
                Message::Text(text.into())
            }
        };
        self.messages.send(message).await.is_ok()
    }
}

/// One WebSocket with numbered channels.
pub(crate) struct Channels<T> {
    socket: WebSocketStream<T>,
    encoding: Encoding,
    incoming: HashMap<u8, mpsc::Sender<Bytes>>,
    messages: mpsc::Sender<Message>,
    outgoing: mpsc::Receiver<Message>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Channels<T> {
    /// Takes the upgraded connection.
    pub(crate) async fn new(io: T, encoding: Encoding) -> Self {
        let (messages, outgoing) = mpsc::channel(OUTGOING_MESSAGES_MAX);
        Self { socket: accept(io).await, encoding, incoming: HashMap::new(), messages, outgoing }
    }

    /// Registers a channel the client writes to.
    pub(crate) fn reader(&mut self, channel: u8) -> mpsc::Receiver<Bytes> {
        let (sender, receiver) = mpsc::channel(CHANNEL_BACKLOG_MAX);
        self.incoming.insert(channel, sender);
        receiver
    }

    /// A handle that writes to a channel.
    pub(crate) fn writer(&self, channel: u8) -> ChannelWriter {
        ChannelWriter { channel, encoding: self.encoding, messages: self.messages.clone() }
    }

    /// Carries messages until the client goes or every writer is dropped; the latter closes the socket in good order.
    pub(crate) async fn run(self) -> Result<(), WsError> {
        let Self { socket, encoding: _, mut incoming, messages, mut outgoing } = self;
        drop(messages);
        let (mut sink, mut source) = socket.split();
        let write = async {
            while let Some(message) = outgoing.recv().await {
                sink.feed(message).await?;
                if outgoing.is_empty() {
                    sink.flush().await?;
                }
            }
            Ok::<(), WsError>(())
        };
        let read = async {
            while let Some(message) = source.next().await {
                let (channel, payload) = match message? {
                    Message::Binary(bytes) if !bytes.is_empty() => (bytes[0], bytes.slice(1..)),
                    Message::Text(text) => match decode_base64(text.as_bytes()) {
                        Some(decoded) => decoded,
                        None => continue,
                    },
                    Message::Close(_) => break,
                    _ => continue,
                };
                if channel == CLOSE_CHANNEL {
                    payload.first().map(|closed| incoming.remove(closed));
                } else if let Some(sender) = incoming.get(&channel)
                    && !payload.is_empty()
                    && sender.send(payload).await.is_err()
                {
                    incoming.remove(&channel);
                }
            }
            Ok::<(), WsError>(())
        };
        let finished = tokio::select! {
            result = write => result.map(|()| true),
            result = read => result.map(|()| false),
        }?;
        if finished && let Ok(mut socket) = sink.reunite(source) {
            close(&mut socket).await;
        }
        Ok(())
    }
}

async fn accept<T: AsyncRead + AsyncWrite + Unpin>(io: T) -> WebSocketStream<T> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
        .read_buffer_size(TUNNEL_CHUNK_BYTES);
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

async fn close<T: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<T>) {
    let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    if socket.close(Some(frame)).await.is_ok() {
        linger(socket.get_mut()).await;
    }
}

fn decode_base64(text: &[u8]) -> Option<(u8, Bytes)> {
    let (channel, payload) = text.split_first()?;
    Some((channel.checked_sub(b'0')?, STANDARD.decode(payload).ok()?.into()))
}

/// Carries the bytes of `inner` as binary messages over the upgraded connection `io`.
pub(crate) async fn tunnel<T, I>(io: T, inner: I) -> Result<(), WsError>
where
    T: AsyncRead + AsyncWrite + Unpin,
    I: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, mut source) = accept(io).await.split();
    let (mut from_inner, mut to_inner) = tokio::io::split(inner);
    let outward = async {
        let mut chunk = BytesMut::with_capacity(TUNNEL_CHUNK_BYTES);
        while from_inner.read_buf(&mut chunk).await? > 0 {
            sink.send(Message::Binary(chunk.split().freeze())).await?;
            chunk.reserve(TUNNEL_CHUNK_BYTES);
        }
        Ok::<(), WsError>(())
    };
    let inward = async {
        while let Some(message) = source.next().await {
            match message? {
                Message::Binary(bytes) => to_inner.write_all(&bytes).await?,
                Message::Close(_) => break,
                _ => {}
            }
        }
        Ok::<(), WsError>(())
    };
    let finished = tokio::select! {
        result = outward => result.map(|()| true),
        result = inward => result.map(|()| false),
    }?;
    if finished && let Ok(mut socket) = sink.reunite(source) {
        close(&mut socket).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn client(io: tokio::io::DuplexStream) -> WebSocketStream<tokio::io::DuplexStream> {
        WebSocketStream::from_raw_socket(io, Role::Client, None).await
    }

    #[tokio::test]
    async fn v5_closes_standard_input_and_the_server_closes_the_socket() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let mut channels = Channels::new(far, Encoding::Binary).await;
        let (mut stdin, stdout) = (channels.reader(0), channels.writer(1));
        let serving = tokio::spawn(channels.run());
        let mut client = client(near).await;
        client.send(Message::Binary(Bytes::from_static(b"\x00hello"))).await.unwrap();
        client.send(Message::Binary(Bytes::from_static(&[CLOSE_CHANNEL, 0]))).await.unwrap();
        assert_eq!(stdin.recv().await.unwrap(), "hello");
        assert!(stdin.recv().await.is_none());
        assert!(stdout.send(b"out").await);
        drop(stdout);
        assert_eq!(client.next().await.unwrap().unwrap(), Message::Binary(Bytes::from_static(b"\x01out")));
        assert!(client.next().await.unwrap().unwrap().is_close());
        drop(client);
        serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn base64_messages_carry_the_channel_as_a_digit() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let mut channels = Channels::new(far, Encoding::Base64).await;
        let (mut stdin, stdout) = (channels.reader(0), channels.writer(1));
        let serving = tokio::spawn(channels.run());
        let mut client = client(near).await;
        client.send(Message::Text("0aGk=".into())).await.unwrap();
        assert_eq!(stdin.recv().await.unwrap(), "hi");
        assert!(stdout.send(b"hi").await);
        assert_eq!(client.next().await.unwrap().unwrap(), Message::Text("1aGk=".into()));
        drop(client);
        assert!(stdin.recv().await.is_none());
        serving.await.unwrap().ok();
    }

    #[tokio::test]
    async fn the_tunnel_carries_bytes_both_ways_and_ends_with_its_inside() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (mut inside, inner) = tokio::io::duplex(1 << 16);
        let serving = tokio::spawn(tunnel(far, inner));
        let mut client = client(near).await;
        client.send(Message::Binary(Bytes::from_static(b"ping"))).await.unwrap();
        let mut read = [0; 4];
        inside.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"ping");
        inside.write_all(b"pong").await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap(), Message::Binary(Bytes::from_static(b"pong")));
        drop(inside);
        assert!(client.next().await.unwrap().unwrap().is_close());
        drop(client);
        serving.await.unwrap().unwrap();
    }
}
