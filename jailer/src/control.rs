//! The warden's end of the control socket: packets of JSON to the supervisor, and from it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};

use crate::warden::{Command, Event, MAX_PACKET_BYTES};

/// Most characters in the text of an event, so that a packet never gets too long.
const MAX_TEXT: usize = 4096;

/// The control socket.
#[derive(Debug)]
pub struct Control {
    socket: OwnedFd,
}

impl Control {
    /// Talks over `socket`, which is of type `SOCK_SEQPACKET`.
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket }
    }

    /// Says `event`. A supervisor that is gone hears nothing, which changes nothing.
    pub fn send(&self, event: &Event) {
        if let Ok(packet) = serde_json::to_vec(&bounded(event)) {
            let _ = send(self.socket.as_raw_fd(), &packet, MsgFlags::MSG_NOSIGNAL);
        }
    }

    /// Says `event`, if that can be done at once. Returns whether it was.
    pub fn send_now(&self, event: &Event) -> bool {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        serde_json::to_vec(&bounded(event)).is_ok_and(|packet| send(self.socket.as_raw_fd(), &packet, flags).is_ok())
    }

    /// The next command, once the socket is readable; `None` if the supervisor is gone or talks nonsense.
    ///
    /// # Errors
    /// As recv(2).
    pub fn receive(&self) -> io::Result<Option<Command>> {
        let mut packet = vec![0; MAX_PACKET_BYTES];
        match recv(self.socket.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => Ok(serde_json::from_slice(packet.get(..length).unwrap_or_default()).ok()),
            Err(Errno::ECONNRESET) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn bounded(event: &Event) -> Event {
    let cut = |text: &String| text.chars().take(MAX_TEXT).collect();
    match event {
        Event::Refused { layer, message } => Event::Refused { layer: *layer, message: cut(message) },
        Event::Ended { end, message, violation } => {
            Event::Ended { end: *end, message: cut(message), violation: violation.clone() }
        }
        Event::Cleaned { left_behind } => Event::Cleaned { left_behind: left_behind.iter().take(8).map(cut).collect() },
        Event::Confined { .. } | Event::Vmm { .. } | Event::TakenOver { .. } => event.clone(),
    }
}
