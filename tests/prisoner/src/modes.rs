//! What the program does, by the mode that it was started in.

use std::error::Error;
use std::io::Write;

use nix::errno::Errno;
use seccomp_filters::{Role, pledge};
use stockade_prisoner::{MARKER, PIECES, Phase, Report, Storm, Targets, compatible, descriptor};

use crate::attempt::{Attempt, Tried, connect, open, text};
use crate::attempts;
use crate::storms;
use crate::sys::{self, call};

type Done = Result<(), Box<dyn Error>>;

/// Prints every attempt.
pub fn list() -> Done {
    let all: Vec<_> = attempts::all().map(|(group, attempt)| attempt.describe(group)).collect();
    Ok(writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&all)?)?)
}

/// What kind of jail an attempt is made in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jail {
    /// Everything is inherited.
    Sealed,
    /// Everything is in reach by a path.
    Compatible,
}

/// Makes one attempt, with the filter of its phase, unless filters were given up.
pub fn attempt(jail: Jail, name: &str, (phase, filtered): (Phase, bool), targets: &str) -> Done {
    let (targets, attempt) = prepare(name, targets)?;
    if jail == Jail::Compatible {
        inherit_by_path()?;
    }
    // From here on some threads may not even read.
    call!(SYS_read, descriptor::START, &mut [0_u8; 1], 1)?;
    if filtered && let Some(role) = role(jail, phase) {
        pledge(role)?;
    }
    report((attempt.run)(&targets))
}

fn prepare(name: &str, targets: &str) -> Result<(Targets, &'static Attempt), Box<dyn Error>> {
    let targets: Targets = serde_json::from_str(targets)?;
    let (_, attempt) = attempts::all().find(|(_, attempt)| attempt.name == name).ok_or("no such attempt")?;
    // A signal to either goes to nobody but one process, or to every process.
    if targets.victim <= 1 || targets.neighbour.pid <= 1 {
        return Err("there is nothing to attack".into());
    }
    Ok((targets, attempt))
}

/// The filter that a vmm installs itself, when that phase begins.
fn role(jail: Jail, phase: Phase) -> Option<Role> {
    match (phase, jail) {
        (Phase::Launch, _) => None,
        (Phase::Configure, Jail::Sealed) => Some(Role::VmmConfigureSealed),
        (Phase::Configure, Jail::Compatible) => Some(Role::VmmConfigure),
        (Phase::Run, Jail::Sealed) => Some(Role::VmmRunSealed),
        (Phase::Run, Jail::Compatible) => Some(Role::VmmRun),
        (Phase::Api, _) => Some(Role::Api),
        (Phase::Vcpu, _) => Some(Role::Vcpu),
    }
}

/// Gets what is inherited elsewhere, under the same numbers.
fn inherit_by_path() -> Done {
    for (number, own) in [(descriptor::START, 0), (descriptor::REPORT, 1), (descriptor::CONSOLE, 2)] {
        call!(SYS_dup2, own, number)?;
    }
    let paths =
        [(descriptor::IMAGE, compatible::IMAGE, libc::O_RDONLY), (descriptor::DISK, compatible::DISK, libc::O_RDWR)];
    for (number, path, flags) in paths {
        call!(SYS_dup2, open(&text(path), flags)?, number)?;
    }
    // Where the host has it.
    if let Ok(kvm) = open(&text(compatible::KVM), libc::O_RDWR) {
        call!(SYS_dup2, kvm, descriptor::KVM)?;
    }
    let stream = call!(SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0)?;
    connect(stream, compatible::STREAM.as_bytes())?;
    call!(SYS_dup2, stream, descriptor::STREAM)?;
    Ok(())
}

/// Makes one attempt in a thread of a vmm, which has no filter until the first trap.
pub fn injected(name: &str, targets: &str, descriptors: &str) -> Done {
    let (targets, attempt) = prepare(name, targets)?;
    for pair in descriptors.split(',').filter(|pair| !pair.is_empty()) {
        let (number, own) = pair.split_once('=').ok_or("no descriptor")?;
        call!(SYS_dup2, own.parse::<i32>()?, number.parse::<i32>()?)?;
    }
    sys::trap(b"");
    let tried = (attempt.run)(&targets);
    sys::trap(&serde_json::to_vec(&tried.map_or_else(Report::from, Report::Succeeded))?);
    Err("nobody holds this thread".into())
}

/// Executes a program, and waits for it and all that it leaves behind.
pub fn keep(program: &str, arguments: &[&str]) -> Done {
    call!(SYS_prctl, libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)?;
    call!(SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0)?;
    let mut command = std::process::Command::new(program);
    drop(command.args(arguments).env_clear().spawn()?);
    // Whoever reads from the program is to see its end.
    for number in 0..3 {
        call!(SYS_close, number)?;
    }
    loop {
        let mut status = [0_i32];
        match call!(SYS_wait4, -1, &mut status, 0, 0) {
            Ok(process) => {
                let line = format!("{process} {}\n", status[0]);
                call!(SYS_write, descriptor::REPORT, line.as_bytes(), line.len())?;
            }
            Err(Errno::ECHILD) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn report(tried: Tried) -> Done {
    let report = tried.map_or_else(Report::from, Report::Succeeded);
    let line = serde_json::to_vec(&report)?;
    call!(SYS_write, descriptor::REPORT, line.as_slice(), line.len())?;
    Ok(())
}

/// Is the process to attack.
pub fn victim(key: &str) -> Done {
    let key: i32 = key.parse()?;
    let marker = MARKER.as_bytes().to_vec();
    let memory = call!(SYS_shmget, key, 4096, libc::IPC_CREAT | libc::IPC_EXCL | 0o666)?;
    let address = call!(SYS_shmat, memory, 0, 0)?;
    sys::poke(address, &marker);
    writeln!(std::io::stdout(), "{}", marker.as_ptr().expose_provenance())?;
    // Whoever holds the other end is gone, or has seen enough.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    call!(SYS_shmctl, memory, libc::IPC_RMID, 0)?;
    std::hint::black_box(&marker);
    Ok(())
}

/// Removes what a victim would have removed.
pub fn forget(key: &str) -> Done {
    let memory = call!(SYS_shmget, key.parse::<i32>()?, 0, 0)?;
    call!(SYS_shmctl, memory, libc::IPC_RMID, 0)?;
    Ok(())
}

/// Is the vmm next door.
pub fn neighbour() -> Done {
    call!(SYS_write, descriptor::CONSOLE, MARKER.as_bytes(), MARKER.len())?;
    let mut byte = [0_u8; 1];
    while call!(SYS_read, descriptor::STREAM, &mut byte, 1)? > 0 {}
    Ok(())
}

/// Makes a storm, when the jail is complete.
pub fn storm(name: &str) -> Done {
    let storm = Storm::ALL.into_iter().find(|storm| storm.name() == name).ok_or("no such storm")?;
    call!(SYS_read, descriptor::START, &mut [0_u8; 1], 1)?;
    storms::make(storm)
}

/// Does a neighbour's work.
pub fn work() -> Done {
    const ROUNDS: u64 = 200_000;
    call!(SYS_read, descriptor::STREAM, &mut [0_u8; 1], 1)?;
    for piece in 0..u64::from(PIECES) {
        // Some memory and much arithmetic.
        let memory = vec![piece; 4096];
        let sum =
            (0..ROUNDS).fold(memory.iter().sum::<u64>(), |sum, round| std::hint::black_box(sum.rotate_left(5) ^ round));
        std::hint::black_box(sum);
        call!(SYS_write, descriptor::STREAM, b"x", 1)?;
    }
    Ok(())
}

/// An attempt has executed a program.
pub fn executed() -> Done {
    report(Ok("another program runs".to_owned()))
}

/// An attempt has executed a program that belongs to root and has the set-user-ID bit.
pub fn executed_as_root() -> Done {
    if call!(SYS_geteuid)? == 0 {
        return report(Ok("the program runs as root".to_owned()));
    }
    report(Err(Errno::EPERM.into()))
}
