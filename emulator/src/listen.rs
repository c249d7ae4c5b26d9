//! Sockets that accept connections.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::coop::unconstrained;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections that may wait to be accepted. The usual 128 overflows when a
/// fleet connects at once, and each connection that does not fit costs its
/// device a second.
const BACKLOG: u32 = 4096;

/// How long to wait when the process has no descriptor left for a connection.
const NO_DESCRIPTOR_PAUSE: Duration = Duration::from_millis(50);

/// Binds `address` and listens.
///
/// # Errors
/// Those of the operating system: no permission, address in use.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // A port in TIME_WAIT from an earlier run may be taken at once.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts connections until `stop`, each served by a task of its own.
pub(crate) async fn accept<F>(
    listener: TcpListener,
    tasks: TaskTracker,
    stop: CancellationToken,
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) where
    F: Future<Output = ()> + Send + 'static,
{
    loop {
        // All that wait are accepted before any is served: those that the backlog
        // has no room for lose a second each.
        let accepted = tokio::select! {
            accepted = unconstrained(listener.accept()) => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                // Answers are small and wait for nothing.
                let _ = stream.set_nodelay(true);
                // Boxed, because the combinator keeps room for what it runs three
                // times over.
                tasks.spawn(stop.clone().run_until_cancelled_owned(Box::pin(serve(stream))));
            }
            Err(error) => {
                // A peer that gave up while waiting is no reason to pause; too
                // many open files is, or this loop would spin.
                if !matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
                ) {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(NO_DESCRIPTOR_PAUSE).await;
                }
            }
        }
    }
}
