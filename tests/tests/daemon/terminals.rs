//! `stockade console`, with a terminal that somebody sits at.

use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use nix::sys::termios::LocalFlags;
use stockade_tests::terminal::{Session, Terminal};
use stockade_tests::vmm::Exit;
use stockade_tests::{Scratch, guest, program, test, wait_for};

use crate::daemon::{Daemon, NEEDS, configuration};

fn command(daemon: &Daemon, arguments: &[&str]) -> Command {
    let mut command = Command::new(program("stockade"));
    command.args(arguments).env("STOCKADE_SOCKET", daemon.socket());
    command
}

fn is_raw(terminal: &Terminal) -> bool {
    !terminal.settings().local_flags.intersects(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG)
}

/// Starts a command line on a terminal, and checks that the terminal is as before when `play` is over.
fn on_terminal(daemon: &Daemon, arguments: &[&str], play: impl FnOnce(&Terminal, &mut Session)) {
    let terminal = Terminal::open((24, 80));
    let before = terminal.settings();
    let mut session = terminal.start(&command(daemon, arguments));
    play(&terminal, &mut session);
    assert_eq!(terminal.settings(), before, "the terminal is not as it was");
}

/// A daemon with one that echoes.
fn echo<'a>(scratch: &'a Scratch, name: &str) -> Daemon<'a> {
    let daemon = Daemon::start(scratch, &configuration(scratch, &[(name, guest::ECHO, "")]));
    daemon.wait_for_state(name, "running");
    daemon
}

#[test]
fn somebody_types_and_leaves() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let daemon = echo(scratch, &name);
        on_terminal(&daemon, &["cons", &name], |terminal, session| {
            terminal.screen().wait_for("ready");
            wait_for("the terminal to be raw", || is_raw(terminal).then_some(()));
            terminal.type_in("~?");
            terminal.screen().wait_for("leave the console");
            // Control and C goes to the guest, as every other key.
            terminal.type_in("~~one~.two\x03");
            terminal.screen().wait_for("~one~.two\x03");
            terminal.type_in("\n");
            wait_for("the guest to start again", || {
                (terminal.screen().text().matches("ready").count() == 2).then_some(())
            });
            terminal.type_in("~.");
            assert_eq!(session.wait(), Exit::Code(0));
            terminal.screen().wait_for("left the console");
        });
        assert_eq!(daemon.state(&name), "running");
    });
}

#[test]
fn the_console_goes_on_after_a_death_of_the_daemon() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let mut daemon = echo(scratch, &name);
        let terminal = Terminal::open((24, 80));
        let before = terminal.settings();
        let mut session = terminal.start(&command(&daemon, &["console", &name]));
        terminal.screen().wait_for("ready");
        terminal.type_in("first");
        terminal.screen().wait_for("first");
        daemon.kill();
        terminal.screen().wait_for("broke off");
        // What is typed meanwhile waits.
        terminal.type_in("second");
        daemon.run();
        terminal.screen().wait_for("again");
        terminal.screen().wait_for("second");
        let screen = terminal.screen().text();
        for once in ["ready", "first", "second"] {
            assert_eq!(screen.matches(once).count(), 1, "{screen:?}");
        }
        // It ends with the machine, and says how.
        daemon.force(&name);
        assert_eq!(session.wait(), Exit::Code(0));
        terminal.screen().wait_for("terminated: ");
        assert_eq!(terminal.settings(), before);
    });
}

#[test]
fn who_comes_second_sees_it_or_takes_over() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let daemon = echo(scratch, &name);
        on_terminal(&daemon, &["console", &name], |first, session| {
            first.screen().wait_for("ready");
            on_terminal(&daemon, &["console", &name], |second, session| {
                second.screen().wait_for("somebody else types");
                second.screen().wait_for("ready");
                second.type_in("lost");
                first.type_in("seen");
                second.screen().wait_for("seen");
                assert!(!second.screen().text().contains("lost"));
                // There is nothing else that it could mean.
                second.type_in("\x03");
                assert_eq!(session.wait(), Exit::Code(0));
            });
            let piped = command(&daemon, &["console", &name]).stdin(Stdio::null()).output().unwrap();
            assert_eq!(piped.status.code(), Some(7), "{piped:?}");
            assert!(String::from_utf8_lossy(&piped.stderr).contains("--take"), "{piped:?}");
            on_terminal(&daemon, &["console", "--take", &name], |second, session| {
                second.screen().wait_for("seen");
                first.screen().wait_for("somebody else types");
                second.type_in("mine");
                first.screen().wait_for("mine");
                second.type_in("\r~.");
                assert_eq!(session.wait(), Exit::Code(0));
            });
            session.signal(Signal::SIGTERM);
            assert_eq!(session.wait(), Exit::Code(128 + 15));
        });
    });
}

#[test]
fn a_start_can_be_attached_to_from_the_first_byte() {
    test(NEEDS, |scratch| {
        let (name, own) = (scratch.vm_name(), scratch.vm_name());
        let daemon = Daemon::start(scratch, &configuration(scratch, &[(&name, guest::POWER_OFF, "disable")]));
        let kernel = scratch.join(&format!("{name}.kernel"));
        for arguments in [
            &["start", "-c", &name][..],
            &["start", "-c", &name],
            &["start", &own, "-c", "-m", "64M", "-b", kernel.to_str().unwrap()],
        ] {
            on_terminal(&daemon, arguments, |terminal, session| {
                assert_eq!(session.wait(), Exit::Code(0), "{}", terminal.screen().text());
                terminal.screen().wait_for("terminated: ");
                let screen = terminal.screen().text();
                assert_eq!(screen.matches("powering off").count(), 1, "{screen:?}");
            });
        }
        let input = command(&daemon, &["logs", &name]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&input.stdout).matches("powering off").count(), 2, "{input:?}");
    });
}

#[test]
fn a_program_types_and_reads() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let daemon = echo(scratch, &name);
        let mut child = command(&daemon, &["console", &name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // No escape, since nobody sits there.
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"~.").unwrap();
        let console =
            || String::from_utf8_lossy(&command(&daemon, &["logs", &name]).output().unwrap().stdout).into_owned();
        wait_for("the echo", || console().contains("~.").then_some(()));
        // It has typed everything, so somebody else may.
        wait_for("room", || crate::consoles::Console::attach(&daemon, &name, "?tail=0").ok());
        daemon.force(&name);
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), b"ready\r\n~.".as_slice()));
    });
}
