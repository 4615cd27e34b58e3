//! Frames on the socket, to and from a future that can be dropped at any moment.

use stockade_guest_protocol::{Decoder, GuestMessage, HostMessage, encode};
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
    pub(super) fn send(&self, message: &HostMessage<'_>) -> Result<(), SessionError> {
        let _ = self.0.send(frame(message)?);
        Ok(())
    }

    /// As [`send`](Self::send), for a message that always fits in a frame.
    pub(super) fn send_short(&self, message: &HostMessage<'_>) {
        let _ = self.send(message);
    }
}

fn frame(message: &HostMessage<'_>) -> Result<Vec<u8>, SessionError> {
    let mut frame = Vec::new();
    encode(message, &mut frame).map_err(SessionError::Request)?;
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
    socket.write_all(&frame(message)?).await.map_err(SessionError::Socket)
}

/// Reads until there is a message, and hands it to `receive`.
pub(super) async fn read<T>(
    socket: &mut (impl AsyncRead + Unpin),
    decoder: &mut Decoder,
    receive: impl FnOnce(&GuestMessage<'_>) -> Result<T, SessionError>,
) -> Result<T, SessionError> {
    loop {
        if let Some(message) = decoder.next::<GuestMessage<'_>>().map_err(Violation::Frame)? {
            return receive(&message);
        }
        match socket.read(decoder.space()).await.map_err(SessionError::Socket)? {
            0 if decoder.is_empty() => return Err(SessionError::Lost),
            0 => return Err(Violation::Rule("a frame that was cut short").into()),
            length => decoder.filled(length),
        }
    }
}
