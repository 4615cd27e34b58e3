//! Files of the host, by their paths.

use crate::attempt::{Attempt, containing, futile, list, marked, open, read_file, target, text, won};
use crate::sys::call;

const READS: &str = "a vmm has no use for paths: what it needs is open";
const CHANGES: &str = "who can change a file of the host can change what the host does";

/// The attempts.
pub const ATTEMPTS: &[Attempt] = &[
    Attempt {
        name: "read-file",
        tries: "opens a file that everybody may read",
        wins: "its text is read",
        why: READS,
        run: |targets| marked(&read_file(&target(targets, "world"))?),
    },
    Attempt {
        name: "read-private-file",
        tries: "opens a file that only root may read",
        wins: "its text is read",
        why: "keys and passwords of the host are such files",
        run: |targets| marked(&read_file(&target(targets, "private"))?),
    },
    Attempt {
        name: "read-passwd",
        tries: "opens /etc/passwd",
        wins: "root's line is read",
        why: READS,
        run: |_| containing(&read_file(c"/etc/passwd")?, "root:"),
    },
    Attempt {
        name: "read-above-root",
        tries: "opens a file by a path that goes up from the root directory first",
        wins: "its text is read",
        why: "a root directory that is left by .. is none",
        run: |targets| marked(&read_file(&text(format!("/../../../..{}", targets.folder.join("world").display())))?),
    },
    Attempt {
        name: "read-above-working-directory",
        tries: "opens a file by a path that goes up from the working directory",
        wins: "its text is read",
        why: "a working directory outside of the root directory is a way out",
        run: |targets| {
            marked(&read_file(&text(format!("../../../../../..{}", targets.folder.join("world").display())))?)
        },
    },
    Attempt {
        name: "read-by-root-of-process",
        tries: "opens a file below the root directory of a process, by /proc",
        wins: "its text is read",
        why: "the root directory of another process is a way out",
        run: |targets| {
            let path = format!("/proc/{}/root{}", targets.victim, targets.folder.join("world").display());
            marked(&read_file(&text(path))?)
        },
    },
    Attempt {
        name: "change-root",
        tries: "calls chroot, goes up, and opens a file",
        wins: "its text is read",
        why: "the classical way out of a root directory",
        run: |targets| {
            call!(SYS_chroot, c"/")?;
            call!(SYS_chdir, c"../../../..")?;
            marked(&read_file(&target(targets, "world"))?)
        },
    },
    Attempt {
        name: "list-root",
        tries: "lists the root directory",
        wins: "there is anything in it",
        why: "what is there can be attacked",
        run: |_| {
            list(c"/")?;
            won("a directory with entries")
        },
    },
    Attempt {
        name: "change-directory",
        tries: "makes a folder of the host the working directory",
        wins: "it is",
        why: "paths begin there",
        run: |targets| {
            call!(SYS_chdir, &target(targets, "open"))?;
            won("the working directory is a folder of the host")
        },
    },
    Attempt {
        name: "write-file",
        tries: "writes to a file that everybody may write",
        wins: "it is changed",
        why: CHANGES,
        run: |targets| {
            let file = open(&target(targets, "writable"), libc::O_WRONLY)?;
            call!(SYS_write, file, b"hostile", 7)?;
            won("a file of the host is changed")
        },
    },
    Attempt {
        name: "truncate-file",
        tries: "cuts a file that everybody may write",
        wins: "it is empty",
        why: CHANGES,
        run: |targets| {
            call!(SYS_truncate, &target(targets, "writable"), 0)?;
            won("a file of the host is empty")
        },
    },
    Attempt {
        name: "make-file",
        tries: "makes a file in a folder that everybody may write to",
        wins: "it is there",
        why: CHANGES,
        run: |targets| {
            open(&target(targets, "open/file"), libc::O_WRONLY | libc::O_CREAT)?;
            won("a file on the host")
        },
    },
    Attempt {
        name: "make-nameless-file",
        tries: "makes a file without a name in the root directory",
        wins: "it can be written to",
        why: "room for data and programs",
        run: |_| {
            let file = open(c"/", libc::O_RDWR | libc::O_TMPFILE)?;
            call!(SYS_write, file, b"hostile", 7)?;
            won("a file in the root directory")
        },
    },
    Attempt {
        name: "make-folder",
        tries: "makes a folder",
        wins: "it is there",
        why: CHANGES,
        run: |targets| {
            call!(SYS_mkdir, &target(targets, "open/folder"), 0o700)?;
            won("a folder on the host")
        },
    },
    Attempt {
        name: "make-symbolic-link",
        tries: "makes a symbolic link",
        wins: "it is there",
        why: "whoever follows it does the attacker's work",
        run: |targets| {
            call!(SYS_symlink, c"/etc/shadow", &target(targets, "open/symlink"))?;
            won("a symbolic link on the host")
        },
    },
    Attempt {
        name: "make-hard-link",
        tries: "makes a second name of a file that everybody may write",
        wins: "it is there",
        why: "whoever trusts the other name is deceived",
        run: |targets| {
            call!(SYS_link, &target(targets, "writable"), &target(targets, "open/link"))?;
            won("a hard link on the host")
        },
    },
    Attempt {
        name: "make-device",
        tries: "makes a device node",
        wins: "it is there",
        why: "a disk of the host is a device number away",
        run: |targets| {
            // That of /dev/null.
            call!(SYS_mknod, &target(targets, "open/device"), libc::S_IFCHR | 0o600, 0x103)?;
            won("a device node on the host")
        },
    },
    Attempt {
        name: "make-fifo",
        tries: "makes a named pipe",
        wins: "it is there",
        why: "two machines could talk by it",
        run: |targets| {
            call!(SYS_mknod, &target(targets, "open/fifo"), libc::S_IFIFO | 0o600, 0)?;
            won("a named pipe on the host")
        },
    },
    Attempt {
        name: "rename-file",
        tries: "gives a file another name",
        wins: "it has",
        why: CHANGES,
        run: |targets| {
            call!(SYS_rename, &target(targets, "open/victim"), &target(targets, "open/renamed"))?;
            won("a file has another name")
        },
    },
    Attempt {
        name: "remove-file",
        tries: "removes a file",
        wins: "it is gone",
        why: CHANGES,
        run: |targets| {
            call!(SYS_unlink, &target(targets, "open/victim"))?;
            won("a file is gone")
        },
    },
    Attempt {
        name: "change-mode",
        tries: "gives everybody every right to a file of root's",
        wins: "they have it",
        why: "the next step is to write it",
        run: |targets| {
            call!(SYS_chmod, &target(targets, "private"), 0o777)?;
            won("another mode")
        },
    },
    Attempt {
        name: "change-owner",
        tries: "takes a file of root's",
        wins: "it has another owner",
        why: "the next step is to write it",
        run: |targets| {
            call!(SYS_chown, &target(targets, "private"), 12345, 12345)?;
            won("another owner")
        },
    },
    Attempt {
        name: "change-times",
        tries: "says that a file was just used",
        wins: "the kernel agrees",
        why: "traces are covered by it",
        run: |targets| {
            call!(SYS_utimensat, libc::AT_FDCWD, &target(targets, "writable"), 0, 0)?;
            won("other times")
        },
    },
    Attempt {
        name: "set-attribute",
        tries: "gives a file an extended attribute",
        wins: "it has it",
        why: "labels and capabilities of programs are such",
        run: |targets| {
            call!(SYS_setxattr, &target(targets, "writable"), c"user.hostile", b"x", 1, 0)?;
            won("an attribute")
        },
    },
    Attempt {
        name: "watch-file",
        tries: "asks to be told of what happens to a file",
        wins: "the watch is set",
        why: "who uses a file when tells what the host does",
        run: |targets| {
            let watch = call!(SYS_inotify_init1, libc::IN_CLOEXEC)?;
            call!(SYS_inotify_add_watch, watch, &target(targets, "world"), libc::IN_ALL_EVENTS)?;
            won("a watch is set")
        },
    },
    Attempt {
        name: "execute-file",
        tries: "executes a program of the host",
        wins: "it runs",
        why: "every program of the host is a tool",
        run: |targets| {
            let program = target(targets, "program");
            let arguments = [program.as_ptr(), c"executed".as_ptr(), std::ptr::null()];
            let none = [std::ptr::null::<libc::c_char>()];
            call!(SYS_execve, &program, &arguments, &none)?;
            futile("it returned")
        },
    },
    Attempt {
        name: "read-link",
        tries: "asks where a symbolic link leads",
        wins: "it is told",
        why: "readlink(2) is let through at the start, as the C library asks where the program is",
        run: |targets| {
            let mut bytes = [0_u8; 256];
            let length = call!(SYS_readlink, &target(targets, "link"), &mut bytes, bytes.len())?;
            marked(bytes.get(..usize::try_from(length).unwrap_or(0)).unwrap_or_default())
        },
    },
    Attempt {
        name: "find-file",
        tries: "asks for the link that a file is not",
        wins: "the answer is that there is such a file",
        why: "which files there are tells what the host is",
        run: |targets| {
            let mut bytes = [0_u8; 8];
            match call!(SYS_readlink, &target(targets, "world"), &mut bytes, bytes.len()) {
                Err(nix::errno::Errno::EINVAL) => won("the file is there"),
                other => futile(format!("{other:?}")),
            }
        },
    },
    Attempt {
        name: "look-at-file",
        tries: "asks for size, owner and times of a file",
        wins: "it is told",
        why: "which files there are tells what the host is",
        run: |targets| {
            let mut bytes = [0_u8; 256];
            call!(SYS_stat, &target(targets, "world"), &mut bytes)?;
            won("what the file is")
        },
    },
    Attempt {
        name: "ask-for-access",
        tries: "asks whether a file may be read",
        wins: "it is told",
        why: "which files there are tells what the host is",
        run: |targets| {
            call!(SYS_access, &target(targets, "world"), libc::R_OK)?;
            won("the file may be read")
        },
    },
];
