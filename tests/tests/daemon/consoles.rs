//! Consoles of a daemon's virtual machines, over the control API.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use stockade_jailer::console::Ring;
use stockade_supervisor::machine::CONSOLE_RING_BYTES;
use stockade_tests::{PATIENCE, guest, test, wait_for};

use crate::daemon::{Daemon, NEEDS, configuration};

/// A connection that has become a console, and the cursor of its first byte.
pub struct Console {
    pub stream: UnixStream,
    pub cursor: u64,
}

impl Console {
    /// Attaches to a console, or returns the head of the answer.
    pub fn attach(daemon: &Daemon, vm: &str, query: &str) -> Result<Self, String> {
        let mut stream = UnixStream::connect(daemon.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!(
            "GET /v1/vms/{vm}/console{query} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: stockade-console\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        if !head.starts_with("HTTP/1.1 101 ") {
            return Err(head);
        }
        let cursor = head.lines().find_map(|line| line.strip_prefix("stockade-cursor: ")).unwrap();
        Ok(Self { stream, cursor: cursor.parse().unwrap() })
    }

    /// Reads on until this has come.
    pub fn until(&mut self, text: &str) -> String {
        let mut read = Vec::new();
        let mut byte = [0];
        while !read.ends_with(text.as_bytes()) {
            let count = self.stream.read(&mut byte).unwrap_or_else(|error| panic!("{error}: {read:?}"));
            assert_eq!(count, 1, "it ended: {:?}", String::from_utf8_lossy(&read));
            read.push(byte[0]);
        }
        String::from_utf8(read).unwrap()
    }

    /// Reads everything that still comes.
    pub fn rest(&mut self) -> String {
        let mut text = Vec::new();
        self.stream.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    }
}

#[test]
fn a_console_goes_on_when_the_guest_starts_again_and_ends_with_the_machine() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let daemon = Daemon::start(scratch, &configuration(scratch, &[(&name, guest::ECHO, "")]));
        daemon.wait_for_state(&name, "running");
        let mut console = Console::attach(&daemon, &name, "").unwrap();
        assert_eq!((console.cursor, console.until("ready\r\n").as_str()), (0, "ready\r\n"));
        let mut reader = Console::attach(&daemon, &name, "?access=read").unwrap();
        console.stream.write_all(b"hel").unwrap();
        assert_eq!(console.until("hel"), "hel");
        console.stream.write_all(b"lo\n").unwrap();
        // It resets after a line.
        assert_eq!(console.until("ready\r\n"), "lo\nready\r\n");
        console.stream.write_all(b"again").unwrap();
        assert_eq!(console.until("again"), "again");
        assert_eq!(reader.until("again"), "ready\r\nhello\nready\r\nagain");
        assert_eq!(daemon.vm(&name)["generation"], 2);
        daemon.force(&name);
        assert_eq!((console.rest().as_str(), reader.rest().as_str()), ("", ""));
        let refused = Console::attach(&daemon, &name, "").err().unwrap();
        assert!(refused.starts_with("HTTP/1.1 409"), "{refused}");
        // What was written can still be read.
        assert_eq!(Console::attach(&daemon, &name, "?access=read").unwrap().rest(), "ready\r\nhello\nready\r\nagain");
    });
}

#[test]
fn one_types_at_a_time_until_somebody_takes_over_or_control_dies() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let daemon = Daemon::start(scratch, &configuration(scratch, &[(&name, guest::ECHO, "")]));
        daemon.wait_for_state(&name, "running");
        let mut first = Console::attach(&daemon, &name, "").unwrap();
        first.until("ready\r\n");
        let refused = Console::attach(&daemon, &name, "").err().unwrap();
        assert!(refused.starts_with("HTTP/1.1 409"), "{refused}");
        let mut second = Console::attach(&daemon, &name, "?access=take&tail=0").unwrap();
        assert_eq!(first.rest(), "");
        second.stream.write_all(b"x").unwrap();
        assert_eq!(second.until("x"), "x");
        let before = crate::roles::control(&daemon);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(before), nix::sys::signal::Signal::SIGKILL).unwrap();
        // Nothing but its end.
        assert_eq!(second.rest(), "");
        let mut third = wait_for("another control", || Console::attach(&daemon, &name, "?after=8").ok());
        third.stream.write_all(b"y").unwrap();
        assert_eq!(third.until("y"), "y");
    });
}

#[test]
fn a_reader_that_does_not_read_holds_up_nobody() {
    test(NEEDS, |scratch| {
        let (loud, other) = (scratch.vm_name(), scratch.vm_name());
        let vms = [(loud.as_str(), guest::IDLE, ""), (other.as_str(), guest::ECHO, "")];
        let daemon = Daemon::start(scratch, &configuration(scratch, &vms));
        let id = daemon.wait_for_state(&loud, "running")["id"].clone();
        let mut slow = Console::attach(&daemon, &loud, "?access=read").unwrap();
        slow.until("idle\r\n");
        // As its warden writes, which a guest takes minutes for: more than is kept, and than fits between here and there.
        let ring = daemon.run_directory().join("daemon/consoles").join(id.to_string());
        let ring = std::fs::File::options().read(true).write(true).open(ring).unwrap();
        let mut ring = Ring::resume(ring, CONSOLE_RING_BYTES).unwrap();
        let mut quick = Console::attach(&daemon, &loud, "?access=read&tail=0").unwrap();
        let piece = [b'x'; 10_000];
        for _ in 0..100 {
            ring.append(&piece);
            let mut read = [0; 10_000];
            quick.stream.read_exact(&mut read).unwrap();
            assert_eq!(read, piece);
        }
        let mut typist = Console::attach(&daemon, &other, "").unwrap();
        typist.until("ready\r\n");
        typist.stream.write_all(b"y").unwrap();
        assert_eq!(typist.until("y"), "y");
        // It gets what it can, without a gap, and is cut off then.
        let read = slow.rest();
        assert!(read.len() < 1_000_000 && read.bytes().all(|byte| byte == b'x'), "{}", read.len());
        let again = Console::attach(&daemon, &loud, &format!("?access=read&after={}", 6 + read.len())).unwrap();
        assert!(again.cursor > 6 + read.len() as u64, "{}", again.cursor);
    });
}

#[test]
fn much_is_typed_without_a_loss() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let daemon = Daemon::start(scratch, &configuration(scratch, &[(&name, guest::ECHO, "")]));
        daemon.wait_for_state(&name, "running");
        let mut console = Console::attach(&daemon, &name, "").unwrap();
        console.until("ready\r\n");
        let text: String = (0..4000_u32).map(|number| char::from(b'0' + (number % 75) as u8)).collect();
        let mut typing = console.stream.try_clone().unwrap();
        std::thread::scope(|threads| {
            threads.spawn(|| typing.write_all(text.as_bytes()).unwrap());
            let mut read = vec![0; text.len()];
            console.stream.read_exact(&mut read).unwrap();
            assert!(read == text.as_bytes());
        });
    });
}
