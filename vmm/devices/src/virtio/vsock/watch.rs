//! Keeps the event loop's view of the sockets in step with what their peers wait for.
//!
//! Invariant: a socket is taken out of the event loop before it is closed, as the loop knows it by its number.

use event_manager::{EventOps, EventSet, Events};

use super::muxer::Muxer;
use super::sys::HostSocket;

/// Names a peer in the tables, and its socket's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerId(u32);

impl PeerId {
    /// Lower numbers name events of the device itself.
    pub const FIRST: Self = Self(16);

    /// The peer that an event names, if it names one.
    pub fn from_token(token: u32) -> Option<Self> {
        Some(Self(token)).filter(|id| *id >= Self::FIRST)
    }

    /// The one after this; after the last comes the first again.
    pub fn next(self) -> Self {
        self.0.checked_add(1).map_or(Self::FIRST, Self)
    }
}

/// A socket that is of no more use.
#[derive(Debug)]
pub struct Retired {
    /// The socket.
    pub socket: HostSocket,
    /// The events that are still watched for.
    pub watched: Option<EventSet>,
}

/// Whether all peers could be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Watched {
    /// Yes.
    All,
    /// Some could not, and were removed: the guest is to be told.
    NotAll,
}

impl Muxer {
    /// Brings the event loop up to date, and closes what is of no more use.
    pub fn update_watches(&mut self, ops: &mut EventOps) -> Watched {
        let mut result = Watched::All;
        while let Some(id) = self.changed.pop() {
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            peer.changed = false;
            let wanted = peer.interest();
            match change(ops, peer.socket(), id, peer.watched, wanted) {
                Ok(()) => peer.watched = wanted,
                Err(error) => {
                    log::warn!("vsock: watch a socket of the host: {error}");
                    result = Watched::NotAll;
                    self.remove_with_reset(id);
                }
            }
        }
        for Retired { socket, watched } in self.retired.drain(..) {
            if watched.is_some() {
                // A socket that the loop doesn't know is as good as one that was taken out.
                let _ = ops.remove(Events::empty(&socket));
            }
        }
        result
    }

    /// Notes that the event loop knows none of the sockets any more, because the device was taken out of it.
    pub fn forget_watches(&mut self) {
        self.changed.clear();
        for (id, peer) in &mut self.peers {
            peer.watched = None;
            peer.changed = true;
            self.changed.push(*id);
        }
        for retired in &mut self.retired {
            retired.watched = None;
        }
    }
}

fn change(
    ops: &mut EventOps,
    socket: &HostSocket,
    id: PeerId,
    from: Option<EventSet>,
    to: Option<EventSet>,
) -> Result<(), event_manager::Error> {
    let events = |set| Events::with_data(socket, id.0, set);
    match (from, to) {
        (None, Some(set)) => ops.add(events(set)),
        (Some(old), Some(set)) if old != set => ops.modify(events(set)),
        (Some(old), None) => ops.remove(events(old)),
        _ => Ok(()),
    }
}
