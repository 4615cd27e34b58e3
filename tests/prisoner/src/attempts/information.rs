//! What kind of host this is, and what happens there.

use std::ffi::CStr;

use stockade_prisoner::descriptor::{IMAGE, STREAM};

use crate::attempt::{Attempt, Tried, containing, futile, list, read_file, text, won};
use crate::sys::call;

const HOLES: &str = "the kernel's version tells which holes it has";
const LOAD: &str = "what others do shows in what the host has left";
const PLACE: &str = "whose host it is, and where, is nobody's business";

/// The attempts.
pub const ATTEMPTS: &[Attempt] = &[
    Attempt {
        name: "ask-kernel-version",
        tries: "asks for the kernel's name and version",
        wins: "it is told",
        why: HOLES,
        run: |_| {
            call!(SYS_uname, &mut [0_u8; 390])?;
            won("name and version")
        },
    },
    Attempt {
        name: "read-kernel-version",
        tries: "reads /proc/version",
        wins: "it is told",
        why: HOLES,
        run: |_| told(c"/proc/version"),
    },
    Attempt {
        name: "read-command-line",
        tries: "reads the kernel's command line",
        wins: "it is told",
        why: HOLES,
        run: |_| told(c"/proc/cmdline"),
    },
    Attempt {
        name: "read-addresses-of-kernel",
        tries: "reads where everything is in the kernel's memory",
        wins: "there is one that is not zero",
        why: "to know that is half of an attack on it",
        run: |_| {
            let bytes = read_file(c"/proc/kallsyms")?;
            let zero = b"0000000000000000";
            if bytes.starts_with(zero) || bytes.is_empty() { futile("hidden") } else { won("addresses of the kernel") }
        },
    },
    Attempt {
        name: "ask-load",
        tries: "asks for memory, load and uptime of the host",
        wins: "it is told",
        why: LOAD,
        run: |_| {
            call!(SYS_sysinfo, &mut [0_u64; 16])?;
            won("memory, load and uptime")
        },
    },
    Attempt {
        name: "read-load",
        tries: "reads /proc/loadavg",
        wins: "it is told",
        why: LOAD,
        run: |_| told(c"/proc/loadavg"),
    },
    Attempt {
        name: "read-memory-use",
        tries: "reads /proc/meminfo",
        wins: "it is told",
        why: LOAD,
        run: |_| told(c"/proc/meminfo"),
    },
    Attempt {
        name: "read-processor-use",
        tries: "reads /proc/stat",
        wins: "it is told",
        why: LOAD,
        run: |_| told(c"/proc/stat"),
    },
    Attempt {
        name: "read-processors",
        tries: "reads /proc/cpuinfo",
        wins: "it is told",
        why: PLACE,
        run: |_| told(c"/proc/cpuinfo"),
    },
    Attempt {
        name: "read-disks",
        tries: "reads /proc/partitions",
        wins: "it is told",
        why: PLACE,
        run: |_| told(c"/proc/partitions"),
    },
    Attempt {
        name: "read-mounts",
        tries: "reads its own mounts",
        wins: "it is told",
        why: PLACE,
        run: |_| told(c"/proc/self/mountinfo"),
    },
    Attempt {
        name: "read-boot-id",
        tries: "reads the host's number of this boot",
        wins: "it is told",
        why: PLACE,
        run: |_| told(c"/proc/sys/kernel/random/boot_id"),
    },
    Attempt {
        name: "read-init",
        tries: "reads the command line of process 1",
        wins: "it is told",
        why: PLACE,
        run: |_| told(c"/proc/1/cmdline"),
    },
    Attempt {
        name: "read-cgroup-path",
        tries: "reads the path of its control group",
        wins: "the root directory of all is not its own",
        why: "it has the machine's name on the host, and where that is kept",
        run: |_| told(c"/proc/self/cgroup"),
    },
    Attempt {
        name: "read-own-program",
        tries: "asks where its program is on the host",
        wins: "it is told",
        why: "readlink(2) is let through at the start, as the C library asks where the program is",
        run: |_| link(c"/proc/self/exe"),
    },
    Attempt {
        name: "read-path-of-image",
        tries: "asks for the path of the image that was handed over",
        wins: "it is told",
        why: "readlink(2) is let through at the start, as the C library asks where the program is",
        run: |_| link(&text(format!("/proc/self/fd/{IMAGE}"))),
    },
    Attempt {
        name: "list-interfaces",
        tries: "lists the network interfaces in /sys",
        wins: "there are some",
        why: PLACE,
        run: |_| {
            list(c"/sys/class/net")?;
            won("the names of interfaces")
        },
    },
    Attempt {
        name: "list-devices",
        tries: "lists /dev",
        wins: "there are some",
        why: PLACE,
        run: |_| {
            list(c"/dev")?;
            won("the names of devices")
        },
    },
    Attempt {
        name: "read-kernel-log",
        tries: "asks how long the kernel's log is",
        wins: "it is told",
        why: "addresses, devices, and what happened to others",
        run: |_| {
            call!(SYS_syslog, 10, 0, 0)?;
            won("the length of the log")
        },
    },
    Attempt {
        name: "measure-file-system",
        tries: "asks how large the file system of the root directory is",
        wins: "it is the size of one that is in use",
        why: LOAD,
        run: |_| {
            let mut bytes = [0_u64; 15];
            call!(SYS_statfs, c"/", &mut bytes)?;
            let [_, block, blocks, ..] = bytes;
            let size = block.saturating_mul(blocks);
            if size > 1 << 20 { won(format!("{size} bytes")) } else { futile("an empty one") }
        },
    },
    Attempt {
        name: "see-page-cache",
        tries: "asks which pages of the shared image are in memory",
        wins: "it is told",
        why: "what others have just read shows there",
        run: |_| {
            // struct cachestat_range: all; struct cachestat.
            crate::sys::make(451, &cachestat_arguments(&[0, 0], &mut [0; 5]))?;
            won("which pages are in memory")
        },
    },
    Attempt {
        name: "see-pages-by-mincore",
        tries: "maps the shared image and asks which pages are in memory",
        wins: "it is told that a page is not, which it has just sent away",
        why: "what others have just read shows there",
        run: |_| {
            call!(SYS_fadvise64, IMAGE, 0, 0, libc::POSIX_FADV_DONTNEED)?;
            let memory = call!(SYS_mmap, 0, 4096, libc::PROT_READ, libc::MAP_PRIVATE, IMAGE, 0)?;
            let mut resident = [1_u8];
            call!(SYS_mincore, memory, 4096, &mut resident)?;
            // The kernel says of every page of a file that may not be written that it is in memory.
            if resident == [0] { won("which pages are in memory") } else { futile("it says so of every page") }
        },
    },
    Attempt {
        name: "ask-for-peer",
        tries: "asks who is at the other end of a handed over socket",
        wins: "it is a process that can be seen",
        why: "the supervisor's number is a start",
        run: |_| {
            let (mut peer, mut length) = ([0_i32; 3], [12_u32]);
            call!(SYS_getsockopt, STREAM, libc::SOL_SOCKET, libc::SO_PEERCRED, &mut peer, &mut length)?;
            if peer[0] == 0 { futile("one that is out of sight") } else { won(format!("process {}", peer[0])) }
        },
    },
    Attempt {
        name: "count-file-systems",
        tries: "asks how many kinds of file systems the kernel has",
        wins: "it is told",
        why: HOLES,
        run: |_| {
            call!(SYS_sysfs, 3)?;
            won("how many there are")
        },
    },
    Attempt {
        name: "read-users",
        tries: "reads /etc/group",
        wins: "root's line is read",
        why: PLACE,
        run: |_| containing(&read_file(c"/etc/group")?, "root:"),
    },
    Attempt {
        name: "ask-for-processor",
        tries: "asks on which processor and node it runs",
        wins: "the kernel tells",
        why: "who else is there can be told by timing then",
        run: |_| {
            call!(SYS_getcpu, &mut [0_u32; 1], &mut [0_u32; 1], 0)?;
            won("its processor")
        },
    },
];

fn told(path: &CStr) -> Tried {
    if read_file(path)?.is_empty() { futile("an empty file") } else { won("it was read") }
}

fn link(path: &CStr) -> Tried {
    let mut bytes = [0_u8; 256];
    call!(SYS_readlink, path, &mut bytes, bytes.len())?;
    won("a path of the host")
}

fn cachestat_arguments(range: &[u64; 2], answer: &mut [u64; 5]) -> [u64; 4] {
    use crate::sys::Word;
    [IMAGE.word(), range.word(), answer.word(), 0]
}
