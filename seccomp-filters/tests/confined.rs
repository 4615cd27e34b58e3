//! What a confined process can do, and what ends it. A filter can't be taken back, so each case runs in a process of its own:
//! this program, started again with the name of the case.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, unsafe_code)]

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicUsize, Ordering};

use seccomp_filters::{Rights, Role, Veil, pledge};

const CASE: &str = "SECCOMP_FILTERS_CASE";
const FOLDER: &str = "SECCOMP_FILTERS_FOLDER";
const SIGSYS: i32 = 31;

/// Runs `body` in another process, and returns how that ended. `name` is the calling test's. `body`
/// gets the path of a folder of its own.
fn confined(name: &str, body: impl FnOnce(&Path)) -> ExitStatus {
    if std::env::var(CASE).is_ok_and(|case| case == name) {
        body(Path::new(&std::env::var(FOLDER).unwrap()));
        // SAFETY: ends the process at once; the test runner's other threads and its reporting are not wanted here.
        unsafe { libc::_exit(0) };
    }
    let program = std::env::current_exe().unwrap();
    let folder = tempfile::tempdir().unwrap();
    Command::new(program)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CASE, name)
        .env(FOLDER, folder.path())
        .status()
        .unwrap()
}

fn call(number: i64, arguments: [u64; 6]) -> i64 {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the cases pass no pointer but null, and no descriptor that anything else uses.
    unsafe { libc::syscall(number, a, b, c, d, e, f) }
}

fn expect_killed(name: &str, role: Role, number: i64, arguments: [u64; 6]) {
    let status = confined(name, |_| {
        pledge(role).unwrap();
        call(number, arguments);
    });
    assert_eq!(status.signal(), Some(SIGSYS), "{status}");
}

#[test]
fn every_role_is_accepted_by_the_kernel() {
    let status = confined("every_role_is_accepted_by_the_kernel", |_| {
        static PLEDGED: AtomicUsize = AtomicUsize::new(0);
        for role in Role::ALL {
            // On threads of their own, as filters add up.
            std::thread::spawn(move || {
                pledge(role).unwrap();
                PLEDGED.fetch_add(1, Ordering::SeqCst);
            });
        }
        while PLEDGED.load(Ordering::SeqCst) < Role::ALL.len() {
            std::thread::yield_now();
        }
    });
    assert!(status.success(), "{status}");
}

#[test]
fn what_is_promised_works() {
    let status = confined("what_is_promised_works", |_| {
        pledge(Role::Vcpu).unwrap();
        let numbers: Vec<u64> = (0..1 << 20).collect();
        assert_eq!(numbers.iter().sum::<u64>(), (1 << 19) * ((1 << 20) - 1));
        println!("and standard output");
    });
    assert!(status.success(), "{status}");
}

#[test]
fn clone3_is_missing_and_not_fatal() {
    let status = confined("clone3_is_missing_and_not_fatal", |_| {
        // SAFETY: takes two integers. As the vmm, so that a thread needs no heap of its own.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        pledge(Role::VmmConfigureSealed).unwrap();
        assert_eq!(call(libc::SYS_clone3, [0; 6]), -1);
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::ENOSYS));
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(()));
        receiver.recv().unwrap();
    });
    assert!(status.success(), "{status}");
}

#[test]
fn a_sealed_vmm_opens_nothing() {
    expect_killed("a_sealed_vmm_opens_nothing", Role::VmmConfigureSealed, libc::SYS_openat, [0; 6]);
}

#[test]
fn a_sealed_vmm_makes_no_socket() {
    expect_killed("a_sealed_vmm_makes_no_socket", Role::VmmRunSealed, libc::SYS_socket, [1, 0x80001, 0, 0, 0, 0]);
}

#[test]
fn an_unsealed_vmm_makes_unix_sockets_only() {
    const NAME: &str = "an_unsealed_vmm_makes_unix_sockets_only";
    let status = confined(NAME, |_| {
        pledge(Role::VmmRun).unwrap();
        assert!(call(libc::SYS_socket, [1, 0x80001, 0, 0, 0, 0]) >= 0);
        call(libc::SYS_socket, [2, 0x80001, 0, 0, 0, 0]);
    });
    assert_eq!(status.signal(), Some(SIGSYS), "{status}");
}

#[test]
fn memory_is_never_executable() {
    let arguments = [0, 4096, 7, 0x22, u64::MAX, 0];
    expect_killed("memory_is_never_executable", Role::VmmConfigure, libc::SYS_mmap, arguments);
}

#[test]
fn a_vcpu_thread_makes_no_other_request() {
    // KVM_CREATE_VM
    expect_killed("a_vcpu_thread_makes_no_other_request", Role::Vcpu, libc::SYS_ioctl, [0, 0xae01, 0, 0, 0, 0]);
}

#[test]
fn no_process_is_started() {
    // The flags of fork(2).
    expect_killed("no_process_is_started", Role::VmmConfigure, libc::SYS_clone, [17, 0, 0, 0, 0, 0]);
}

#[test]
fn no_datagram_goes_to_an_address() {
    let arguments = [0, 0, 0, 0x4000, 0x1000, 110];
    expect_killed("no_datagram_goes_to_an_address", Role::Api, libc::SYS_sendto, arguments);
}

#[test]
fn another_pledge_gives_nothing_back() {
    const NAME: &str = "another_pledge_gives_nothing_back";
    let status = confined(NAME, |_| {
        pledge(Role::VmmConfigureSealed).unwrap();
        pledge(Role::VmmConfigure).unwrap();
        // Promised by the second, not by the first.
        call(libc::SYS_socket, [1, 0x80001, 0, 0, 0, 0]);
    });
    assert_eq!(status.signal(), Some(SIGSYS), "{status}");
}

#[test]
fn a_veil_hides_everything_else() {
    let status = confined("a_veil_hides_everything_else", |folder| {
        let (seen, hidden) = (folder.join("seen"), folder.join("hidden"));
        for path in [&seen, &hidden] {
            std::fs::write(path, "text").unwrap();
        }
        let enforced = Veil::new().unwrap().unveil(File::open(&seen).unwrap(), Rights::READ).unwrap().lock().unwrap();
        assert!(enforced.abi() >= 1);
        assert_eq!(std::fs::read_to_string(&seen).unwrap(), "text");
        for denied in [File::open(&hidden), File::options().write(true).open(&seen), File::open("/etc/passwd")] {
            assert_eq!(denied.unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
        }
    });
    assert!(status.success(), "{status}");
}

/// Whether the calling process may signal its parent.
fn reaches_parent() -> bool {
    // SAFETY: getppid(2) takes nothing and can't fail.
    let parent = unsafe { libc::getppid() };
    // SAFETY: signal 0 is only checked, never sent.
    unsafe { libc::kill(parent, 0) == 0 }
}

#[test]
fn a_veil_hides_other_processes() {
    let status = confined("a_veil_hides_other_processes", |_| {
        assert!(reaches_parent());
        if Veil::new().unwrap().lock().unwrap().abi() >= 6 {
            assert!(!reaches_parent());
        }
    });
    assert!(status.success(), "{status}");
}

#[test]
fn a_veil_can_leave_signals() {
    let status = confined("a_veil_can_leave_signals", |_| {
        Veil::with_signals().unwrap().lock().unwrap();
        assert!(reaches_parent());
    });
    assert!(status.success(), "{status}");
}
