//! Processes of the host.

use nix::errno::Errno;
use stockade_prisoner::Targets;

use crate::attempt::{
    Attempt, Refusal, Tried, containing, futile, list, marked, open, permitted, read_file, target, text, won,
};
use crate::sys::call;

const SIGNALS: &str = "who can signal the host's processes can end them";
const STARTS: &str = "a process of its own is a place for a program of its own";

/// The attempts.
pub const ATTEMPTS: &[Attempt] = &[
    Attempt {
        name: "find-process",
        tries: "asks whether there is a process",
        wins: "the answer is yes, even if it may not be signalled",
        why: "what runs on the host is nobody's business",
        run: |targets| permitted(call!(SYS_kill, targets.victim, 0), &[Errno::EPERM]),
    },
    Attempt {
        name: "end-process",
        tries: "sends SIGTERM to a process",
        wins: "it is sent",
        why: SIGNALS,
        run: |targets| permitted(call!(SYS_kill, targets.victim, libc::SIGTERM), &[]),
    },
    Attempt {
        name: "end-process-group",
        tries: "sends SIGTERM to a process group",
        wins: "it is sent",
        why: SIGNALS,
        run: |targets| permitted(call!(SYS_kill, -targets.victim, libc::SIGTERM), &[]),
    },
    Attempt {
        name: "abort-process",
        tries: "sends SIGABRT to a process with tgkill",
        wins: "it is sent",
        why: "the filters let it through, as a program aborts itself by it, and can't see whom it is for",
        run: |targets| permitted(call!(SYS_tgkill, targets.victim, targets.victim, libc::SIGABRT), &[]),
    },
    Attempt {
        name: "abort-thread",
        tries: "sends SIGABRT to a thread with tkill",
        wins: "it is sent",
        why: SIGNALS,
        run: |targets| permitted(call!(SYS_tkill, targets.victim, libc::SIGABRT), &[]),
    },
    Attempt {
        name: "queue-signal",
        tries: "queues SIGTERM for a process",
        wins: "it is queued",
        why: SIGNALS,
        run: |targets| {
            // siginfo_t of sigqueue(3): number, no error, SI_QUEUE.
            let mut information = [0_i32; 32];
            information[0] = libc::SIGTERM;
            information[2] = libc::SI_QUEUE;
            permitted(call!(SYS_rt_sigqueueinfo, targets.victim, libc::SIGTERM, &information), &[])
        },
    },
    Attempt {
        name: "signal-everybody",
        tries: "sends no signal to every process that there is",
        wins: "there is one that would have got it",
        why: SIGNALS,
        run: |_| permitted(call!(SYS_kill, -1, 0), &[]),
    },
    Attempt {
        name: "signal-by-descriptor",
        tries: "sends SIGTERM to a process by a descriptor of it",
        wins: "it is sent",
        why: SIGNALS,
        run: |targets| {
            let process = process(targets)?;
            permitted(call!(SYS_pidfd_send_signal, process, libc::SIGTERM, 0, 0), &[])
        },
    },
    Attempt {
        name: "signal-warden",
        tries: "sends no signal to the parent, which is the warden",
        wins: "it would have got one",
        why: "who ends the warden is free of its watch",
        run: |_| permitted(call!(SYS_kill, parent()?, 0), &[]),
    },
    Attempt {
        name: "trace-warden",
        tries: "traces the parent, which is the warden, and has the same user",
        wins: "it is traced",
        why: "the warden holds what is left of the jailer's descriptors",
        run: |_| permitted(call!(SYS_ptrace, libc::PTRACE_SEIZE, parent()?, 0, 0), &[]),
    },
    Attempt {
        name: "hold-process",
        tries: "opens a descriptor of a process",
        wins: "it is open",
        why: "it leads to the process's memory, descriptors and namespaces",
        run: |targets| {
            process(targets)?;
            won("a descriptor of a process")
        },
    },
    Attempt {
        name: "steal-descriptor",
        tries: "copies descriptor 0 of a process",
        wins: "it has a copy",
        why: "files and sockets of the host's programs are open there",
        run: |targets| permitted(call!(SYS_pidfd_getfd, process(targets)?, 0, 0), &[]),
    },
    Attempt {
        name: "trace-process",
        tries: "traces a process",
        wins: "it is traced",
        why: "who traces a process is that process",
        run: |targets| permitted(call!(SYS_ptrace, libc::PTRACE_SEIZE, targets.victim, 0, 0), &[]),
    },
    Attempt {
        name: "read-memory",
        tries: "reads a process's memory",
        wins: "what is there is read",
        why: "keys are there",
        run: |targets| {
            let mut bytes = [0_u8; stockade_prisoner::MARKER.len()];
            let own = [bytes.as_mut_ptr().expose_provenance() as u64, bytes.len() as u64];
            let theirs = [targets.victim_address, bytes.len() as u64];
            call!(SYS_process_vm_readv, targets.victim, &own, 1, &theirs, 1, 0)?;
            marked(&bytes)
        },
    },
    Attempt {
        name: "write-memory",
        tries: "writes to a process's memory",
        wins: "it is written",
        why: "who writes to a process's memory is that process",
        run: |targets| {
            let own = [c"hostile".as_ptr().expose_provenance() as u64, 7];
            let theirs = [targets.victim_address, 7];
            permitted(call!(SYS_process_vm_writev, targets.victim, &own, 1, &theirs, 1, 0), &[])
        },
    },
    Attempt {
        name: "read-memory-file",
        tries: "reads a process's memory by /proc",
        wins: "what is there is read",
        why: "keys are there",
        run: |targets| {
            let file = open(&file_of(targets, "mem"), libc::O_RDONLY)?;
            let mut bytes = [0_u8; stockade_prisoner::MARKER.len()];
            call!(SYS_pread64, file, &mut bytes, bytes.len(), targets.victim_address)?;
            marked(&bytes)
        },
    },
    Attempt {
        name: "read-environment",
        tries: "reads a process's environment",
        wins: "what is there is read",
        why: "passwords are there",
        run: |targets| marked(&read_file(&file_of(targets, "environ"))?),
    },
    Attempt {
        name: "read-memory-map",
        tries: "reads where everything is in a process's memory",
        wins: "it is read",
        why: "to know that is half of an attack on it",
        run: |targets| containing(&read_file(&file_of(targets, "maps"))?, "[stack]"),
    },
    Attempt {
        name: "list-processes",
        tries: "lists /proc",
        wins: "a process of the host is there",
        why: "what runs on the host is nobody's business",
        run: |targets| containing(&list(c"/proc")?, &format!("{}\0", targets.victim)),
    },
    Attempt {
        name: "slow-process-down",
        tries: "lowers a process's priority",
        wins: "it is lower",
        why: "a host can be stopped without ending anything",
        run: |targets| permitted(call!(SYS_setpriority, libc::PRIO_PROCESS, targets.victim, 5), &[]),
    },
    Attempt {
        name: "pin-process",
        tries: "ties a process to the first processor",
        wins: "it is tied",
        why: "a host can be stopped without ending anything",
        run: |targets| permitted(call!(SYS_sched_setaffinity, targets.victim, 8, &[1_u64]), &[]),
    },
    Attempt {
        name: "limit-process",
        tries: "limits the descriptors of a process",
        wins: "they are limited",
        why: "a host can be stopped without ending anything",
        run: |targets| permitted(call!(SYS_prlimit64, targets.victim, libc::RLIMIT_NOFILE, &[64_u64, 64], 0), &[]),
    },
    Attempt {
        name: "compare-process",
        tries: "asks whether a process's memory is its own",
        wins: "there is an answer",
        why: "the order of objects in the kernel's memory is told by it",
        run: |targets| permitted(call!(SYS_kcmp, call!(SYS_getpid)?, targets.victim, 1, 0, 0), &[]),
    },
    Attempt {
        name: "fork",
        tries: "starts a process with clone",
        wins: "it runs",
        why: STARTS,
        run: |_| started(call!(SYS_clone, libc::SIGCHLD, 0, 0, 0, 0)),
    },
    Attempt {
        name: "old-fork",
        tries: "starts a process with fork",
        wins: "it runs",
        why: STARTS,
        run: |_| started(call!(SYS_fork)),
    },
    Attempt {
        name: "new-fork",
        tries: "starts a process with clone3, whose arguments no filter sees",
        wins: "it runs",
        why: STARTS,
        run: |_| {
            let mut arguments = [0_u64; 11];
            arguments[4] = u64::from(libc::SIGCHLD.unsigned_abs());
            started(call!(SYS_clone3, &arguments, size_of_val(&arguments)))
        },
    },
    Attempt {
        name: "fork-and-execute",
        tries: "starts a process, and a program of the host in it",
        wins: "it ran",
        why: STARTS,
        run: |targets| {
            let program = target(targets, "program");
            let child = call!(SYS_clone, libc::SIGCHLD, 0, 0, 0, 0)?;
            if child == 0 {
                let arguments = [program.as_ptr(), c"list".as_ptr(), std::ptr::null()];
                let none = [std::ptr::null::<libc::c_char>()];
                let _ = call!(SYS_execve, &program, &arguments, &none);
                std::process::exit(1);
            }
            let mut status = [1_i32];
            call!(SYS_wait4, child, &mut status, 0, 0)?;
            if status == [0] { won("a program of the host ran") } else { futile(format!("it ended with {status:?}")) }
        },
    },
];

fn process(targets: &Targets) -> Result<u64, Errno> {
    call!(SYS_pidfd_open, targets.victim, 0)
}

/// The parent, if it can be seen at all.
fn parent() -> Result<u64, Refusal> {
    match call!(SYS_getppid)? {
        0 => futile("the parent is out of sight"),
        parent => Ok(parent),
    }
}

fn file_of(targets: &Targets, name: &str) -> std::ffi::CString {
    text(format!("/proc/{}/{name}", targets.victim))
}

/// A child ends at once. It is not waited for: a filter that forbids that is not to hide that there was one.
fn started(child: Result<u64, Errno>) -> Tried {
    match child? {
        0 => std::process::exit(0),
        _ => won("a process was started"),
    }
}
