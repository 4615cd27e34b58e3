//! Whatever a client does wrong, it is told so in the same way, with what to do instead.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use support::{Daemon, Reply};

#[test]
fn paths_and_methods_are_checked() {
    let daemon = Daemon::new();
    for path in ["/", "/v1", "/v1/", "/v1/vm", "/v1/vms/", "/v1/vms/web/", "/v1/vms/web/kill", "/v2/vms", "*"] {
        daemon.get(path).expect_failure("unknown_path");
    }
    for (method, path, allowed) in [
        ("DELETE", "/v1/vms", "GET, POST"),
        ("HEAD", "/v1/vms/web/start", "POST"),
        ("GET", "/v1/reload", "POST"),
        ("POST", "/v1/version", "GET"),
        ("BREW", "/v1/vms/web", "GET"),
    ] {
        let bytes = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = daemon.exchange(bytes.as_bytes());
        let text = String::from_utf8(answer).unwrap();
        assert!(text.starts_with("HTTP/1.1 405 "), "{text}");
        assert!(text.contains(&format!("allow: {allowed}\r\n")), "{text}");
        if method != "HEAD" {
            let said = Reply::parse(text.as_bytes()).expect_failure("method_not_allowed");
            assert!(said.contains(method) && said.contains(path) && said.ends_with(allowed), "{said}");
        }
    }
}

#[test]
fn queries_and_names_are_checked() {
    let daemon = Daemon::new();
    for (path, part) in [
        ("/v1/vms?aftr=1", "\"aftr\" here; known: after"),
        ("/v1/version?x", "\"x\" here; leave it out"),
        ("/v1/vms?after=1&after=2", "after is there twice"),
        ("/v1/vms?after=-1", "after: \"-1\" is not a number from 0 to 4294967295"),
        ("/v1/vms?after=4294967296", "from 0 to 4294967295"),
        ("/v1/vms?after", "after: \"\" is not a number"),
        ("/v1/vms?after=%ff", "not UTF-8"),
        ("/v1/events?after=1&wait=0", "wait: \"0\" is not a number from 1 to 60"),
        ("/v1/events?after=18446744073709551616", "from 0 to 18446744073709551615"),
        ("/v1/vms/%c3", "not UTF-8"),
    ] {
        let said = daemon.get(path).expect_failure("invalid_request");
        assert!(said.contains(part), "{path}: {said}");
    }
    let reply = daemon.send("GET", "/v1/events", "Last-Event-ID: x\r\n", "");
    assert!(reply.expect_failure("invalid_request").contains("header Last-Event-ID: \"x\""));
    let said = daemon.get("/v1/vms/no%20such%0a").expect_failure("not_found");
    assert!(said.contains(r#""no such\n""#), "{said}");
}

#[test]
fn bodies_are_checked() {
    let daemon = Daemon::new();
    for (path, body, part) in [
        ("/v1/vms", "", "the body is missing"),
        ("/v1/vms", "{", "line 1 column 1: EOF"),
        ("/v1/vms", "[]", "expected struct NewVm"),
        ("/v1/load", r#"["/etc/vm.conf"]"#, "invalid type: array; expected an object"),
        (
            "/v1/vms",
            r#"{"name":"x","memmory":1}"#,
            "field \"memmory\": unknown field `memmory`; expected one of `name`",
        ),
        ("/v1/vms", r#"{"name":"x","disks":[{"path":"/a"},{"path":5}]}"#, "field \"disks[1].path\": invalid type"),
        ("/v1/vms", r#"{"name":"x","name":"y"}"#, "duplicate field `name`"),
        ("/v1/vms", r#"{"name":"x"} 1"#, "trailing characters"),
        ("/v1/vms", "{\"name\":\"\u{0}\"}", "control character"),
        ("/v1/vms/web/stop", r#"{"mode":"hard"}"#, "unknown variant `hard`; expected `ask` or `force`"),
        ("/v1/vms/web/start", "{}", "has a body, and can't have one"),
        ("/v1/reset", r#"{"what":"everything"}"#, "expected one of `all`, `vms`, `switches`"),
        ("/v1/load", "{}", "missing field `path`"),
        ("/v1/log", "null", "invalid type: null"),
    ] {
        let said = daemon.post(path, body).expect_failure("invalid_request");
        assert!(said.contains(part), "{path} {body}: {said}");
    }
    let deep = "[".repeat(10_000);
    assert!(daemon.post("/v1/vms", &deep).expect_failure("invalid_request").len() < 300);
    for headers in ["", "Content-Type: text/plain\r\n", "Content-Type: application/json\r\nContent-Encoding: gzip\r\n"]
    {
        daemon.send("POST", "/v1/load", headers, "{}").expect_failure("unsupported_media_type");
    }
    let reply = daemon.send("POST", "/v1/vms/web/stop", "Content-Type: Application/JSON; charset=utf-8\r\n", "{}");
    reply.expect_failure("not_running");
}

#[test]
fn what_is_too_large_is_refused_with_a_reason() {
    let daemon = Daemon::new();
    let said = daemon.post("/v1/vms", &" ".repeat((64 << 10) + 1)).expect_failure("body_too_large");
    assert!(said.contains("65536"), "{said}");
    let chunk = format!("8000\r\n{}\r\n", " ".repeat(0x8000));
    let head = "POST /v1/vms HTTP/1.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let bytes = format!("{head}{}", chunk.repeat(3));
    Reply::parse(&daemon.exchange(bytes.as_bytes())).expect_failure("body_too_large");
    let long = format!("A: {}\r\n", "a".repeat(20_000));
    daemon.send("GET", "/v1/vms", &long, "").expect_failure("head_too_large");
    daemon.send("GET", "/v1/vms", &"A: a\r\n".repeat(70), "").expect_failure("head_too_large");
    daemon.get(&format!("/v1/vms/{}", "a".repeat(70_000))).expect_failure("head_too_large");
    let quoted = daemon.get(&format!("/v1/vms/{}", "a".repeat(10_000))).expect_failure("not_found");
    assert!(quoted.len() < 300, "{quoted}");
}

#[test]
fn what_is_no_http_is_refused_with_a_reason() {
    let daemon = Daemon::new();
    for bytes in [
        b"\x16\x03\x01\x00\xa5\x01\x00".as_slice(),
        b"hello\r\n\r\n",
        b"GET /v1/vms\r\n\r\n",
        b"GET /v1/vms HTTP/9.9\r\n\r\n",
        b"GET /v1/vms HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /v1/vms HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"GET /v1/vms HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET /v1/vms HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let reply = Reply::parse(&daemon.exchange(bytes));
        reply.expect_failure("invalid_request");
        assert_eq!(reply.header("connection"), Some("close"));
    }
    // A good request first, and something else right after it.
    let answers = daemon.exchange(b"GET /v1/version HTTP/1.1\r\n\r\nGARBAGE\r\n\r\n");
    let (first, rest) = Reply::parse_first(&answers);
    assert_eq!(first.status, 200);
    Reply::parse(rest).expect_failure("invalid_request");
}
