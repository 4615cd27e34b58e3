//! Parts of the kernel that a vmm has no use for. Each is code in which holes were found, or may be.

use nix::errno::Errno;
use stockade_prisoner::descriptor::{CONSOLE, IMAGE, KVM};

use crate::attempt::{Attempt, Tried, entered, open, won};
use crate::sys::{call, call_by_interrupt};

/// A row of the table: name, what it tries, why, and the attempt.
const fn row(
    name: &'static str,
    tries: &'static str,
    why: &'static str,
    run: fn(&stockade_prisoner::Targets) -> Tried,
) -> Attempt {
    Attempt { name, tries, wins: "the kernel gets to work on it", why, run }
}

const FAMILY: &str = "every kind of socket is a protocol's code, some of it rarely used";
const WORKS: &str = "memory that is written and executed is how injected code runs";
const OBJECTS: &str = "objects in the kernel's memory that an attacker shapes are how its other holes are used";

/// The attempts.
pub const ATTEMPTS: &[Attempt] = &[
    row("io-uring", "sets up a ring of calls", "the calls in it pass no filter", |_| {
        entered(call!(SYS_io_uring_setup, 1, &mut [0_u64; 15]))
    }),
    row(
        "userfault",
        "handles its own page faults",
        "the kernel waits in the middle of a copy, for as long as one likes",
        |_| entered(call!(SYS_userfaultfd, libc::O_CLOEXEC | 1)),
    ),
    row(
        "userfault-device",
        "handles page faults of the kernel too, by a device",
        "the kernel waits in the middle of a copy, for as long as one likes",
        |_| {
            let device = open(c"/dev/userfaultfd", libc::O_RDWR)?;
            // USERFAULTFD_IOC_NEW
            entered(call!(SYS_ioctl, device, 0xaa00, libc::O_CLOEXEC))
        },
    ),
    row("random-device", "reads from /dev/urandom", "a device's code", |_| {
        entered(call!(SYS_read, open(c"/dev/urandom", libc::O_RDONLY)?, &mut [0_u8; 8], 8))
    }),
    row("mix-random-device", "mixes bytes of its own into the kernel's random numbers", "a device's code", |_| {
        entered(call!(SYS_write, open(c"/dev/urandom", libc::O_WRONLY)?, b"hostile", 7))
    }),
    row("reseed-random-device", "has the kernel's random numbers begin anew", "a device's code", |_| {
        // RNDRESEEDCRNG
        entered(call!(SYS_ioctl, open(c"/dev/urandom", libc::O_RDONLY)?, 0x5207, 0))
    }),
    row("performance-counters", "counts its own time", "a large interface, and a precise clock", |_| {
        // struct perf_event_attr: PERF_TYPE_SOFTWARE, its size, PERF_COUNT_SW_CPU_CLOCK; of user space alone.
        let mut attributes = [0_u64; 16];
        attributes[0] = 1 | 128 << 32;
        attributes[5] = 1 << 5 | 1 << 6;
        entered(call!(SYS_perf_event_open, &mut attributes, 0, -1, -1, 0))
    }),
    row("bpf-map", "makes a map for programs in the kernel", "its checker has been wrong", |_| {
        // union bpf_attr of BPF_MAP_CREATE: an array of one entry.
        entered(call!(SYS_bpf, 0, &mut [2_u32, 4, 8, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 64))
    }),
    row("bpf-program", "loads a program into the kernel", "its checker has been wrong", |_| {
        // union bpf_attr of BPF_PROG_LOAD: a socket filter of no instruction.
        entered(call!(SYS_bpf, 5, &mut [1_u32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 64))
    }),
    row("add-key", "adds a key to its process", OBJECTS, |_| {
        entered(call!(SYS_add_key, c"user", c"hostile", b"x", 1, -2))
    }),
    row("key-session", "starts a session of keys", OBJECTS, |_| entered(call!(SYS_keyctl, 1, 0))),
    row("request-key", "asks for a key", "a program of the host would be started to look for it", |_| {
        entered(call!(SYS_request_key, c"user", c"hostile", 0, 0))
    }),
    row("memory-file", "makes a file in memory", "programs can be executed from it", |_| {
        entered(call!(SYS_memfd_create, c"hostile", 0))
    }),
    row("secret-memory", "makes memory that the kernel itself can't read", "it hides what an attack does", |_| {
        entered(call!(SYS_memfd_secret, 0))
    }),
    row("watch-files", "asks to be told of what happens to files", OBJECTS, |_| entered(call!(SYS_inotify_init1, 0))),
    row("watch-file-systems", "asks to be told of what happens to whole file systems", OBJECTS, |_| {
        entered(call!(SYS_fanotify_init, 0x200, 0))
    }),
    row("signal-file", "reads signals from a file", OBJECTS, |_| entered(call!(SYS_signalfd4, -1, &[0_u64], 8, 0))),
    row("pipe", "makes a pipe", OBJECTS, |_| entered(call!(SYS_pipe2, &mut [0_i32; 2], 0))),
    row(
        "splice",
        "moves pages of a shared image into a pipe",
        "pages of files that may only be read were changed by it",
        |_| entered(call!(SYS_splice, IMAGE, 0, CONSOLE, 0, 1, 0)),
    ),
    row("vmsplice", "gives its own pages to a pipe", "pages of files that may only be read were changed by it", |_| {
        let byte = *b"x";
        entered(call!(SYS_vmsplice, CONSOLE, &[byte.as_ptr().expose_provenance() as u64, 1], 1, 0))
    }),
    row("tee", "copies what is in a pipe", OBJECTS, |_| entered(call!(SYS_tee, CONSOLE, CONSOLE, 1, 0))),
    row("socket-inet", "makes a TCP socket", FAMILY, |_| socket(libc::AF_INET, libc::SOCK_STREAM, 0)),
    row("socket-inet6", "makes a TCP socket, version 6", FAMILY, |_| socket(libc::AF_INET6, libc::SOCK_STREAM, 0)),
    row("socket-multipath", "makes a multipath TCP socket", FAMILY, |_| {
        socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP)
    }),
    row("socket-unix", "makes a unix socket", FAMILY, |_| socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)),
    row("socket-pair", "makes two connected sockets", "descriptors can be sent, in circles if one likes", |_| {
        entered(call!(SYS_socketpair, libc::AF_UNIX, libc::SOCK_STREAM, 0, &mut [0_i32; 2]))
    }),
    row("socket-route", "makes a socket to the kernel's routes", FAMILY, |_| {
        socket(libc::AF_NETLINK, libc::SOCK_RAW, 0)
    }),
    row("socket-netfilter", "makes a socket to the kernel's firewall", FAMILY, |_| {
        socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER)
    }),
    row("socket-crypto", "makes a socket to the kernel's ciphers", FAMILY, |_| {
        socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)
    }),
    row("socket-vsock", "makes a socket to machines", FAMILY, |_| socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)),
    row("executable-memory", "maps memory that is written and executed", WORKS, |_| {
        entered(call!(SYS_mmap, 0, 4096, 7, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0))
    }),
    row("executable-image", "maps a handed over file for execution", WORKS, |_| {
        entered(call!(SYS_mmap, 0, 4096, 5, libc::MAP_PRIVATE, IMAGE, 0))
    }),
    row("make-memory-executable", "makes memory executable that it has written", WORKS, |_| {
        let memory = call!(SYS_mmap, 0, 4096, 3, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)?;
        entered(call!(SYS_mprotect, memory, 4096, 5))
    }),
    row("make-memory-executable-by-key", "does the same with pkey_mprotect", WORKS, |_| {
        let memory = call!(SYS_mmap, 0, 4096, 3, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)?;
        entered(call!(SYS_pkey_mprotect, memory, 4096, 5, -1))
    }),
    row("null-page", "maps the first page", "a null pointer in the kernel would point to it", |_| {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        match call!(SYS_mmap, 0, 4096, 3, flags, -1, 0) {
            Ok(_) => won("the first page is mapped"),
            Err(errno) => Err(errno.into()),
        }
    }),
    row("remap-file-pages", "rearranges pages of a mapping", "removed once, and emulated since", |_| {
        let memory = call!(SYS_mmap, 0, 8192, 3, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0)?;
        entered(call!(SYS_remap_file_pages, memory, 4096, 0, 1, 0))
    }),
    row(
        "merge-memory",
        "lets the kernel merge pages that are the same as others'",
        "what others have is told by its timing",
        |_| {
            let memory = call!(SYS_mmap, 0, 4096, 3, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)?;
            match call!(SYS_madvise, memory, 4096, libc::MADV_MERGEABLE) {
                // A kernel that does not merge.
                Err(Errno::EINVAL) => Err(Errno::EINVAL.into()),
                other => entered(other),
            }
        },
    ),
    row(
        "descriptor-table",
        "reads its local descriptor table (x86)",
        "rarely used, and in the way of everything",
        |_| entered(call!(SYS_modify_ldt, 0, &mut [0_u64; 8], 64)),
    ),
    row("personality", "becomes another personality", "it turns off what makes attacks harder", |_| {
        entered(call!(SYS_personality, libc::ADDR_NO_RANDOMIZE))
    }),
    row(
        "filter-listener",
        "installs a filter that somebody else decides on",
        "the kernel waits in the middle of a call",
        |_| entered(call!(SYS_seccomp, 1, 8, 0)),
    ),
    row("own-landlock", "makes a set of Landlock rules", OBJECTS, |_| {
        entered(call!(SYS_landlock_create_ruleset, &[1_u64], 8, 0))
    }),
    row("shared-memory", "makes shared memory (System V) of no size", OBJECTS, |_| {
        entered(call!(SYS_shmget, libc::IPC_PRIVATE, 0, 0o600))
    }),
    row("message-queue", "sends to a message queue (System V) that there isn't", OBJECTS, |_| {
        entered(call!(SYS_msgsnd, -1, &[1_u64, 0], 8, libc::IPC_NOWAIT))
    }),
    row("semaphore", "makes a set of no semaphores (System V)", OBJECTS, |_| {
        entered(call!(SYS_semget, libc::IPC_PRIVATE, 0, 0o600))
    }),
    row("posix-queue", "opens a message queue (POSIX) without a name", OBJECTS, |_| entered(call!(SYS_mq_open, 0, 0))),
    row("timer", "makes a timer that signals", OBJECTS, |_| {
        entered(call!(SYS_timer_create, libc::CLOCK_MONOTONIC, 0, &mut [0_i32; 1]))
    }),
    row("asynchronous-input", "sets up asynchronous input and output", OBJECTS, |_| {
        entered(call!(SYS_io_setup, 1, &mut [0_u64; 1]))
    }),
    row(
        "interrupt-call",
        "makes a call of the 32-bit interface",
        "another table of calls, whose numbers a filter could mistake",
        |_| {
            // getpid(2)
            entered(call_by_interrupt(20))
        },
    ),
    row(
        "x32-call",
        "makes a call of the x32 interface",
        "another table of calls, whose numbers a filter could mistake",
        |_| entered(crate::sys::make(libc::SYS_getpid | 0x4000_0000, &[])),
    ),
    row(
        "futex-priority",
        "takes a lock that lends priority",
        "the most intricate of locks, and wrong more than once",
        |_| entered(call!(SYS_futex, &mut [0_u32; 1], 6, 0, 0)),
    ),
    row(
        "futex-requeue",
        "moves waiters from one lock to another",
        "the most intricate of locks, and wrong more than once",
        |_| entered(call!(SYS_futex, &mut [0_u32; 1], 3, 0, 0, &mut [0_u32; 1])),
    ),
    row("robust-list", "asks where a thread keeps its locks", "an address in memory", |_| {
        entered(call!(SYS_get_robust_list, 0, &mut [0_u64; 1], &mut [0_u64; 1]))
    }),
    row("memory-policy", "says on which nodes its memory is to be", OBJECTS, |_| {
        entered(call!(SYS_set_mempolicy, 0, 0, 0))
    }),
    row("barrier", "asks for memory barriers on every processor", "it interrupts the host's other processors", |_| {
        entered(call!(SYS_membarrier, 0, 0, 0))
    }),
    row("attributes-of-scheduling", "asks for its scheduling", OBJECTS, |_| {
        entered(call!(SYS_sched_getattr, 0, &mut [0_u64; 8], 56, 0))
    }),
    row(
        "type-on-terminal",
        "types a character on standard input's terminal",
        "the caller's shell would read it",
        |_| entered(call!(SYS_ioctl, 0, libc::TIOCSTI, b"x")),
    ),
    row(
        "kvm-device",
        "makes a device in the kernel for its machine",
        "device models in the kernel, of which a vmm uses few",
        |_| {
            let machine = machine()?;
            // KVM_CREATE_DEVICE
            entered(call!(SYS_ioctl, machine, 0xc00c_aee0_u32, &mut [0_u32; 3]))
        },
    ),
    row("kvm-registers", "lists the registers that tell what KVM can do", "a vmm uses few of KVM's requests", |_| {
        // KVM_GET_MSR_FEATURE_INDEX_LIST, with no room for any.
        machine()?;
        entered(call!(SYS_ioctl, KVM, 0xc004_ae0a_u32, &mut [0_u32; 2]))
    }),
    row("kvm-nested", "asks for the state of a machine in the machine", "a vmm uses few of KVM's requests", |_| {
        let machine = machine()?;
        let processor = call!(SYS_ioctl, machine, 0xae41, 0)?;
        // KVM_GET_NESTED_STATE
        entered(call!(SYS_ioctl, processor, 0xc080_aebe_u32, &mut [128_u64 << 32; 16]))
    }),
];

fn socket(family: i32, kind: i32, protocol: i32) -> Tried {
    entered(call!(SYS_socket, family, kind | libc::SOCK_CLOEXEC, protocol))
}

/// A machine of KVM's (KVM_CREATE_VM), where the host has that: a vmm may make one.
fn machine() -> Result<u64, Errno> {
    call!(SYS_ioctl, KVM, 0xae01, 0).map_err(|errno| if errno == Errno::EBADF { Errno::ENODEV } else { errno })
}
