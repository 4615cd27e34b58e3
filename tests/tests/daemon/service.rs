//! The daemon as a service: what it tells its manager and the journal, and how it ends.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::fstat;
use nix::unistd::Pid;
use stockade_tests::output::Output;
use stockade_tests::{PATIENCE, Scratch, guest, program, test, wait_for};

use crate::daemon::{Daemon, NEEDS, configuration};

/// The socket of a service manager.
struct Manager(UnixDatagram);

impl Manager {
    fn new(scratch: &Scratch) -> Self {
        let socket = UnixDatagram::bind(scratch.join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// Starts a daemon that knows of it.
    fn run(&self, daemon: &mut Daemon<'_>) {
        let mut command = Command::new(program("stockaded"));
        command.arg("--binaries").arg(stockade_tests::distribution());
        command.env("NOTIFY_SOCKET", self.0.local_addr().unwrap().as_pathname().unwrap());
        daemon.run_by(command);
    }

    /// The next message that says this, among others.
    fn hear(&self, line: &str) -> Vec<String> {
        loop {
            let mut bytes = [0; 4096];
            let length = self.0.recv(&mut bytes).unwrap_or_else(|error| panic!("{line}: {error}"));
            let text = std::str::from_utf8(&bytes[..length]).unwrap();
            let lines: Vec<_> = text.lines().map(String::from).collect();
            if lines.iter().any(|said| said.starts_with(line)) {
                return lines;
            }
        }
    }
}

#[test]
fn the_service_manager_is_told_what_the_daemon_does() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let text = format!("shutdown leave\n{}", configuration(scratch, &[(&name, guest::IDLE, "")]));
        let manager = Manager::new(scratch);
        let mut daemon = Daemon::with(scratch, &text);
        manager.run(&mut daemon);
        let ready = manager.hear("READY=1");
        assert!(ready.contains(&format!("MAINPID={}", daemon.pid())), "{ready:?}");
        let vm = daemon.wait_for_state(&name, "running");

        // One that takes over says so once it has the machine.
        daemon.kill();
        manager.run(&mut daemon);
        let ready = manager.hear("READY=1");
        assert!(ready.contains(&format!("MAINPID={}", daemon.pid())), "{ready:?}");
        assert!(ready.contains(&"STATUS=1 virtual machine, of which 1 run".to_owned()), "{ready:?}");
        assert_eq!(daemon.vm(&name), vm);

        daemon.signal(Signal::SIGHUP);
        let reloading = manager.hear("RELOADING=1");
        assert!(reloading.iter().any(|line| line.starts_with("MONOTONIC_USEC=")), "{reloading:?}");
        manager.hear("READY=1");
        daemon.configure("nonsense {");
        daemon.signal(Signal::SIGHUP);
        let status = manager.hear("READY=1").join("\n");
        assert!(status.contains("STATUS=not reloaded: "), "{status}");
        assert!(daemon.log().contains("nothing was changed"), "{}", daemon.log());
        assert_eq!(daemon.vm(&name), vm);

        daemon.configure(&text);
        daemon.force(&name);
        manager.hear("STATUS=1 virtual machine, of which 0 run");
        daemon.signal(Signal::SIGTERM);
        manager.hear("STOPPING=1");
        assert_eq!(daemon.wait(), 0);
        daemon.run();
    });
}

#[test]
fn guests_that_do_not_listen_are_ended_when_their_time_is_over_or_the_daemon_is_told_again() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let with_timeout =
            |seconds: u32| configuration(scratch, &[(&name, guest::SPIN, &format!("stop timeout {seconds}"))]);
        let mut daemon = Daemon::start(scratch, &with_timeout(1));
        daemon.wait_for_state(&name, "running");
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait(), 0);
        assert_eq!(daemon.entries("vms"), [""; 0]);

        daemon.configure(&with_timeout(3600));
        let manager = Manager::new(scratch);
        manager.run(&mut daemon);
        daemon.wait_for_state(&name, "running");
        daemon.signal(Signal::SIGTERM);
        let stopping = manager.hear("STOPPING=1");
        let extension = stopping.iter().find_map(|line| line.strip_prefix("EXTEND_TIMEOUT_USEC=")).unwrap();
        assert!(extension.parse::<u64>().unwrap() > 3_500_000_000, "{stopping:?}");
        assert_eq!(daemon.state(&name), "stopping");
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait(), 0);
        assert_eq!(daemon.entries("vms"), [""; 0]);
    });
}

#[test]
fn who_waits_when_the_daemon_ends_is_told() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let text = format!("shutdown leave\n{}", configuration(scratch, &[(&name, guest::IDLE, "")]));
        let mut daemon = Daemon::start(scratch, &text);
        daemon.wait_for_state(&name, "running");
        let mut client = UnixStream::connect(daemon.socket()).unwrap();
        // An answer that comes at once shows that the connection is served, and the next request that it waits.
        client.write_all(b"GET /v1/version HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut first = [0; 12];
        client.read_exact(&mut first).unwrap();
        let wait = format!("POST /v1/vms/{name}/wait HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n");
        client.write_all(wait.as_bytes()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(200));
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait(), 0);
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert!(text.contains("503") && text.contains("interrupted"), "{text:?}");
        daemon.run();
    });
}

#[test]
fn the_journal_gets_priorities_and_a_terminal_names() {
    test(NEEDS, |scratch| {
        scratch.file("vm.conf", "");
        let said = |foreground: bool| {
            let (reader, writer) = std::io::pipe().unwrap();
            let file = fstat(writer.as_fd()).unwrap();
            let mut command = Command::new(program("stockaded"));
            command.env("JOURNAL_STREAM", format!("{}:{}", file.st_dev, file.st_ino));
            command.arg("-f").arg(scratch.join("vm.conf")).arg("-v").args(foreground.then_some("-d"));
            command.arg("--run-directory").arg(scratch.join("run"));
            command.arg("--state-directory").arg(scratch.join("state"));
            command.arg("--binaries").arg(stockade_tests::distribution());
            let mut child = command.stdin(Stdio::null()).stderr(writer).spawn().unwrap();
            drop(command);
            let output = Output::collect(reader);
            wait_for("a role to speak", || output.text().contains("the channel is").then_some(()));
            kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
            assert!(child.wait().unwrap().success());
            output.text()
        };
        let journal = said(false);
        assert!(journal.lines().all(|line| line.starts_with('<')), "{journal}");
        assert!(
            journal.contains("<6>0 virtual machines") && journal.contains("<7>control: the channel is"),
            "{journal}"
        );
        let plain = said(true);
        assert!(plain.lines().all(|line| line.starts_with("stockaded: ")), "{plain}");
        assert!(plain.contains("stockaded: control: the channel is"), "{plain}");
    });
}
