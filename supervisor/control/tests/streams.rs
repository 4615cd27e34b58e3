//! Connections that become streams: consoles, and what is kept of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use support::{Daemon, Reply};

/// Sends a request for a console, and reads the head of the answer.
fn attach(daemon: &Daemon, query: &str) -> (Reply, UnixStream) {
    let mut stream = daemon.connect();
    let head = format!(
        "GET /v1/vms/web/console{query} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: stockade-console\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&head)));
        head.push(byte[0]);
    }
    (Reply::parse(&head), stream)
}

fn attached(daemon: &Daemon, query: &str) -> UnixStream {
    let (reply, stream) = attach(daemon, query);
    assert_eq!(reply.status, 101, "{reply:?}");
    assert_eq!((reply.header("connection"), reply.header("upgrade")), (Some("upgrade"), Some("stockade-console")));
    stream
}

fn expect(stream: &mut UnixStream, text: &[u8]) {
    let mut read = vec![0; text.len()];
    stream.read_exact(&mut read).unwrap();
    assert!(read == text, "{}", String::from_utf8_lossy(&read));
}

fn is_over(stream: &mut UnixStream) -> bool {
    matches!(stream.read(&mut [0]), Ok(0))
        || stream.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
}

fn running() -> Daemon {
    let daemon = Daemon::new();
    assert_eq!(daemon.post("/v1/vms/web/start", "").status, 200);
    daemon
}

#[test]
fn a_console_begins_with_what_is_kept_and_goes_on() {
    let daemon = running();
    let mut first = attached(&daemon, "");
    expect(&mut first, b"ready\n");
    first.write_all(b"one\n").unwrap();
    expect(&mut first, b"one\n");
    let mut reader = attached(&daemon, "?access=read");
    expect(&mut reader, b"ready\none\n");
    let (reply, mut later) = attach(&daemon, "?access=read&after=6");
    assert_eq!(reply.header("stockade-cursor"), Some("6"));
    expect(&mut later, b"one\n");
    let (reply, mut last) = attach(&daemon, "?access=read&tail=2");
    assert_eq!(reply.header("stockade-cursor"), Some("8"));
    expect(&mut last, b"e\n");
    first.write_all(b"two\n").unwrap();
    for stream in [&mut first, &mut reader, &mut later, &mut last] {
        expect(stream, b"two\n");
    }
    // It ends with the machine.
    daemon.post("/v1/vms/web/stop", r#"{"mode":"force"}"#);
    for stream in [&mut first, &mut reader, &mut later, &mut last] {
        assert!(is_over(stream));
    }
}

#[test]
fn what_was_sent_with_the_request_is_typed() {
    let daemon = running();
    let mut stream = daemon.connect();
    let head = "GET /v1/vms/web/console HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: stockade-console\r\n\r\nearly\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut text = String::new();
    while !text.ends_with("early\n") {
        let mut bytes = [0; 512];
        let count = stream.read(&mut bytes).unwrap();
        text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
    }
    assert!(text.ends_with("\r\n\r\nready\nearly\n"), "{text}");
}

#[test]
fn one_types_at_a_time_and_can_be_relieved() {
    let daemon = running();
    let mut first = attached(&daemon, "");
    expect(&mut first, b"ready\n");
    let refused = daemon.send("GET", "/v1/vms/web/console", "Upgrade: stockade-console\r\n", "");
    let text = refused.expect_failure("console_in_use");
    assert!(text.contains("access=take"), "{text}");
    let mut second = attached(&daemon, "?access=take&tail=0");
    assert!(is_over(&mut first));
    second.write_all(b"mine\n").unwrap();
    expect(&mut second, b"mine\n");
    // Who has said everything makes room, and goes on reading.
    second.shutdown(Shutdown::Write).unwrap();
    let mut third = wait_for(|| {
        let (reply, stream) = attach(&daemon, "?tail=0");
        (reply.status == 101).then_some(stream)
    });
    third.write_all(b"again\n").unwrap();
    expect(&mut second, b"again\n");
    // So does who is gone.
    drop(third);
    wait_for(|| (attach(&daemon, "").0.status == 101).then_some(()));
}

fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..400 {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    panic!("it does not come")
}

#[test]
fn who_does_not_say_what_the_connection_becomes_is_told() {
    let daemon = running();
    for headers in ["", "Upgrade: websocket\r\n", "Upgrade: stockade\r\n"] {
        let text = daemon.send("GET", "/v1/vms/web/console", headers, "").expect_failure("upgrade_required");
        assert!(text.contains("stockade-console"), "{text}");
    }
    daemon.send("GET", "/v1/vms/no/console", "Upgrade: stockade-console\r\n", "").expect_failure("not_found");
    daemon.send("GET", "/v1/vms/db/console", "Upgrade: stockade-console\r\n", "").expect_failure("not_running");
    daemon.get("/v1/vms/web/log?follow=maybe").expect_failure("invalid_request");
    daemon.get("/v1/vms/no/log").expect_failure("not_found");
}

#[test]
fn a_log_is_what_is_kept_or_goes_on() {
    let daemon = running();
    let mut console = attached(&daemon, "");
    expect(&mut console, b"ready\n");
    let kept = daemon.get("/v1/vms/web/log?after=1");
    assert_eq!((kept.header("stockade-cursor"), kept.body.as_slice()), (Some("1"), b"eady\n".as_slice()));
    assert_eq!(kept.header("content-type"), Some("application/octet-stream"));
    let following = std::thread::scope(|threads| {
        let following = threads.spawn(|| daemon.get("/v1/vms/web/log?follow=true"));
        console.write_all(b"more\n").unwrap();
        expect(&mut console, b"more\n");
        daemon.post("/v1/vms/web/stop", r#"{"mode":"force"}"#);
        following.join().unwrap()
    });
    let text = String::from_utf8(following.body).unwrap();
    assert!(text.contains("ready\n") && text.ends_with("0\r\n\r\n"), "{text}");
    // It is there when the machine is not any more, and ends at once.
    let text = String::from_utf8(daemon.get("/v1/vms/web/log?follow=true").body).unwrap();
    assert!(text.contains("more\n"), "{text}");
}

#[test]
fn a_reader_that_is_too_slow_is_cut_off_and_can_come_back() {
    let daemon = running();
    let mut slow = attached(&daemon, "?access=read");
    let mut typist = attached(&daemon, "?tail=0");
    let line = [b'x'; 1000];
    // More than the ring and everything between here and there.
    for _ in 0..2000 {
        typist.write_all(&line).unwrap();
        expect(&mut typist, &line);
    }
    let mut read = 0;
    let mut buffer = [0; 4096];
    loop {
        match slow.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(read < 2_000_000, "{read}");
    let (reply, mut again) = attach(&daemon, &format!("?access=read&after={read}"));
    let cursor: usize = reply.header("stockade-cursor").unwrap().parse().unwrap();
    assert!(cursor > read);
    expect(&mut again, &vec![b'x'; 2_000_006 - cursor]);
}

#[test]
fn much_is_typed_without_a_loss() {
    let daemon = running();
    let mut stream = attached(&daemon, "?tail=0");
    let text: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    // A reader who falls back by more than the ring would be cut off.
    for piece in text.chunks(20_000) {
        stream.write_all(piece).unwrap();
        expect(&mut stream, piece);
    }
}
