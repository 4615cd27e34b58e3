//! Clients that are connected: who they are, and what they wait for. The kernel says who, and `control` can't change it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use stockade_api::{Error, ErrorCode};
use tokio::net::UnixStream;

use crate::roles::frame::{Connection, RequestNumber};
use crate::sys;
use crate::table::{Caller, RequestId};

/// Most connections at once, root's aside.
const MOST_CONNECTIONS: usize = 512;
/// Most of one user.
const MOST_OF_A_USER: usize = 64;
/// Most connections of one user that are attached to something, and of all users together; root's aside.
const MOST_STREAMS_OF_A_USER: usize = 32;
const MOST_STREAMS: usize = 192;
/// Most of root's.
const MOST_STREAMS_OF_ROOT: usize = 320;
/// Most requests of one connection that are not answered.
const MOST_REQUESTS: usize = 16;
/// What a client gets that waits for an answer when `control` dies. It is all that the parent ever writes to a client.
const INTERRUPTED: &str = concat!(
    "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: 144\r\n\r\n",
    r#"{"code":"interrupted","message":"a part of the daemon was restarted before it could answer","remedy":"look what came of the request, and retry"}"#
);

/// The clients of the moment.
#[derive(Debug, Default)]
pub(super) struct Peers {
    connections: BTreeMap<Connection, Peer>,
    requests: BTreeMap<RequestId, (Connection, RequestNumber)>,
    last_connection: Connection,
    last_request: u64,
}

#[derive(Debug)]
struct Peer {
    caller: Caller,
    /// The same socket that `control` has.
    socket: OwnedFd,
    open: BTreeSet<RequestId>,
    carries: Carries,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carries {
    /// Requests and answers.
    Requests,
    /// What its client is attached to, or will be as soon as `control` has said so: that of this request.
    Stream(RequestId),
}

impl Peer {
    /// What is of no use any more without it.
    fn requests(self) -> BTreeSet<RequestId> {
        let mut requests = self.open;
        if let Carries::Stream(request) = self.carries {
            requests.insert(request);
        }
        requests
    }
}

impl Peers {
    /// Lets a client in, and says who it is to whom. `None` if there are too many.
    pub(super) fn admit(&mut self, stream: &UnixStream) -> io::Result<Option<(Connection, OwnedFd)>> {
        let credentials = stream.peer_cred()?;
        let groups = sys::peer_groups(stream.as_fd())?;
        let caller = Caller { uid: credentials.uid(), gid: credentials.gid(), groups };
        let of_user = self.connections.values().filter(|peer| peer.caller.uid == caller.uid).count();
        if caller.uid != 0 && (self.connections.len() >= MOST_CONNECTIONS || of_user >= MOST_OF_A_USER) {
            return Ok(None);
        }
        self.last_connection = self.last_connection.saturating_add(1);
        let socket = stream.as_fd().try_clone_to_owned()?;
        let given = socket.try_clone()?;
        self.connections
            .insert(self.last_connection, Peer { caller, socket, open: BTreeSet::new(), carries: Carries::Requests });
        Ok(Some((self.last_connection, given)))
    }

    /// Takes a request of a client that is still there. Returns who asks.
    pub(super) fn ask(&mut self, connection: Connection, number: RequestNumber) -> Result<(RequestId, Caller), Error> {
        let gone = || Error::new(ErrorCode::Interrupted, "the client is gone", "");
        let peer = self.connections.get_mut(&connection).ok_or_else(gone)?;
        // Nobody is to act in the name of somebody who has left.
        if has_left(&peer.socket) {
            return Err(gone());
        }
        if peer.open.len() >= MOST_REQUESTS {
            let message = format!("{MOST_REQUESTS} requests of this connection are not answered yet");
            return Err(Error::new(ErrorCode::TooManyRequests, message, "wait for some of them"));
        }
        self.last_request = self.last_request.saturating_add(1);
        let id = RequestId(self.last_request);
        peer.open.insert(id);
        self.requests.insert(id, (connection, number));
        Ok((id, peer.caller.clone()))
    }

    /// Where an answer goes, which is the last one.
    pub(super) fn answered(&mut self, id: RequestId) -> Option<(Connection, RequestNumber)> {
        let (connection, number) = self.requests.remove(&id)?;
        self.connections.get_mut(&connection)?.open.remove(&id);
        Some((connection, number))
    }

    /// The client of this connection is attached to something from now on, unless there are too many.
    pub(super) fn attach(&mut self, connection: Connection, request: RequestId) -> Result<(), Error> {
        let Some(uid) = self.connections.get(&connection).map(|peer| peer.caller.uid) else { return Ok(()) };
        let streams = self.connections.values().filter(|peer| peer.carries != Carries::Requests);
        let of_user = streams.clone().filter(|peer| peer.caller.uid == uid).count();
        let of_others = streams.filter(|peer| peer.caller.uid != 0).count();
        let limit = if uid == 0 { MOST_STREAMS_OF_ROOT } else { MOST_STREAMS_OF_A_USER };
        let too_many = |whose, limit| {
            let message = format!("{whose} have {limit} consoles and other streams open already");
            Err(Error::new(ErrorCode::TooManyRequests, message, "close some, or try again later"))
        };
        if of_user >= limit {
            return too_many("you", limit);
        }
        if uid != 0 && of_others >= MOST_STREAMS {
            return too_many("all users", MOST_STREAMS);
        }
        if let Some(peer) = self.connections.get_mut(&connection) {
            peer.carries = Carries::Stream(request);
        }
        Ok(())
    }

    /// Nobody waits for that any more.
    pub(super) fn abandoned(&mut self, connection: Connection, number: RequestNumber) -> Option<RequestId> {
        let found = self.requests.iter().find(|(_, place)| **place == (connection, number)).map(|(id, _)| *id)?;
        self.answered(found);
        Some(found)
    }

    /// A client has left. Returns what it waited for, and what it was attached by.
    pub(super) fn closed(&mut self, connection: Connection) -> BTreeSet<RequestId> {
        let left = self.connections.remove(&connection).map(Peer::requests).unwrap_or_default();
        self.requests.retain(|id, _| !left.contains(id));
        left
    }

    /// `control` is gone, and every client with it. Tells those that wait. Returns what they waited for, and what they were
    /// attached by.
    pub(super) fn interrupted(&mut self) -> Vec<RequestId> {
        let mut left = Vec::new();
        self.requests.clear();
        for peer in std::mem::take(&mut self.connections).into_values() {
            // Not into the bytes of a stream, which just end.
            if !peer.open.is_empty() && peer.carries == Carries::Requests {
                // Once, and without waiting for anybody.
                let _ = rustix::net::send(
                    &peer.socket,
                    INTERRUPTED.as_bytes(),
                    rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT,
                );
            }
            let _ = rustix::net::shutdown(&peer.socket, rustix::net::Shutdown::Both);
            left.extend(peer.requests());
        }
        left
    }
}

fn has_left(socket: &OwnedFd) -> bool {
    let mut socket = [PollFd::new(socket, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut socket, Some(&now)).is_ok() && socket.iter().any(|socket| socket.revents().contains(PollFlags::HUP))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asks_is_who_is_connected() {
        let mut peers = Peers::default();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (connection, _socket) = peers.admit(&ours).unwrap().unwrap();
        let (id, caller) = peers.ask(connection, 5).unwrap();
        assert_eq!(
            (caller.uid, caller.gid),
            (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
        );
        assert_eq!(peers.ask(connection + 1, 6).unwrap_err().code, ErrorCode::Interrupted);
        assert_eq!(peers.answered(id), Some((connection, 5)));
        assert_eq!(peers.answered(id), None);
        let (other, _) = peers.ask(connection, 6).unwrap();
        assert_eq!(peers.abandoned(connection, 6), Some(other));
        peers.attach(connection, id).unwrap();
        for number in 0..16 {
            peers.ask(connection, number).unwrap();
        }
        assert_eq!(peers.ask(connection, 99).unwrap_err().code, ErrorCode::TooManyRequests);
        drop(theirs);
        assert_eq!(peers.ask(connection, 100).unwrap_err().code, ErrorCode::Interrupted);
        assert_eq!(peers.closed(connection).len(), 17);
        assert_eq!(peers.requests.len(), 0);
    }

    #[tokio::test]
    async fn who_waits_is_told_of_an_interruption() {
        let mut peers = Peers::default();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (connection, socket) = peers.admit(&ours).unwrap().unwrap();
        drop((ours, socket));
        peers.ask(connection, 1).unwrap();
        assert_eq!(peers.interrupted().len(), 1);
        let mut text = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut theirs, &mut text).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
        let error: Error = serde_json::from_str(body).unwrap();
        assert_eq!(error.code, ErrorCode::Interrupted);
    }
}
