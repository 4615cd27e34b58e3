//! Bytes get across, in order and whole, and so does their end.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use super::driver::{GUEST_BUFFER, Guest, packet, ports};
use crate::virtio::vsock::HostEndpoint;
use crate::virtio::vsock::credit::BUFFER_SIZE;
use crate::virtio::vsock::packet::{HEADER_SIZE, Header, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, op};

/// The guest's side of one connection, which keeps to the credit, and checks that the device does.
pub struct Stream {
    pub host_port: u32,
    pub guest_port: u32,
    sent: u32,
    room: (u32, u32),
    pub received: Vec<u8>,
    shutdown: u32,
    reset: bool,
}

impl Stream {
    fn new(host_port: u32, guest_port: u32, first: &Header) -> Self {
        let room = (first.buf_alloc.get(), first.fwd_cnt.get());
        Self { host_port, guest_port, sent: 0, room, received: Vec::new(), shutdown: 0, reset: false }
    }

    /// Connects to a port of the host.
    pub fn connect(guest: &mut Guest, host_port: u32, guest_port: u32) -> Self {
        guest.send(&packet(op::REQUEST, host_port, guest_port), &[]);
        let (response, _) = guest.expect(op::RESPONSE);
        assert_eq!((response.src_port.get(), response.dst_port.get()), (host_port, guest_port));
        Self::new(host_port, guest_port, &response)
    }

    /// Accepts what a host program asked for.
    pub fn accept(guest: &mut Guest) -> Self {
        let (request, _) = guest.expect(op::REQUEST);
        let stream = Self::new(request.src_port.get(), request.dst_port.get(), &request);
        guest.send(&stream.packet(op::RESPONSE), &[]);
        stream
    }

    pub fn packet(&self, op: u16) -> Header {
        Header { fwd_cnt: (self.received.len() as u32).into(), ..packet(op, self.host_port, self.guest_port) }
    }

    fn credit(&self) -> usize {
        (self.room.0 - self.sent.wrapping_sub(self.room.1)) as usize
    }

    /// Sends as much as the credit allows, and says how much.
    pub fn send(&mut self, guest: &mut Guest, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.credit());
        if count > 0 {
            let header = Header { len: (count as u32).into(), ..self.packet(op::RW) };
            guest.send(&header, &bytes[..count]);
            self.sent = self.sent.wrapping_add(count as u32);
        }
        count
    }

    pub fn shutdown(&mut self, guest: &mut Guest, flags: u32) {
        guest.send(&Header { flags: flags.into(), ..self.packet(op::SHUTDOWN) }, &[]);
    }

    /// Takes what the device has sent, and tells it that there is room again.
    pub fn poll(&mut self, guest: &mut Guest) {
        while let Some((header, payload)) = guest.receive() {
            assert_eq!((header.src_port.get(), header.dst_port.get()), (self.host_port, self.guest_port));
            assert!(!self.reset && (payload.is_empty() || self.shutdown & SHUTDOWN_SEND == 0));
            match header.op.get() {
                op::RW => {
                    self.received.extend(payload);
                    guest.send(&self.packet(op::CREDIT_UPDATE), &[]);
                }
                op::SHUTDOWN => self.shutdown |= header.flags.get(),
                op::RST => self.reset = true,
                op::CREDIT_UPDATE | op::CREDIT_REQUEST => {}
                other => panic!("unexpected operation {other}"),
            }
            if header.op != op::RST {
                self.room = (header.buf_alloc.get(), header.fwd_cnt.get());
            }
        }
    }
}

fn pattern(count: usize) -> Vec<u8> {
    (0..count as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect()
}

fn listening(path: &Path) -> Guest {
    Guest::new(HostEndpoint::bind(path).unwrap())
}

#[test]
fn several_mebibytes_come_back_from_an_echo() {
    let (mut guest, mut peers) = Guest::with_ports(1);
    let mut peer = peers.remove(0);
    let echo = thread::spawn(move || {
        let mut chunk = vec![0; 100_000];
        loop {
            match peer.read(&mut chunk).unwrap() {
                0 => return,
                count => peer.write_all(&chunk[..count]).unwrap(),
            }
        }
    });
    let mut stream = Stream::connect(&mut guest, 1, 1000);
    let bytes = pattern(5 << 20);
    let mut sent = 0;
    while stream.received.len() < bytes.len() {
        let count = stream.send(&mut guest, &bytes[sent..bytes.len().min(sent + 60_000)]);
        sent += count;
        stream.poll(&mut guest);
        if count == 0 && stream.received.len() < bytes.len() {
            guest.wait();
            stream.poll(&mut guest);
        }
    }
    assert!(stream.received == bytes);
    stream.shutdown(&mut guest, SHUTDOWN_BOTH);
    echo.join().unwrap();
    stream.poll(&mut guest);
    assert!(stream.reset);
    assert_eq!(guest.violations(), 0);
}

#[test]
fn a_payload_in_many_pieces_is_one_stream() {
    let (mut guest, mut peers) = Guest::with_ports(1);
    let stream = Stream::connect(&mut guest, 1, 1000);
    let bytes = pattern(1000);
    let header = Header { len: 1000.into(), ..stream.packet(op::RW) };
    guest.send_in_parts(&header, &bytes, &[20, HEADER_SIZE - 20, 1, 300, 0, 699]);
    guest.send_in_parts(&header, &bytes, &[HEADER_SIZE + 500, 500]);
    let mut got = vec![0; 2000];
    peers[0].read_exact(&mut got).unwrap();
    assert_eq!(got, [bytes.clone(), bytes].concat());
}

#[test]
fn the_guest_ends_its_direction_and_still_receives() {
    let (mut guest, mut peers) = Guest::with_ports(1);
    let peer = &mut peers[0];
    let mut stream = Stream::connect(&mut guest, 1, 1000);
    assert_eq!(stream.send(&mut guest, b"question"), 8);
    stream.shutdown(&mut guest, SHUTDOWN_SEND);
    let mut question = Vec::new();
    peer.read_to_end(&mut question).unwrap();
    assert_eq!(question, b"question");
    peer.write_all(b"answer").unwrap();
    guest.run();
    stream.poll(&mut guest);
    assert_eq!((stream.received.as_slice(), stream.shutdown), (&b"answer"[..], 0));
    peer.shutdown(Shutdown::Write).unwrap();
    guest.run();
    stream.poll(&mut guest);
    assert_eq!(stream.shutdown, SHUTDOWN_BOTH, "with both directions over, so is the connection");
    stream.shutdown(&mut guest, SHUTDOWN_BOTH);
    guest.expect(op::RST);
}

#[test]
fn the_host_ends_its_direction_and_still_receives() {
    let (mut guest, mut peers) = Guest::with_ports(1);
    let peer = &mut peers[0];
    let mut stream = Stream::connect(&mut guest, 1, 1000);
    peer.write_all(b"question").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    guest.run();
    stream.poll(&mut guest);
    assert_eq!((stream.received.as_slice(), stream.shutdown), (&b"question"[..], SHUTDOWN_SEND));
    let bytes = pattern(300_000);
    let mut sent = 0;
    let mut got = Vec::new();
    while got.len() < bytes.len() {
        sent += stream.send(&mut guest, &bytes[sent..bytes.len().min(sent + 60_000)]);
        let mut chunk = vec![0; 50_000];
        let count = peer.read(&mut chunk).unwrap();
        got.extend_from_slice(&chunk[..count]);
        guest.run();
        stream.poll(&mut guest);
    }
    assert!(got == bytes);
    stream.shutdown(&mut guest, SHUTDOWN_BOTH);
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    guest.expect(op::RST);
}

#[test]
fn a_host_that_closes_is_told_to_the_guest_after_its_last_byte() {
    let (mut guest, mut peers) = Guest::with_ports(1);
    let mut peer = peers.remove(0);
    let mut stream = Stream::connect(&mut guest, 1, 1000);
    let bytes = pattern(100_000);
    peer.write_all(&bytes).unwrap();
    drop(peer);
    guest.run();
    stream.poll(&mut guest);
    assert!(stream.received == bytes);
    assert_eq!(stream.shutdown, SHUTDOWN_BOTH);
    guest.send(&stream.packet(op::RST), &[]);
    guest.expect_nothing();
}

#[test]
fn what_the_guest_sent_before_it_closed_still_reaches_a_slow_host() {
    let (mut guest, mut peers) = Guest::with_ports(1);
    let mut stream = Stream::connect(&mut guest, 1, 1000);
    let bytes = pattern(4 << 20);
    let mut sent = 0;
    loop {
        match stream.send(&mut guest, &bytes[sent..sent + 50_000]) {
            0 => break,
            count => sent += count,
        }
        stream.poll(&mut guest);
    }
    assert!(sent > BUFFER_SIZE as usize);
    stream.shutdown(&mut guest, SHUTDOWN_BOTH);
    stream.poll(&mut guest);
    assert!(stream.reset, "the guest need not wait");
    let mut peer = peers.remove(0);
    let reader = thread::spawn(move || {
        let mut got = Vec::new();
        peer.read_to_end(&mut got).map(|_| got)
    });
    while !reader.is_finished() {
        guest.run();
    }
    assert!(reader.join().unwrap().unwrap() == bytes[..sent]);
}

#[test]
fn a_guest_that_receives_no_more_breaks_the_host_s_pipe() {
    let (mut guest, mut peers) = Guest::with_ports(1);
    let mut stream = Stream::connect(&mut guest, 1, 1000);
    stream.shutdown(&mut guest, SHUTDOWN_RECEIVE);
    assert!(peers[0].write_all(b"x").is_err());
    assert_eq!(stream.send(&mut guest, b"still"), 5);
    let mut got = [0; 5];
    peers[0].read_exact(&mut got).unwrap();
    assert_eq!(&got, b"still");
}

#[test]
fn a_connection_without_credit_stops_alone_and_asks_once() {
    let (mut guest, mut peers) = Guest::with_ports(2);
    let mut stopped = Stream::connect(&mut guest, 1, 1000);
    guest.send(&Header { buf_alloc: 100.into(), ..stopped.packet(op::CREDIT_UPDATE) }, &[]);
    let mut other = Stream::connect(&mut guest, 2, 1000);
    let bytes = pattern(1000);
    peers[0].write_all(&bytes).unwrap();
    guest.run();
    let (_, payload) = guest.expect(op::RW);
    stopped.received.extend(payload);
    assert_eq!(stopped.received.len(), 100);
    guest.expect(op::CREDIT_REQUEST);
    peers[1].write_all(b"go on").unwrap();
    guest.run();
    other.poll(&mut guest);
    assert_eq!(other.received, b"go on");
    // A hang-up without the means to deliver what came before must not keep the event loop busy.
    drop(peers.remove(0));
    guest.run();
    guest.send(&Header { buf_alloc: GUEST_BUFFER.into(), ..stopped.packet(op::CREDIT_UPDATE) }, &[]);
    stopped.poll(&mut guest);
    assert!(stopped.received == bytes);
    assert_eq!(stopped.shutdown, SHUTDOWN_BOTH);
}

#[test]
fn a_host_that_never_reads_stops_its_own_connection_only() {
    let (mut guest, mut peers) = Guest::with_ports(2);
    let mut stuck = Stream::connect(&mut guest, 1, 1000);
    let mut other = Stream::connect(&mut guest, 2, 1001);
    let bytes = pattern(50_000);
    loop {
        if stuck.send(&mut guest, &bytes) == 0 {
            break;
        }
        stuck.poll(&mut guest);
    }
    for _ in 0..20 {
        let mut sent = 0;
        while sent < bytes.len() {
            sent += other.send(&mut guest, &bytes[sent..]);
            other.poll(&mut guest);
        }
        let mut got = vec![0; bytes.len()];
        peers[1].read_exact(&mut got).unwrap();
        assert!(got == bytes);
        guest.run();
        other.poll(&mut guest);
    }
    guest.send(&stuck.packet(op::CREDIT_REQUEST), &[]);
    stuck.poll(&mut guest);
    assert_eq!(stuck.credit(), 0);
}

#[test]
fn connections_take_turns() {
    let (host, mut peers) = ports(3);
    let mut guest = Guest::without_buffers(host);
    guest.offer_rx_buffers(3);
    for port in 1..=3 {
        guest.send(&packet(op::REQUEST, port, 1000), &[]);
        assert_eq!(guest.receive_and_keep().unwrap().0.op, op::RESPONSE);
    }
    for peer in &mut peers {
        peer.write_all(&[7; 20_000]).unwrap();
    }
    guest.run();
    guest.offer_rx_buffers(6);
    guest.run();
    let order: Vec<u32> =
        std::iter::from_fn(|| guest.receive_and_keep()).map(|(header, _)| header.src_port.get()).collect();
    assert_eq!(order.len(), 6);
    assert_eq!(order[..3], order[3..]);
    let mut first = order[..3].to_vec();
    first.sort_unstable();
    assert_eq!(first, [1, 2, 3]);
}

#[test]
fn a_host_program_connects_with_a_line_in_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.sock");
    let mut guest = listening(&path);
    let mut client = UnixStream::connect(&path).unwrap();
    for piece in ["con", "NECT ", "5", "2\nfirst"] {
        guest.run();
        guest.expect_nothing();
        client.write_all(piece.as_bytes()).unwrap();
    }
    guest.run();
    let mut stream = Stream::accept(&mut guest);
    assert_eq!((stream.host_port, stream.guest_port), ((1 << 30) + 1, 52));
    let mut answer = [0; 14];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"OK 1073741825\n");
    stream.poll(&mut guest);
    assert_eq!(stream.received, b"first");
    assert_eq!(stream.send(&mut guest, b"second"), 6);
    let mut second = [0; 6];
    client.read_exact(&mut second).unwrap();
    assert_eq!(&second, b"second");

    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"CONNECT 53\n").unwrap();
    guest.run();
    assert_eq!(Stream::accept(&mut guest).host_port, (1 << 30) + 2);
}

#[test]
fn a_guest_connects_to_a_listener_by_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.sock");
    let mut guest = listening(&path);
    let listener = UnixListener::bind(folder.path().join("v.sock_7")).unwrap();
    let mut stream = Stream::connect(&mut guest, 7, 1000);
    let (mut peer, _) = listener.accept().unwrap();
    assert_eq!(stream.send(&mut guest, b"hello"), 5);
    let mut got = [0; 5];
    peer.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"hello");
    guest.send(&packet(op::REQUEST, 8, 1000), &[]);
    let (reset, _) = guest.expect(op::RST);
    assert_eq!((reset.src_port.get(), reset.dst_port.get()), (8, 1000));
}
