//! More of the host than its share. What is taken is bounded by the constants of the library, also where nothing limits it, and
//! given back at the end.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use stockade_prisoner::descriptor::{CONSOLE, DISK, STREAM};
use stockade_prisoner::{CPU_PERCENT, DESCRIPTORS, DISK_BYTES, FILL_BYTES, FLOOD_BYTES, MEMORY_BYTES, PROCESSES};

use super::own;
use crate::attempt::{Attempt, Tried, futile, open, permitted, won};
use crate::sys::{call, touch};

const SHARE: &str = "what one machine takes is missing elsewhere";
const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
/// In which processor time is looked at: two of the periods in which a control group gives it out.
const WINDOW: Duration = Duration::from_millis(200);
const WINDOWS: u32 = 10;

/// The attempts.
pub const ATTEMPTS: &[Attempt] = &[
    Attempt {
        name: "take-memory",
        tries: "maps more memory than its share and writes to every page of it",
        wins: "all of it is there",
        why: SHARE,
        run: |_| {
            let memory = call!(SYS_mmap, 0, MEMORY_BYTES, 3, ANONYMOUS, -1, 0)?;
            touch(memory, MEMORY_BYTES);
            won(format!("{} MiB", MEMORY_BYTES >> 20))
        },
    },
    Attempt {
        name: "take-heap",
        tries: "grows the heap to more memory than its share and writes to every page of it",
        wins: "all of it is there",
        why: SHARE,
        run: |_| {
            let start = call!(SYS_brk, 0)?;
            let end = call!(SYS_brk, start + MEMORY_BYTES)?;
            if end < start + MEMORY_BYTES {
                return futile("the heap does not grow so far");
            }
            touch(start, MEMORY_BYTES);
            won(format!("{} MiB", MEMORY_BYTES >> 20))
        },
    },
    Attempt {
        name: "take-file-memory",
        tries: "writes more than its share of memory to a file in memory",
        wins: "all of it is there",
        why: "such memory is in no process, so that killing one does not free it",
        run: |_| {
            let file = call!(SYS_memfd_create, c"hostile", 0)?;
            fill(file, MEMORY_BYTES)
        },
    },
    Attempt {
        name: "take-shared-memory",
        tries: "writes more than its share of memory to shared memory (System V)",
        wins: "all of it is there",
        why: "such memory is in no process, so that killing one does not free it",
        run: |_| {
            let memory = call!(SYS_shmget, libc::IPC_PRIVATE, MEMORY_BYTES, 0o600)?;
            let address = call!(SYS_shmat, memory, 0, 0);
            call!(SYS_shmctl, memory, libc::IPC_RMID, 0)?;
            touch(address?, MEMORY_BYTES);
            won(format!("{} MiB", MEMORY_BYTES >> 20))
        },
    },
    Attempt {
        name: "lock-memory",
        tries: "locks memory, so that it is never swapped",
        wins: "it is locked",
        why: SHARE,
        run: |_| {
            let memory = call!(SYS_mmap, 0, 1 << 20, 3, ANONYMOUS, -1, 0)?;
            permitted(call!(SYS_mlock, memory, 1 << 20), &[])
        },
    },
    Attempt {
        name: "start-threads",
        tries: "starts many threads",
        wins: "all of them run at once",
        why: "threads and processes of a host are numbered, and numbers run out",
        run: |_| {
            let (finish, wait) = std::sync::mpsc::channel::<()>();
            let wait = std::sync::Arc::new(std::sync::Mutex::new(wait));
            for number in 0..PROCESSES {
                let wait = wait.clone();
                let thread = std::thread::Builder::new().stack_size(64 << 10);
                let started = thread.spawn(move || wait.lock().map(|wait| wait.recv().is_err()).unwrap_or(true));
                if let Err(error) = started {
                    return futile(format!("{number} threads, then {error}"));
                }
            }
            drop(finish);
            won(format!("{PROCESSES} threads"))
        },
    },
    Attempt {
        name: "start-processes",
        tries: "starts many processes",
        wins: "all of them run at once",
        why: "a fork storm stops a host that does not limit it",
        run: |_| {
            let own = call!(SYS_getpid)?;
            let mut started = 0;
            let stopped = loop {
                if started >= PROCESSES {
                    break None;
                }
                match call!(SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) {
                    Ok(0) => stay(own),
                    Ok(_) => started += 1,
                    Err(errno) => break Some(errno),
                }
            };
            // They end with this process, which waits for none: a filter that forbids that is not to hide that they were there.
            match stopped {
                None => won(format!("{PROCESSES} processes")),
                Some(errno) => futile(format!("{started} processes, then {errno}")),
            }
        },
    },
    Attempt {
        name: "open-descriptors",
        tries: "opens many descriptors",
        wins: "more are open than a vmm may have",
        why: "the host's table of open files is finite",
        run: |_| {
            for number in 0..DESCRIPTORS {
                if let Err(errno) = call!(SYS_eventfd2, 0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) {
                    return futile(format!("{number}, then {errno}"));
                }
            }
            won(format!("{DESCRIPTORS} descriptors"))
        },
    },
    Attempt {
        name: "burn-processor",
        tries: "computes without end",
        wins: "it gets more processor time than its share",
        why: SHARE,
        run: |_| burn(),
    },
    Attempt {
        name: "flood-console",
        tries: "writes to the guest's console without end",
        wins: "all of it was taken; whoever judges this looks whether it is kept",
        why: "logs of guests have filled disks",
        run: |_| {
            fill(u64::from(CONSOLE.unsigned_abs()), FLOOD_BYTES)?;
            futile("it was taken, which is not yet kept")
        },
    },
    Attempt {
        name: "fill-socket",
        tries: "writes to a socket that nobody reads from",
        wins: "all of it was taken",
        why: "what is on its way is in the kernel's memory",
        run: |_| {
            let chunk = vec![0_u8; 1 << 16];
            let mut written = 0;
            while written < FLOOD_BYTES {
                let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
                match call!(SYS_sendto, STREAM, chunk.as_slice(), chunk.len(), flags, 0, 0) {
                    Ok(length) => written += length,
                    Err(errno) => return futile(format!("{} KiB, then {errno}", written >> 10)),
                }
            }
            won(format!("{} KiB", written >> 10))
        },
    },
    Attempt {
        name: "grow-disk",
        tries: "writes behind the end of the disk that was handed over",
        wins: "the file is larger",
        why: "the file system of the host is filled by it",
        run: |_| {
            let part = [b"hostile".as_ptr().expose_provenance() as u64, 7];
            call!(SYS_pwritev, DISK, &part, 1, 16 * DISK_BYTES, 0)?;
            won("the disk grew")
        },
    },
    Attempt {
        name: "reserve-disk",
        tries: "asks for zeroes behind the end of the disk that was handed over, without making it larger",
        wins: "room for them is taken from the host",
        why: "the file system of the host is filled by it, and no size shows it",
        run: |_| {
            let flags = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
            permitted(call!(SYS_fallocate, DISK, flags, 16 * DISK_BYTES, 1 << 20), &[])
        },
    },
    Attempt {
        name: "fill-disk",
        tries: "writes much to a file of its own",
        wins: "it is there",
        why: "the file system of the host is filled by it",
        run: |targets| {
            let (path, file) = own::make(targets, "own-filler", 0o600)?;
            let filled = fill(file, FILL_BYTES);
            call!(SYS_unlink, &path)?;
            filled
        },
    },
    Attempt {
        name: "enlarge-pipe",
        tries: "makes the console's pipe larger",
        wins: "it is larger",
        why: "what is on its way is in the kernel's memory",
        run: |_| permitted(call!(SYS_fcntl, CONSOLE, libc::F_SETPIPE_SZ, 1 << 20), &[]),
    },
    Attempt {
        name: "enlarge-socket",
        tries: "makes a handed over socket's buffer larger than may be asked for",
        wins: "it is larger",
        why: "what is on its way is in the kernel's memory",
        run: |_| {
            permitted(call!(SYS_setsockopt, STREAM, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &[1_i32 << 26], 4), &[])
        },
    },
    Attempt {
        name: "fill-queue",
        tries: "makes a message queue (POSIX)",
        wins: "it is there",
        why: "what is in it is in the kernel's memory",
        run: |_| {
            let flags = libc::O_CREAT | libc::O_RDWR;
            // struct mq_attr: flags, most messages, most bytes of one, messages.
            call!(SYS_mq_open, c"stockade-hostile", flags, 0o600, &[0_u64, 10, 8192, 0, 0, 0, 0, 0])?;
            call!(SYS_mq_unlink, c"stockade-hostile")?;
            won("80 KiB in the kernel")
        },
    },
    Attempt {
        name: "allow-core-dumps",
        tries: "asks for core dumps as large as can be",
        wins: "they are allowed",
        why: "a crash would fill the host's disk, and tell what was in memory",
        run: |_| permitted(call!(SYS_prlimit64, 0, libc::RLIMIT_CORE, &[u64::MAX, u64::MAX], 0), &[]),
    },
    Attempt {
        name: "leave-cgroup",
        tries: "moves to the control group of everybody",
        wins: "it is moved",
        why: "there is no limit there",
        run: |_| {
            let old = open(c"/sys/fs/cgroup/memory/cgroup.procs", libc::O_WRONLY);
            let file = old.or_else(|_| open(c"/sys/fs/cgroup/cgroup.procs", libc::O_WRONLY))?;
            permitted(call!(SYS_write, file, b"0", 1), &[])
        },
    },
];

fn fill(file: u64, bytes: u64) -> Tried {
    let chunk = vec![1_u8; 1 << 16];
    let mut written = 0;
    while written < bytes {
        written += call!(SYS_write, file, chunk.as_slice(), chunk.len())?;
    }
    won(format!("{} MiB", written >> 20))
}

/// Waits for the parent's end.
fn stay(parent: u64) -> ! {
    let _ = call!(SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
    while call!(SYS_getppid) == Ok(parent) {
        let _ = call!(SYS_nanosleep, &[1_u64, 0], 0);
    }
    std::process::exit(0)
}

/// Computes until it got too much processor time in some window, or for some windows.
fn burn() -> Tried {
    let wanted = WINDOW * CPU_PERCENT / 100;
    let mut most = Duration::ZERO;
    for _ in 0..WINDOWS {
        let (start, before) = (Instant::now(), processor_time()?);
        while start.elapsed() < WINDOW {
            std::hint::spin_loop();
        }
        // A window that is longer, because nothing was given out at its end, counts for what it was.
        let got =
            processor_time()?.saturating_sub(before).mul_f64(WINDOW.as_secs_f64() / start.elapsed().as_secs_f64());
        most = most.max(got);
        if got > wanted {
            return won(format!("{got:?} of {WINDOW:?}"));
        }
    }
    futile(format!("at most {most:?} of {WINDOW:?}"))
}

fn processor_time() -> Result<Duration, Errno> {
    let mut time = [0_u64; 2];
    call!(SYS_clock_gettime, libc::CLOCK_PROCESS_CPUTIME_ID, &mut time)?;
    let [seconds, nanoseconds] = time;
    Ok(Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds))
}
