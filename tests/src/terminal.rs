//! A terminal that the test sits at: what it types, sees and has set, for a program that runs in a session of its own.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;
use rustix::termios::{Winsize, tcsetwinsize};

use crate::output::Output;
use crate::vmm::Exit;
use crate::wait_for;

/// Rows and columns of a terminal.
pub type Size = (u16, u16);

/// A pseudo-terminal.
#[derive(Debug)]
pub struct Terminal {
    controller: File,
    /// Kept open, so that the settings outlive the program.
    terminal: File,
    screen: Output,
}

/// A program with the terminal as its controlling one; killed when dropped.
#[derive(Debug)]
pub struct Session(Child);

impl Terminal {
    /// Opens one.
    pub fn open(size: Size) -> Self {
        let OpenptyResult { master, slave } = openpty(None, None).expect("open a pseudo-terminal");
        // A program with a descriptor of the controlling end would never see the terminal hang up.
        for end in [&master, &slave] {
            fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("set a descriptor's flag");
        }
        let controller = File::from(master);
        let screen = Output::collect(controller.try_clone().expect("duplicate a descriptor"));
        let terminal = Self { controller, terminal: slave.into(), screen };
        terminal.resize(size);
        terminal
    }

    /// Starts the program in a new session, with the terminal as standard input, output and error. The session's process is the
    /// program's own: signals reach it, and its exit is the program's.
    pub fn start(&self, program: &Command) -> Session {
        let end = || self.terminal.try_clone().expect("duplicate a descriptor");
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(program.get_program()).args(program.get_args());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if let Some(folder) = program.get_current_dir() {
            command.current_dir(folder);
        }
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn();
        Session(child.unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// Types.
    pub fn type_in(&self, text: impl AsRef<[u8]>) {
        (&self.controller).write_all(text.as_ref()).expect("write to the terminal");
    }

    /// What the program has written, and what the terminal has echoed.
    pub fn screen(&self) -> &Output {
        &self.screen
    }

    /// Changes the size, of which the foreground processes are told by SIGWINCH.
    pub fn resize(&self, (rows, columns): Size) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.controller, size).expect("set the size of the terminal");
    }

    /// Modes and control characters, as a program left them.
    pub fn settings(&self) -> Termios {
        tcgetattr(&self.terminal).expect("read the settings of the terminal")
    }
}

impl Session {
    /// Process id of the program.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).expect("a process id is positive")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("send a signal");
    }

    /// Waits for the end of the program.
    pub fn wait(&mut self) -> Exit {
        let status = wait_for("the program to end", || self.0.try_wait().expect("wait for the program"));
        status.code().map_or_else(|| Exit::Signal(status.signal().expect("exited or signaled")), Exit::Code)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Fails if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_has_a_terminal_of_the_size_given() {
        crate::test(&[], |_| {
            let terminal = Terminal::open((24, 80));
            let mut command = Command::new("sh");
            let script = "tty -s && stty size && read line && stty size && echo got $line >/dev/tty && exit $code";
            let mut session = terminal.start(command.args(["-c", script]).env("code", "7"));
            terminal.screen().wait_for("24 80");
            terminal.resize((10, 20));
            terminal.type_in("hello\n");
            assert_eq!(session.wait(), Exit::Code(7));
            terminal.screen().wait_for("10 20");
            terminal.screen().wait_for("got hello");
        });
    }
}
