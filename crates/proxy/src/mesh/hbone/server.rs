//! The other end of tunnels: who connects to a pod that takes part.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use http::{Method, Request, Response, StatusCode};
use identity::{SpiffeId, workload::peer_id};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::{CONNECTION_WINDOW, FRAME, HEADERS, SEND_BUFFER, STREAM_WINDOW, STREAMS, Tunnel};
use crate::mesh::identities::Identity;

/// A handshake that takes longer is an attack or a dead peer.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A client that has proved who it is.
pub(crate) struct Accepted {
    /// Who.
    pub(crate) peer: SpiffeId,
    connection: h2::server::Connection<tokio_rustls::server::TlsStream<TcpStream>, Bytes>,
}

/// A stream that a client wants carried.
pub(crate) struct Wanted {
    /// To where.
    pub(crate) to: SocketAddr,
    respond: SendResponse<Bytes>,
    receive: h2::RecvStream,
}

impl Accepted {
    /// Shakes hands with who has connected.
    pub(crate) async fn new(stream: TcpStream, identity: &Identity) -> io::Result<Self> {
        let acceptor = TlsAcceptor::from(Arc::clone(&identity.material().server));
        let handshake = async {
            let stream = acceptor.accept(stream).await?;
            let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let certificate = certificate.map(|certificate| certificate.as_ref()).unwrap_or_default();
            let peer = peer_id(certificate).map_err(io::Error::other)?;
            let mut builder = Builder::new();
            builder
                .initial_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_concurrent_streams(STREAMS)
                .max_frame_size(FRAME)
                .max_header_list_size(HEADERS)
                .max_send_buffer_size(SEND_BUFFER);
            let connection = builder.handshake(stream).await.map_err(io::Error::other)?;
            Ok(Accepted { peer, connection })
        };
        tokio::time::timeout(HANDSHAKE, handshake).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// The next stream; `None` when the client is done. What is no CONNECT to an address is answered here.
    pub(crate) async fn next(&mut self) -> Option<Wanted> {
        loop {
            let (request, mut respond) = self.connection.accept().await?.ok()?;
            match destination(&request) {
                Ok(to) => return Some(Wanted { to, respond, receive: request.into_body() }),
                Err(status) => answer(&mut respond, status),
            }
        }
    }

    /// Takes no further streams; those there are go on while [`Accepted::next`] is asked.
    pub(crate) fn leave(&mut self) {
        self.connection.graceful_shutdown();
    }
}

fn destination(request: &Request<h2::RecvStream>) -> Result<SocketAddr, StatusCode> {
    if request.method() != Method::CONNECT {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    let authority = request.uri().authority().ok_or(StatusCode::BAD_REQUEST)?;
    authority.as_str().parse().map_err(|_| StatusCode::BAD_REQUEST)
}

fn answer(respond: &mut SendResponse<Bytes>, status: StatusCode) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    // the client may be gone already
    let _sent = respond.send_response(response, true);
}

impl Wanted {
    /// Takes the stream.
    pub(crate) fn take(mut self) -> io::Result<Tunnel> {
        let send = self.respond.send_response(Response::new(()), false).map_err(io::Error::other)?;
        Ok(Tunnel::new(send, self.receive, None))
    }

    /// Refuses it.
    pub(crate) fn refuse(mut self, status: StatusCode) {
        answer(&mut self.respond, status);
    }
}
