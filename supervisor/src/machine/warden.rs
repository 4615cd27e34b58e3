//! The supervisor's end of a warden's `control` socket.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use stockade_jailer::warden::{Command, Event, MAX_PACKET_BYTES};
use tokio::net::UnixDatagram;

/// Talks to a warden.
#[derive(Debug)]
pub(super) struct WardenLink {
    /// `SOCK_SEQPACKET`, for which tokio has no type of its own; receiving and sending are the same calls, and an empty packet
    /// is the end.
    socket: UnixDatagram,
}

/// The warden said something that makes no sense.
#[derive(Debug, thiserror::Error)]
pub(super) enum WardenError {
    #[error("hear from the warden")]
    Receive(#[source] io::Error),
    #[error("the warden sent a packet that is no event")]
    Malformed,
}

impl WardenLink {
    /// `socket` is the supervisor's end, of type `SOCK_SEQPACKET`.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self { socket: UnixDatagram::from_std(socket.into())? })
    }

    /// The next event; `None` when the warden is gone. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, WardenError> {
        // The room for a packet is not kept for as long as there is none: a daemon listens to many wardens.
        let (packet, received) = loop {
            self.socket.readable().await.map_err(WardenError::Receive)?;
            // One byte more shows that a packet was longer.
            let mut packet = vec![0; MAX_PACKET_BYTES + 1];
            match self.socket.try_recv(&mut packet) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => break (packet, received),
            }
        };
        match received {
            Ok(0) => Ok(None),
            Ok(length) if length > MAX_PACKET_BYTES => Err(WardenError::Malformed),
            Ok(length) => {
                let packet = packet.get(..length).unwrap_or_default();
                serde_json::from_slice(packet).map(Some).map_err(|_| WardenError::Malformed)
            }
            Err(error) if error.raw_os_error() == Some(Errno::CONNRESET.raw_os_error()) => Ok(None),
            Err(error) => Err(WardenError::Receive(error)),
        }
    }

    /// Sends a command. If the warden is gone, [`next`](Self::next) says so.
    pub(super) fn send(&self, command: &Command) {
        if let Ok(packet) = serde_json::to_vec(command) {
            // Directly, because the runtime's own call fails until it has seen the socket writable.
            let _ = send(&self.socket, &packet, SendFlags::NOSIGNAL);
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};

    use super::*;

    #[tokio::test]
    async fn packets_are_events_and_commands() {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let mut link = WardenLink::new(ours).unwrap();
        let event = Event::Cleaned { left_behind: vec!["x".into()] };
        send(&theirs, &serde_json::to_vec(&event).unwrap(), SendFlags::empty()).unwrap();
        assert_eq!(link.next().await.unwrap(), Some(event));

        link.send(&Command::Kill);
        let mut packet = [0; 100];
        let (length, _) = recv(&theirs, &mut packet, RecvFlags::empty()).unwrap();
        assert_eq!(serde_json::from_slice::<Command>(&packet[..length]).unwrap(), Command::Kill);

        for nonsense in [&b"what"[..], &[b' '; MAX_PACKET_BYTES + 7]] {
            send(&theirs, nonsense, SendFlags::empty()).unwrap();
            assert!(matches!(link.next().await, Err(WardenError::Malformed)));
        }
        drop(theirs);
        assert_eq!(link.next().await.unwrap(), None);
        link.send(&Command::Kill);
    }
}
