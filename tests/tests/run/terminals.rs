//! `-t`: the command has a terminal, and the caller's is as it was when all is over.

use nix::sys::signal::Signal;
use nix::sys::termios::LocalFlags;
use stockade_tests::terminal::{Session, Terminal};
use stockade_tests::vmm::Exit;
use stockade_tests::{Scratch, test, wait_for};

use crate::stockade::{NEEDS, run};

const SIZE: (u16, u16) = (33, 77);

/// Starts a run on a terminal, checks that the terminal is as before when `play` is over, and returns what that does.
fn on_terminal(scratch: &Scratch, arguments: &[&str], play: impl FnOnce(&Terminal, &mut Session) -> Exit) -> Exit {
    let terminal = Terminal::open(SIZE);
    let before = terminal.settings();
    let mut session = terminal.start(&run(scratch, arguments));
    let exit = play(&terminal, &mut session);
    assert_eq!(terminal.settings(), before, "the terminal is not as it was");
    exit
}

fn is_raw(terminal: &Terminal) -> bool {
    !terminal.settings().local_flags.intersects(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG)
}

#[test]
fn a_terminal_has_the_callers_size_and_is_restored() {
    test(NEEDS, |scratch| {
        let script = "tty; stty size; read line; stty size; echo got $line; exit 5";
        let exit = on_terminal(scratch, &["-t", "--", "sh", "-c", script], |terminal, session| {
            terminal.screen().wait_for("33 77");
            assert!(is_raw(terminal));
            terminal.resize((10, 20));
            session.signal(Signal::SIGWINCH);
            terminal.type_in("hello\r");
            let exit = session.wait();
            terminal.screen().wait_for("got hello");
            terminal.screen().wait_for("10 20");
            exit
        });
        assert_eq!(exit, Exit::Code(5));
    });
}

#[test]
fn without_a_command_there_is_a_shell() {
    test(NEEDS, |scratch| {
        let exit = on_terminal(scratch, &[], |terminal, session| {
            wait_for("the shell", || is_raw(terminal).then_some(()));
            terminal.type_in("echo $((6 * 7)) answers; exit 9\r");
            terminal.screen().wait_for("42 answers");
            session.wait()
        });
        assert_eq!(exit, Exit::Code(9));
    });
}

#[test]
fn keys_that_make_signals_reach_the_command() {
    test(NEEDS, |scratch| {
        let exit =
            on_terminal(scratch, &["-t", "--", "sh", "-c", "echo ready; exec sleep 1000"], |terminal, session| {
                terminal.screen().wait_for("ready");
                terminal.type_in([3]);
                session.wait()
            });
        assert_eq!(exit, Exit::Code(130));
    });
}

#[test]
fn the_terminal_is_restored_after_a_signal_and_after_the_guests_death() {
    test(NEEDS, |scratch| {
        let arguments = ["-t", "--", "sh", "-c", "echo ready; exec sleep 1000"];
        for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129)] {
            let exit = on_terminal(scratch, &arguments, |terminal, session| {
                terminal.screen().wait_for("ready");
                session.signal(signal);
                session.wait()
            });
            assert_eq!(exit, Exit::Code(code));
        }
        let exit = on_terminal(scratch, &["-t", "--", "reboot", "-f"], |_, session| session.wait());
        assert_eq!(exit, Exit::Code(125));
    });
}

#[test]
fn long_phases_are_shown_on_a_terminal() {
    test(NEEDS, |scratch| {
        let exit = on_terminal(scratch, &["--cold", "--", "echo", "done"], |terminal, session| {
            let exit = session.wait();
            terminal.screen().wait_for("done");
            terminal.screen().wait_for("booting the guest");
            exit
        });
        assert_eq!(exit, Exit::Code(0));
    });
}
