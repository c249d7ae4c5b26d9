//! The role of the floor: what a server cannot do without that sends each of
//! its connections something and waits for the answer. A task a connection, one
//! write and one read for each round trip, nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;

use super::{FRAME, child, half_a_machine};

/// `floor`: says where it listens. `go N` makes one round trip on each of `N`
/// connections.
pub(crate) fn run() {
    let runtime = half_a_machine();
    let rounds = watch::Sender::new(0_u64);
    let done = Arc::<AtomicU64>::default();
    let listener = runtime.block_on(async {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        socket.listen(4096).expect("a listener")
    });
    let ready = json!({"address": listener.local_addr().expect("it listens").to_string()});
    runtime.spawn(accept(listener, rounds.clone(), done.clone()));
    child::serve(&ready, |line| {
        let count: u64 = line
            .strip_prefix("go ")
            .expect("a command")
            .parse()
            .expect("a number");
        // A connection is there for its client before it is accepted here.
        runtime.block_on(benches::wait_until("every connection", || {
            rounds.receiver_count() as u64 == count
        }));
        let before = done.load(Relaxed);
        let begun = Instant::now();
        rounds.send_modify(|round| *round += 1);
        runtime.block_on(benches::wait_until("every round trip", || {
            done.load(Relaxed) >= before + count
        }));
        assert_eq!(
            done.load(Relaxed),
            before + count,
            "as many as there are connections"
        );
        json!({"seconds": begun.elapsed().as_secs_f64()})
    });
}

async fn accept(listener: TcpListener, rounds: watch::Sender<u64>, done: Arc<AtomicU64>) {
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).expect("a TCP option");
        tokio::spawn(round_trips(stream, rounds.subscribe(), done.clone()));
    }
}

async fn round_trips(mut stream: TcpStream, mut rounds: watch::Receiver<u64>, done: Arc<AtomicU64>) {
    let mut frame = [b'x'; FRAME];
    while rounds.changed().await.is_ok() {
        if stream.write_all(&frame).await.is_err() || stream.read_exact(&mut frame).await.is_err() {
            return;
        }
        done.fetch_add(1, Relaxed);
    }
}
