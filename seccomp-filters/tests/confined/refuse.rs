//! What is refused, and what is not.

use std::os::unix::process::ExitStatusExt;

use seccomp_filters::refuse;

use crate::harness::{call, confined, each};

/// A system call by number and arguments, and whether it is refused.
type Case = (i64, [u64; 6], bool);

const CASES: [Case; 13] = [
    (libc::SYS_bpf, [0; 6], true),
    (libc::SYS_keyctl, [0; 6], true),
    (libc::SYS_init_module, [0; 6], true),
    (libc::SYS_io_uring_setup, [0; 6], true),
    (libc::SYS_mmap, [0, 4096, 7, 0x22, u64::MAX, 0], true),
    (libc::SYS_mmap, [0, 4096, 3, 0x22, u64::MAX, 0], false),
    (libc::SYS_unshare, [0x1000_0000, 0, 0, 0, 0, 0], true),
    (libc::SYS_unshare, [0x200, 0, 0, 0, 0, 0], false),
    (libc::SYS_socket, [1, 1, 0, 0, 0, 0], false),
    (libc::SYS_socket, [16, 3, 0, 0, 0, 0], false),
    // AF_PACKET, AF_ALG.
    (libc::SYS_socket, [17, 3, 0, 0, 0, 0], true),
    (libc::SYS_socket, [38, 5, 0, 0, 0, 0], true),
    (libc::SYS_mount, [0; 6], false),
];

#[test]
fn what_nobody_below_needs_kills() {
    let ends = each(&CASES, |(number, arguments, _)| {
        give_up_new_privileges();
        refuse().unwrap();
        call(*number, *arguments);
    });
    for ((number, arguments, refused), end) in CASES.iter().zip(ends) {
        assert_eq!(end.signal() == Some(libc::SIGSYS), *refused, "{number} with {arguments:?}: {end}");
    }
}

/// Programs are executed as before, and are refused the same.
#[test]
fn it_is_inherited() {
    let end = confined(|_| {
        give_up_new_privileges();
        refuse().unwrap();
        let status =
            std::process::Command::new("/proc/self/exe").arg("--list").stdout(std::process::Stdio::null()).status();
        assert!(status.unwrap().success());
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        assert!(status.contains("\nSeccomp:\t2\n"));
    });
    assert!(end.success(), "{end}");
}

/// `PR_SET_NO_NEW_PRIVS`: who may install a filter without it is root.
fn give_up_new_privileges() {
    assert_eq!(call(libc::SYS_prctl, [38, 1, 0, 0, 0, 0]), 0);
}
