//! Filters.

use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use seccomp_filters::{Role, pledge};

use crate::harness::{call, confined, each};

/// A descriptor that is not open.
const CLOSED: u64 = 1000;
/// A process that there is not (PID_MAX_LIMIT).
const NOBODY: u64 = 1 << 22;
const RW: u64 = 3;
const RWX: u64 = 7;

/// A system call by name, number and arguments.
type Call = (&'static str, i64, [u64; 6]);

/// Signal and exit code of a process that was killed.
const KILLED: (Option<i32>, Option<i32>) = (Some(libc::SIGSYS), None);
/// Those of one that was not.
const ALIVE: (Option<i32>, Option<i32>) = (None, Some(0));

/// Ends the test unless each of these cases, a role and the call that it makes, came to this end.
macro_rules! expect_each {
    ($cases:expr, $expected:expr) => {
        let cases: Vec<(Role, Call)> = $cases;
        let ends = each(&cases, |(role, (_, number, arguments))| attempt(*role, *number, *arguments));
        for ((role, (name, ..)), end) in cases.iter().zip(ends) {
            assert_eq!((end.signal(), end.code()), $expected, "{name} by {role:?}: {end}");
        }
    };
}

/// Makes the call on a thread of its own, because not every role may wait, or end the process.
fn attempt(role: Role, number: i64, arguments: [u64; 6]) {
    static DONE: AtomicBool = AtomicBool::new(false);
    std::thread::spawn(move || {
        pledge(role).unwrap();
        call(number, arguments);
        DONE.store(true, Ordering::SeqCst);
        spin();
    });
    while !DONE.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
}

fn spin() -> ! {
    loop {
        std::hint::spin_loop();
    }
}

fn by_every_role(calls: &[Call]) -> Vec<(Role, Call)> {
    Role::ALL.into_iter().flat_map(|role| calls.iter().map(move |call| (role, *call))).collect()
}

#[test]
fn every_role_is_accepted_by_the_kernel() {
    let end = confined(|_| {
        static PLEDGED: AtomicUsize = AtomicUsize::new(0);
        for role in Role::ALL {
            // On threads of their own, as filters add up.
            std::thread::spawn(move || {
                pledge(role).unwrap();
                PLEDGED.fetch_add(1, Ordering::SeqCst);
                spin();
            });
        }
        while PLEDGED.load(Ordering::SeqCst) < Role::ALL.len() {
            std::thread::yield_now();
        }
    });
    assert!(end.success(), "{end}");
}

#[test]
fn what_no_role_promises_kills() {
    let calls = [
        ("openat for writing", libc::SYS_openat, [0, 0, libc::O_WRONLY as u64, 0, 0, 0]),
        ("openat2", libc::SYS_openat2, [0; 6]),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, [0; 6]),
        ("execve", libc::SYS_execve, [0; 6]),
        ("execveat of a path", libc::SYS_execveat, [0; 6]),
        ("fork", libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0, 0, 0, 0]),
        ("vfork", libc::SYS_vfork, [0; 6]),
        ("a thread in a namespace", libc::SYS_clone, [0x003d_0f00 | libc::CLONE_NEWNET as u64, 0, 0, 0, 0, 0]),
        ("kill", libc::SYS_kill, [0; 6]),
        ("tgkill", libc::SYS_tgkill, [0, 0, libc::SIGKILL as u64, 0, 0, 0]),
        ("ptrace", libc::SYS_ptrace, [0; 6]),
        ("process_vm_writev", libc::SYS_process_vm_writev, [0; 6]),
        ("executable memory", libc::SYS_mmap, [0, 4096, RWX, 0x22, u64::MAX, 0]),
        ("executable file", libc::SYS_mmap, [0, 4096, 5, 2, CLOSED, 0]),
        ("a file without a name", libc::SYS_open, [0, libc::O_TMPFILE as u64 | libc::O_RDWR as u64, 0, 0, 0, 0]),
        ("init_module", libc::SYS_init_module, [0; 6]),
        ("memory that becomes executable", libc::SYS_mprotect, [0, 0, RWX, 0, 0, 0]),
        ("pkey_mprotect", libc::SYS_pkey_mprotect, [0, 0, RW, u64::MAX, 0, 0]),
        ("socket", libc::SYS_socket, [libc::AF_INET as u64, libc::SOCK_STREAM as u64, 0, 0, 0, 0]),
        ("netlink", libc::SYS_socket, [libc::AF_NETLINK as u64, libc::SOCK_RAW as u64, 0, 0, 0, 0]),
        ("socketpair", libc::SYS_socketpair, [0; 6]),
        ("datagram to an address", libc::SYS_sendto, [CLOSED, 0, 0, 0x4000, 0x1000, 110]),
        ("typing on a terminal", libc::SYS_ioctl, [CLOSED, libc::TIOCSTI, 0, 0, 0, 0]),
        ("a mount", libc::SYS_mount, [0; 6]),
        ("unshare", libc::SYS_unshare, [0; 6]),
        ("setns", libc::SYS_setns, [0; 6]),
        ("bpf", libc::SYS_bpf, [0; 6]),
        ("perf_event_open", libc::SYS_perf_event_open, [0; 6]),
        ("keyctl", libc::SYS_keyctl, [0; 6]),
        ("setrlimit", libc::SYS_prlimit64, [0, 7, 0x1000, 0, 0, 0]),
        ("a dumpable process", libc::SYS_prctl, [libc::PR_SET_DUMPABLE as u64, 1, 0, 0, 0, 0]),
        ("a filter for every thread", libc::SYS_seccomp, [1, 1, 0, 0, 0, 0]),
        ("a lock of a descriptor", libc::SYS_fcntl, [CLOSED, libc::F_SETLK as u64, 0, 0, 0, 0]),
        ("merged memory", libc::SYS_madvise, [0, 0, libc::MADV_MERGEABLE as u64, 0, 0, 0]),
        ("a call of the x32 interface", libc::SYS_read | 0x4000_0000, [0; 6]),
        ("a number without a call", 100_000, [0; 6]),
    ];
    expect_each!(by_every_role(&calls), KILLED);
}

#[test]
fn what_vmms_of_other_make_need_works_in_the_compatible_jail() {
    expect_each!(of_other_vmms(|role| role == Role::LaunchCompatible), ALIVE);
}

#[test]
fn what_vmms_of_other_make_need_kills_every_other_role() {
    expect_each!(of_other_vmms(|role| role != Role::LaunchCompatible), KILLED);
}

fn of_other_vmms(is_meant: impl Fn(Role) -> bool) -> Vec<(Role, Call)> {
    let calls = [
        ("open", libc::SYS_open, [0; 6]),
        ("memfd_create", libc::SYS_memfd_create, [0, 3, 0, 0, 0, 0]),
        ("sendmsg", libc::SYS_sendmsg, [0; 6]),
        ("recvmsg", libc::SYS_recvmsg, [0; 6]),
        ("userfaultfd", libc::SYS_userfaultfd, [0; 6]),
        ("io_uring_setup", libc::SYS_io_uring_setup, [0; 6]),
        ("a lock that other processes share", libc::SYS_futex, [0, 0, 0, 0, 0, 0]),
    ];
    // The daemon's roles are no vmms, and get frames and descriptors from their parent.
    let is_channel = |call: &Call| matches!(call.0, "sendmsg" | "recvmsg");
    let has_channel = |role: &Role| matches!(role, Role::Control | Role::Net);
    let calls = by_every_role(&calls).into_iter().filter(|(role, call)| !has_channel(role) || !is_channel(call));
    calls.filter(|(role, _)| is_meant(*role)).collect()
}

#[test]
fn what_every_role_promises_works() {
    let calls = [
        ("write", libc::SYS_write, [CLOSED, 0, 0, 0, 0, 0]),
        ("close", libc::SYS_close, [CLOSED, 0, 0, 0, 0, 0]),
        ("memory", libc::SYS_brk, [0; 6]),
        ("a clock", libc::SYS_clock_gettime, [1, 0, 0, 0, 0, 0]),
        ("clone3, which is missing", libc::SYS_clone3, [0; 6]),
    ];
    expect_each!(by_every_role(&calls), ALIVE);
}

#[test]
fn what_a_role_promises_works() {
    let calls = [
        (Role::Launch, ("execveat", libc::SYS_execveat, [CLOSED, 0, 0, 0, libc::AT_EMPTY_PATH as u64, 0])),
        (Role::LaunchCompatible, ("a log", libc::SYS_openat, [-100_i64 as u64, 0, 0x80442, 0, 0, 0])),
        (Role::LaunchCompatible, ("a network device", libc::SYS_ioctl, [CLOSED, 0x4004_54ca, 0, 0, 0, 0])),
        (Role::VmmConfigure, ("an image", libc::SYS_openat, [CLOSED, 0, 0x80900, 0, 0, 0])),
        (Role::VmmConfigure, ("a listener", libc::SYS_socket, [1, 0x80001, 0, 0, 0, 0])),
        (Role::VmmConfigureSealed, ("KVM_CREATE_VM", libc::SYS_ioctl, [CLOSED, 0xae01, 0, 0, 0, 0])),
        (Role::VmmRun, ("a connection", libc::SYS_socket, [1, 0x80801, 0, 0, 0, 0])),
        (Role::VmmRunSealed, ("a flush", libc::SYS_fdatasync, [CLOSED, 0, 0, 0, 0, 0])),
        (Role::Api, ("a client", libc::SYS_accept4, [CLOSED, 0, 0, 0x80000, 0, 0])),
        (Role::Vcpu, ("KVM_RUN", libc::SYS_ioctl, [CLOSED, 0xae80, 0, 0, 0, 0])),
        (Role::Net, ("what the kernel says", libc::SYS_recvfrom, [CLOSED, 0, 0, 0x20, 0, 0])),
        (Role::Warden, ("a child's end", libc::SYS_waitid, [0, 0, 0, 0x4000_0007, 0, 0])),
        (Role::Warden, ("a traced thread goes on", libc::SYS_ptrace, [7, NOBODY, 0, 0, 0, 0])),
        (Role::Warden, ("a traced thread's registers", libc::SYS_ptrace, [12, NOBODY, 0, 0, 0, 0])),
    ];
    expect_each!(calls.to_vec(), ALIVE);
}

#[test]
fn what_another_role_promises_kills() {
    let sealed = [Role::VmmConfigureSealed, Role::VmmRunSealed];
    let threads = [Role::VmmRun, Role::VmmRunSealed, Role::Api, Role::Vcpu, Role::Warden];
    let thread = ("a thread", libc::SYS_clone, [0x003d_0f00, 0, 0, 0, 0, 0]);
    let create_vm = ("KVM_CREATE_VM", libc::SYS_ioctl, [CLOSED, 0xae01, 0, 0, 0, 0]);
    let image = ("an image", libc::SYS_openat, [CLOSED, 0, 0x80900, 0, 0, 0]);
    let ptrace = |name: &'static str, request: u64| (name, libc::SYS_ptrace, [request, NOBODY, 0, 0, 0, 0]);
    let by = |roles: &[Role], call: Call| roles.iter().map(|role| (*role, call)).collect::<Vec<_>>();
    let mut cases = by(&threads, thread);
    cases.extend(by(&threads, create_vm));
    cases.extend(by(&threads, image));
    cases.extend(by(&sealed, image));
    cases.extend(by(&sealed, ("a unix socket", libc::SYS_socket, [1, 0x80001, 0, 0, 0, 0])));
    cases.extend(by(&sealed, ("connect", libc::SYS_connect, [CLOSED, 0, 110, 0, 0, 0])));
    cases.extend(by(&[Role::Api, Role::Warden], ("KVM_RUN", libc::SYS_ioctl, [CLOSED, 0xae80, 0, 0, 0, 0])));
    cases.extend(by(&[Role::VmmRun], ("another listener", libc::SYS_bind, [CLOSED, 0, 110, 0, 0, 0])));
    cases.extend(by(&[Role::VmmRun], ("a listener", libc::SYS_socket, [1, 0x80001, 0, 0, 0, 0])));
    cases.extend(by(&[Role::Vcpu], ("a message", libc::SYS_sendto, [CLOSED, 0, 0, 0x4040, 0, 0])));
    let all: Vec<_> = Role::ALL.into_iter().filter(|role| *role != Role::Warden).collect();
    cases.extend(by(&all, ptrace("PTRACE_CONT", 7)));
    for (name, request) in [
        ("PTRACE_TRACEME", 0),
        ("PTRACE_PEEKDATA", 2),
        ("PTRACE_POKEDATA", 5),
        ("PTRACE_SETREGS", 13),
        ("PTRACE_ATTACH", 16),
        ("PTRACE_DETACH", 17),
        ("PTRACE_SYSCALL", 24),
        ("PTRACE_SETOPTIONS", 0x4200),
        ("PTRACE_SETREGSET", 0x4205),
        ("PTRACE_SEIZE", 0x4206),
        ("PTRACE_CONT and more", 1 << 32 | 7),
    ] {
        cases.extend(by(&[Role::Warden], ptrace(name, request)));
    }
    cases.extend(by(&[Role::VmmConfigure], ("execveat", libc::SYS_execveat, [CLOSED, 0, 0, 0, 0x1000, 0])));
    expect_each!(cases, KILLED);
}

/// As in the programs, where a panic does not unwind.
#[test]
fn a_panic_tells_of_itself_and_aborts() {
    let ends = each(&Role::ALL, |role| {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            tell(panic);
            std::process::abort();
        }));
        pledge(*role).unwrap();
        panic!("on purpose");
    });
    for (role, end) in Role::ALL.iter().zip(ends) {
        assert_eq!(end.signal(), Some(libc::SIGABRT), "{role:?}: {end}");
    }
}

#[test]
fn a_thread_starts_without_clone3() {
    let end = confined(|_| {
        // SAFETY: takes two integers. As the vmm, so that a thread needs no heap of its own.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        pledge(Role::VmmConfigureSealed).unwrap();
        assert_eq!(call(libc::SYS_clone3, [0; 6]), -1);
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::ENOSYS));
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::spawn(move || sender.send(()));
        receiver.recv().unwrap();
    });
    assert!(end.success(), "{end}");
}

#[test]
fn a_thread_takes_the_process_with_it() {
    let end = confined(|_| {
        std::thread::spawn(|| {
            pledge(Role::Vcpu).unwrap();
            call(libc::SYS_openat, [0; 6]);
        });
        loop {
            std::thread::park();
        }
    });
    assert_eq!(end.signal(), Some(libc::SIGSYS), "{end}");
}

#[test]
fn another_pledge_gives_nothing_back() {
    let end = confined(|_| {
        pledge(Role::VmmConfigureSealed).unwrap();
        pledge(Role::VmmConfigure).unwrap();
        // Promised by the second, not by the first.
        call(libc::SYS_socket, [1, 0x80001, 0, 0, 0, 0]);
    });
    assert_eq!(end.signal(), Some(libc::SIGSYS), "{end}");
}

#[test]
fn after_the_last_pledge_there_is_no_other() {
    let end = confined(|_| {
        pledge(Role::VmmRunSealed).unwrap();
        // seccomp(2) and prctl(2) are gone, and with them the way to a filter that is not from here.
        let _ = pledge(Role::VmmRunSealed);
    });
    assert_eq!(end.signal(), Some(libc::SIGSYS), "{end}");
}
