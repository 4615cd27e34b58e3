//! The connection alone: each state, each packet, each event.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use event_manager::EventSet;

use crate::virtio::vsock::connection::{Connection, Fill, Ports, TIMEOUT, Verdict};
use crate::virtio::vsock::credit::BUFFER_SIZE;
use crate::virtio::vsock::packet::{
    HEADER_SIZE, Header, Payload, RxBuffer, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TxPacket, op,
};

const PORTS: Ports = Ports { host: 7, guest: 1000 };

/// A connection, its host end, and a moment at which everything happens.
struct Fixture {
    connection: Connection,
    peer: UnixStream,
    now: Instant,
    buffer: Vec<u8>,
}

impl Fixture {
    fn requested() -> Self {
        let (ours, peer) = UnixStream::pair().unwrap();
        let now = Instant::now();
        let connection = Connection::request(PORTS, ours.into(), now);
        Self { connection, peer, now, buffer: vec![0; 4096] }
    }

    fn established() -> Self {
        let (ours, peer) = UnixStream::pair().unwrap();
        let connection = Connection::accept(PORTS, ours.into(), &header(op::REQUEST));
        let mut fixture = Self { connection, peer, now: Instant::now(), buffer: vec![0; 4096] };
        assert_eq!(fixture.next(), Some((op::RESPONSE, 0)));
        assert_eq!(fixture.next(), None);
        fixture
    }

    fn receive(&mut self, header: Header, mut payload: Vec<u8>) -> Verdict {
        let payload = Payload::from(payload.as_mut_slice());
        self.connection.receive(TxPacket { header, payload }, self.now)
    }

    /// A packet without payload.
    fn hear(&mut self, operation: u16) -> Verdict {
        self.receive(header(operation), Vec::new())
    }

    fn hear_shutdown(&mut self, flags: u32) -> Verdict {
        self.receive(Header { flags: flags.into(), ..header(op::SHUTDOWN) }, Vec::new())
    }

    fn event(&mut self, events: EventSet) -> Verdict {
        self.connection.handle_event(events, self.now)
    }

    fn fill(&mut self) -> Fill {
        self.connection.fill(&RxBuffer::in_bytes(&mut self.buffer), self.now)
    }

    /// Operation of the next packet, with its payload's length or its flags.
    fn next(&mut self) -> Option<(u16, u32)> {
        let promised = self.connection.has_packet();
        match self.fill() {
            Fill::Packet(header) => {
                assert!(promised, "{header:?}");
                Some((header.op.get(), header.len.get().max(header.flags.get())))
            }
            Fill::Nothing => None,
            Fill::Reset => Some((op::RST, 0)),
        }
    }
}

fn header(operation: u16) -> Header {
    Header { op: operation.into(), buf_alloc: 1000.into(), ..Header::default() }
}

#[test]
fn a_request_waits_for_its_response_and_nothing_else() {
    let mut fixture = Fixture::requested();
    assert_eq!(fixture.connection.deadline(), fixture.now.checked_add(TIMEOUT));
    assert_eq!(fixture.connection.interest(), Some(EventSet::empty()));
    assert_eq!(fixture.next(), Some((op::REQUEST, 0)));
    assert_eq!(fixture.hear(op::RESPONSE), Verdict::Keep);
    assert_eq!(fixture.connection.deadline(), None);
    assert_eq!(fixture.connection.interest(), Some(EventSet::IN));
    let mut line = [0; 5];
    fixture.peer.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"OK 7\n");

    for operation in [op::REQUEST, op::RW, op::SHUTDOWN, op::CREDIT_UPDATE, op::CREDIT_REQUEST, 0, 8] {
        assert_eq!(Fixture::requested().hear(operation), Verdict::Violated);
    }
    assert_eq!(Fixture::requested().hear(op::RST), Verdict::Ended);
    assert_eq!(Fixture::requested().event(EventSet::HANG_UP), Verdict::Reset);
}

#[test]
fn a_client_that_left_is_not_told_ok() {
    let mut fixture = Fixture::requested();
    drop(std::mem::replace(&mut fixture.peer, UnixStream::pair().unwrap().0));
    assert_eq!(fixture.hear(op::RESPONSE), Verdict::Reset);
}

#[test]
fn packets_of_an_established_connection() {
    for operation in [op::REQUEST, op::RESPONSE, 0, 8, u16::MAX] {
        assert_eq!(Fixture::established().hear(operation), Verdict::Violated);
    }
    assert_eq!(Fixture::established().hear(op::RST), Verdict::Ended);
    let mut fixture = Fixture::established();
    assert_eq!(fixture.hear(op::CREDIT_UPDATE), Verdict::Keep);
    assert_eq!(fixture.next(), None);
    assert_eq!(fixture.hear(op::CREDIT_REQUEST), Verdict::Keep);
    assert_eq!(fixture.next(), Some((op::CREDIT_UPDATE, 0)));
    assert_eq!(fixture.next(), None);
    assert_eq!(fixture.receive(header(op::RW), b"ab".to_vec()), Verdict::Keep);
    assert_eq!(fixture.hear(op::RW), Verdict::Keep, "nothing is sent, and nothing is wrong with it");
}

#[test]
fn bytes_for_the_guest_keep_to_its_credit_and_its_buffer() {
    let mut fixture = Fixture::established();
    fixture.peer.write_all(&[5; 1500]).unwrap();
    assert_eq!(fixture.event(EventSet::IN), Verdict::Keep);
    fixture.buffer.truncate(HEADER_SIZE + 600);
    assert_eq!(fixture.next(), Some((op::RW, 600)));
    assert_eq!(fixture.buffer[HEADER_SIZE..], [5; 600]);
    assert_eq!(fixture.next(), Some((op::RW, 400)));
    assert_eq!(fixture.connection.interest(), None, "what it cannot deliver it does not wait for");
    assert_eq!(fixture.next(), Some((op::CREDIT_REQUEST, 0)));
    assert_eq!(fixture.next(), None);
    assert!(!fixture.connection.has_packet());
    let update = Header { fwd_cnt: 1000.into(), ..header(op::CREDIT_UPDATE) };
    assert_eq!(fixture.receive(update, Vec::new()), Verdict::Keep);
    assert_eq!(fixture.next(), Some((op::RW, 500)));
    assert_eq!(fixture.next(), None);
    assert_eq!(fixture.connection.interest(), Some(EventSet::IN));
    let lie = Header { fwd_cnt: 1501.into(), ..header(op::CREDIT_UPDATE) };
    assert_eq!(fixture.receive(lie, Vec::new()), Verdict::Violated);
}

#[test]
fn bytes_for_a_host_that_does_not_read_wait_for_it() {
    let mut fixture = Fixture::established();
    let mut sent: usize = 0;
    while fixture.connection.interest() == Some(EventSet::IN) {
        assert_eq!(fixture.receive(header(op::RW), vec![1; 30_000]), Verdict::Keep);
        sent += 30_000;
        while fixture.next().is_some() {}
    }
    assert_eq!(fixture.connection.interest(), Some(EventSet::IN | EventSet::OUT));
    // The host's end of the sender's direction waits for the bytes before it.
    assert_eq!(fixture.hear_shutdown(SHUTDOWN_SEND), Verdict::Keep);
    assert_eq!(fixture.receive(header(op::RW), vec![1]), Verdict::Violated);
    fixture.peer.set_nonblocking(true).unwrap();
    let mut got = 0;
    let mut chunk = vec![0; 10_000];
    loop {
        match fixture.peer.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(_) => assert_eq!(fixture.event(EventSet::OUT), Verdict::Keep),
        }
    }
    assert_eq!(got, sent);
}

#[test]
fn a_host_that_is_gone_frees_the_backlog_and_the_credit() {
    let mut fixture = Fixture::established();
    while fixture.connection.interest() == Some(EventSet::IN) {
        assert_eq!(fixture.receive(header(op::RW), vec![1; 30_000]), Verdict::Keep);
        while fixture.next().is_some() {}
    }
    drop(std::mem::replace(&mut fixture.peer, UnixStream::pair().unwrap().0));
    assert_eq!(fixture.event(EventSet::OUT | EventSet::HANG_UP), Verdict::Keep);
    assert_eq!(fixture.next(), Some((op::RST, 0)), "it left without having read everything: no end in good order");
    let (_, rest) = fixture.connection.into_rest();
    assert!(rest.is_empty());
}

#[test]
fn a_host_that_only_stops_reading_is_told_to_the_guest() {
    let mut fixture = Fixture::established();
    fixture.peer.shutdown(Shutdown::Read).unwrap();
    assert_eq!(fixture.receive(header(op::RW), vec![1; 40_000]), Verdict::Keep);
    assert_eq!(fixture.next(), Some((op::CREDIT_UPDATE, 0)), "nobody takes the bytes, so they take no room");
    assert_eq!(fixture.next(), Some((op::SHUTDOWN, SHUTDOWN_RECEIVE)));
    fixture.peer.write_all(b"still").unwrap();
    assert_eq!(fixture.event(EventSet::IN), Verdict::Keep);
    assert_eq!(fixture.next(), Some((op::RW, 5)));
}

#[test]
fn each_direction_ends_alone_and_both_end_the_connection() {
    let mut fixture = Fixture::established();
    fixture.peer.shutdown(Shutdown::Write).unwrap();
    assert_eq!(fixture.event(EventSet::IN), Verdict::Keep);
    assert_eq!(fixture.next(), Some((op::SHUTDOWN, SHUTDOWN_SEND)));
    assert_eq!(fixture.connection.interest(), Some(EventSet::empty()), "a hang-up may still come");
    assert_eq!(fixture.connection.deadline(), None);
    assert_eq!(fixture.receive(header(op::RW), b"x".to_vec()), Verdict::Keep);
    assert_eq!(fixture.event(EventSet::HANG_UP), Verdict::Keep);
    assert_eq!(fixture.next(), Some((op::SHUTDOWN, SHUTDOWN_BOTH)));
    assert_eq!(fixture.connection.interest(), None);
    assert_eq!(fixture.connection.deadline(), fixture.now.checked_add(TIMEOUT));
    assert_eq!(fixture.receive(header(op::RW), b"too late".to_vec()), Verdict::Keep);
    assert_eq!(fixture.hear_shutdown(SHUTDOWN_BOTH), Verdict::Reset);
}

#[test]
fn shutdown_flags_add_up() {
    let mut fixture = Fixture::established();
    assert_eq!(fixture.hear_shutdown(0), Verdict::Keep);
    assert_eq!(fixture.hear_shutdown(u32::MAX << 2), Verdict::Keep);
    assert_eq!(fixture.hear_shutdown(SHUTDOWN_RECEIVE), Verdict::Keep);
    assert_eq!(fixture.hear_shutdown(SHUTDOWN_RECEIVE), Verdict::Keep);
    assert_eq!(fixture.hear_shutdown(SHUTDOWN_SEND), Verdict::Reset);
    let (_, rest) = fixture.connection.into_rest();
    assert!(rest.is_empty());
}

#[test]
fn a_burst_is_answered_with_credit_before_it_runs_out() {
    let mut fixture = Fixture::established();
    let half = vec![0; BUFFER_SIZE as usize / 2];
    assert_eq!(fixture.receive(header(op::RW), half.clone()), Verdict::Keep);
    assert_eq!(fixture.next(), None);
    assert_eq!(fixture.receive(header(op::RW), half), Verdict::Keep);
    let Fill::Packet(update) = fixture.fill() else { panic!("no packet") };
    assert_eq!((update.op.get(), update.fwd_cnt.get(), update.buf_alloc.get()), (6, BUFFER_SIZE, BUFFER_SIZE));
}
