//! How connections write, whatever they speak: all there is at once, with a
//! bound on how long a peer may read nothing. [`write_all`] is for protocols that
//! write by themselves, [`Guarded`] for those that a library writes.

use std::future::{Future as _, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};

/// How long a write may make no progress before the peer counts as gone; the
/// emulator's own choice, the shortest keep-alive that SDKs use by default.
const WRITE_STALL: Duration = Duration::from_secs(60);

/// How long a peer may take to accept the last bytes before the end; the
/// emulator's own choice.
pub(crate) const FAREWELL_DEADLINE: Duration = Duration::from_secs(1);

/// Why not everything was written.
pub(crate) enum Unwritten<E> {
    /// The stream failed.
    Io(io::Error),
    /// The peer has read nothing for too long, or the deadline came.
    Late,
    /// Something else went first.
    Interrupted(E),
}

/// Writes and flushes all of `out`, unless the peer stops reading, `deadline`
/// comes meanwhile or `interrupted` says so. The latter two are looked at only
/// while the peer does not take what there is.
pub(crate) async fn write_all<S, E>(
    stream: &mut S,
    out: &mut BytesMut,
    deadline: Option<Instant>,
    mut interrupted: impl FnMut(&mut Context<'_>) -> Poll<E>,
) -> Result<(), Unwritten<E>>
where
    S: AsyncWrite + Unpin,
{
    let mut stall = None;
    poll_fn(|cx| {
        loop {
            let step = if out.is_empty() {
                Pin::new(&mut *stream).poll_flush(cx).map_ok(|()| None)
            } else {
                Pin::new(&mut *stream).poll_write(cx, out).map_ok(Some)
            };
            match step {
                Poll::Ready(Ok(None)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(Some(0))) => {
                    return Poll::Ready(Err(Unwritten::Io(io::ErrorKind::WriteZero.into())));
                }
                Poll::Ready(Ok(Some(n))) => {
                    out.advance(n);
                    stall = None;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Unwritten::Io(error))),
                Poll::Pending => break,
            }
        }
        if let Poll::Ready(reason) = interrupted(cx) {
            return Poll::Ready(Err(Unwritten::Interrupted(reason)));
        }
        let timer = stall.get_or_insert_with(|| {
            let stalled = Instant::now() + WRITE_STALL;
            Box::pin(sleep_until(
                deadline.map_or(stalled, |deadline| deadline.min(stalled)),
            ))
        });
        timer.as_mut().poll(cx).map(|()| Err(Unwritten::Late))
    })
    .await
}

/// Says the transport's farewell, without which a TLS or WebSocket peer could
/// not tell the end from a cut.
pub(crate) async fn shut_down<S: AsyncWrite + Unpin>(stream: &mut S) {
    let farewell = poll_fn(|cx| Pin::new(&mut *stream).poll_shutdown(cx));
    let _ = timeout(FAREWELL_DEADLINE, farewell).await;
}

/// A stream whose writes fail with [`io::ErrorKind::TimedOut`] once the peer has
/// read nothing for as long as [`write_all`] allows.
pub(crate) struct Guarded<S> {
    stream: S,
    /// When the write that is under way has made no progress for too long.
    stall: Option<Pin<Box<Sleep>>>,
}

impl<S> Guarded<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, stall: None }
    }

    fn watched<T>(&mut self, cx: &mut Context<'_>, step: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if step.is_ready() {
            self.stall = None;
            return step;
        }
        let timer = self.stall.get_or_insert_with(|| Box::pin(sleep(WRITE_STALL)));
        timer
            .as_mut()
            .poll(cx)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let step = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watched(cx, step)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let step = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watched(cx, step)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    // Flushing and the end follow writes: a socket does both at once.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
