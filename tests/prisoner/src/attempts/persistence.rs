//! Something that stays when the machine is gone. What could be changed is opened at most, and nothing is written.

use std::ffi::CStr;

use nix::errno::Errno;

use crate::attempt::{Attempt, Tried, futile, open, permitted, target, won};
use crate::sys::call;

const SETTINGS: &str = "the kernel executes what is named there, as root";
const HOST: &str = "the host runs or obeys it";

/// The attempts.
pub const ATTEMPTS: &[Attempt] = &[
    Attempt {
        name: "outlive-warden",
        tries: "asks not to die with its warden",
        wins: "it would not",
        why: "a machine without a warden is one that nobody knows of",
        run: |_| permitted(call!(SYS_prctl, libc::PR_SET_PDEATHSIG, 0, 0, 0, 0), &[]),
    },
    Attempt {
        name: "outlive-machine",
        tries: "starts a process in a session of its own",
        wins: "it runs, and would not end with the first process of a PID namespace",
        why: "a process that stays is one that nobody knows of",
        run: |_| {
            let child = call!(SYS_clone, libc::SIGCHLD, 0, 0, 0, 0)?;
            if child == 0 {
                std::process::exit(i32::from(call!(SYS_setsid).is_err()));
            }
            let mut status = [1_i32];
            call!(SYS_wait4, child, &mut status, 0, 0)?;
            match (status, call!(SYS_getpid)?) {
                ([0], 1) => futile("it would end with this one"),
                ([0], _) => won("it would stay"),
                _ => futile("no session of its own"),
            }
        },
    },
    Attempt {
        name: "adopt-orphans",
        tries: "becomes the parent of orphans",
        wins: "it is",
        why: "processes that should be seen to end would not be",
        run: |_| permitted(call!(SYS_prctl, libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), &[]),
    },
    Attempt {
        name: "change-vmm",
        tries: "opens its own program for writing",
        wins: "the kernel would, if it were not running",
        why: "the next machine would run it",
        run: |_| match open(c"/proc/self/exe", libc::O_WRONLY) {
            Err(Errno::ETXTBSY) => won("only its running is in the way"),
            other => opened(other),
        },
    },
    Attempt {
        name: "change-program",
        tries: "opens a program of the host for writing",
        wins: "it is open",
        why: HOST,
        run: |targets| opened(open(&target(targets, "setuid"), libc::O_WRONLY)),
    },
    Attempt {
        name: "change-users",
        tries: "opens /etc/passwd for writing",
        wins: "it is open",
        why: HOST,
        run: |_| writable(c"/etc/passwd"),
    },
    Attempt {
        name: "change-shells",
        tries: "opens /etc/profile for writing",
        wins: "it is open",
        why: HOST,
        run: |_| writable(c"/etc/profile"),
    },
    Attempt {
        name: "change-core-pattern",
        tries: "opens the name of the program that gets core dumps for writing",
        wins: "it is open",
        why: SETTINGS,
        run: |_| writable(c"/proc/sys/kernel/core_pattern"),
    },
    Attempt {
        name: "change-release-agent",
        tries: "opens the name of the program that is executed when a control group is empty",
        wins: "it is open",
        why: SETTINGS,
        run: |_| writable(c"/sys/fs/cgroup/memory/release_agent"),
    },
    Attempt {
        name: "change-address-layout",
        tries: "opens the setting for random addresses for writing",
        wins: "it is open",
        why: HOST,
        run: |_| writable(c"/proc/sys/kernel/randomize_va_space"),
    },
    Attempt {
        name: "press-system-key",
        tries: "opens /proc/sysrq-trigger for writing",
        wins: "it is open",
        why: "one letter reboots the host",
        run: |_| writable(c"/proc/sysrq-trigger"),
    },
    Attempt {
        name: "write-kernel-log",
        tries: "opens the kernel's log for writing",
        wins: "it is open",
        why: "false traces",
        run: |_| writable(c"/dev/kmsg"),
    },
    Attempt {
        name: "leave-key",
        tries: "adds a key to its user's keys",
        wins: "it is there",
        why: "the next machine with this user id would find it, and the attacker what that leaves",
        run: |_| {
            let key = call!(SYS_add_key, c"user", c"stockade-hostile", b"x", 1, -4)?;
            // KEYCTL_UNLINK
            call!(SYS_keyctl, 9, key, -4)?;
            won("a key that stays")
        },
    },
    Attempt {
        name: "leave-shared-memory",
        tries: "makes shared memory (System V) with a key",
        wins: "it is there, in the host's IPC namespace",
        why: "it stays until somebody removes it",
        run: |targets| {
            // The key before is the victim's: who sees that is in its namespace.
            call!(SYS_shmget, targets.ipc_key, 0, 0)?;
            let memory = call!(SYS_shmget, targets.ipc_key + 1, 4096, libc::IPC_CREAT | libc::IPC_EXCL | 0o600)?;
            call!(SYS_shmctl, memory, libc::IPC_RMID, 0)?;
            won("memory that stays")
        },
    },
];

fn writable(path: &CStr) -> Tried {
    opened(open(path, libc::O_WRONLY))
}

fn opened(file: Result<u64, Errno>) -> Tried {
    file?;
    won("it is open for writing")
}
