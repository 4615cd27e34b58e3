//! Commands of tenants: in virtual machines that the daemon makes for one command, and in those that are there.

use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use stockade_tests::terminal::Terminal;
use stockade_tests::vmm::Exit;
use stockade_tests::{Scratch, guest, program, test, wait_for};

use crate::daemon::{Daemon, NEEDS, configuration};
use crate::tenant::{Finished, Tenant, root};

const ANNA: u32 = 61_003;
const BERT: u32 = 61_004;

/// A run of a tenant's that lasts until it is ended, once its command runs.
fn long_run(tenant: &Tenant, name: &str) -> Child {
    let script = "echo ready; exec sleep 100000";
    let mut child = tenant.command(&["run", "--name", name, "--", "sh", "-c", script]).spawn().unwrap();
    let mut line = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"ready\n");
    child
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
}

fn names(daemon: &Daemon) -> Vec<Value> {
    daemon.get("vms").ok()["vms"].as_array().unwrap().iter().map(|vm| vm["name"].clone()).collect()
}

/// Waits until nothing of any machine is left.
fn expect_none(daemon: &Daemon) {
    wait_for("the machine to go", || (names(daemon).is_empty() && daemon.entries("vms").is_empty()).then_some(()));
}

#[test]
fn commands_are_executed_in_a_guest_that_is_there() {
    test(NEEDS, |scratch| {
        let (name, flat) = (scratch.vm_name(), scratch.vm_name());
        let idle = configuration(scratch, &[(&flat, guest::IDLE, "vsock enable")]);
        let daemon = Daemon::start(scratch, &idle);
        let (anna, bert) = (Tenant::new(scratch, &daemon, ANNA), Tenant::new(scratch, &daemon, BERT));
        let mut run = long_run(&anna, &name);
        let exec = |arguments: &[&str]| anna.stockade(&[&["exec", &name, "--"], arguments].concat());
        let shell = |script: &str| exec(&["sh", "-c", script]);

        // Streams are apart and byte-exact, input ends where it ends, and several are at work at once.
        let bytes: Vec<u8> = (0..=255).cycle().take(40_000).collect();
        let cats: Vec<_> = (0..3)
            .map(|_| {
                let script = "cat; printf 'e\\0rr' >&2; exit 3";
                let mut command = anna.command(&["exec", "-e", "A=b", "-w", "/tmp", &name, "--", "sh", "-c", script]);
                let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
                let mut input = child.stdin.take().unwrap();
                let bytes = bytes.clone();
                std::thread::spawn(move || input.write_all(&bytes).unwrap());
                child
            })
            .collect();
        for child in cats {
            let cat = Finished::of(child.wait_with_output().unwrap());
            assert_eq!((cat.code, cat.error.as_str()), (3, "e\0rr"));
            assert!(cat.output == bytes, "{} bytes came back, not the same", cat.output.len());
        }

        shell("kill -9 $$").expect_line(137, &["SIGKILL"]);
        exec(&["no-such-command"]).expect_line(127, &["no-such-command"]);
        exec(&["/etc"]).expect_line(126, &["/etc"]);

        // A signal reaches the command; one that is killed takes its command along.
        let script = "trap 'exit 9' TERM; echo ready; while :; do sleep 1; done";
        let mut asked = anna.command(&["exec", &name, "--", "sh", "-c", script]).spawn().unwrap();
        let mut line = [0; 6];
        asked.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
        signal(&asked, Signal::SIGTERM);
        assert_eq!(asked.wait().unwrap().code(), Some(9));
        let script = "echo ready; exec sleep 77777";
        let mut killed = anna.command(&["exec", &name, "--", "sh", "-c", script]).spawn().unwrap();
        killed.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
        assert_eq!(shell("ps | grep -q '[7]7777'").code, 0);
        killed.kill().unwrap();
        killed.wait().unwrap();
        wait_for("the command to go", || (shell("ps | grep -q '[7]7777'").code == 1).then_some(()));

        // Who may not, and where nobody answers.
        bert.stockade(&["exec", &name, "--", "true"]).expect_line(125, &["none of yours"]);
        root(&daemon, &["exec", &flat, "--", "true"]).expect_line(125, &["no agent", "boot default"]);

        signal(&run, Signal::SIGTERM);
        assert_eq!(run.wait().unwrap().code(), Some(143));
        assert_eq!(names(&daemon), [Value::from(flat.as_str())]);
    });
}

#[test]
fn a_command_in_a_guest_that_is_there_can_have_a_terminal() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let daemon = Daemon::start(scratch, "");
        let anna = Tenant::new(scratch, &daemon, ANNA);
        let mut run = long_run(&anna, &name);
        let terminal = Terminal::open((33, 77));
        let before = terminal.settings();
        let mut command = Command::new(program("stockade"));
        let script = "stty size; read line; stty size; echo got $line; exit 5";
        command.args(["exec", "-t", &name, "--", "sh", "-c", script]).env("STOCKADE_SOCKET", daemon.socket());
        let mut session = terminal.start(&command);
        terminal.screen().wait_for("33 77");
        terminal.resize((10, 20));
        session.signal(Signal::SIGWINCH);
        terminal.type_in("hello\r");
        assert_eq!(session.wait(), Exit::Code(5));
        terminal.screen().wait_for("10 20");
        terminal.screen().wait_for("got hello");
        assert_eq!(terminal.settings(), before, "the terminal is not as it was");
        run.kill().unwrap();
        run.wait().unwrap();
        expect_none(&daemon);
    });
}

#[test]
fn a_tenants_run_is_the_daemons_and_gone_with_it() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let mut daemon = Daemon::start(scratch, "quota default { vms 1 }\n");
        {
            let anna = Tenant::new(scratch, &daemon, ANNA);
            let done = anna.stockade(&["run", "--name", &name, "--", "sh", "-c", "hostname; id -u; exit 4"]);
            assert_eq!((done.code, done.text()), (4, format!("{name}\n0\n").as_str()), "{done:?}");
            // It is over when this is.
            assert_eq!((names(&daemon).len(), daemon.entries("vms").len()), (0, 0));

            let mut run = long_run(&anna, &name);
            let vm = daemon.vm(&name);
            assert_eq!((vm["owner"]["uid"].as_u64(), vm["configured"].as_bool()), (Some(ANNA.into()), Some(false)));
            anna.stockade(&["run", "--", "true"]).expect_line(125, &["quota exceeded", "vms"]);
            run.kill().unwrap();
            run.wait().unwrap();
            expect_none(&daemon);

            // Somebody else ends it.
            let mut run = long_run(&anna, &name);
            daemon.force(&name);
            assert_eq!(run.wait().unwrap().code(), Some(125));
            expect_none(&daemon);
        }
        // The daemon dies, and the next one has nothing of it.
        let mut run = long_run(&Tenant::new(scratch, &daemon, ANNA), &name);
        daemon.kill();
        assert_eq!(run.wait().unwrap().code(), Some(125));
        daemon.run();
        expect_none(&daemon);
    });
}

#[test]
fn a_tenants_run_has_files_that_the_tenant_may_open() {
    test(NEEDS, |scratch| {
        let daemon = Daemon::start(scratch, "");
        let anna = Tenant::new(scratch, &daemon, ANNA);
        let image = file_of(scratch, BERT);
        let theirs = ["run", "--rootfs", &image, "--", "true"];
        anna.stockade(&theirs).expect_line(125, &[&image, "Permission denied", &ANNA.to_string()]);
        anna.stockade(&["run", "--without", "uid", "--", "true"]).expect_line(125, &["--without", "--embedded"]);
        let binaries = scratch.path().to_str().unwrap();
        // Programs of one's own are not the daemon's.
        let own = anna.stockade(&["run", "--binaries", binaries, "--", "true"]);
        assert_eq!(own.code, 125, "{own:?}");
        assert!(own.error.contains("stockade-jailer"), "{own:?}");
        expect_none(&daemon);
    });
}

fn file_of(scratch: &Scratch, owner: u32) -> String {
    let path = scratch.file("image", vec![0; 4096]);
    chown(&path, Some(owner), Some(owner)).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    path.to_str().unwrap().to_owned()
}
