//! The server's side of one SPDY connection: accepts the client's streams and carries their bytes.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};
use tokio_util::codec::Framed;

use super::{Frame, FrameCodec, SpdyError};

/// Frames waiting for the transport; beyond it writers wait, so a slow client slows the container's output.
const OUTGOING_FRAMES_MAX: usize = 32;
/// Payloads waiting for one stream's consumer; beyond it the connection stops reading.
const STREAM_BACKLOG_MAX: usize = 16;
/// Streams open at once: port-forward opens two for each local connection.
const STREAMS_MAX: usize = 2048;
/// How long the peer may take to close after we said everything.
const LINGER: Duration = Duration::from_secs(2);
const REFUSED_STREAM: u32 = 3;

/// A stream the client opened.
pub(crate) struct Stream {
    /// Its headers, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    /// What the client sends.
    pub(crate) reader: StreamReader,
    /// What goes to the client.
    pub(crate) writer: StreamWriter,
}

impl Stream {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Payloads in order; ends when the client half-closes.
pub(crate) type StreamReader = mpsc::Receiver<Bytes>;

/// Sends to one stream; ends it when dropped after [`StreamWriter::finish`].
#[derive(Clone)]
pub(crate) struct StreamWriter {
    id: u32,
    frames: mpsc::Sender<Frame>,
}

impl StreamWriter {
    /// Sends one payload; `false` when the connection is gone.
    pub(crate) async fn send(&self, payload: Bytes) -> bool {
        self.frames.send(Frame::Data { stream: self.id, fin: false, payload }).await.is_ok()
    }

    /// Half-closes the stream.
    pub(crate) async fn finish(&self) {
        let _closed_connection_needs_no_fin =
            self.frames.send(Frame::Data { stream: self.id, fin: true, payload: Bytes::new() }).await;
    }

    /// Ends the stream in both directions.
    pub(crate) async fn reset(&self) {
        let _closed_connection_needs_no_reset = self.frames.send(Frame::Rst { stream: self.id, status: 5 }).await;
    }
}

/// Drives one connection until the client goes or every [`StreamWriter`] and the acceptor are dropped.
pub(crate) struct Connection<T> {
    framed: Framed<T, FrameCodec>,
    accepted: mpsc::Sender<Stream>,
    outgoing: mpsc::Receiver<Frame>,
    frames: mpsc::WeakSender<Frame>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection<T> {
    /// The connection over `io` and the receiver of its streams.
    pub(crate) fn new(io: T) -> Result<(Self, Acceptor), SpdyError> {
        let (accepted, streams) = mpsc::channel(STREAM_BACKLOG_MAX);
        let (frames, outgoing) = mpsc::channel(OUTGOING_FRAMES_MAX);
        let connection =
            Self { framed: Framed::new(io, FrameCodec::new()?), accepted, outgoing, frames: frames.downgrade() };
        Ok((connection, Acceptor { streams, _frames: frames }))
    }

    /// Runs the connection; returns when it is closed and flushed.
    pub(crate) async fn run(self) -> Result<(), SpdyError> {
        let Self { framed, accepted, mut outgoing, frames } = self;
        let (mut sink, mut source) = framed.split();
        let (replies, mut own) = mpsc::channel::<Frame>(OUTGOING_FRAMES_MAX);
        let write = async {
            loop {
                let frame = tokio::select! {
                    biased;
                    Some(reply) = own.recv() => reply,
                    frame = outgoing.recv() => match frame { Some(frame) => frame, None => break },
                };
                sink.feed(frame).await?;
                if outgoing.is_empty() && own.is_empty() {
                    sink.flush().await?;
                }
            }
            sink.flush().await
        };
        let read = async {
            let mut demux = Demux { streams: HashMap::new(), accepted, frames, replies };
            while let Some(frame) = source.next().await {
                if !demux.handle(frame?).await {
                    break;
                }
            }
            Ok::<(), SpdyError>(())
        };
        let finished = tokio::select! {
            result = write => result.map(|()| true),
            result = read => result.map(|()| false),
        }?;
        if finished {
            let mut io = sink.reunite(source).map_err(|_| SpdyError::Truncated)?.into_inner();
            linger(&mut io).await;
        }
        Ok(())
    }
}

/// Says we are done, then reads what the peer still had to say: closing with unread input would reset the connection
/// and could destroy output that is still on its way.
pub(crate) async fn linger<T: AsyncRead + AsyncWrite + Unpin>(io: &mut T) {
    if io.shutdown().await.is_err() {
        return;
    }
    let mut scratch = [0_u8; 4096];
    let drain = async { while matches!(io.read(&mut scratch).await, Ok(count) if count > 0) {} };
    let _elapsed_means_the_peer_is_slow = tokio::time::timeout(LINGER, drain).await;
}

/// Hands out the streams a client opens; while it lives the connection does.
pub(crate) struct Acceptor {
    streams: mpsc::Receiver<Stream>,
    _frames: mpsc::Sender<Frame>,
}

impl Acceptor {
    /// The next stream, `None` when the connection is closed.
    pub(crate) async fn accept(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }
}

struct Demux {
    streams: HashMap<u32, mpsc::Sender<Bytes>>,
    accepted: mpsc::Sender<Stream>,
    frames: mpsc::WeakSender<Frame>,
    replies: mpsc::Sender<Frame>,
}

impl Demux {
    /// Handles one frame; `false` ends the connection.
    async fn handle(&mut self, frame: Frame) -> bool {
        match frame {
            Frame::SynStream { stream, fin, headers, .. } => self.open(stream, fin, headers).await,
            Frame::Data { stream, fin, payload } => {
                if let Some(sender) = self.streams.get(&stream)
                    && !payload.is_empty()
                    && sender.send(payload).await.is_err()
                {
                    self.streams.remove(&stream);
                }
                if fin {
                    self.streams.remove(&stream);
                }
                true
            }
            Frame::Rst { stream, .. } | Frame::Headers { stream, fin: true, .. } => {
                self.streams.remove(&stream);
                true
            }
            Frame::Ping(id) => self.replies.send(Frame::Ping(id)).await.is_ok(),
            Frame::GoAway { .. } | Frame::Headers { .. } | Frame::SynReply { .. } | Frame::Ignored(_) => true,
        }
    }

    async fn open(&mut self, id: u32, fin: bool, headers: Vec<(String, String)>) -> bool {
        let Some(frames) = self.frames.upgrade() else {
            return false;
        };
        self.streams.retain(|_, sender| !sender.is_closed());
        if self.streams.len() >= STREAMS_MAX {
            return self.replies.send(Frame::Rst { stream: id, status: REFUSED_STREAM }).await.is_ok();
        }
        let (sender, reader) = mpsc::channel(STREAM_BACKLOG_MAX);
        if !fin {
            self.streams.insert(id, sender);
        }
        if self.replies.send(Frame::SynReply { stream: id, fin: false, headers: Vec::new() }).await.is_err() {
            return false;
        }
        self.accepted.send(Stream { headers, reader, writer: StreamWriter { id, frames } }).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn streams_carry_bytes_both_ways_and_the_connection_ends_when_the_server_is_done() {
        let (client, server) = tokio::io::duplex(1 << 16);
        let (connection, mut acceptor) = Connection::new(server).unwrap();
        let serving = tokio::spawn(connection.run());
        let mut client = Framed::new(client, FrameCodec::new().unwrap());
        let headers = vec![("streamtype".to_owned(), "stdin".to_owned())];
        client.send(Frame::SynStream { stream: 1, fin: false, unidirectional: false, headers }).await.unwrap();
        client.send(Frame::Ping(1)).await.unwrap();
        client.send(Frame::Data { stream: 1, fin: true, payload: Bytes::from_static(b"in") }).await.unwrap();

        let mut stream = acceptor.accept().await.unwrap();
        assert_eq!(stream.header("streamtype"), Some("stdin"));
        assert_eq!(stream.reader.recv().await.unwrap(), "in");
        assert!(stream.reader.recv().await.is_none());
        assert!(stream.writer.send(Bytes::from_static(b"out")).await);
        stream.writer.finish().await;
        drop((stream, acceptor));

        let mut seen = Vec::new();
        while let Some(frame) = client.next().await {
            seen.push(frame.unwrap());
        }
        assert_eq!(
            seen,
            [
                Frame::SynReply { stream: 1, fin: false, headers: vec![] },
                Frame::Ping(1),
                Frame::Data { stream: 1, fin: false, payload: Bytes::from_static(b"out") },
                Frame::Data { stream: 1, fin: true, payload: Bytes::new() },
            ]
        );
        drop(client);
        serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_client_that_leaves_ends_its_streams() {
        let (client, server) = tokio::io::duplex(1 << 16);
        let (connection, mut acceptor) = Connection::new(server).unwrap();
        let serving = tokio::spawn(connection.run());
        let mut client = Framed::new(client, FrameCodec::new().unwrap());
        client.send(Frame::SynStream { stream: 1, fin: false, unidirectional: false, headers: vec![] }).await.unwrap();
        let mut stream = acceptor.accept().await.unwrap();
        drop(client);
        assert!(stream.reader.recv().await.is_none());
        assert!(acceptor.accept().await.is_none());
        serving.await.unwrap().unwrap();
    }
}
