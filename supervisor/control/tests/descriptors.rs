//! A server that has no descriptors left goes on when it has some again. Alone in its file, because the limit is that of
//! the whole process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use stockade_control::Limits;
use stockade_control::fake::Settings;
use support::{Daemon, Reply};

#[test]
fn no_descriptors_are_no_end() {
    let limits = Limits { accept_pause: Duration::from_millis(50), ..Limits::default() };
    let daemon = Daemon::limited(Settings::default(), limits);
    assert_eq!(daemon.get("/v1/version").status, 200);
    let client = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(3), ..before }).unwrap();
    connect(&client, &SocketAddrUnix::new(&daemon.socket).unwrap()).unwrap();
    let mut client = UnixStream::from(client);
    client.write_all(b"GET /v1/version HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    client.set_nonblocking(true).unwrap();
    let nothing = client.read(&mut [0]).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock, "it was accepted");
    setrlimit(Resource::Nofile, before).unwrap();
    client.set_nonblocking(false).unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(Reply::parse(&answer).status, 200);
}
