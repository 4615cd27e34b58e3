//! A jailer that is killed before it is done. What it has made by then stays, because nobody is left to remove it; but made again,
//! the jail is what it would have been, with nothing more in it.

use std::process::{Child, Command, Stdio};

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use stockade_tests::{Need, test};

use crate::harness::{Jail, tree};

/// System calls from one kill to the next: each jailer makes some 250, and what they do is not that fine.
const STRIDE: usize = 7;

/// A jailer that stops at each of its system calls.
struct Stepped {
    pid: Pid,
    child: Child,
}

impl Stepped {
    /// Its first stop is after execve(2). What comes before it belongs to a shell.
    fn start(jail: &Jail) -> Self {
        let wanted = jail.command();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "kill -STOP $$; exec \"$@\"", "sh"]).arg(wanted.get_program()).args(wanted.get_args());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
        ptrace::seize(pid, Options::PTRACE_O_TRACEEXEC | Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL)
            .unwrap();
        let stepped = Self { pid, child };
        kill(pid, Signal::SIGCONT).unwrap();
        loop {
            match stepped.wait() {
                WaitStatus::PtraceEvent(_, Signal::SIGTRAP, event)
                    if event == ptrace::Event::PTRACE_EVENT_EXEC as i32 =>
                {
                    return stepped;
                }
                WaitStatus::Stopped(_, signal) => ptrace::cont(pid, signal).unwrap(),
                WaitStatus::PtraceEvent(..) => ptrace::cont(pid, None).unwrap(),
                other => panic!("{other:?}"),
            }
        }
    }

    /// Goes on to the begin or the end of the next system call. Returns whether there is one before it is the vmm.
    fn step(&self) -> bool {
        ptrace::syscall(self.pid, None).unwrap();
        loop {
            match self.wait() {
                WaitStatus::PtraceSyscall(_) => return true,
                WaitStatus::Stopped(_, signal) => ptrace::syscall(self.pid, signal).unwrap(),
                _ => return false,
            }
        }
    }

    fn wait(&self) -> WaitStatus {
        waitpid(self.pid, Some(WaitPidFlag::__WALL)).unwrap()
    }
}

impl Drop for Stepped {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What there is of a jail, without sizes, which for the pid file depend on the number.
fn entries(jail: &Jail) -> Vec<String> {
    let without_size = |line: String| line.rsplit_once(' ').unwrap().0.to_owned();
    tree(&jail.base).into_iter().map(without_size).collect()
}

/// Mounts of the host in the jail's folder.
fn mounts(jail: &Jail) -> usize {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().filter(|line| line.contains(jail.base.to_str().unwrap())).count()
}

#[test]
fn a_jailer_that_is_killed_at_any_step_can_be_run_again() {
    test(&[Need::Root], |scratch| {
        let jail = Jail::of_tenant(scratch, "exit 7").with("--private-copy");
        assert_eq!(jail.run().status.code(), Some(7));
        let whole = entries(&jail);
        for first in (0..).step_by(STRIDE) {
            std::fs::remove_dir_all(&jail.base).unwrap();
            std::fs::create_dir(&jail.base).unwrap();
            let stepped = Stepped::start(&jail);
            let reached = (0..first).all(|_| stepped.step());
            drop(stepped);
            assert_eq!(jail.run().status.code(), Some(7), "killed at stop {first}");
            assert_eq!(entries(&jail), whole, "killed at stop {first}");
            assert_eq!(mounts(&jail), 0, "killed at stop {first}");
            if !reached {
                assert!(first > 100, "it made only {first} stops");
                break;
            }
        }
    });
}
