//! Files of the host, by changing what is mounted. Nothing here changes the mounts of anybody, even where it is allowed.

use nix::errno::Errno;

use crate::attempt::{Attempt, permitted, target};
use crate::sys::call;

const WINS: &str = "the kernel would do it";
const WHY: &str = "who decides what is mounted decides what a path is";

/// The attempts.
pub const ATTEMPTS: &[Attempt] = &[
    Attempt {
        name: "mount",
        tries: "mounts a kind of file system that there isn't",
        wins: WINS,
        why: WHY,
        run: |_| permitted(call!(SYS_mount, 0, c"/", c"hostile", 0, 0), &[Errno::ENODEV]),
    },
    Attempt {
        name: "unmount",
        tries: "unmounts a folder on which nothing is mounted",
        wins: WINS,
        why: "what is below a mount is hidden only for as long",
        run: |targets| permitted(call!(SYS_umount2, &target(targets, "open"), 0), &[Errno::EINVAL]),
    },
    Attempt {
        name: "change-root-mount",
        tries: "changes the root mount to a path that is none",
        wins: WINS,
        why: WHY,
        run: |_| permitted(call!(SYS_pivot_root, 0, 0), &[Errno::EFAULT]),
    },
    Attempt {
        name: "copy-mounts",
        tries: "makes a copy of the tree of mounts for itself",
        wins: "it has one",
        why: "a copy can be changed and entered at will",
        run: |_| {
            let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
            permitted(call!(SYS_open_tree, libc::AT_FDCWD, c"/", flags), &[])
        },
    },
    Attempt {
        name: "make-file-system",
        tries: "makes a file system in memory, mounted nowhere",
        wins: "it is there",
        why: "room for programs, and a parser for whatever the attacker calls a file system",
        run: |_| permitted(call!(SYS_fsopen, c"tmpfs", 1), &[]),
    },
    Attempt {
        name: "move-mount",
        tries: "moves a mount that is none",
        wins: WINS,
        why: WHY,
        run: |_| permitted(call!(SYS_move_mount, -1, c"", -1, c"", 0x44), &[Errno::EBADF]),
    },
    Attempt {
        name: "change-mount",
        tries: "makes the root mount what it is",
        wins: WINS,
        why: "read-only, nodev, nosuid and noexec are only worth something if they stay",
        run: |_| {
            // struct mount_attr: nothing to set, nothing to clear.
            let attributes = [0_u64; 4];
            permitted(call!(SYS_mount_setattr, libc::AT_FDCWD, c"/", 0, &attributes, 32), &[])
        },
    },
];
