//! `GET /backup`: the whole store at one revision as a stream, while requests go on. Only who may read every path may read
//! it. Objects that are sealed at rest are sealed in it too.

use std::io;

use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use store::Store;
use tokio::sync::mpsc;

use crate::body::{Body, BoxError};

/// Pieces, of a quarter megabyte each, that wait for a slow client.
const PIECES: usize = 4;

/// The answer. A failure half way breaks the stream off, and the backup's own end tells that it is not whole.
pub(crate) fn answer(store: Store) -> Response<Body> {
    let (sender, receiver) = mpsc::channel::<Result<Bytes, BoxError>>(PIECES);
    let writing = tokio::task::spawn_blocking(move || {
        let mut to = Pieces { sender };
        if let Err(error) = store.backup(&mut to) {
            // when the client went away there is nobody to tell
            let _ = to.sender.blocking_send(Err(error.into()));
        }
    });
    // the stream owns the task, which ends when nobody takes what it writes
    let pieces = stream::unfold((receiver, writing), |(mut receiver, writing)| async move {
        let piece = receiver.recv().await?;
        Some((piece.map(Frame::data), (receiver, writing)))
    });
    let mut response = Response::new(StreamBody::new(pieces).boxed_unsync());
    let content_type = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

struct Pieces {
    sender: mpsc::Sender<Result<Bytes, BoxError>>,
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.sender.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
