//! The virtual machine next door, in a jail of its own.

use nix::errno::Errno;
use stockade_prisoner::{Targets, descriptor::IMAGE};

use super::network::connect_to_path;
use crate::attempt::{
    Attempt, Refusal, containing, futile, list, marked, open, permitted, read, read_file, target, text, won,
};
use crate::sys::{call, peek};

const TENANTS: &str = "it belongs to somebody else";

/// The attempts.
pub const ATTEMPTS: &[Attempt] = &[
    Attempt {
        name: "read-console-of-neighbour",
        tries: "opens the file with its console",
        wins: "what its guest said is read",
        why: TENANTS,
        run: |targets| marked(&read_file(&file(targets, "console"))?),
    },
    Attempt {
        name: "write-console-of-neighbour",
        tries: "writes to the file with its console",
        wins: "it is written",
        why: TENANTS,
        run: |targets| {
            let file = open(&file(targets, "console"), libc::O_WRONLY)?;
            call!(SYS_write, file, b"hostile", 7)?;
            won("another tenant's console is changed")
        },
    },
    Attempt {
        name: "list-folder-of-neighbour",
        tries: "lists its folder",
        wins: "its socket is seen",
        why: TENANTS,
        run: |targets| containing(&list(&text(&targets.neighbour.run_directory))?, "api.sock"),
    },
    Attempt {
        name: "list-neighbours",
        tries: "lists the folder of all machines",
        wins: "the one next door is seen",
        why: "who else is on a host is nobody's business",
        run: |targets| {
            let directory = &targets.neighbour.run_directory;
            let name = directory.file_name().unwrap_or_default().to_string_lossy();
            containing(&list(&text(directory.parent().unwrap_or(directory)))?, &name)
        },
    },
    Attempt {
        name: "control-neighbour",
        tries: "connects to the socket of its API",
        wins: "it is connected",
        why: "whoever talks to its API is its owner",
        run: |targets| connect_to_path(&file(targets, "api.sock"), libc::SOCK_STREAM),
    },
    Attempt {
        name: "remove-socket-of-neighbour",
        tries: "removes the socket of its API",
        wins: "it is gone",
        why: "nobody could stop it any more",
        run: |targets| {
            call!(SYS_unlink, &file(targets, "api.sock"))?;
            won("another tenant's socket is gone")
        },
    },
    Attempt {
        name: "find-neighbour",
        tries: "asks whether its process is there",
        wins: "the answer is yes, even if it may not be signalled",
        why: "who else is on a host is nobody's business",
        run: |targets| permitted(call!(SYS_kill, targets.neighbour.pid, 0), &[Errno::EPERM]),
    },
    Attempt {
        name: "kill-neighbour",
        tries: "sends SIGKILL to its process",
        wins: "it is sent",
        why: TENANTS,
        run: |targets| permitted(call!(SYS_kill, targets.neighbour.pid, libc::SIGKILL), &[]),
    },
    Attempt {
        name: "abort-neighbour",
        tries: "sends SIGABRT to its process with tgkill",
        wins: "it is sent",
        why: "the filters let it through, as a program aborts itself by it, and can't see whom it is for",
        run: |targets| permitted(call!(SYS_tgkill, targets.neighbour.pid, targets.neighbour.pid, libc::SIGABRT), &[]),
    },
    Attempt {
        name: "trace-neighbour",
        tries: "traces its process",
        wins: "it is traced",
        why: "its guest's memory is there",
        run: |targets| permitted(call!(SYS_ptrace, libc::PTRACE_SEIZE, targets.neighbour.pid, 0, 0), &[]),
    },
    Attempt {
        name: "open-memory-of-neighbour",
        tries: "opens its memory by /proc",
        wins: "it is open",
        why: "its guest's memory is there",
        run: |targets| {
            open(&text(format!("/proc/{}/mem", targets.neighbour.pid)), libc::O_RDONLY)?;
            won("another tenant's memory is open")
        },
    },
    Attempt {
        name: "steal-descriptor-of-neighbour",
        tries: "copies its first descriptor",
        wins: "it has a copy",
        why: "its disks and sockets are open there",
        run: |targets| {
            let process = call!(SYS_pidfd_open, targets.neighbour.pid, 0)?;
            permitted(call!(SYS_pidfd_getfd, process, 0, 0), &[])
        },
    },
    Attempt {
        name: "become-neighbour",
        tries: "becomes its user",
        wins: "it is",
        why: "all that is its user's would be open",
        run: |targets| {
            let uid = targets.neighbour.uid;
            permitted(call!(SYS_setresuid, uid, uid, uid), &[])
        },
    },
    Attempt {
        name: "enter-namespaces-of-neighbour",
        tries: "enters its network namespace",
        wins: "it is in there",
        why: "its network is there",
        run: |targets| {
            let process = call!(SYS_pidfd_open, targets.neighbour.pid, 0)?;
            permitted(call!(SYS_setns, process, libc::CLONE_NEWNET), &[])
        },
    },
    Attempt {
        name: "join-cgroup-of-neighbour",
        tries: "moves into its control group",
        wins: "it is moved",
        why: "it would use up another tenant's share",
        run: |targets| {
            let file = open(&in_cgroup(targets, "cgroup.procs")?, libc::O_WRONLY)?;
            call!(SYS_write, file, b"0", 1)?;
            won("in another tenant's control group")
        },
    },
    Attempt {
        name: "set-limit-of-neighbour",
        tries: "sets its limit of memory to what it is",
        wins: "it is set",
        why: "the next one would be lower",
        run: |targets| {
            let (old, new) = (in_cgroup(targets, "memory.limit_in_bytes")?, in_cgroup(targets, "memory.max")?);
            let file = open(&old, libc::O_RDWR).or_else(|_| open(&new, libc::O_RDWR))?;
            let limit = read(file)?;
            permitted(call!(SYS_write, file, limit.as_slice(), limit.len()), &[])
        },
    },
    Attempt {
        name: "remove-cgroup-of-neighbour",
        tries: "removes its control group, which it is in",
        wins: "the kernel would, if it were empty",
        why: "without it there is no limit",
        run: |targets| permitted(call!(SYS_rmdir, &in_cgroup(targets, "")?), &[Errno::EBUSY]),
    },
    Attempt {
        name: "split-cgroup-of-neighbour",
        tries: "makes a control group in its own",
        wins: "it is there",
        why: "its warden could not remove it at the end",
        run: |targets| {
            let folder = in_cgroup(targets, "hostile")?;
            call!(SYS_mkdir, &folder, 0o700)?;
            call!(SYS_rmdir, &folder)?;
            won("a control group in another tenant's")
        },
    },
    Attempt {
        name: "open-leases",
        tries: "opens the file in which user ids are leased",
        wins: "it is open for writing",
        why: "with a lease, a user id that is in use can be had again",
        run: |_| {
            open(c"/run/stockade/uids", libc::O_RDWR)?;
            won("leases can be taken")
        },
    },
    Attempt {
        name: "read-shared-memory",
        tries: "attaches shared memory (System V) by its key",
        wins: "what is there is read",
        why: "it leads past files and descriptors",
        run: |targets| {
            let memory = call!(SYS_shmget, targets.ipc_key, 0, 0)?;
            let address = call!(SYS_shmat, memory, 0, libc::SHM_RDONLY)?;
            marked(&peek(address, stockade_prisoner::MARKER.len()))
        },
    },
    Attempt {
        name: "write-shared-image",
        tries: "opens the image that was handed over by its path, for writing",
        wins: "it is open",
        why: "others start from the same image",
        run: |targets| {
            open(&target(targets, "image"), libc::O_WRONLY)?;
            won("a shared image can be written")
        },
    },
    Attempt {
        name: "lock-shared-image",
        tries: "locks the image that was handed over for itself",
        wins: "it is locked",
        why: "who needs that lock waits for ever",
        run: |_| permitted(call!(SYS_flock, IMAGE, libc::LOCK_EX | libc::LOCK_NB), &[]),
    },
    Attempt {
        name: "lease-shared-image",
        tries: "asks to be told before anybody else opens the image that was handed over",
        wins: "it is",
        why: "who opens it waits for the attacker",
        run: |_| permitted(call!(SYS_fcntl, IMAGE, libc::F_SETLEASE, libc::F_RDLCK), &[]),
    },
];

fn file(targets: &Targets, name: &str) -> std::ffi::CString {
    text(targets.neighbour.run_directory.join(name))
}

/// A file in the control group that limits memory.
fn in_cgroup(targets: &Targets, name: &str) -> Result<std::ffi::CString, Refusal> {
    match targets.neighbour.cgroups.first() {
        Some(folder) => Ok(text(folder.join(name))),
        None => futile("it has no control group"),
    }
}
