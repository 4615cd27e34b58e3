//! Files of its own: where the root directory belongs to a vmm, as in compatible mode, or where it can write elsewhere.

use std::ffi::CString;

use nix::errno::Errno;
use stockade_prisoner::descriptor::IMAGE;
use stockade_prisoner::{FILES, Targets};

use crate::attempt::{Attempt, Tried, futile, open, permitted, read, target, text, won};
use crate::sys::call;

const TOOLS: &str = "a program of its own is a tool that nobody has looked at";
const DECEIVES: &str = "whoever works on that folder as root is deceived";

/// The attempts.
pub const ATTEMPTS: &[Attempt] = &[
    Attempt {
        name: "execute-own-file",
        tries: "writes a program to a file of its own, and executes it",
        wins: "it runs",
        why: TOOLS,
        run: |targets| {
            let (path, file) = make(targets, "own-program", 0o700)?;
            copy_image(file)?;
            call!(SYS_close, file)?;
            let arguments = [path.as_ptr(), c"executed".as_ptr(), std::ptr::null()];
            let none = [std::ptr::null::<libc::c_char>()];
            call!(SYS_execve, &path, &arguments, &none)?;
            futile("it returned")
        },
    },
    Attempt {
        name: "map-own-file",
        tries: "writes code to a file of its own, and maps it for execution",
        wins: "it is mapped",
        why: TOOLS,
        run: |targets| {
            let (path, file) = make(targets, "own-code", 0o700)?;
            call!(SYS_write, file, b"\xc3", 1)?;
            let mapped = call!(SYS_mmap, 0, 4096, 5, libc::MAP_PRIVATE, file, 0);
            call!(SYS_unlink, &path)?;
            permitted(mapped, &[])
        },
    },
    Attempt {
        name: "make-own-device",
        tries: "makes a device node in a folder of its own",
        wins: "it is there",
        why: "a disk of the host is a device number away",
        run: |targets| {
            // That of /dev/null.
            let path = place(targets, "own-device")?;
            call!(SYS_mknod, &path, libc::S_IFCHR | 0o600, 0x103)?;
            call!(SYS_unlink, &path)?;
            won("a device node")
        },
    },
    Attempt {
        name: "make-own-symbolic-link",
        tries: "makes a symbolic link in a folder of its own",
        wins: "it is there",
        why: DECEIVES,
        run: |targets| {
            let path = place(targets, "own-link")?;
            call!(SYS_symlink, c"/etc/shadow", &path)?;
            call!(SYS_unlink, &path)?;
            won("a symbolic link")
        },
    },
    Attempt {
        name: "make-own-hard-link",
        tries: "gives a file of its own a second name",
        wins: "it has it",
        why: DECEIVES,
        run: |targets| {
            let (path, _) = make(targets, "own-file", 0o600)?;
            let second = place(targets, "own-name")?;
            let linked = call!(SYS_link, &path, &second);
            call!(SYS_unlink, &path)?;
            linked?;
            call!(SYS_unlink, &second)?;
            won("a second name")
        },
    },
    Attempt {
        name: "rename-own-file",
        tries: "gives a file of its own another name",
        wins: "it has it",
        why: DECEIVES,
        run: |targets| {
            let (path, _) = make(targets, "own-file", 0o600)?;
            let second = place(targets, "own-name")?;
            let renamed = call!(SYS_rename, &path, &second);
            call!(SYS_unlink, if renamed.is_ok() { &second } else { &path })?;
            permitted(renamed, &[])
        },
    },
    Attempt {
        name: "make-own-folder",
        tries: "makes a folder in a folder of its own",
        wins: "it is there",
        why: DECEIVES,
        run: |targets| {
            let path = place(targets, "own-folder")?;
            call!(SYS_mkdir, &path, 0o700)?;
            call!(SYS_rmdir, &path)?;
            won("a folder")
        },
    },
    Attempt {
        name: "make-set-user-id-file",
        tries: "makes a file with the set-user-ID bit",
        wins: "it has it",
        why: "whoever executes it becomes the vmm's user",
        run: |targets| {
            let (path, _) = make(targets, "own-setuid", 0o4755)?;
            call!(SYS_unlink, &path)?;
            won("a file with the set-user-ID bit")
        },
    },
    Attempt {
        name: "make-many-files",
        tries: "makes many files",
        wins: "they are there",
        why: "a file system has room for so many only",
        run: |targets| {
            for number in 0..FILES {
                let (path, file) = make(targets, &format!("own-{number}"), 0o600)?;
                call!(SYS_close, file)?;
                call!(SYS_unlink, &path)?;
            }
            won(format!("{FILES} files"))
        },
    },
    Attempt {
        name: "change-pid-file",
        tries: "writes another number to the file that says which process it is",
        wins: "it is there",
        why: "whoever ends the machine by it ends another process",
        run: |_| {
            let file = open(c"stockade-prisoner.pid", libc::O_WRONLY)?;
            call!(SYS_write, file, b"1", 1)?;
            won("another process is the machine")
        },
    },
    Attempt {
        name: "change-own-program",
        tries: "opens the copy of its program for writing, if the jail has one",
        wins: "the kernel would, if it were not running",
        why: "the next machine would run it",
        run: |_| match open(c"stockade-prisoner", libc::O_WRONLY) {
            Err(Errno::ETXTBSY) => won("only its running is in the way"),
            other => permitted(other, &[]),
        },
    },
];

/// A new name in a folder of the host that everybody may write to, or else in the root directory.
fn place(targets: &Targets, name: &str) -> Result<CString, Errno> {
    let inside = text(format!("/{name}"));
    match open(&target(targets, "open/victim"), libc::O_RDONLY) {
        Ok(file) => call!(SYS_close, file).map(|_| target(targets, &format!("open/{name}"))),
        Err(_) => Ok(inside),
    }
}

/// Makes a file, open for reading and writing.
pub fn make(targets: &Targets, name: &str, mode: u32) -> Result<(CString, u64), Errno> {
    let path = place(targets, name)?;
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_CLOEXEC;
    let file = call!(SYS_openat, libc::AT_FDCWD, &path, flags, mode)?;
    Ok((path, file))
}

fn copy_image(file: u64) -> Tried {
    loop {
        let bytes = read(u64::from(IMAGE.unsigned_abs()))?;
        if bytes.is_empty() {
            return won("copied");
        }
        call!(SYS_write, file, bytes.as_slice(), bytes.len())?;
    }
}
