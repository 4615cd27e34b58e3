//! Events: pages, streams, and what a client needs to go on where it was.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{BufRead, BufReader, Write};

use serde_json::Value;
use support::Daemon;

/// The lines of a stream, without the head and the sizes of chunks.
fn stream(daemon: &Daemon, target: &str, headers: &str) -> impl Iterator<Item = String> + use<> {
    let mut connection = daemon.connect();
    write!(connection, "GET {target} HTTP/1.1\r\n{headers}\r\n").unwrap();
    let mut lines = BufReader::new(connection).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "HTTP/1.1 200 OK");
    lines.by_ref().take_while(|line| !line.is_empty()).for_each(drop);
    lines.filter(|line| u32::from_str_radix(line, 16).is_err() && !line.is_empty())
}

fn changes(lines: impl Iterator<Item = String>) -> Vec<(u64, Value)> {
    let events = lines.map(|line| serde_json::from_str::<Value>(&line).unwrap());
    events.map(|event| (event["cursor"].as_u64().unwrap(), event["change"]["state"]["state"].clone())).collect()
}

#[test]
fn a_page_comes_when_there_is_an_event_or_the_wait_is_over() {
    let daemon = Daemon::new();
    let start = daemon.get("/v1/events").json();
    assert_eq!((&start["events"], &start["next"]), (&Value::Array(Vec::new()), &Value::from(0)));
    assert_eq!(daemon.get("/v1/events?after=0&wait=1").json(), start);
    daemon.post("/v1/vms/web/start", "");
    let page = daemon.get("/v1/events?after=0").json();
    assert_eq!((page["events"].as_array().unwrap().len(), &page["next"]), (2, &Value::from(2)));
    let page = daemon.get("/v1/events?after=1").json();
    assert_eq!(page["events"][0]["change"]["state"]["state"], "running");
    let page = daemon.send("GET", "/v1/events?after=0", "Last-Event-ID: 1\r\n", "").json();
    assert_eq!(page["events"].as_array().unwrap().len(), 1);
}

#[test]
fn lines_of_json_go_on_as_things_happen() {
    let daemon = Daemon::new();
    daemon.post("/v1/vms/web/start", "");
    let mut lines = stream(&daemon, "/v1/events?after=1", "Accept: application/jsonl\r\n");
    assert_eq!(changes(lines.by_ref().take(1)), [(2, "running".into())]);
    daemon.post("/v1/vms/web/pause", "");
    assert_eq!(changes(lines.by_ref().take(1)), [(3, "paused".into())]);
}

#[test]
fn server_sent_events_can_be_resumed() {
    let daemon = Daemon::new();
    let headers = "Accept: text/event-stream\r\n";
    let mut lines = stream(&daemon, "/v1/events", headers);
    assert_eq!(lines.next().unwrap(), "id: 0", "the cursor, before there is an event");
    daemon.post("/v1/vms/web/start", "");
    let four: Vec<_> = lines.by_ref().take(4).collect();
    assert_eq!((four[0].as_str(), four[2].as_str()), ("id: 1", "id: 2"));
    assert!(four[1].starts_with("data: {\"cursor\":1,"), "{four:?}");
    drop(lines);
    daemon.post("/v1/vms/web/stop", "");
    let mut lines = stream(&daemon, "/v1/events", &format!("{headers}Last-Event-ID: 2\r\n"));
    assert_eq!(lines.next().unwrap(), "id: 3");
    assert!(lines.next().unwrap().contains("\"stopped\""));
}

#[test]
fn a_cursor_that_is_too_old_is_refused_before_the_stream_begins() {
    let daemon = Daemon::new();
    for _ in 0..100 {
        daemon.post("/v1/vms/web/start", "");
        daemon.post("/v1/vms/web/stop", "");
    }
    for accept in ["", "Accept: text/event-stream\r\n", "Accept: application/jsonl\r\n"] {
        daemon.send("GET", "/v1/events?after=1", accept, "").expect_failure("cursor_too_old");
    }
    assert_eq!(daemon.get("/v1/events?after=0").status, 200, "all that are kept");
}
