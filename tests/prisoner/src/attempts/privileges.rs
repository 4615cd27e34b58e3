//! More rights, and what takes them. Nothing here has an effect on the host, even where it is allowed.

use nix::errno::Errno;

use crate::attempt::{Attempt, Tried, futile, open, permitted, target, text, won};
use crate::sys::call;

const WINS: &str = "the kernel would do it";
const ROOT: &str = "root may do everything";
const NAMESPACE: &str = "the kernel makes one";
const INSIDE: &str = "code that only root could reach can be reached by everybody in a namespace of his own";
const CAP_SYS_ADMIN: u32 = 21;

/// The attempts.
pub const ATTEMPTS: &[Attempt] = &[
    Attempt {
        name: "become-root",
        tries: "becomes root",
        wins: "it is",
        why: ROOT,
        run: |_| permitted(call!(SYS_setresuid, 0, 0, 0), &[]),
    },
    Attempt {
        name: "become-root-group",
        tries: "becomes a member of root's group",
        wins: "it is",
        why: ROOT,
        run: |_| permitted(call!(SYS_setresgid, 0, 0, 0), &[]),
    },
    Attempt {
        name: "become-warden",
        tries: "becomes a member of the wardens' group",
        wins: "it is",
        why: "wardens may remove folders of machines",
        run: |_| permitted(call!(SYS_setgroups, 1, &[0x7000_0000_u32]), &[]),
    },
    Attempt {
        name: "become-file-user",
        tries: "becomes root for files alone",
        wins: "it is",
        why: ROOT,
        run: |_| match (call!(SYS_setfsuid, 0)?, call!(SYS_setfsuid, -1)?) {
            (_, 0) => won("files are opened as root"),
            _ => futile("files are opened as before"),
        },
    },
    Attempt {
        name: "take-capability",
        tries: "gives itself CAP_SYS_ADMIN",
        wins: "it has it",
        why: ROOT,
        run: |_| permitted(take_capability(), &[]),
    },
    Attempt {
        name: "raise-ambient-capability",
        tries: "keeps CAP_SYS_ADMIN through the execution of a program",
        wins: "it would",
        why: ROOT,
        run: |_| {
            take_capability()?;
            permitted(call!(SYS_prctl, libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, CAP_SYS_ADMIN, 0, 0), &[])
        },
    },
    Attempt {
        name: "unlock-securebits",
        tries: "makes root special again",
        wins: "it is",
        why: "root without capabilities is an ordinary user only for as long as that is locked",
        run: |_| permitted(call!(SYS_prctl, libc::PR_SET_SECUREBITS, 0, 0, 0, 0), &[]),
    },
    Attempt {
        name: "keep-capabilities",
        tries: "keeps capabilities through the change to another user",
        wins: "it would",
        why: "what should be gone would stay",
        run: |_| permitted(call!(SYS_prctl, libc::PR_SET_KEEPCAPS, 1, 0, 0, 0), &[]),
    },
    Attempt {
        name: "allow-new-privileges",
        tries: "takes no_new_privs back",
        wins: "it is gone",
        why: "programs with the set-user-ID bit would be a way up again",
        run: |_| permitted(call!(SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), &[]),
    },
    Attempt {
        name: "execute-as-root",
        tries: "executes a program of root's with the set-user-ID bit",
        wins: "it runs as root",
        why: "the classical way up",
        run: |targets| {
            let program = target(targets, "setuid");
            let arguments = [program.as_ptr(), c"executed-as-root".as_ptr(), std::ptr::null()];
            let none = [std::ptr::null::<libc::c_char>()];
            call!(SYS_execve, &program, &arguments, &none)?;
            futile("it returned")
        },
    },
    Attempt {
        name: "user-namespace",
        tries: "makes a user namespace, in which it has every capability, and a mount namespace in that",
        wins: NAMESPACE,
        why: INSIDE,
        run: |_| {
            call!(SYS_unshare, libc::CLONE_NEWUSER)?;
            permitted(call!(SYS_unshare, libc::CLONE_NEWNS), &[])
        },
    },
    Attempt {
        name: "mount-in-user-namespace",
        tries: "makes a user and a mount namespace, and mounts a file system there",
        wins: "it is mounted",
        why: INSIDE,
        run: |_| {
            call!(SYS_unshare, libc::CLONE_NEWUSER | libc::CLONE_NEWNS)?;
            permitted(call!(SYS_mount, c"hostile", c"/", c"tmpfs", 0, 0), &[])
        },
    },
    Attempt {
        name: "firewall-in-user-namespace",
        tries: "makes a user and a network namespace, and a raw socket there",
        wins: "it is open",
        why: INSIDE,
        run: |_| {
            call!(SYS_unshare, libc::CLONE_NEWUSER | libc::CLONE_NEWNET)?;
            permitted(call!(SYS_socket, libc::AF_PACKET, libc::SOCK_RAW, 0), &[])
        },
    },
    Attempt {
        name: "mount-namespace",
        tries: "makes a mount namespace",
        wins: NAMESPACE,
        why: INSIDE,
        run: |_| unshare(libc::CLONE_NEWNS),
    },
    Attempt {
        name: "network-namespace",
        tries: "makes a network namespace",
        wins: NAMESPACE,
        why: INSIDE,
        run: |_| unshare(libc::CLONE_NEWNET),
    },
    Attempt {
        name: "process-namespace",
        tries: "makes a PID namespace",
        wins: NAMESPACE,
        why: INSIDE,
        run: |_| unshare(libc::CLONE_NEWPID),
    },
    Attempt {
        name: "ipc-namespace",
        tries: "makes an IPC namespace",
        wins: NAMESPACE,
        why: INSIDE,
        run: |_| unshare(libc::CLONE_NEWIPC),
    },
    Attempt {
        name: "host-name-namespace",
        tries: "makes a UTS namespace",
        wins: NAMESPACE,
        why: INSIDE,
        run: |_| unshare(libc::CLONE_NEWUTS),
    },
    Attempt {
        name: "cgroup-namespace",
        tries: "makes a cgroup namespace",
        wins: NAMESPACE,
        why: INSIDE,
        run: |_| unshare(libc::CLONE_NEWCGROUP),
    },
    Attempt {
        name: "time-namespace",
        tries: "makes a time namespace",
        wins: NAMESPACE,
        why: INSIDE,
        run: |_| unshare(0x80),
    },
    Attempt {
        name: "enter-mounts-of-process",
        tries: "enters the mount namespace of a process",
        wins: "it is in there",
        why: "it would be out of the jail",
        run: |targets| {
            let namespace = open(&text(format!("/proc/{}/ns/mnt", targets.victim)), libc::O_RDONLY)?;
            permitted(call!(SYS_setns, namespace, libc::CLONE_NEWNS), &[])
        },
    },
    Attempt {
        name: "rename-host",
        tries: "gives the host a name that is too long",
        wins: WINS,
        why: "what is allowed of this is allowed of more",
        run: |_| permitted(call!(SYS_sethostname, &[b'x'; 100], 100), &[Errno::EINVAL]),
    },
    Attempt {
        name: "rename-domain",
        tries: "gives the host a domain name that is too long",
        wins: WINS,
        why: "what is allowed of this is allowed of more",
        run: |_| permitted(call!(SYS_setdomainname, &[b'x'; 100], 100), &[Errno::EINVAL]),
    },
    Attempt {
        name: "set-clock",
        tries: "sets the length of the clock's tick to nothing",
        wins: WINS,
        why: "certificates and logs depend on the clock",
        run: |_| {
            // struct timex: ADJ_TICK, and a tick of 0.
            let mut change = [0_u64; 26];
            change[0] = 0x4000;
            permitted(call!(SYS_adjtimex, &mut change), &[Errno::EINVAL])
        },
    },
    Attempt {
        name: "reboot",
        tries: "reboots without the magic numbers",
        wins: WINS,
        why: "it ends every machine of the host",
        run: |_| permitted(call!(SYS_reboot, 0, 0, 0, 0), &[Errno::EINVAL]),
    },
    Attempt {
        name: "load-kernel",
        tries: "loads another kernel, with flags that there aren't",
        wins: WINS,
        why: "the next kernel would be the attacker's",
        run: |_| permitted(call!(SYS_kexec_load, 0, 1000, 0, 0xdead), &[Errno::EINVAL]),
    },
    Attempt {
        name: "load-module",
        tries: "loads a module of no length into the kernel",
        wins: WINS,
        why: "a module is the kernel",
        run: |_| permitted(call!(SYS_init_module, 0, 0, c""), &[Errno::ENOEXEC, Errno::EFAULT]),
    },
    Attempt {
        name: "load-module-file",
        tries: "loads a module from a descriptor that is none",
        wins: WINS,
        why: "a module is the kernel",
        run: |_| permitted(call!(SYS_finit_module, -1, c"", 0), &[Errno::EBADF, Errno::ENOEXEC]),
    },
    Attempt {
        name: "unload-module",
        tries: "unloads a module that there isn't",
        wins: WINS,
        why: "security modules and drivers are such",
        run: |_| permitted(call!(SYS_delete_module, c"stockade-hostile", libc::O_NONBLOCK), &[Errno::ENOENT]),
    },
    Attempt {
        name: "swap-on",
        tries: "swaps to a file that there isn't",
        wins: WINS,
        why: "memory of others would be in a file",
        run: |_| permitted(call!(SYS_swapon, c"/stockade-hostile", 0), &[Errno::ENOENT]),
    },
    Attempt {
        name: "swap-off",
        tries: "stops swapping to a file that there isn't",
        wins: WINS,
        why: "the host would run out of memory",
        run: |_| permitted(call!(SYS_swapoff, c"/stockade-hostile"), &[Errno::ENOENT]),
    },
    Attempt {
        name: "account",
        tries: "has the kernel write down every process to a file that there isn't",
        wins: WINS,
        why: "the kernel would write to a file of the attacker's choice",
        run: |_| permitted(call!(SYS_acct, c"/stockade-hostile"), &[Errno::ENOENT]),
    },
    Attempt {
        name: "use-ports",
        tries: "takes an input and output port for itself",
        wins: "it has it",
        why: "devices are behind ports",
        run: |_| permitted(call!(SYS_ioperm, 0x80, 1, 1), &[]),
    },
    Attempt {
        name: "quiet-kernel",
        tries: "sets the level of the kernel's messages to one that there isn't",
        wins: WINS,
        why: "traces are covered by it",
        run: |_| permitted(call!(SYS_syslog, 8, 0, 0), &[Errno::EINVAL]),
    },
    Attempt {
        name: "open-kernel-memory",
        tries: "opens /dev/mem",
        wins: "it is open",
        why: "all memory of the host is there",
        run: |_| opened(open(c"/dev/mem", libc::O_RDONLY)),
    },
    Attempt {
        name: "open-kvm",
        tries: "opens /dev/kvm",
        wins: "it is open",
        why: "it would have more machines than were handed over",
        run: |_| opened(open(c"/dev/kvm", libc::O_RDWR)),
    },
    Attempt {
        name: "real-time",
        tries: "becomes a real-time process",
        wins: "it is",
        why: "such a process takes a processor for itself",
        run: |_| permitted(call!(SYS_sched_setscheduler, 0, libc::SCHED_FIFO, &[1_i32]), &[]),
    },
    Attempt {
        name: "raise-priority",
        tries: "raises its priority",
        wins: "it is raised",
        why: "others would have less",
        run: |_| permitted(call!(SYS_setpriority, libc::PRIO_PROCESS, 0, -5), &[]),
    },
    Attempt {
        name: "raise-disk-priority",
        tries: "becomes a process whose input and output come first",
        wins: "it is",
        why: "others would wait for it",
        run: |_| permitted(call!(SYS_ioprio_set, 1, 0, 1 << 13), &[]),
    },
];

/// Puts CAP_SYS_ADMIN into the effective, permitted and inheritable sets (capset(2), version 3, this process).
fn take_capability() -> Result<u64, Errno> {
    const HEADER: [u32; 2] = [0x2008_0522, 0];
    let bit = 1 << CAP_SYS_ADMIN;
    call!(SYS_capset, &HEADER, &[bit, bit, bit, 0, 0, 0])
}

fn unshare(flag: i32) -> Tried {
    permitted(call!(SYS_unshare, flag), &[])
}

fn opened(file: Result<u64, Errno>) -> Tried {
    file?;
    won("it is open")
}
