//! One connection between a port of the guest and a socket of the host.
//!
//! ```text
//!   host: CONNECT -> Requested --guest: RESPONSE--> Established --both directions ended--> Closing --> gone
//!   guest: REQUEST ------------------------------------^
//! ```
//!
//! The directions of an established connection end one by one: the host's end of file becomes SHUTDOWN(SEND), a host
//! that no longer reads becomes SHUTDOWN(RECEIVE), and the guest's SHUTDOWN flags become shutdown(2), after what the
//! guest sent before has reached the host. `Closing` has told the guest that both directions are over, and waits for its
//! RST; `Requested` and `Closing` last for at most [`TIMEOUT`].
//!
//! Invariants:
//! - `backlog` holds exactly the bytes that the guest sent and the host has not taken, at most [`BUFFER_SIZE`].
//! - What is to be told to the guest is a few flags, never a queue.
//! - A socket that has something for the guest, which cannot take it now, is not watched at all: a level-triggered
//!   hang-up would otherwise be reported without end.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use event_manager::EventSet;

use super::backlog::Backlog;
use super::credit::{BUFFER_SIZE, GuestRoom, OwnRoom};
use super::packet::{Header, RxBuffer, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM, TxPacket, op};
use super::sys::HostSocket;

/// How long the guest may take to answer a REQUEST, or a SHUTDOWN of both directions.
pub const TIMEOUT: Duration = Duration::from_secs(2);

/// The two ports that name a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ports {
    /// The host's port.
    pub host: u32,
    /// The guest's port.
    pub guest: u32,
}

/// See the module's picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Requested,
    Established,
    Closing,
}

/// One direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Open,
    /// The sender is done, and its last bytes are still on their way.
    Finishing,
    Ended,
}

/// What becomes of a connection after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// It goes on.
    Keep,
    /// It is over, and the guest knows.
    Ended,
    /// It is over, and the guest is told so by RST.
    Reset,
    /// As [`Verdict::Reset`], because the guest broke a rule.
    Violated,
}

/// What a connection had for a buffer of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Fill {
    /// A packet with this header, whose payload is already in place. The context identifiers are left to the caller.
    Packet(Header),
    /// Nothing.
    Nothing,
    /// The host's end broke.
    Reset,
}

/// Small packets that wait for a buffer of the guest.
#[derive(Debug, Default)]
struct Pending {
    /// REQUEST or RESPONSE.
    opening: Option<u16>,
    credit_update: bool,
    shutdown: bool,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    ports: Ports,
    socket: HostSocket,
    state: State,
    deadline: Option<Instant>,
    to_guest: Flow,
    to_host: Flow,
    /// The socket may have something for the guest.
    readable: bool,
    backlog: Backlog,
    guest_room: GuestRoom,
    own_room: OwnRoom,
    credit_requested: bool,
    pending: Pending,
    /// What the guest was told, or is about to be told, that is over.
    shutdown_told: u32,
    /// What the guest said is over.
    shutdown_heard: u32,
}

impl Connection {
    /// A connection that the guest asked for by `request`, and that leads to `socket`.
    pub fn accept(ports: Ports, socket: HostSocket, request: &Header) -> Self {
        let mut connection = Self::new(ports, socket, State::Established, op::RESPONSE);
        // Nothing was sent yet, so a counter other than zero is a lie that only costs the guest its own credit.
        let _ = connection.guest_room.update(request.buf_alloc.get(), request.fwd_cnt.get());
        connection
    }

    /// A connection that a host program asks the guest for.
    pub fn request(ports: Ports, socket: HostSocket, now: Instant) -> Self {
        let mut connection = Self::new(ports, socket, State::Requested, op::REQUEST);
        connection.deadline = now.checked_add(TIMEOUT);
        connection
    }

    fn new(ports: Ports, socket: HostSocket, state: State, opening: u16) -> Self {
        Self {
            ports,
            socket,
            state,
            deadline: None,
            to_guest: Flow::Open,
            to_host: Flow::Open,
            readable: false,
            backlog: Backlog::default(),
            guest_room: GuestRoom::default(),
            own_room: OwnRoom::default(),
            credit_requested: false,
            pending: Pending { opening: Some(opening), ..Pending::default() },
            shutdown_told: 0,
            shutdown_heard: 0,
        }
    }

    /// The ports.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// The host's socket.
    pub fn socket(&self) -> &HostSocket {
        &self.socket
    }

    /// When the guest's answer is overdue.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Takes a packet of the guest.
    pub fn receive(&mut self, mut packet: TxPacket<'_>, now: Instant) -> Verdict {
        let header = packet.header;
        if header.op.get() == op::RST {
            return Verdict::Ended;
        }
        if self.guest_room.update(header.buf_alloc.get(), header.fwd_cnt.get()).is_err() {
            return Verdict::Violated;
        }
        if self.guest_room.available() > 0 {
            self.credit_requested = false;
        }
        match (self.state, header.op.get()) {
            (State::Requested, op::RESPONSE) => self.open(),
            (State::Requested, _) => Verdict::Violated,
            (_, op::RW) => self.take_payload(&mut packet, now),
            (_, op::SHUTDOWN) => self.hear_shutdown(header.flags.get(), now),
            (_, op::CREDIT_REQUEST) => {
                self.pending.credit_update = true;
                Verdict::Keep
            }
            (_, op::CREDIT_UPDATE) => Verdict::Keep,
            _ => Verdict::Violated,
        }
    }

    /// The guest accepted, which the client is told. An empty socket has room for the line, or nobody behind it.
    fn open(&mut self) -> Verdict {
        let answer = format!("OK {}\n", self.ports.host);
        match self.socket.send(answer.as_bytes()) {
            Ok(count) if count == answer.len() => {
                self.state = State::Established;
                self.deadline = None;
                Verdict::Keep
            }
            _ => Verdict::Reset,
        }
    }

    fn take_payload(&mut self, packet: &mut TxPacket<'_>, now: Instant) -> Verdict {
        let length = packet.payload.len();
        if self.shutdown_heard & SHUTDOWN_SEND != 0 || length > self.backlog.room() {
            return Verdict::Violated;
        }
        self.own_room.receive(count(length));
        if self.to_host == Flow::Open && self.backlog.is_empty() {
            match packet.payload.send_to(&self.socket) {
                Ok(sent) => self.own_room.forward(count(sent)),
                Err(_) => self.host_receives_no_more(now),
            }
        }
        if self.to_host == Flow::Open {
            self.backlog.push(&packet.payload);
        } else {
            // The guest sent this before it could know that nobody takes it.
            self.own_room.forward(count(packet.payload.len()));
        }
        Verdict::Keep
    }

    fn hear_shutdown(&mut self, flags: u32, now: Instant) -> Verdict {
        self.shutdown_heard |= flags & SHUTDOWN_BOTH;
        if self.shutdown_heard & SHUTDOWN_SEND != 0 && self.to_host == Flow::Open {
            self.to_host = Flow::Finishing;
        }
        if self.shutdown_heard == SHUTDOWN_BOTH {
            return Verdict::Reset;
        }
        if self.shutdown_heard & SHUTDOWN_RECEIVE != 0 && self.to_guest == Flow::Open {
            self.to_guest = Flow::Ended;
            self.readable = false;
            self.socket.shutdown(Shutdown::Read);
        }
        self.finish(now);
        Verdict::Keep
    }

    /// Takes events of the host's socket.
    pub fn handle_event(&mut self, events: EventSet, now: Instant) -> Verdict {
        let hung_up = events.intersects(EventSet::HANG_UP | EventSet::ERROR);
        if self.state == State::Requested && hung_up {
            return Verdict::Reset;
        }
        if events.contains(EventSet::OUT) && !self.backlog.is_empty() {
            match self.backlog.flush(&self.socket) {
                Ok(sent) => self.own_room.forward(count(sent)),
                Err(_) => self.host_receives_no_more(now),
            }
        }
        if hung_up {
            self.host_receives_no_more(now);
        }
        if self.to_guest == Flow::Open && (hung_up || events.contains(EventSet::IN)) {
            self.readable = true;
        }
        self.finish(now);
        Verdict::Keep
    }

    /// The host took its last byte, by choice or because it is gone.
    fn host_receives_no_more(&mut self, now: Instant) {
        if self.to_host == Flow::Ended {
            return;
        }
        self.to_host = Flow::Ended;
        self.own_room.forward(count(self.backlog.clear()));
        self.tell_shutdown(SHUTDOWN_RECEIVE);
        self.finish(now);
    }

    /// Ends what has nothing left to do.
    fn finish(&mut self, now: Instant) {
        if self.to_host == Flow::Finishing && self.backlog.is_empty() {
            self.to_host = Flow::Ended;
            self.socket.shutdown(Shutdown::Write);
        }
        if self.to_host == Flow::Ended && self.to_guest == Flow::Ended && self.state == State::Established {
            self.state = State::Closing;
            self.deadline = now.checked_add(TIMEOUT);
            self.socket.shutdown(Shutdown::Both);
            self.tell_shutdown(SHUTDOWN_BOTH);
        }
    }

    fn tell_shutdown(&mut self, flags: u32) {
        let told = self.shutdown_told | flags;
        self.pending.shutdown |= told != self.shutdown_told;
        self.shutdown_told = told;
    }

    /// Whether [`Connection::fill`] may have something.
    pub fn has_packet(&self) -> bool {
        let Pending { opening, credit_update, shutdown } = &self.pending;
        opening.is_some()
            || *credit_update
            || *shutdown
            || self.own_room.update_is_due()
            || self.may_read() && (self.guest_room.available() > 0 || !self.credit_requested)
    }

    fn may_read(&self) -> bool {
        self.readable && self.to_guest == Flow::Open && self.state == State::Established
    }

    /// Puts the most urgent packet into a buffer of the guest.
    pub fn fill(&mut self, buffer: &RxBuffer<'_>, now: Instant) -> Fill {
        if let Some(opening) = self.pending.opening.take() {
            return self.packet(opening);
        }
        if self.pending.credit_update {
            return self.packet(op::CREDIT_UPDATE);
        }
        if self.may_read() {
            match self.read(buffer, now) {
                Fill::Nothing => {}
                fill => return fill,
            }
        }
        if self.own_room.update_is_due() {
            return self.packet(op::CREDIT_UPDATE);
        }
        if self.pending.shutdown {
            self.pending.shutdown = false;
            return self.packet(op::SHUTDOWN);
        }
        Fill::Nothing
    }

    /// Moves bytes of the host into a buffer of the guest.
    fn read(&mut self, buffer: &RxBuffer<'_>, now: Instant) -> Fill {
        let limit = buffer.room().min(self.guest_room.available() as usize);
        if limit == 0 {
            if self.credit_requested {
                return Fill::Nothing;
            }
            self.credit_requested = true;
            return self.packet(op::CREDIT_REQUEST);
        }
        match buffer.receive_from(&self.socket, limit) {
            Ok(None) => {
                self.readable = false;
                Fill::Nothing
            }
            Ok(Some(0)) => {
                self.readable = false;
                self.to_guest = Flow::Ended;
                self.tell_shutdown(SHUTDOWN_SEND);
                self.finish(now);
                Fill::Nothing
            }
            Ok(Some(received)) => {
                // Less than there was room for: the socket is empty, and epoll(7) will say when it no longer is.
                self.readable = received == limit;
                self.guest_room.spend(count(received));
                match self.packet(op::RW) {
                    Fill::Packet(header) => Fill::Packet(Header { len: count(received).into(), ..header }),
                    other => other,
                }
            }
            Err(_) => Fill::Reset,
        }
    }

    /// A packet without payload. Every packet brings news of the credit.
    fn packet(&mut self, operation: u16) -> Fill {
        self.pending.credit_update = false;
        let flags = if operation == op::SHUTDOWN { self.shutdown_told } else { 0 };
        Fill::Packet(Header {
            src_port: self.ports.host.into(),
            dst_port: self.ports.guest.into(),
            socket_type: TYPE_STREAM.into(),
            op: operation.into(),
            flags: flags.into(),
            buf_alloc: BUFFER_SIZE.into(),
            fwd_cnt: self.own_room.tell().into(),
            ..Header::default()
        })
    }

    /// The events of the socket to watch for; none at all if it must not be watched.
    pub fn interest(&self) -> Option<EventSet> {
        let to_guest_open = self.to_guest == Flow::Open;
        match self.state {
            State::Closing => None,
            State::Requested => Some(EventSet::empty()),
            State::Established => {
                let mut events = EventSet::empty();
                events.set(EventSet::IN, to_guest_open && !self.readable);
                events.set(EventSet::OUT, !self.backlog.is_empty());
                if events.is_empty() && to_guest_open { None } else { Some(events) }
            }
        }
    }

    /// The socket, and what the guest sent before it ended the connection in good order, which the host still gets.
    pub fn into_rest(self) -> (HostSocket, Backlog) {
        let rest = if self.to_host == Flow::Finishing { self.backlog } else { Backlog::default() };
        (self.socket, rest)
    }
}

/// Bytes of one packet or buffer, all of which are far below 4 GiB.
fn count(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
