//! What a guest must not do costs the guest, and nobody else.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use proptest::prelude::*;
use virtio_bindings::bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use vm_memory::{Bytes, GuestAddress};

use super::driver::{Buffer, GUEST_BUFFER, Guest, QUEUE_SIZE, packet, ports};
use super::streams::Stream;
use crate::virtio::VirtioDevice;
use crate::virtio::vsock::credit::BUFFER_SIZE;
use crate::virtio::vsock::muxer::MAX_PEERS;
use crate::virtio::vsock::packet::{HEADER_SIZE, Header, SHUTDOWN_SEND, op};

const HEADER: u32 = HEADER_SIZE as u32;

#[test]
fn packets_that_belong_to_no_connection_are_answered_with_rst() {
    let (mut guest, _) = Guest::with_ports(0);
    for operation in [0, op::RESPONSE, op::SHUTDOWN, op::RW, op::CREDIT_UPDATE, op::CREDIT_REQUEST, 8, u16::MAX] {
        guest.send(&packet(operation, 5, 6), &[]);
        let (reset, _) = guest.expect(op::RST);
        assert_eq!((reset.src_port.get(), reset.dst_port.get()), (5, 6));
    }
    guest.send(&packet(op::RST, 5, 6), &[]);
    guest.expect_nothing();
}

#[test]
fn false_addresses_and_types_are_counted_and_reach_nobody() {
    let (mut guest, mut peers) = Guest::with_ports(1);
    let mut stream = Stream::connect(&mut guest, 1, 1000);
    let header = Header { len: 1.into(), ..stream.packet(op::RW) };
    guest.send(&Header { socket_type: 2.into(), ..header }, b"x");
    guest.expect(op::RST);
    assert_eq!(guest.violations(), 1);
    assert_eq!(stream.send(&mut guest, b"y"), 1);
    let mut got = [0; 1];
    peers[0].read_exact(&mut got).unwrap();
    assert_eq!(&got, b"y");
}

/// Sends `break_rules` on an open connection, which must end it for both sides.
fn violates(break_rules: impl Fn(&mut Guest, &mut Stream)) {
    let (mut guest, mut peers) = Guest::with_ports(1);
    let mut stream = Stream::connect(&mut guest, 1, 1000);
    break_rules(&mut guest, &mut stream);
    guest.expect(op::RST);
    assert_eq!(guest.violations(), 1);
    assert_eq!(peers[0].read(&mut [0; 8]).unwrap(), 0);
    assert!(guest.device().core().is_active());
}

#[test]
fn broken_rules_end_the_connection() {
    for operation in [0, op::REQUEST, op::RESPONSE, 8, u16::MAX] {
        violates(|guest, stream| guest.send(&stream.packet(operation), &[]));
    }
    violates(|guest, stream| guest.send(&Header { fwd_cnt: 1.into(), ..stream.packet(op::CREDIT_UPDATE) }, &[]));
    violates(|guest, stream| {
        stream.shutdown(guest, SHUTDOWN_SEND);
        guest.send(&Header { len: 1.into(), ..stream.packet(op::RW) }, b"x");
    });
}

#[test]
fn more_bytes_than_the_credit_end_the_connection() {
    let (mut guest, _peers) = Guest::with_ports(1);
    let mut stream = Stream::connect(&mut guest, 1, 1000);
    let chunk = [0; 32 * 1024];
    while stream.send(&mut guest, &chunk) > 0 {
        stream.poll(&mut guest);
    }
    guest.send(&Header { len: 1.into(), ..stream.packet(op::RW) }, b"x");
    guest.expect(op::RST);
    assert_eq!(guest.violations(), 1);
    let (mut guest, _peers) = Guest::with_ports(1);
    let stream = Stream::connect(&mut guest, 1, 1000);
    let header = Header { len: (BUFFER_SIZE + 1).into(), ..stream.packet(op::RW) };
    guest.send(&header, &vec![0; BUFFER_SIZE as usize + 1]);
    guest.expect(op::RST);
}

/// Offers a chain on a queue, after which the device must need a reset, and then work again.
fn needs_reset(queue: usize, break_queue: impl Fn(&mut Guest)) {
    let (host, mut peers) = ports(2);
    let mut guest = Guest::without_buffers(host);
    guest.offer_rx_buffers(1);
    guest.send(&packet(op::REQUEST, 1, 1000), &[]);
    assert_eq!(guest.receive_and_keep().unwrap().0.op, op::RESPONSE);
    break_queue(&mut guest);
    peers[0].write_all(b"x").unwrap();
    guest.device().core().kick(queue as u32);
    guest.run();
    assert!(!guest.device().core().is_active());
    assert_eq!(guest.device().core().faults().needs_reset.get(), 1);
    // What the host had sent is lost with the connection, which a socket may report as a reset.
    assert!(!peers[0].read(&mut [0]).is_ok_and(|count| count > 0));
    guest.reset();
    guest.run();
    guest.activate();
    guest.offer_rx_buffers(QUEUE_SIZE);
    Stream::connect(&mut guest, 2, 1000);
}

#[test]
fn broken_chains_and_rings_need_a_reset() {
    let header = 0x80_0000;
    let offer = |queue: usize, chain: Vec<Buffer>| {
        needs_reset(queue, move |guest| {
            let bytes = Header { len: 100.into(), ..packet(op::RW, 1, 1000) };
            guest.memory.write_slice(zerocopy::IntoBytes::as_bytes(&bytes), GuestAddress(header)).unwrap();
            guest.rings[queue].offer(&guest.memory, 0, &chain);
        });
    };
    offer(0, vec![(header, HEADER - 1, true)]);
    offer(0, vec![(header, HEADER, true)]);
    offer(0, vec![(header, 4096, false)]);
    offer(0, vec![(header, HEADER, true), (header, 4096, false)]);
    offer(0, vec![(0xffff_ffff_f000, 4096, true)]);
    offer(1, vec![(header, HEADER - 1, false)]);
    offer(1, vec![(header, HEADER + 99, false)]);
    offer(1, vec![(header, HEADER, false), (header, 100, true)]);
    offer(1, vec![(header, HEADER, false), (u64::MAX - 10, 100, false)]);
    for queue in [0, 1] {
        needs_reset(queue, |guest| guest.rings[queue].set_index(&guest.memory, QUEUE_SIZE + 9));
        needs_reset(queue, |guest| guest.rings[queue].offer(&guest.memory, QUEUE_SIZE, &[]));
    }
}

#[test]
fn a_chain_that_bites_its_tail_needs_a_reset() {
    for (queue, length) in [(0, 0), (0, 16), (1, 0), (1, 16)] {
        needs_reset(queue, |guest| {
            let writable = if queue == 0 { VRING_DESC_F_WRITE } else { 0 };
            let high = u64::from(VRING_DESC_F_NEXT | writable) << 32 | length;
            let descriptors = GuestAddress(0x1_0000 * (queue as u64 + 1) + 16 * 8);
            // Descriptor 8 is followed by itself.
            guest.memory.write_obj([0x80_0000_u64, high | 8 << 48], descriptors).unwrap();
            guest.rings[queue].offer(&guest.memory, 8, &[]);
        });
    }
}

/// A step of a guest, or of a host program, that follows no rule.
#[derive(Clone, Debug)]
enum Step {
    Guest(Header, usize),
    HostWrites(usize, usize),
    HostReads(usize),
    HostCloses(usize),
    Buffers,
    Pause,
}

fn any_header() -> impl Strategy<Value = Header> {
    let flags = prop_oneof![0..4_u32, any::<u32>()];
    let credit = prop_oneof![Just(GUEST_BUFFER), 0..5000_u32, any::<u32>()];
    let count = prop_oneof![Just(0_u32), 0..3000_u32, any::<u32>()];
    let lies = prop_oneof![20 => Just(0_u8), 1 => any::<u8>()];
    (0..9_u16, 0..5_u32, 0..3_u32, flags, credit, count, lies).prop_map(
        |(operation, host_port, guest_port, flags, buf_alloc, fwd_cnt, lies)| {
            let honest = packet(operation, host_port, guest_port);
            Header {
                src_cid: (honest.src_cid.get() + u64::from(lies & 1)).into(),
                dst_cid: (honest.dst_cid.get() + u64::from(lies >> 1 & 1)).into(),
                socket_type: (honest.socket_type.get() + u16::from(lies >> 2 & 1)).into(),
                flags: flags.into(),
                buf_alloc: buf_alloc.into(),
                fwd_cnt: fwd_cnt.into(),
                ..honest
            }
        },
    )
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (any_header(), prop_oneof![Just(0), 0..200_usize, 0..70_000_usize]).prop_map(|(h, n)| Step::Guest(h, n)),
        3 => (0..4_usize, 1..10_000_usize).prop_map(|(peer, count)| Step::HostWrites(peer, count)),
        3 => (0..4_usize).prop_map(Step::HostReads),
        1 => (0..4_usize).prop_map(Step::HostCloses),
        2 => Just(Step::Buffers),
        1 => Just(Step::Pause),
    ]
}

fn take(guest: &mut Guest, step: Step, peers: &mut [Option<UnixStream>]) {
    match step {
        Step::Guest(header, length) => {
            let length = if header.op == op::RW { length.min(65_000) } else { 0 };
            guest.send(&Header { len: (length as u32).into(), ..header }, &vec![1; length]);
        }
        Step::HostWrites(peer, count) => {
            if let Some(peer) = &mut peers[peer] {
                let _ = peer.write(&vec![2; count]);
            }
        }
        Step::HostReads(peer) => {
            if let Some(peer) = &mut peers[peer] {
                let _ = peer.read(&mut [0; 50_000]);
            }
        }
        Step::HostCloses(peer) => peers[peer] = None,
        Step::Buffers => while guest.receive().is_some() {},
        Step::Pause => guest.pause_and_resume(),
    }
}

/// Any descriptor, most of which are nearly possible.
fn any_descriptor() -> impl Strategy<Value = [u64; 2]> {
    let address = prop_oneof![6 => 0x80_0000..0x81_0000_u64, 1 => any::<u64>(), 1 => 0x1_0000..0x4_0000_u64];
    let length = prop_oneof![6 => 0..5000_u32, 1 => any::<u32>(), 1 => (0..300_u32).prop_map(|entries| entries * 16)];
    let flags = prop_oneof![
        8 => 0..4_u32,
        1 => Just(VRING_DESC_F_INDIRECT),
        1 => any::<u16>().prop_map(u32::from),
    ];
    (address, length, flags, 0..300_u64)
        .prop_map(|(address, length, flags, next)| [address, u64::from(length) | u64::from(flags) << 32 | next << 48])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_packets_leave_the_device_at_rest_and_within_bounds(steps in prop::collection::vec(any_step(), 1..150)) {
        let (mut guest, peers) = Guest::with_ports(4);
        let mut peers: Vec<Option<UnixStream>> = peers.into_iter().map(Some).collect();
        for peer in peers.iter().flatten() {
            peer.set_nonblocking(true).unwrap();
        }
        for step in steps {
            take(&mut guest, step, &mut peers);
            guest.run();
            prop_assert!(guest.device().core().is_active());
        }
        prop_assert!(guest.device().muxer.peers.len() <= MAX_PEERS);
        drop(peers);
        while guest.receive().is_some() {}
        guest.run();
    }

    #[test]
    fn any_chains_leave_the_device_at_rest(
        descriptors in prop::collection::vec(any_descriptor(), 1..40),
        heads in prop::collection::vec(0..45_u16, 1..20),
        queue in 0..2_usize,
        header in any_header(),
        length in 0..6000_u32,
    ) {
        let (host, mut peers) = ports(1);
        let mut guest = Guest::without_buffers(host);
        guest.send(&packet(op::REQUEST, 1, 1000), &[]);
        peers[0].write_all(&[3; 10_000]).unwrap();
        let header = Header { len: length.into(), ..header };
        for at in 0..0x1000 / u64::from(HEADER) {
            let bytes = zerocopy::IntoBytes::as_bytes(&header);
            guest.memory.write_slice(bytes, GuestAddress(0x80_0000 + at * 16)).unwrap();
        }
        let table = 0x1_0000 * (queue as u64 + 1);
        for (descriptor, index) in descriptors.iter().zip(0_u64..) {
            guest.memory.write_obj(*descriptor, GuestAddress(table + 16 * index)).unwrap();
        }
        for head in heads {
            guest.rings[queue].offer(&guest.memory, head, &[]);
            guest.device().core().kick(queue as u32);
            guest.run();
        }
        guest.reset();
        guest.run();
        guest.activate();
        guest.offer_rx_buffers(QUEUE_SIZE);
        guest.send(&packet(op::CREDIT_REQUEST, 9, 9), &[]);
        guest.expect(op::RST);
    }
}
