//! An agent that does as a test tells it.

use stockade_guest_protocol::{Decoder, ENTROPY_BYTES, GuestMessage, HostMessage, encode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The guest's end of a session.
pub(crate) struct Peer<S> {
    pub(crate) socket: S,
    decoder: Decoder,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub(crate) fn new(socket: S) -> Self {
        Self { socket, decoder: Decoder::new() }
    }

    pub(crate) async fn send(&mut self, message: &GuestMessage<'_>) {
        let mut frame = Vec::new();
        encode(message, &mut frame).unwrap();
        self.socket.write_all(&frame).await.unwrap();
    }

    pub(crate) async fn expect(&mut self, expected: &HostMessage<'_>) {
        self.receive(|message| assert_eq!(message, expected)).await;
    }

    /// The first message to every guest.
    pub(crate) async fn expect_renewal(&mut self) {
        let is_whole = |message: &HostMessage<'_>| match message {
            HostMessage::Renew(renewal) => renewal.entropy.len() >= ENTROPY_BYTES && renewal.unix_time_ns > 0,
            _ => false,
        };
        assert!(self.receive(is_whole).await, "no renewal");
    }

    pub(crate) async fn receive<T>(&mut self, look: impl FnOnce(&HostMessage<'_>) -> T) -> T {
        loop {
            if let Some(message) = self.decoder.next::<HostMessage<'_>>().unwrap() {
                return look(&message);
            }
            let length = self.socket.read(self.decoder.space()).await.unwrap();
            assert_ne!(length, 0, "the host hung up");
            self.decoder.filled(length);
        }
    }

    /// Waits until the host hangs up.
    pub(crate) async fn hung_up(mut self) {
        while self.socket.read(self.decoder.space()).await.is_ok_and(|length| length > 0) {}
    }
}
