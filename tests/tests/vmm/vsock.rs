//! The vsock device: connections in both directions, on paths and on descriptors.

pub mod driver;

use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};

use serde_json::json;
use stockade_tests::guest::Protocol;
use stockade_tests::puppet::Puppet;
use stockade_tests::{Need, PATIENCE, test, wait_for};

use driver::{
    CREDIT_REQUEST, CREDIT_UPDATE, DATA, GUEST_CID, REQUEST, RESET, RESPONSE, SHUTDOWN, SHUTDOWN_BOTH, SHUTDOWN_SEND,
    Vsock, assert_ends, patient, read_exactly, with_vsock,
};
pub use driver::{Header, VSOCK};

#[test]
fn the_guest_has_its_address() {
    with_vsock(|vsock, _| {
        assert_eq!(vsock.device.read(stockade_tests::virtio::register::CONFIG), GUEST_CID as u32);
        assert_eq!(vsock.device.read(stockade_tests::virtio::register::CONFIG + 4), 0);
    });
}

#[test]
fn the_guest_connects_to_a_path() {
    with_vsock(|vsock, scratch| {
        let listener = UnixListener::bind(scratch.join("vsock_52")).unwrap();
        vsock.connect(1234, 52);
        let mut host = patient(listener.accept().unwrap().0);
        vsock.send(Header::new(DATA, 1234, 52), b"from the guest");
        assert_eq!(read_exactly(&mut host, 14), b"from the guest");
        host.write_all(b"from the host").unwrap();
        assert_eq!(vsock.expect_data(13), b"from the host");

        // The guest stops sending, the host still may.
        let mut done = Header::new(SHUTDOWN, 1234, 52);
        done.flags = 2;
        vsock.send(done, &[]);
        assert_ends(&mut host);
        host.write_all(b"still here").unwrap();
        assert_eq!(vsock.expect_data(10), b"still here");
        drop(host);
        wait_for("the end of the connection", || {
            let (header, _) = vsock.take()?;
            assert!([SHUTDOWN, RESET, CREDIT_UPDATE].contains(&header.operation), "{header:?}");
            (header.operation != CREDIT_UPDATE).then_some(())
        });
    });
}

#[test]
fn nobody_listens() {
    with_vsock(|vsock, _| {
        for port in [1, 52, u32::MAX] {
            vsock.send(Header::request(1000, port), &[]);
            let (header, _) = vsock.expect(RESET);
            assert_eq!((header.source_port, header.destination_port), (port, 1000));
        }
    });
}

#[test]
fn the_host_connects() {
    with_vsock(|vsock, scratch| {
        let mut host = patient(UnixStream::connect(scratch.join("vsock")).unwrap());
        host.write_all(b"connect 80\n").unwrap();
        let (request, _) = vsock.expect(REQUEST);
        assert_eq!(request.destination_port, 80);
        vsock.send(Header::new(RESPONSE, 80, request.source_port), &[]);
        let answer = format!("OK {}\n", request.source_port);
        assert_eq!(read_exactly(&mut host, answer.len()), answer.as_bytes());
        host.write_all(b"ping").unwrap();
        assert_eq!(vsock.expect_data(4), b"ping");
        vsock.send(Header::new(DATA, 80, request.source_port), b"pong");
        assert_eq!(read_exactly(&mut host, 4), b"pong");
        let mut end = Header::new(SHUTDOWN, 80, request.source_port);
        end.flags = SHUTDOWN_BOTH;
        vsock.send(end, &[]);
        assert_ends(&mut host);
    });
}

#[test]
fn a_connect_line_may_come_in_pieces_and_with_data_behind() {
    with_vsock(|vsock, scratch| {
        let mut host = patient(UnixStream::connect(scratch.join("vsock")).unwrap());
        for byte in b"CONNECT 80\n" {
            host.write_all(&[*byte]).unwrap();
        }
        host.write_all(b"early data").unwrap();
        let (request, _) = vsock.expect(REQUEST);
        vsock.send(Header::new(RESPONSE, 80, request.source_port), &[]);
        assert_eq!(vsock.expect_data(10), b"early data");
    });
}

#[test]
fn the_guest_refuses() {
    with_vsock(|vsock, scratch| {
        let mut host = patient(UnixStream::connect(scratch.join("vsock")).unwrap());
        host.write_all(b"CONNECT 80\n").unwrap();
        let (request, _) = vsock.expect(REQUEST);
        vsock.send(Header::new(RESET, 80, request.source_port), &[]);
        assert_ends(&mut host);
    });
}

#[test]
fn lines_that_are_no_connect_end_the_connection() {
    with_vsock(|_, scratch| {
        for line in [
            "HELLO 80\n",
            "CONNECT\n",
            "CONNECT eighty\n",
            "CONNECT -1\n",
            "CONNECT 4294967296\n",
            "\n",
            &"x".repeat(200),
        ] {
            let mut host = patient(UnixStream::connect(scratch.join("vsock")).unwrap());
            // The other side may close before all is written.
            let _ = host.write_all(line.as_bytes());
            assert_ends(&mut host);
        }
    });
}

#[test]
fn much_data_flows_in_both_directions_within_the_window() {
    const BYTES: usize = 300 * 1024;
    with_vsock(|vsock, scratch| {
        let listener = UnixListener::bind(scratch.join("vsock_52")).unwrap();
        vsock.connect(1234, 52);
        let mut host = patient(listener.accept().unwrap().0);
        let data: Vec<u8> = (0..BYTES).map(|index| (index % 253) as u8).collect();

        let mut writer = host.try_clone().unwrap();
        let sent = data.clone();
        let writing = std::thread::spawn(move || writer.write_all(&sent).unwrap());
        let mut received = Vec::new();
        while received.len() < BYTES {
            received.extend(vsock.expect(DATA).1);
            let mut credit = Header::new(CREDIT_UPDATE, 1234, 52);
            credit.forwarded = received.len() as u32;
            vsock.send(credit, &[]);
        }
        writing.join().unwrap();
        assert!(received == data);

        let reading = std::thread::spawn(move || read_exactly(&mut host, BYTES));
        let (mut forwarded, mut window) = (0, 0);
        vsock.send(Header::new(CREDIT_REQUEST, 1234, 52), &[]);
        for (index, chunk) in data.chunks(2048).enumerate() {
            let sent = (index * 2048) as u32;
            wait_for("credit", || {
                if let Some((header, _)) = vsock.take() {
                    assert_eq!(header.operation, CREDIT_UPDATE);
                    (forwarded, window) = (header.forwarded, header.window);
                }
                let enough = window >= (sent - forwarded) + chunk.len() as u32;
                if !enough {
                    vsock.send(Header::new(CREDIT_REQUEST, 1234, 52), &[]);
                }
                enough.then_some(())
            });
            vsock.send(Header::new(DATA, 1234, 52), chunk);
        }
        assert!(reading.join().unwrap() == data);
    });
}

#[test]
fn packets_that_fit_no_connection_are_reset() {
    with_vsock(|vsock, scratch| {
        let _listener = UnixListener::bind(scratch.join("vsock_52")).unwrap();
        for operation in [RESPONSE, SHUTDOWN, DATA, CREDIT_UPDATE, CREDIT_REQUEST] {
            vsock.send(Header::new(operation, 1, 2), &[]);
            vsock.expect(RESET);
        }
        vsock.send(Header::new(RESET, 1, 2), &[]);

        let mut odd = Header::request(5, 52);
        odd.kind = 2;
        vsock.send(odd, &[]);
        assert_eq!(vsock.expect(RESET).0.kind, 2, "a reset is of the type of what it answers");

        vsock.connect(6, 52);
        vsock.send(Header::new(0, 6, 52), &[]);
        assert_eq!(vsock.expect(RESET).0.destination_port, 6, "the connection is the price of such a packet");
        vsock.connect(7, 52);
    });
}

#[test]
fn lies_about_addresses_and_lengths_are_no_danger() {
    test(&[Need::Kvm], |scratch| {
        let mut puppet = Puppet::start_with(scratch, Protocol::Pvh, |vmm| {
            vmm.put("/vsock", &json!({ "guest_cid": GUEST_CID, "uds_path": scratch.join("vsock") }));
        });
        let listener = UnixListener::bind(scratch.join("vsock_52")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let lies: [fn(&mut Header); 6] = [
            |header| header.source_cid = 77,
            |header| header.destination_cid = 77,
            |header| header.destination_cid = u64::MAX,
            |header| header.length = 1,
            |header| header.length = u32::MAX,
            |header| header.length = 64 * 1024 + 1,
        ];
        for lie in lies {
            let mut vsock = Vsock::open(&puppet);
            let mut header = Header::request(9, 52);
            lie(&mut header);
            vsock.send_as_it_is(header, &[]);
            header.operation = DATA;
            vsock.send_as_it_is(header, b"data");
            vsock.device.status();
        }
        // More data than the vmm gave credit for: the connection is its guest's loss.
        let mut vsock = Vsock::open(&puppet);
        vsock.connect(10, 52);
        for _ in 0..100 {
            vsock.send(Header::new(DATA, 10, 52), &[0; 8192]);
        }
        assert!(puppet.vmm().is_running());
        Vsock::open(&puppet).connect(11, 52);
    });
}

#[test]
fn connections_run_over_descriptors_that_were_handed_over() {
    test(&[Need::Kvm], |scratch| {
        let (mut host, guest_side) = UnixStream::pair().unwrap();
        host.set_read_timeout(Some(PATIENCE)).unwrap();
        let path = scratch.join("listener");
        let listener = UnixListener::bind(&path).unwrap();
        let descriptors = [("vsock_1024", guest_side.into()), ("vsock", listener.into())];
        let puppet = Puppet::start_sealed(scratch, descriptors, |vmm| {
            vmm.put("/vsock", &json!({ "guest_cid": GUEST_CID, "uds_path": "fd:vsock" }));
        });
        let mut vsock = Vsock::open(&puppet);
        vsock.connect(1, 1024);
        vsock.send(Header::new(DATA, 1, 1024), b"over the descriptor");
        assert_eq!(read_exactly(&mut host, 19), b"over the descriptor");
        host.write_all(b"and back").unwrap();
        assert_eq!(vsock.expect_data(8), b"and back");

        // It is there once; other ports have none.
        for port in [1024, 1025] {
            vsock.send(Header::request(2, port), &[]);
            vsock.expect(RESET);
        }

        let mut client = patient(UnixStream::connect(path).unwrap());
        client.write_all(b"CONNECT 80\n").unwrap();
        let (request, _) = vsock.expect(REQUEST);
        vsock.send(Header::new(RESPONSE, 80, request.source_port), &[]);
        assert_eq!(&read_exactly(&mut client, 3), b"OK ");

        let mut no_more = Header::new(SHUTDOWN, 1, 1024);
        no_more.flags = SHUTDOWN_SEND;
        vsock.send(no_more, &[]);
        assert_ends(&mut host);
    });
}
