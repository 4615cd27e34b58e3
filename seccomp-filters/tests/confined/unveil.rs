//! Veils.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use seccomp_filters::{Policy, Rights, UnveilError, Veil};
use seccompiler::{SeccompAction, SeccompFilter, TargetArch};

use crate::harness::confined;

#[test]
fn everything_else_is_hidden() {
    let end = confined(|folder| {
        let (seen, hidden) = (folder.join("seen"), folder.join("hidden"));
        for path in [&seen, &hidden] {
            std::fs::write(path, "text").unwrap();
        }
        Veil::new().unwrap().unveil(&seen, Rights::READ).unwrap().lock(Policy::Required).unwrap();
        assert_eq!(std::fs::read_to_string(&seen).unwrap(), "text");
        for denied in [File::open(&hidden), File::options().write(true).open(&seen), File::open("/etc/passwd")] {
            assert_eq!(denied.unwrap_err().kind(), ErrorKind::PermissionDenied);
        }
    });
    assert!(end.success(), "{end}");
}

#[test]
fn a_folder_is_unveiled_with_what_is_in_it() {
    let end = confined(|folder| {
        let rights = Rights::WRITE | Rights::REMOVE_FILES;
        std::fs::write(folder.join("old"), "").unwrap();
        Veil::new().unwrap().unveil(folder, rights).unwrap().lock(Policy::Required).unwrap();
        File::options().write(true).open(folder.join("old")).unwrap();
        let denied = |result: io::Result<()>| assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
        denied(File::open(folder.join("old")).map(drop));
        denied(File::create(folder.join("new")).map(drop));
        denied(std::fs::create_dir(folder.join("folder")));
        std::fs::remove_file(folder.join("old")).unwrap();
    });
    assert!(end.success(), "{end}");
}

#[test]
fn what_is_not_there_is_named() {
    let error = Veil::new().unwrap().unveil("/not/there", Rights::READ).unwrap_err();
    assert!(error.to_string().starts_with("unveil /not/there: "), "{error}");
}

/// Becomes `program`, which is open; returns only if that fails.
fn execute(program: &File) -> io::Error {
    let arguments = ["program", "--list"].map(|argument| CString::new(argument).unwrap());
    let pointers = [arguments[0].as_ptr(), arguments[1].as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null()];
    // SAFETY: both arrays end with null, and all strings live through the call.
    unsafe { libc::fexecve(program.as_raw_fd(), pointers.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

#[test]
fn a_program_that_is_open_can_be_executed() {
    let end = confined(|_| {
        let program = File::open(std::env::current_exe().unwrap()).unwrap();
        let veil = Veil::new().unwrap().unveil_descriptor(&program, Rights::EXECUTE).unwrap();
        veil.lock(Policy::Required).unwrap();
        panic!("{}", execute(&program));
    });
    assert!(end.success(), "{end}");
}

#[test]
fn a_program_that_is_open_is_hidden_as_any() {
    let end = confined(|_| {
        let program = File::open(std::env::current_exe().unwrap()).unwrap();
        Veil::new().unwrap().lock(Policy::Required).unwrap();
        assert_eq!(execute(&program).kind(), ErrorKind::PermissionDenied);
    });
    assert!(end.success(), "{end}");
}

#[test]
fn ports_and_sockets_outside_are_hidden() {
    let end = confined(|folder| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap();
        let name = SocketAddr::from_abstract_name(folder.as_os_str().as_encoded_bytes()).unwrap();
        let _outside = UnixListener::bind_addr(&name).unwrap();
        let enforced = Veil::new().unwrap().lock(Policy::Required).unwrap();
        let mut attempts = Vec::new();
        if enforced.abi() >= 4 {
            attempts.push(TcpStream::connect(port).map(drop));
            attempts.push(TcpListener::bind("127.0.0.1:1024").map(drop));
        }
        if enforced.abi() >= 6 {
            attempts.push(UnixStream::connect_addr(&name).map(drop));
        }
        for attempt in attempts {
            assert_eq!(attempt.unwrap_err().kind(), ErrorKind::PermissionDenied);
        }
    });
    assert!(end.success(), "{end}");
}

/// Whether the calling process may signal its parent.
fn reaches_parent() -> bool {
    // SAFETY: getppid(2) takes nothing and can't fail.
    let parent = unsafe { libc::getppid() };
    // SAFETY: signal 0 is only checked, never sent.
    unsafe { libc::kill(parent, 0) == 0 }
}

#[test]
fn other_processes_are_hidden() {
    let end = confined(|_| {
        assert!(reaches_parent());
        let enforced = Veil::new().unwrap().lock(Policy::Required).unwrap();
        assert_eq!(reaches_parent(), enforced.lacking().any(|what| what == "signals"));
    });
    assert!(end.success(), "{end}");
}

#[test]
fn signals_can_be_left() {
    let end = confined(|_| {
        let enforced = Veil::with_signals().unwrap().lock(Policy::Required).unwrap();
        assert!(reaches_parent());
        assert!(!enforced.hidden().any(|what| what == "signals"));
    });
    assert!(end.success(), "{end}");
}

/// Makes this kernel one without Landlock, for the calling thread.
fn forget_landlock() {
    let calls = [libc::SYS_landlock_create_ruleset, libc::SYS_landlock_add_rule, libc::SYS_landlock_restrict_self];
    let rules = calls.map(|number| (number, Vec::new())).into();
    let missing = SeccompAction::Errno(libc::ENOSYS as u32);
    let architecture = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, missing, architecture).unwrap();
    seccompiler::apply_filter(&seccompiler::BpfProgram::try_from(filter).unwrap()).unwrap();
}

#[test]
fn without_landlock_the_policy_decides() {
    let end = confined(|folder| {
        forget_landlock();
        let veil = || Veil::new().unwrap().unveil(folder, Rights::READ).unwrap();
        assert!(matches!(veil().lock(Policy::Required), Err(UnveilError::Unsupported)));
        let enforced = veil().lock(Policy::BestEffort).unwrap();
        assert_eq!((enforced.abi(), enforced.hidden().count()), (0, 0));
        assert!(enforced.lacking().any(|what| what == "files"));
        File::open("/etc/passwd").unwrap();
    });
    assert!(end.success(), "{end}");
}
