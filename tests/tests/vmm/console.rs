//! The serial console: standard input and output, a file, and nobody at all.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use nix::sys::termios::LocalFlags;
use serde_json::json;
use stockade_tests::guest::{self, Protocol};
use stockade_tests::memory::COUNTER;
use stockade_tests::terminal::Terminal;
use stockade_tests::vmm::{Builder, Exit, Vmm, boot_source};
use stockade_tests::{Need, process, program, test, wait_for};

#[test]
fn input_reaches_the_guest_whatever_its_size() {
    test(&[Need::Kvm], |scratch| {
        let mut vmm = Vmm::with_guest(scratch, guest::ECHO, Protocol::Pvh);
        vmm.start_guest();
        vmm.console().wait_for("ready");
        // More than the 64 bytes that fit into the serial port.
        let line: String = ('a'..='z').cycle().take(1000).collect::<String>() + "\n";
        vmm.take_input().write_all(line.as_bytes()).unwrap();
        let (exit, console, ..) = vmm.finish();
        assert_eq!((exit, console), (Exit::Code(0), format!("ready\r\n{line}")));
    });
}

#[test]
fn a_terminal_is_raw_while_the_guest_runs() {
    test(&[Need::Kvm], |scratch| {
        let configuration = json!({ "boot-source": boot_source(scratch, guest::ECHO, Protocol::Pvh), "drives": [] });
        let configuration = scratch.file("configuration", configuration.to_string());
        let terminal = Terminal::open((24, 80));
        let before = terminal.settings();
        let mut command = Command::new(program("stockade-vmm"));
        let mut session = terminal.start(command.args(["--no-api", "--config-file"]).arg(configuration));
        terminal.screen().wait_for("ready");
        assert!(!terminal.settings().local_flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG));
        // The second character would interrupt the vmm.
        terminal.type_in("a\x03b\n");
        assert_eq!(session.wait(), Exit::Code(0));
        terminal.screen().wait_for("a\x03b\n");
        assert_eq!(terminal.settings(), before);
    });
}

#[test]
fn output_can_go_to_a_file() {
    test(&[Need::Kvm], |scratch| {
        let path = scratch.join("console");
        let vmm = Vmm::with_guest(scratch, guest::HELLO, Protocol::Pvh);
        vmm.put("/serial", &json!({ "serial_out_path": path }));
        vmm.start_guest();
        let (exit, console, ..) = vmm.finish();
        assert_eq!((exit, console.as_str()), (Exit::Code(0), ""));
        assert_eq!(std::fs::read_to_string(path).unwrap(), "hello from the guest\r\n");
    });
}

#[test]
fn a_console_that_nobody_reads_stops_no_guest_and_takes_no_memory() {
    test(&[Need::Kvm], |scratch| {
        let (mut reader, writer) = std::io::pipe().unwrap();
        nix::fcntl::fcntl(writer.as_fd(), nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
        let vmm = Builder::new(scratch).standard_output(writer).start();
        vmm.put("/boot-source", &boot_source(scratch, guest::FLOOD, Protocol::Pvh));
        vmm.start_guest();
        let memory = vmm.memory();
        let past = |count| wait_for("the guest to write on", || (memory.read_u64(COUNTER) > count).then_some(()));
        past(10_000);
        let resident =
            || process::status_field(vmm.pid(), "RssAnon").unwrap().replace(" kB", "").parse::<u64>().unwrap();
        let before = resident();
        past(100_000);
        assert!(resident() < before + 64, "{before} kB grew to {} kB", resident());
        // A reader that comes late gets what fits, and what comes from then on.
        let mut bytes = vec![0; 64 * 1024];
        reader.read_exact(&mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == b'x'));
        assert_eq!(vmm.request("GET", "/", "").json()["state"], "Running");
    });
}

#[test]
fn a_reader_that_leaves_stops_no_guest() {
    test(&[Need::Kvm], |scratch| {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut vmm = Builder::new(scratch).standard_output(writer).start();
        vmm.put("/boot-source", &boot_source(scratch, guest::FLOOD, Protocol::Pvh));
        vmm.start_guest();
        let memory = vmm.memory();
        drop(reader);
        let count = memory.read_u64(COUNTER);
        wait_for("the guest to write on", || (memory.read_u64(COUNTER) > count + 1000).then_some(()));
        assert!(vmm.is_running());
    });
}

#[test]
fn the_end_of_input_costs_nothing() {
    test(&[Need::Kvm], |scratch| {
        let mut vmm = Vmm::with_guest(scratch, guest::IDLE, Protocol::Pvh);
        drop(vmm.take_input());
        vmm.start_guest();
        vmm.console().wait_for("idle");
        let ticks = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", vmm.pid())).unwrap();
            let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
            fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
        };
        let before = ticks();
        std::thread::sleep(std::time::Duration::from_secs(1));
        assert!(ticks() - before < 20, "an idle vmm used {} ticks of processor time in a second", ticks() - before);
    });
}

#[test]
fn a_closed_standard_output_is_no_reason_to_fail() {
    test(&[Need::Kvm], |scratch| {
        let vmm = Builder::new(scratch).standard_output(Stdio::null()).start();
        vmm.put("/boot-source", &boot_source(scratch, guest::HELLO, Protocol::Pvh));
        vmm.start_guest();
        assert_eq!(vmm.finish().0, Exit::Code(0));
    });
}
