//! All connections of one device: who exists, whose turn it is, and which sockets are watched.
//!
//! A peer is whatever has a socket of the host: a client that still has to say what it wants, a connection, or the rest
//! of one whose guest side is over. Each has an id, which is also the token of its events. Packets for the guest are not
//! queued: a peer that has one stands in `ready` once, and the packet is made when the guest has a buffer for it, one
//! per turn. Only RSTs for connections that no longer exist, or never did, are queued.
//!
//! Bounds: at most [`MAX_PEERS`] peers, so at most [`MAX_PEERS`] x 64 KiB of payload (reached only if every host end
//! stalls); `ready` and `changed` hold a peer once. `resets` holds at most [`MAX_RESETS`] answers to the guest's own
//! packets, because the device takes no further packet meanwhile, and one for each peer that ended.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Instant;

use event_manager::EventSet;

use super::connection::{Connection, Fill, Ports, TIMEOUT, Verdict};
use super::counters::VsockCounters;
use super::handshake::{Handshake, Progress};
use super::host::HostEndpoint;
use super::packet::{HOST_CID, Header, RxBuffer, TYPE_STREAM, TxPacket, op};
use super::peer::{Peer, PeerKind};
use super::watch::{PeerId, Retired};

/// Most sockets of the host at a time, without the listener.
pub const MAX_PEERS: usize = 1023;

/// RSTs in wait, from which on no further packet of the guest is taken.
pub const MAX_RESETS: usize = 256;

/// Ports of the host's side of connections that a host program asks for have this bit, and not the one above it.
const LOCAL_PORTS: u32 = 1 << 30;

/// See the module.
#[derive(Debug)]
pub struct Muxer {
    guest_cid: u64,
    host: HostEndpoint,
    pub(super) peers: BTreeMap<PeerId, Peer>,
    by_ports: BTreeMap<Ports, PeerId>,
    ready: VecDeque<PeerId>,
    resets: VecDeque<Header>,
    /// Peers whose interest in events may have changed.
    pub(super) changed: Vec<PeerId>,
    /// Sockets that are to be closed, once they are no longer watched.
    pub(super) retired: Vec<Retired>,
    /// Nothing is accepted until then, because the process is out of descriptors.
    listener_rests_until: Option<Instant>,
    earliest_deadline: Option<Instant>,
    last_id: PeerId,
    last_local_port: u32,
    counters: Arc<VsockCounters>,
}

impl Muxer {
    /// A device without connections.
    pub fn new(guest_cid: u32, host: HostEndpoint) -> Self {
        Self {
            guest_cid: guest_cid.into(),
            host,
            peers: BTreeMap::new(),
            by_ports: BTreeMap::new(),
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            changed: Vec::new(),
            retired: Vec::new(),
            listener_rests_until: None,
            earliest_deadline: None,
            last_id: PeerId::FIRST,
            last_local_port: LOCAL_PORTS,
            counters: Arc::default(),
        }
    }

    /// What happened so far.
    pub fn counters(&self) -> &Arc<VsockCounters> {
        &self.counters
    }

    /// The listener's descriptor, if there is one.
    pub fn listener(&self) -> Option<RawFd> {
        self.host.listener()
    }

    /// Whether the listener is to be watched.
    pub fn accepts_clients(&self) -> bool {
        self.listener_rests_until.is_none()
    }

    /// Drops every peer; the host's end and the counters stay.
    pub fn reset(&mut self) {
        let peers = std::mem::take(&mut self.peers);
        self.retired.extend(peers.into_values().map(Peer::retire));
        self.by_ports.clear();
        self.ready.clear();
        self.resets.clear();
        self.changed.clear();
        self.listener_rests_until = None;
        self.earliest_deadline = None;
    }

    /// Whether a packet of the guest may be taken now.
    pub fn takes_packets(&self) -> bool {
        self.resets.len() < MAX_RESETS
    }

    /// Takes a packet of the guest.
    pub fn receive(&mut self, packet: TxPacket<'_>, now: Instant) {
        let header = packet.header;
        let addressed = header.src_cid == self.guest_cid && header.dst_cid == HOST_CID;
        if !addressed || header.socket_type != TYPE_STREAM {
            self.counters.violations.count();
            return self.refuse(&header);
        }
        self.counters.tx_packets.add(1);
        self.counters.tx_bytes.add(header.len.get().into());
        let ports = Ports { host: header.dst_port.get(), guest: header.src_port.get() };
        let known = self.by_ports.get(&ports).copied();
        match known.and_then(|id| Some((id, self.peers.get_mut(&id)?.connection_mut()?))) {
            Some((id, connection)) => {
                let verdict = connection.receive(packet, now);
                self.settle(id, verdict);
            }
            None if header.op == op::REQUEST => self.accept_guest(ports, &header),
            None => self.refuse(&header),
        }
    }

    /// Answers a packet that belongs to no connection, in the name of whomever it was sent to.
    fn refuse(&mut self, header: &Header) {
        if header.op != op::RST {
            self.resets.push_back(Header {
                src_cid: header.dst_cid,
                dst_cid: self.guest_cid.into(),
                src_port: header.dst_port,
                dst_port: header.src_port,
                socket_type: header.socket_type,
                op: op::RST.into(),
                ..Header::default()
            });
        }
    }

    fn accept_guest(&mut self, ports: Ports, request: &Header) {
        let socket = if self.peers.len() < MAX_PEERS {
            self.host.connect(ports.host)
        } else {
            Err(io::ErrorKind::QuotaExceeded.into())
        };
        match socket {
            Ok(socket) => {
                let connection = Connection::accept(ports, socket, request);
                let id = self.insert(PeerKind::Connection(connection));
                self.by_ports.insert(ports, id);
                self.touch(id);
            }
            Err(error) => {
                log::debug!("vsock: connect guest to host port {}: {error}", ports.host);
                self.counters.refused.count();
                self.refuse(request);
            }
        }
    }

    /// Takes a client of the listener, or closes it if there are too many.
    pub fn accept_client(&mut self, now: Instant) {
        match self.host.accept() {
            Ok(socket) if self.peers.len() < MAX_PEERS => {
                let id = self.insert(PeerKind::Handshake(Handshake::new(socket)));
                self.touch(id);
            }
            Ok(_) => self.counters.refused.count(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                log::warn!("vsock: accept a client: {error}");
                self.listener_rests_until = now.checked_add(TIMEOUT);
                self.note_deadline(self.listener_rests_until);
            }
        }
    }

    /// Takes events of a peer's socket.
    pub fn handle_event(&mut self, id: PeerId, events: EventSet, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        match &mut peer.kind {
            PeerKind::Handshake(handshake) => match handshake.advance() {
                Progress::Waiting => {}
                Progress::Connect(port) => self.request_guest(id, port, now),
                Progress::Refused => {
                    self.counters.refused.count();
                    self.remove(id);
                }
            },
            PeerKind::Connection(connection) => {
                let verdict = connection.handle_event(events, now);
                self.settle(id, verdict);
            }
            PeerKind::Draining(socket, backlog) => {
                if backlog.flush(socket).is_err() || backlog.is_empty() {
                    self.remove(id);
                }
            }
        }
    }

    /// Turns a client into a connection that the guest is asked for.
    fn request_guest(&mut self, id: PeerId, guest_port: u32, now: Instant) {
        let Some(ports) = self.free_ports(guest_port) else { return self.remove(id) };
        let Some(peer) = self.peers.remove(&id) else { return };
        let peer = peer.map(|kind| match kind {
            PeerKind::Handshake(handshake) => {
                PeerKind::Connection(Connection::request(ports, handshake.into_socket(), now))
            }
            other => other,
        });
        self.peers.insert(id, peer);
        self.by_ports.insert(ports, id);
        self.touch(id);
    }

    /// The next port of the host that is free together with `guest`.
    fn free_ports(&mut self, guest: u32) -> Option<Ports> {
        for _ in 0..=MAX_PEERS {
            self.last_local_port = self.last_local_port.wrapping_add(1) & (LOCAL_PORTS - 1) | LOCAL_PORTS;
            let ports = Ports { host: self.last_local_port, guest };
            if !self.by_ports.contains_key(&ports) {
                return Some(ports);
            }
        }
        None
    }

    /// Whether a buffer of the guest could be put to use.
    pub fn has_packets(&self) -> bool {
        !self.resets.is_empty() || !self.ready.is_empty()
    }

    /// Puts the next packet into a buffer of the guest, and returns its bytes; `None` if there is no packet after all.
    pub fn fill(&mut self, buffer: &RxBuffer<'_>, now: Instant) -> Option<u32> {
        loop {
            if let Some(reset) = self.resets.pop_front() {
                return Some(buffer.finish(&reset));
            }
            let id = self.ready.pop_front()?;
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            peer.queued = false;
            let Some(connection) = peer.connection_mut() else { continue };
            match connection.fill(buffer, now) {
                Fill::Packet(header) => {
                    self.counters.rx_packets.add(1);
                    self.counters.rx_bytes.add(header.len.get().into());
                    self.touch(id);
                    let header = Header { src_cid: HOST_CID.into(), dst_cid: self.guest_cid.into(), ..header };
                    return Some(buffer.finish(&header));
                }
                Fill::Nothing => self.touch(id),
                Fill::Reset => self.settle(id, Verdict::Reset),
            }
        }
    }

    /// When [`Muxer::expire`] has something to do.
    pub fn earliest_deadline(&self) -> Option<Instant> {
        self.earliest_deadline
    }

    /// Ends what has waited for the guest for too long, and lets the listener work again.
    pub fn expire(&mut self, now: Instant) {
        if self.listener_rests_until.is_some_and(|until| until <= now) {
            self.listener_rests_until = None;
        }
        let overdue = |peer: &Peer| peer.deadline().is_some_and(|deadline| deadline <= now);
        let expired: Vec<PeerId> = self.peers.iter().filter(|(_, peer)| overdue(peer)).map(|(id, _)| *id).collect();
        for id in expired {
            self.counters.timeouts.count();
            self.settle(id, Verdict::Reset);
        }
        let deadlines = self.peers.values().filter_map(Peer::deadline);
        self.earliest_deadline = deadlines.chain(self.listener_rests_until).min();
    }

    fn note_deadline(&mut self, deadline: Option<Instant>) {
        self.earliest_deadline = self.earliest_deadline.into_iter().chain(deadline).min();
    }

    fn insert(&mut self, kind: PeerKind) -> PeerId {
        loop {
            self.last_id = self.last_id.next();
            if !self.peers.contains_key(&self.last_id) {
                self.peers.insert(self.last_id, Peer::new(kind));
                return self.last_id;
            }
        }
    }

    /// Does what a verdict about a connection says.
    fn settle(&mut self, id: PeerId, verdict: Verdict) {
        if verdict == Verdict::Violated {
            self.counters.violations.count();
        }
        match verdict {
            Verdict::Keep => self.touch(id),
            Verdict::Ended => self.remove(id),
            Verdict::Reset | Verdict::Violated => self.remove_with_reset(id),
        }
    }

    /// Removes a connection, and tells the guest.
    pub(super) fn remove_with_reset(&mut self, id: PeerId) {
        if let Some(connection) = self.peers.get_mut(&id).and_then(Peer::connection_mut) {
            let Ports { host, guest } = connection.ports();
            self.resets.push_back(Header {
                src_cid: HOST_CID.into(),
                dst_cid: self.guest_cid.into(),
                src_port: host.into(),
                dst_port: guest.into(),
                socket_type: TYPE_STREAM.into(),
                op: op::RST.into(),
                ..Header::default()
            });
        }
        self.remove(id);
    }

    /// Removes a peer. What the host still has to get stays, as a peer without ports.
    fn remove(&mut self, id: PeerId) {
        let Some(mut peer) = self.peers.remove(&id) else { return };
        if peer.queued {
            self.ready.retain(|queued| *queued != id);
            peer.queued = false;
        }
        if let Some(connection) = peer.connection_mut() {
            self.by_ports.remove(&connection.ports());
        }
        match peer.into_rest() {
            Ok(rest) => {
                self.peers.insert(id, rest);
                self.touch(id);
            }
            Err(retired) => self.retired.push(retired),
        }
    }

    /// Looks again at what a peer wants.
    fn touch(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if !peer.queued && peer.has_packet() {
            peer.queued = true;
            self.ready.push_back(id);
        }
        if !peer.changed {
            peer.changed = true;
            self.changed.push(id);
        }
        let deadline = peer.deadline();
        self.note_deadline(deadline);
    }

    /// RSTs in wait.
    #[cfg(test)]
    pub fn resets(&self) -> usize {
        self.resets.len()
    }
}
