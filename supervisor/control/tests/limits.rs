//! Nobody has the server for himself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::cell::Cell;
use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use stockade_api::{Answer, Error, Request};
use stockade_control::fake::Settings;
use stockade_control::{Attachment, Backend, Limits, Reception, serve};
use support::{Daemon, Reply, short};

const VERSION: &[u8] = b"GET /v1/version HTTP/1.1\r\n\r\n";

fn read_all(mut stream: UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_user_has_a_number_of_connections() {
    for uid in [0, rustix::process::getuid().as_raw()] {
        let limits = Limits { connections_of_user: 2, connections_of_root: 2, ..Limits::default() };
        let daemon = Daemon::limited(Settings { uid: Some(uid), ..Settings::default() }, limits);
        let mut first = daemon.connect();
        let second = daemon.connect();
        // The server has accepted both when it has answered the later one.
        let said = Reply::parse(&daemon.exchange(VERSION)).expect_failure("too_many_requests");
        assert!(said.contains("you have 2 connections"), "{said}");
        drop(second);
        while Reply::parse(&daemon.exchange(b"GET /v1/version HTTP/1.1\r\nConnection: close\r\n\r\n")).status != 200 {}
        first.write_all(b"GET /v1/version HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
        assert_eq!(Reply::parse(&read_all(first)).status, 200);
    }
}

#[test]
fn a_slow_head_is_refused_and_an_idle_connection_closed() {
    let daemon = Daemon::limited(Settings::default(), short());
    for head in ["G", "GET /v1/version HTTP/1.1\r\nHost: "] {
        let mut stream = daemon.connect();
        stream.write_all(head.as_bytes()).unwrap();
        Reply::parse(&read_all(stream)).expect_failure("request_timeout");
    }
    let mut stream = daemon.connect();
    stream.write_all(VERSION).unwrap();
    let answers = read_all(stream);
    let (answer, rest) = Reply::parse_first(&answers);
    assert_eq!((answer.status, rest), (200, b"".as_slice()));
    assert_eq!(read_all(daemon.connect()), b"");
}

#[test]
fn a_slow_body_is_refused() {
    let daemon = Daemon::limited(Settings::default(), short());
    let mut stream = daemon.connect();
    stream
        .write_all(b"POST /v1/load HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
        .unwrap();
    let reply = Reply::parse(&read_all(stream));
    assert!(reply.expect_failure("request_timeout").contains("body"));
}

#[test]
fn a_client_that_reads_nothing_is_given_up() {
    let configured = (0..50).map(|number| (format!("{}{number}", "v".repeat(60)), 0)).collect();
    let limits = Limits { connections_of_root: 1, connections_of_user: 1, ..short() };
    let daemon = Daemon::limited(Settings { configured, ..Settings::default() }, limits);
    let mut greedy = daemon.connect();
    greedy.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    // Requests until neither side takes any more.
    while greedy.write_all(b"GET /v1/vms HTTP/1.1\r\n\r\n").is_ok() {}
    // Its place is free again without its doing.
    while Reply::parse(&daemon.exchange(b"GET /v1/version HTTP/1.1\r\nConnection: close\r\n\r\n")).status != 200 {}
    drop(greedy);
}

#[test]
fn a_server_that_stops_still_gives_the_answers_that_are_under_way() {
    let guest_life = Some(Duration::from_millis(500));
    let daemon = Daemon::with(Settings { guest_life, configured: vec![("web".into(), 0)], ..Settings::default() });
    daemon.post("/v1/vms/web/start", "");
    let idle = daemon.connect();
    let mut waiting = daemon.connect();
    waiting.write_all(b"POST /v1/vms/web/wait HTTP/1.1\r\n\r\n").unwrap();
    // The server has taken up both when it has answered the later one.
    daemon.get("/v1/version");
    drop(daemon);
    let reply = Reply::parse(&read_all(waiting));
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    assert_eq!(read_all(idle), b"");
}

/// Counts requests that have been dropped before they were answered.
struct Waiting {
    asked: Cell<usize>,
    dropped: Rc<Cell<usize>>,
}

struct Dropped(Rc<Cell<usize>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

impl Reception for Waiting {
    fn connection(&self, _: BorrowedFd<'_>) -> Result<(), Error> {
        Ok(())
    }
}

impl Backend for Waiting {
    type Caller = ();

    async fn ask(&self, (): &(), _: Request) -> Result<Answer, Error> {
        self.asked.set(self.asked.get() + 1);
        let _dropped = Dropped(Rc::clone(&self.dropped));
        std::future::pending().await
    }

    async fn attach(&self, (): &(), _: Request) -> Result<Attachment, Error> {
        let _dropped = Dropped(Rc::clone(&self.dropped));
        std::future::pending().await
    }
}

#[test]
fn requests_of_clients_that_have_gone_are_dropped() {
    let wait = "POST /v1/vms/web/wait HTTP/1.1\r\n\r\n";
    let next = format!("{wait}{}", "GET /v1/version HTTP/1.1\r\n\r\n");
    let stream = "GET /v1/events?after=1 HTTP/1.1\r\nAccept: text/event-stream\r\n\r\n".to_owned();
    let console = "GET /v1/vms/web/console HTTP/1.1\r\nUpgrade: stockade-console\r\n\r\n".to_owned();
    for request in [wait.to_owned(), next, stream, console] {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control.sock");
        let dropped = Rc::new(Cell::new(0));
        let backend = Waiting { asked: Cell::new(0), dropped: Rc::clone(&dropped) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::UnixListener::bind(&socket).unwrap();
            let mut client = UnixStream::connect(&socket).unwrap();
            client.write_all(request.as_bytes()).unwrap();
            let gone = async {
                // Long enough to be asked; if it is not, nothing is dropped, and the test fails.
                tokio::time::sleep(Duration::from_millis(500)).await;
                drop(client);
                while dropped.get() == 0 {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            let gone = tokio::time::timeout(Duration::from_secs(30), gone);
            serve(listener, backend, Limits::default(), async { gone.await.expect("dropped") }).await.unwrap();
        });
        assert_eq!(dropped.get(), 1);
    }
}
