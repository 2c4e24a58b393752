//! Gathers what an HTTP/2 connection writes, so that a turn of its streams leaves in one TLS record and one system call.
//!
//! The HTTP/2 library flushes after every frame of some size: a change that a hundred watchers on eight connections are
//! told would cost a hundred records and system calls instead of eight. Here its flushes only mark the bytes as ready;
//! the connection's task sends them at the end of its turn, and where streams run as tasks of their own, when every task
//! that was ready in the meantime had its turn.
//!
//! Invariant: bytes wait for one turn of the scheduler at most.

use std::{
    io::{self, IoSlice},
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes gathered before they are sent without waiting: some TLS records, so that a long list costs few system calls.
const GATHERED_BYTES_MAX: usize = 128 * 1024;
/// Memory a connection keeps for the next turn; what a burst took beyond that is given back.
const KEPT_BYTES: usize = 8 * 1024;

/// The connection's stream as the HTTP/2 library sees it.
pub(super) struct Gathering<S>(Arc<Mutex<Gathered<S>>>);

/// The stream and what is to be written to it; [`Gathered::poll_turn`] sends that.
pub(super) struct Gathered<S> {
    stream: S,
    waiting: Vec<u8>,
    /// How many bytes of `waiting` the stream has taken already.
    sent: usize,
    /// Whether the others had their turn since the first of these bytes came.
    others_had_turn: bool,
    has_heard: bool,
}

/// Splits a stream into the part that is read and written, and the one that is sent from.
pub(super) fn gather<S>(stream: S) -> (Gathering<S>, Arc<Mutex<Gathered<S>>>) {
    let waiting = Vec::new();
    let gathered = Gathered { stream, waiting, sent: 0, others_had_turn: false, has_heard: false };
    let gathered = Arc::new(Mutex::new(gathered));
    (Gathering(gathered.clone()), gathered)
}

impl<S> Gathered<S> {
    /// Whether the other side said something since this was asked last.
    pub(super) fn has_heard(&mut self) -> bool {
        mem::take(&mut self.has_heard)
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    /// The end of the connection's turn: ready only with an error. Where there are others who may be about to write, this
    /// is the task to wake behind them.
    pub(super) fn poll_turn(&mut self, cx: &mut Context<'_>, others: Option<&Waker>) -> Poll<io::Error> {
        if self.waiting.is_empty() {
            return Poll::Pending;
        }
        // bytes that are on their way already are not held back
        if let Some(task) = others
            && !mem::replace(&mut self.others_had_turn, true)
            && self.sent == 0
        {
            // a task that wakes itself goes to the end of the queue, behind the streams that are about to write
            task.wake_by_ref();
            return Poll::Pending;
        }
        match self.poll_send(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(error),
            Poll::Ready(Ok(())) => {
                self.waiting.shrink_to(KEPT_BYTES);
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// Sends everything that waits.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.waiting.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.waiting[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                taken => self.sent += taken,
            }
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.waiting.clear();
        (self.sent, self.others_had_turn) = (0, false);
        Poll::Ready(Ok(()))
    }

    /// Takes what there is room for, at least one byte.
    fn poll_take(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.waiting.len() >= GATHERED_BYTES_MAX {
            ready!(self.poll_send(cx))?;
        }
        let before = self.waiting.len();
        for part in parts {
            let room = GATHERED_BYTES_MAX.saturating_sub(self.waiting.len());
            self.waiting.extend_from_slice(&part[..part.len().min(room)]);
        }
        Poll::Ready(Ok(self.waiting.len() - before))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathering<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.0.lock();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut gathered.stream).poll_read(cx, buffer);
        gathered.has_heard |= buffer.filled().len() > before;
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathering<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().poll_take(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().poll_take(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathered = self.0.lock();
        ready!(gathered.poll_send(cx))?;
        Pin::new(&mut gathered.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A stream that notes how much each write brought.
    #[derive(Default)]
    struct Writes(Vec<usize>);

    impl AsyncWrite for Writes {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.0.push(bytes.len());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Runs `connection`, which writes into `gathered`, beside others that may write.
    async fn drive<S: AsyncWrite + Unpin>(
        connection: impl Future<Output = io::Result<()>>,
        gathered: &Mutex<Gathered<S>>,
    ) {
        let mut connection = pin!(connection);
        poll_fn(|cx| match connection.as_mut().poll(cx) {
            Poll::Ready(ended) => Poll::Ready(ended),
            Poll::Pending => gathered.lock().poll_turn(cx, Some(cx.waker())).map(Err),
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn frames_of_one_turn_leave_together() {
        let (mut io, gathered) = gather(Writes::default());
        let connection = async move {
            for frame in [10, 20_000, 300] {
                io.write_all(&vec![0; frame]).await?;
                io.flush().await?;
            }
            // what comes while the others have their turn still goes along
            tokio::task::yield_now().await;
            io.write_all(&[0; 5]).await?;
            std::future::pending().await
        };
        tokio::select! {
            biased;
            () = drive(connection, &gathered) => {}
            () = async { while gathered.lock().stream.0.is_empty() { tokio::task::yield_now().await } } => {}
        }
        assert_eq!(gathered.lock().stream.0, [20_315]);
        assert!(gathered.lock().waiting.capacity() <= KEPT_BYTES);
    }

    #[tokio::test]
    async fn who_writes_alone_does_not_wait() {
        let (mut io, gathered) = gather(Writes::default());
        io.write_all(&[0; 7]).await.unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(gathered.lock().poll_turn(&mut cx, Some(Waker::noop())).is_pending());
        assert!(gathered.lock().stream.0.is_empty());
        assert!(gathered.lock().poll_turn(&mut cx, None).is_pending());
        assert_eq!(gathered.lock().stream.0, [7]);
    }

    #[tokio::test]
    async fn more_than_is_gathered_arrives_whole_and_in_order() {
        let (near, mut far) = tokio::io::duplex(1000);
        let (mut io, gathered) = gather(near);
        let sent: Vec<u8> = (0..3 * GATHERED_BYTES_MAX + 7).map(|i| (i % 251) as u8).collect();
        let expected = sent.clone();
        let connection = async move {
            io.write_all(&sent).await?;
            io.shutdown().await
        };
        let mut received = Vec::new();
        let ((), read) = tokio::join!(drive(connection, &gathered), far.read_to_end(&mut received));
        read.unwrap();
        assert!(received == expected);
    }
}
