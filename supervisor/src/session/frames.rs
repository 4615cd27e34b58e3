//! Frames on the socket: length, then one message in postcard's encoding.

use stockade_guest_protocol::{Frame, GuestMessage, HostMessage};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::{SessionError, Violation};

/// Sends messages to the guest, in order.
///
/// The queue has no bound of its own: data in it is covered by credit, and all else is small and sent in answer to something
/// that the caller did.
#[derive(Debug, Clone)]
pub(super) struct Frames(mpsc::UnboundedSender<Vec<u8>>);

impl Frames {
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Vec<u8>>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Queues `message`. If the session is over, nobody is there to hear it, and whoever waits for an answer finds out.
    pub(super) fn send(&self, message: &HostMessage<'_>) {
        if let Ok(frame) = encode(message) {
            let _ = self.0.send(frame);
        }
    }
}

fn encode(message: &HostMessage<'_>) -> postcard::Result<Vec<u8>> {
    let mut frame = postcard::to_extend(message, vec![0; 4])?;
    let length = u32::try_from(frame.len().saturating_sub(4)).map_err(|_| postcard::Error::SerializeBufferFull)?;
    if let Some(header) = frame.first_chunk_mut() {
        *header = length.to_le_bytes();
    }
    Ok(frame)
}

/// Writes queued frames to the socket for as long as there can be any.
pub(super) async fn write(
    mut queue: mpsc::UnboundedReceiver<Vec<u8>>,
    mut socket: impl AsyncWrite + Unpin,
) -> Result<(), SessionError> {
    while let Some(frame) = queue.recv().await {
        socket.write_all(&frame).await.map_err(SessionError::Socket)?;
    }
    Ok(())
}

/// Writes one message at once.
pub(super) async fn write_one(
    socket: &mut (impl AsyncWrite + Unpin),
    message: &HostMessage<'_>,
) -> Result<(), SessionError> {
    let frame = encode(message).map_err(|error| SessionError::Socket(std::io::Error::other(error)))?;
    socket.write_all(&frame).await.map_err(SessionError::Socket)
}

/// Reads one frame into `buffer`.
pub(super) async fn read<'a>(
    socket: &mut (impl AsyncRead + Unpin),
    buffer: &'a mut Vec<u8>,
) -> Result<GuestMessage<'a>, SessionError> {
    let mut header = [0; 4];
    socket.read_exact(&mut header).await.map_err(end_of_file_is_lost)?;
    let length = u32::from_le_bytes(header);
    if !(1..=GuestMessage::MAX_BYTES).contains(&length) {
        return Err(Violation("a frame of a forbidden length").into());
    }
    buffer.resize(usize::try_from(length).unwrap_or(usize::MAX), 0);
    socket.read_exact(buffer).await.map_err(end_of_file_is_lost)?;
    match postcard::take_from_bytes(buffer) {
        Ok((message, [])) => Ok(message),
        Ok(_) => Err(Violation("a frame with bytes left over").into()),
        Err(_) => Err(Violation("a frame that does not decode").into()),
    }
}

fn end_of_file_is_lost(error: std::io::Error) -> SessionError {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => SessionError::Lost,
        _ => SessionError::Socket(error),
    }
}
