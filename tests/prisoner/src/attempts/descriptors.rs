//! Files of the host, from the descriptors that were handed over.

use stockade_prisoner::descriptor::{DISK, IMAGE, STREAM};

use crate::attempt::{Attempt, Refusal, Tried, futile, marked, open, read, target, text, won};
use crate::sys::{Word, call};

/// The attempts.
pub const ATTEMPTS: &[Attempt] = &[
    Attempt {
        name: "write-read-only-descriptor",
        tries: "writes to a file that was handed over for reading",
        wins: "it is changed",
        why: "kernels and images are shared by machines",
        run: |_| {
            call!(SYS_write, IMAGE, b"hostile", 7)?;
            won("a shared file is changed")
        },
    },
    Attempt {
        name: "map-read-only-descriptor",
        tries: "maps a file that was handed over for reading, for writing",
        wins: "it is mapped",
        why: "kernels and images are shared by machines",
        run: |_| {
            call!(SYS_mmap, 0, 4096, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED, IMAGE, 0)?;
            won("a shared file can be written")
        },
    },
    Attempt {
        name: "reopen-descriptor",
        tries: "opens a file that was handed over for reading again by /proc, for writing",
        wins: "it is open",
        why: "a descriptor's rights are only worth something if they stay",
        run: |_| {
            open(&text(format!("/proc/self/fd/{IMAGE}")), libc::O_RDWR)?;
            won("a shared file can be written")
        },
    },
    Attempt {
        name: "change-mode-of-descriptor",
        tries: "gives everybody every right to a file that was handed over",
        wins: "they have it",
        why: "the next step is to write it",
        run: |_| {
            call!(SYS_fchmod, IMAGE, 0o777)?;
            won("another mode")
        },
    },
    Attempt {
        name: "change-owner-of-descriptor",
        tries: "takes a file that was handed over",
        wins: "it has another owner",
        why: "the next step is to write it",
        run: |_| {
            call!(SYS_fchown, DISK, 12345, 12345)?;
            won("another owner")
        },
    },
    Attempt {
        name: "name-descriptor",
        tries: "gives a file that was handed over a second name",
        wins: "it has it",
        why: "it would stay when the first name is removed",
        run: |targets| {
            let path = target(targets, "open/link");
            call!(SYS_linkat, DISK, c"", libc::AT_FDCWD, &path, libc::AT_EMPTY_PATH)?;
            won("another name")
        },
    },
    Attempt {
        name: "open-by-handle",
        tries: "opens a file by its number in the file system that a handed over file is on",
        wins: "it is open",
        why: "every file of that file system has a number, and no path is looked up (\"shocker\")",
        run: |_| {
            // struct file_handle: room for 120 bytes.
            let mut handle = [0_u8; 128];
            handle[0] = 120;
            let mut mount = [0_u8; 4];
            call!(SYS_name_to_handle_at, IMAGE, c"", &mut handle, &mut mount, libc::AT_EMPTY_PATH)?;
            call!(SYS_open_by_handle_at, IMAGE, &mut handle, libc::O_RDONLY | libc::O_CLOEXEC)?;
            won("a file is open that was not handed over")
        },
    },
    Attempt {
        name: "execute-descriptor",
        tries: "executes a program that was handed over as an image, as the jailer executes the vmm",
        wins: "it runs",
        why: "the filter for the start lets execveat(2) of a descriptor through; images are tenants' own",
        run: |_| execute(u64::from(IMAGE.unsigned_abs())),
    },
    Attempt {
        name: "execute-memory",
        tries: "copies a program to a file in memory, and executes that",
        wins: "it runs",
        why: "no path is needed for it, and no mount option is in the way",
        run: |_| {
            let file = call!(SYS_memfd_create, c"hostile", 0)?;
            loop {
                let bytes = read(u64::from(IMAGE.unsigned_abs()))?;
                if bytes.is_empty() {
                    break;
                }
                call!(SYS_write, file, bytes.as_slice(), bytes.len())?;
            }
            execute(file)
        },
    },
    Attempt {
        name: "receive-descriptor",
        tries: "takes a folder of the host that an accomplice sends over a handed over socket, and opens a file in it",
        wins: "its text is read",
        why: "clients of a vmm's sockets can send descriptors, and Landlock knows nothing of them",
        run: |_| {
            let folder = receive()?;
            let file = call!(SYS_openat, folder, c"world", libc::O_RDONLY | libc::O_CLOEXEC)?;
            marked(&read(file)?)
        },
    },
    Attempt {
        name: "send-descriptor",
        tries: "sends a descriptor over a handed over socket",
        wins: "it is sent",
        why: "an accomplice would have what was meant for the vmm alone",
        run: |_| {
            let rights = rights(DISK);
            let byte = *b"x";
            let parts = [(&byte).word(), 1];
            let header = header(&parts, (&rights).word(), size_of_val(&rights));
            call!(SYS_sendmsg, STREAM, &header, libc::MSG_DONTWAIT)?;
            won("a descriptor was sent")
        },
    },
];

fn execute(descriptor: u64) -> Tried {
    let arguments = [c"stockade-vmm".as_ptr(), c"executed".as_ptr(), std::ptr::null()];
    let none = [std::ptr::null::<libc::c_char>()];
    call!(SYS_execveat, descriptor, c"", &arguments, &none, libc::AT_EMPTY_PATH)?;
    futile("it returned")
}

/// Receives the descriptor that waits at the handed over socket.
fn receive() -> Result<i32, Refusal> {
    let mut byte = [0_u8; 1];
    let mut control = [0_u64; 8];
    let parts = [(&mut byte).word(), 1];
    let header = header(&parts, (&mut control).word(), size_of_val(&control));
    call!(SYS_recvmsg, STREAM, &header, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC)?;
    // struct cmsghdr: length, level and type; then the descriptor.
    match control {
        [20, _, descriptor, ..] => Ok(descriptor as u32 as i32),
        _ => futile("no descriptor came"),
    }
}

/// struct cmsghdr with one descriptor (cmsg(3)).
fn rights(descriptor: i32) -> [u64; 3] {
    let level_and_type = u64::from(libc::SOL_SOCKET.unsigned_abs()) | u64::from(libc::SCM_RIGHTS.unsigned_abs()) << 32;
    [20, level_and_type, u64::from(descriptor.unsigned_abs())]
}

/// struct msghdr: no name, these parts, this control data.
fn header(parts: &[u64; 2], control: u64, length: usize) -> [u64; 7] {
    [0, 0, parts.word(), 1, control, length.word(), 0]
}
