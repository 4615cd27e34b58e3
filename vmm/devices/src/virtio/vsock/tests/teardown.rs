//! Refusals, limits, time-outs, resets, pauses.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};

use super::driver::{Guest, QUEUE_SIZE, packet, ports};
use super::streams::Stream;
use crate::virtio::vsock::HostEndpoint;
use crate::virtio::vsock::muxer::{MAX_PEERS, MAX_RESETS};
use crate::virtio::vsock::packet::op;

/// A guest and the path that host programs connect to; the listener is inherited.
fn guest_with_listener() -> (Guest, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(folder.path().join("s")).unwrap();
    let guest = Guest::new(HostEndpoint::from_descriptors(Some(listener.into()), BTreeMap::new()));
    (guest, folder)
}

fn client(folder: &tempfile::TempDir, line: &str) -> UnixStream {
    let mut client = UnixStream::connect(folder.path().join("s")).unwrap();
    client.write_all(line.as_bytes()).unwrap();
    client
}

#[test]
fn a_client_that_the_guest_refuses_is_closed() {
    let (mut guest, folder) = guest_with_listener();
    let mut client = client(&folder, "CONNECT 52\n");
    guest.run();
    let (request, _) = guest.expect(op::REQUEST);
    guest.send(&packet(op::RST, request.src_port.get(), 52), &[]);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    guest.expect_nothing();
}

#[test]
fn a_client_that_says_something_else_is_closed() {
    let (mut guest, folder) = guest_with_listener();
    for line in ["GET / HTTP/1.1\n", "CONNECT x\n", &"CONNECT 1".repeat(4)] {
        let mut client = client(&folder, line);
        guest.run();
        // What it said beyond the limit is lost with it, which a socket reports as a reset.
        assert!(!client.read(&mut [0]).is_ok_and(|count| count > 0));
        guest.expect_nothing();
    }
}

#[test]
fn a_guest_that_does_not_answer_is_given_up() {
    let (mut guest, folder) = guest_with_listener();
    let mut client = client(&folder, "CONNECT 52\n");
    guest.run();
    let (request, _) = guest.expect(op::REQUEST);
    guest.expect_nothing();
    guest.wait();
    let (reset, _) = guest.expect(op::RST);
    assert_eq!((reset.src_port, reset.dst_port), (request.src_port, request.dst_port));
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_client_that_gives_up_first_is_forgotten() {
    let (mut guest, folder) = guest_with_listener();
    let client = client(&folder, "CONNECT 52\n");
    guest.run();
    let (request, _) = guest.expect(op::REQUEST);
    drop(client);
    guest.run();
    guest.expect(op::RST);
    guest.send(&packet(op::RESPONSE, request.src_port.get(), 52), &[]);
    guest.expect(op::RST);
}

#[test]
fn a_port_without_a_descriptor_is_reset() {
    let (mut guest, _peers) = Guest::with_ports(1);
    guest.send(&packet(op::REQUEST, 2, 1000), &[]);
    guest.expect(op::RST);
    Stream::connect(&mut guest, 1, 1000);
    guest.send(&packet(op::REQUEST, 1, 1001), &[]);
    guest.expect(op::RST);
}

#[test]
fn no_more_than_1023_connections_exist() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.sock");
    let mut guest = Guest::new(HostEndpoint::bind(&path).unwrap());
    let listener = UnixListener::bind(folder.path().join("v.sock_1")).unwrap();
    let mut peers = Vec::new();
    for guest_port in 0..MAX_PEERS as u32 {
        Stream::connect(&mut guest, 1, guest_port);
        peers.push(listener.accept().unwrap().0);
    }
    guest.send(&packet(op::REQUEST, 1, 5000), &[]);
    guest.expect(op::RST);
    let mut client = UnixStream::connect(&path).unwrap();
    guest.run();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    // One that ends makes room for another.
    guest.send(&packet(op::RST, 1, 7), &[]);
    Stream::connect(&mut guest, 1, 5000);
    peers[3].write_all(b"x").unwrap();
    guest.run();
    assert_eq!(guest.expect(op::RW).1, b"x");
}

#[test]
fn a_reset_drops_connections_and_keeps_the_listener() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("v.sock");
    let mut guest = Guest::new(HostEndpoint::bind(&path).unwrap());
    let listener = UnixListener::bind(folder.path().join("v.sock_1")).unwrap();
    for round in 0..3 {
        Stream::connect(&mut guest, 1, 1000);
        let (mut peer, _) = listener.accept().unwrap();
        let mut waiting = UnixStream::connect(&path).unwrap();
        guest.run();
        guest.reset();
        if round == 1 {
            // The driver may be back before the event loop has seen the reset.
            guest.activate();
        }
        guest.run();
        assert_eq!(peer.read(&mut [0]).unwrap(), 0);
        assert_eq!(waiting.read(&mut [0]).unwrap(), 0);
        if round != 1 {
            guest.activate();
        }
        guest.offer_rx_buffers(QUEUE_SIZE);
        guest.run();
        guest.expect_nothing();
    }
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"CONNECT 9\n").unwrap();
    guest.run();
    Stream::accept(&mut guest);
}

#[test]
fn a_pause_loses_nothing() {
    let (mut guest, mut peers) = Guest::with_ports(2);
    let mut stream = Stream::connect(&mut guest, 1, 1000);
    guest.pause_and_resume();
    peers[0].write_all(b"after").unwrap();
    guest.run();
    stream.poll(&mut guest);
    assert_eq!(stream.received, b"after");
    assert_eq!(stream.send(&mut guest, b"back"), 4);
    let mut back = [0; 4];
    peers[0].read_exact(&mut back).unwrap();
    assert_eq!(&back, b"back");
    Stream::connect(&mut guest, 2, 1000);
}

#[test]
fn a_guest_without_buffers_gets_everything_later() {
    let (host, mut peers) = ports(2);
    let mut guest = Guest::without_buffers(host);
    for port in 1..=2 {
        guest.send(&packet(op::REQUEST, port, 1000), &[]);
    }
    peers[0].write_all(b"early").unwrap();
    // More answers than the device keeps: it stops taking packets, and goes on once there are buffers.
    for guest_port in 0..MAX_RESETS as u32 + 20 {
        guest.send(&packet(op::REQUEST, 3, guest_port), &[]);
    }
    assert_eq!(guest.device().muxer.resets(), MAX_RESETS);
    guest.offer_rx_buffers(QUEUE_SIZE);
    guest.run();
    let mut seen = [0; 8];
    while let Some((header, payload)) = guest.receive() {
        seen[usize::from(header.op.get())] += 1;
        assert!(payload.is_empty() || payload == b"early");
    }
    assert_eq!(seen[usize::from(op::RST)], MAX_RESETS + 20);
    assert_eq!(seen[usize::from(op::RESPONSE)], 2);
    assert_eq!(seen[usize::from(op::RW)], 1);
}
