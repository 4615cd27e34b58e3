//! Whatever bytes come, what goes back is HTTP, a failure says what it is, and the server goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use support::{Daemon, Reply, short};

/// Pieces of requests, so that the bytes get further than the first line.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![
            "GET ", "POST ", "HEAD ", "/v1/vms", "/v1/events?after=", "/v1/vms/web/stop", "/v1/load", " HTTP/1.1\r\n", " HTTP/1.0\r\n",
            "\r\n", "\r\n\r\n", "Content-Length: ", "Content-Length: 2\r\n\r\n{}", "Transfer-Encoding: chunked\r\n\r\n", "2\r\n{}\r\n0\r\n\r\n",
            "Content-Type: application/json\r\n", "Accept: text/event-stream\r\n", "Expect: 100-continue\r\n", "Connection: close\r\n",
            "Upgrade: h2c\r\nConnection: upgrade\r\n", "%00", "%zz", "?", "&", "=", "{\"path\":", "\"/f\"}", "9", "-1",
        ]).prop_map(|text: &str| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

/// A request with a few bytes changed.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let requests = vec![
        "POST /v1/vms HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"name\":\"x\"}",
        "POST /v1/vms/web/stop HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "GET /v1/events?after=0&wait=1 HTTP/1.1\r\nLast-Event-ID: 1\r\nAccept: application/jsonl\r\n\r\n",
    ];
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (prop::sample::select(requests), changes).prop_map(|(request, changes)| {
        let mut bytes = request.as_bytes().to_vec();
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        bytes
    })
}

#[test]
fn any_bytes_are_answered_or_not_but_never_harmful() {
    let daemon = Daemon::limited(stockade_control::fake::Settings::default(), short());
    let bytes = prop_oneof![pieces(), damaged(), prop::collection::vec(any::<u8>(), 0..64)];
    let mut runner = TestRunner::new(Config { cases: 600, failure_persistence: None, ..Config::default() });
    let tried = runner.run(&bytes, |bytes| {
        use std::io::{Read, Write};
        let mut stream = daemon.connect();
        let _ = stream.write_all(&bytes);
        // The end of what is sent is the end of the connection, unless something is being answered.
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answers = Vec::new();
        stream.read_to_end(&mut answers).unwrap();
        let mut rest = answers.as_slice();
        while !rest.is_empty() {
            let (reply, after) = Reply::parse_first(rest);
            if reply.status >= 400 && !bytes.windows(4).any(|window| window == b"HEAD") {
                reply.expect_failure(reply.json()["code"].as_str().unwrap());
            }
            rest = after;
        }
        Ok(())
    });
    tried.unwrap();
    assert_eq!(daemon.get("/v1/version").status, 200);
}
