//! A `stockade run` of a test.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stockade_tests::{Need, Scratch, process, program, wait_for};

/// What every test here needs.
pub const NEEDS: &[Need] = &[Need::Kvm, Need::Root];

/// `stockade run` with a name that belongs to the test, and options.
pub fn run<S: AsRef<OsStr>>(scratch: &Scratch, arguments: impl IntoIterator<Item = S>) -> Command {
    run_as(&scratch.vm_name(), arguments)
}

/// `stockade run` with this name, and options.
pub fn run_as<S: AsRef<OsStr>>(name: &str, arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program("stockade"));
    command.args(["run", "--name", name]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Signals of the terminal that the tests run in are not this run's.
    command.process_group(0);
    command
}

/// What came of a run.
#[derive(Debug)]
pub struct Finished {
    pub code: i32,
    pub output: Vec<u8>,
    pub error: String,
}

impl Finished {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.output).unwrap()
    }

    /// The one line on standard error that explains the exit code.
    pub fn expect_line(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        assert_eq!(self.error.lines().count(), 1, "{}", self.error);
        self.expect_error(code, parts);
    }

    /// Exit code, and what standard error has in its last line.
    pub fn expect_error(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        let line = self.error.lines().last().unwrap_or_default();
        assert!(line.starts_with("stockade: "), "{}", self.error);
        for part in parts {
            assert!(line.contains(part), "{part:?} is not in: {line}");
        }
    }
}

/// Runs to the end.
pub fn finish(mut command: Command) -> Finished {
    finished(command.output().unwrap())
}

pub fn finished(output: Output) -> Finished {
    let code = output.status.code().unwrap_or_else(|| panic!("{:?}", output.status));
    Finished { code, output: output.stdout, error: String::from_utf8(output.stderr).unwrap() }
}

/// Runs `command` in a shell of the guest.
pub fn shell(scratch: &Scratch, script: &str) -> Finished {
    finish(run(scratch, ["--", "sh", "-c", script]))
}

/// Process id of a child.
pub fn pid(child: &Child) -> i32 {
    i32::try_from(child.id()).unwrap()
}

pub fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// Waits for a descendant that executes `name`.
pub fn descendant(pid: i32, name: &str) -> i32 {
    wait_for(name, || find(pid, name))
}

fn find(pid: i32, name: &str) -> Option<i32> {
    process::children(pid).into_iter().find_map(|child| {
        let executable = std::fs::read_link(format!("/proc/{child}/exe")).unwrap_or_default();
        // A child that was not executed yet still is the program that it was forked from.
        if executable.file_name() == Some(OsStr::new(name)) { Some(child) } else { find(child, name) }
    })
}

/// Path of a part of the default guest.
pub fn guest(name: &str) -> PathBuf {
    stockade_tests::distribution().join("guest").join(name)
}
