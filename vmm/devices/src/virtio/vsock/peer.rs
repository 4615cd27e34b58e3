//! Whatever has a socket of the host.

use std::time::Instant;

use event_manager::EventSet;

use super::backlog::Backlog;
use super::connection::Connection;
use super::handshake::Handshake;
use super::sys::HostSocket;
use super::watch::Retired;

/// What a peer is at present.
#[derive(Debug)]
pub enum PeerKind {
    /// A client that has not said which port it wants.
    Handshake(Handshake),
    /// A connection.
    Connection(Connection),
    /// What the host still has to get of a connection that the guest has closed.
    Draining(HostSocket, Backlog),
}

/// A peer, and where it stands.
#[derive(Debug)]
pub struct Peer {
    /// What it is.
    pub kind: PeerKind,
    /// The events that are watched for.
    pub watched: Option<EventSet>,
    /// It stands in the line of those who have a packet for the guest.
    pub queued: bool,
    /// It stands in the line of those whose watched events may have to change.
    pub changed: bool,
}

impl Peer {
    /// A peer that is not watched yet.
    pub fn new(kind: PeerKind) -> Self {
        Self { kind, watched: None, queued: false, changed: false }
    }

    /// Turns it into something else, with the same socket.
    pub fn map(self, change: impl FnOnce(PeerKind) -> PeerKind) -> Self {
        Self { kind: change(self.kind), ..self }
    }

    /// The connection, if it is one.
    pub fn connection_mut(&mut self) -> Option<&mut Connection> {
        if let PeerKind::Connection(connection) = &mut self.kind { Some(connection) } else { None }
    }

    /// The socket.
    pub fn socket(&self) -> &HostSocket {
        match &self.kind {
            PeerKind::Handshake(handshake) => handshake.socket(),
            PeerKind::Connection(connection) => connection.socket(),
            PeerKind::Draining(socket, _) => socket,
        }
    }

    /// The events to watch for.
    pub fn interest(&self) -> Option<EventSet> {
        match &self.kind {
            PeerKind::Handshake(_) => Some(EventSet::IN),
            PeerKind::Connection(connection) => connection.interest(),
            PeerKind::Draining(..) => Some(EventSet::OUT),
        }
    }

    /// Whether it may have a packet for the guest.
    pub fn has_packet(&self) -> bool {
        matches!(&self.kind, PeerKind::Connection(connection) if connection.has_packet())
    }

    /// When the guest's answer is overdue.
    pub fn deadline(&self) -> Option<Instant> {
        if let PeerKind::Connection(connection) = &self.kind { connection.deadline() } else { None }
    }

    /// What is left to do for the host, or the socket, which is of no more use.
    pub fn into_rest(self) -> Result<Self, Retired> {
        let watched = self.watched;
        match self.kind {
            PeerKind::Connection(connection) => {
                let (socket, rest) = connection.into_rest();
                if rest.is_empty() {
                    Err(Retired { socket, watched })
                } else {
                    Ok(Self { kind: PeerKind::Draining(socket, rest), ..self })
                }
            }
            PeerKind::Handshake(handshake) => Err(Retired { socket: handshake.into_socket(), watched }),
            PeerKind::Draining(socket, _) => Err(Retired { socket, watched }),
        }
    }

    /// The socket alone.
    pub fn retire(self) -> Retired {
        let watched = self.watched;
        let socket = match self.kind {
            PeerKind::Handshake(handshake) => handshake.into_socket(),
            PeerKind::Connection(connection) => connection.into_rest().0,
            PeerKind::Draining(socket, _) => socket,
        };
        Retired { socket, watched }
    }
}
