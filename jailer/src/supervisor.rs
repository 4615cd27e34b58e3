//! Who a warden reports to and obeys: the supervisor that started it, and if the VM outlives that, whoever takes over.
//!
//! A supervisor takes over by connecting to the warden's socket. It hears [`Event::TakenOver`] first, with the length of the
//! [journal](crate::journal) at that moment, and from then on everything that is added to it. One at a time: the last one
//! to come is right, because supervisors see to it that there is no other.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{SockFlag, accept4};

use crate::control::Control;
use crate::journal::Journal;
use crate::sys;
use crate::warden::{Command, Event};

/// The supervisor, as its warden sees it.
#[derive(Debug)]
pub struct Supervisor {
    control: Option<Control>,
    detached: Option<Station>,
}

/// What a warden needs to outlive its supervisor.
#[derive(Debug)]
struct Station {
    listener: OwnedFd,
    journal: Journal,
}

/// What became of a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Order {
    /// The vmm is to end.
    Kill,
    /// Nothing is to be done.
    None,
}

impl Supervisor {
    /// One whose VM ends with it.
    pub fn attached(control: Control) -> Self {
        Self { control: Some(control), detached: None }
    }

    /// One whose VM outlives it. `listener` is a listening `SOCK_SEQPACKET` socket that does not block.
    pub fn detached(control: Control, listener: OwnedFd, journal: OwnedFd) -> Self {
        let journal = Journal::new(File::from(journal));
        Self { control: Some(control), detached: Some(Station { listener, journal }) }
    }

    /// Says `event`, and writes it down for who comes later.
    pub fn tell(&mut self, event: &Event) {
        match (&mut self.detached, &self.control) {
            (None, Some(control)) => control.send(event),
            (Some(station), Some(control)) => {
                station.journal.append(event);
                // Who does not listen can read it all in the journal when it is back.
                if !control.send_now(event) {
                    self.control = None;
                }
            }
            (Some(station), None) => station.journal.append(event),
            (None, None) => {}
        }
    }

    /// The socket that commands come from, while there is a supervisor.
    pub fn control(&self) -> Option<BorrowedFd<'_>> {
        self.control.as_ref().map(AsFd::as_fd)
    }

    /// The socket that supervisors come to.
    pub fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.detached.as_ref().map(|station| station.listener.as_fd())
    }

    /// Takes what came from the control socket.
    pub fn obey(&mut self) -> Order {
        match self.control.as_ref().map(Control::receive) {
            Some(Ok(Some(Command::Kill))) => Order::Kill,
            Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => Order::None,
            // Nobody is there any more, or nobody who makes sense.
            _ => {
                self.control = None;
                if self.detached.is_some() { Order::None } else { Order::Kill }
            }
        }
    }

    /// Lets the supervisor in that has come to the listener.
    pub fn let_in(&mut self) {
        let Some(station) = &self.detached else { return };
        let Ok(number) = accept4(station.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) else { return };
        let Ok(socket) = sys::inherited(number) else { return };
        let control = Control::new(socket);
        if control.send_now(&Event::TakenOver { journal_bytes: station.journal.length() }) {
            self.control = Some(control);
        }
    }
}
