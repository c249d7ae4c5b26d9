//! How connections write, whatever they speak: all there is at once, with a
//! bound on how long a peer may read nothing.

use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio::io::AsyncWrite;
use tokio::time::{Instant, sleep_until, timeout};

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
