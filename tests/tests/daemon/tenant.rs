//! The command line, as users of a daemon call it.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use stockade_tests::{Scratch, program};

use crate::daemon::Daemon;

/// What came of a command line.
#[derive(Debug)]
pub struct Finished {
    pub code: i32,
    pub output: Vec<u8>,
    pub error: String,
}

impl Finished {
    pub fn of(output: Output) -> Self {
        let code = output.status.code().unwrap_or_else(|| panic!("{:?}", output.status));
        Self { code, output: output.stdout, error: String::from_utf8(output.stderr).unwrap() }
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.output).unwrap()
    }

    /// Exit code, and the one line on standard error that explains it.
    #[track_caller]
    pub fn expect_line(&self, code: i32, parts: &[&str]) {
        assert_eq!((self.code, self.error.lines().count()), (code, 1), "{self:?}");
        for part in parts {
            assert!(self.error.contains(part), "{part:?} is not in: {}", self.error);
        }
    }
}

/// A command line of root's.
pub fn root(daemon: &Daemon, arguments: &[&str]) -> Finished {
    let mut command = Command::new(program("stockade"));
    command.args(arguments).env("STOCKADE_SOCKET", daemon.socket()).stdin(Stdio::null());
    Finished::of(command.output().unwrap())
}

/// An ordinary user of a daemon, with a program and a socket that they may use.
pub struct Tenant<'a> {
    daemon: &'a Daemon<'a>,
    program: PathBuf,
    uid: u32,
}

impl<'a> Tenant<'a> {
    /// Somebody whom the owner of the socket lets in.
    pub fn new(scratch: &Scratch, daemon: &'a Daemon<'a>, uid: u32) -> Self {
        std::fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::set_permissions(daemon.run_directory(), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::set_permissions(daemon.socket(), PermissionsExt::from_mode(0o666)).unwrap();
        let copy = scratch.join("stockade");
        if !copy.exists() {
            // Where the programs are, others may not go.
            std::fs::copy(program("stockade"), &copy).unwrap();
        }
        Self { daemon, program: copy, uid }
    }

    /// A command line that is theirs.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).uid(self.uid).gid(self.uid).current_dir("/");
        command.env("STOCKADE_SOCKET", self.daemon.socket()).env_remove("STOCKADE_BINARIES");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Signals of the terminal that the tests run in are not this one's.
        command.process_group(0);
        command
    }

    /// Runs one to its end.
    pub fn stockade(&self, arguments: &[&str]) -> Finished {
        Finished::of(self.command(arguments).output().unwrap())
    }
}
