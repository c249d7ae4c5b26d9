//! Reading without a buffer per connection.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::ready;

use tokio::io::{AsyncRead, ReadBuf};

use crate::PacketBuffer;

/// Bytes taken from a stream at once; larger packets take several reads.
const SCRATCH_BYTES: usize = 16 * 1024;

thread_local! {
    /// One read buffer per worker thread. It is borrowed only inside one
    /// `poll_read`, never while a connection waits, so connections share it
    /// and an idle one holds no read buffer at all.
    static SCRATCH: RefCell<Box<[u8; SCRATCH_BYTES]>> = RefCell::new(Box::new([0; SCRATCH_BYTES]));
}

/// Waits for bytes from `stream` and appends them to `buffer`.
///
/// Returns the number of bytes, 0 at the end of the stream. Dropping the
/// future loses nothing.
///
/// # Errors
/// Those of the stream.
pub async fn fill<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut PacketBuffer) -> io::Result<usize> {
    fill_with(stream, |bytes| buffer.extend(bytes)).await
}

/// Waits for bytes from `stream` and hands them to `take`, which is not called
/// at the end of the stream.
///
/// Returns the number of bytes, 0 at the end of the stream. Dropping the
/// future loses nothing.
///
/// # Errors
/// Those of the stream.
pub async fn fill_with<S: AsyncRead + Unpin>(
    stream: &mut S,
    mut take: impl FnMut(&[u8]),
) -> io::Result<usize> {
    poll_fn(|cx| {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut read = ReadBuf::new(&mut scratch[..]);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut read))?;
            let bytes = read.filled();
            if !bytes.is_empty() {
                take(bytes);
            }
            Ok(bytes.len()).into()
        })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Packet, encode, publish_qos0};
    use bytes::{Bytes, BytesMut};

    #[tokio::test]
    async fn a_packet_larger_than_one_read_arrives_whole() {
        let sent = publish_qos0("t", Bytes::from(vec![1; 3 * SCRATCH_BYTES]));
        let mut bytes = BytesMut::new();
        encode(sent.clone(), &mut bytes).unwrap();
        let mut stream = io::Cursor::new(bytes.to_vec());
        let mut buffer = PacketBuffer::new(1 << 20);
        let mut received: Option<Packet> = None;
        while received.is_none() {
            assert!(fill(&mut stream, &mut buffer).await.unwrap() > 0);
            received = buffer.next_packet().unwrap();
        }
        assert_eq!(received, Some(sent));
        assert_eq!(fill(&mut stream, &mut buffer).await.unwrap(), 0);
    }
}
