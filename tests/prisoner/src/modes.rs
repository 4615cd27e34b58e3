//! What the program does, by the mode that it was started in.

use std::error::Error;
use std::io::Write;

use nix::errno::Errno;
use seccomp_filters::{Role, pledge};
use stockade_prisoner::{MARKER, Phase, Report, Targets, descriptor};

use crate::attempt::Tried;
use crate::attempts;
use crate::sys::{self, call};

type Done = Result<(), Box<dyn Error>>;

/// Prints every attempt.
pub fn list() -> Done {
    let all: Vec<_> = attempts::all().map(|(group, attempt)| attempt.describe(group)).collect();
    Ok(writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&all)?)?)
}

/// Makes one attempt, with the filter of its phase, unless filters were given up.
pub fn attempt(name: &str, (phase, filtered): (Phase, bool), targets: &str) -> Done {
    let targets: Targets = serde_json::from_str(targets)?;
    let (_, attempt) = attempts::all().find(|(_, attempt)| attempt.name == name).ok_or("no such attempt")?;
    // A signal to either goes to nobody but one process, or to every process.
    if targets.victim <= 1 || targets.neighbour.pid <= 1 {
        return Err("there is nothing to attack".into());
    }
    // From here on some threads may not even read.
    call!(SYS_read, descriptor::START, &mut [0_u8; 1], 1)?;
    if filtered && let Some(role) = role(phase) {
        pledge(role)?;
    }
    report((attempt.run)(&targets))
}

/// The filter that a vmm installs itself, when that phase begins.
fn role(phase: Phase) -> Option<Role> {
    match phase {
        Phase::Launch => None,
        Phase::Configure => Some(Role::VmmConfigureSealed),
        Phase::Run => Some(Role::VmmRunSealed),
        Phase::Api => Some(Role::Api),
        Phase::Vcpu => Some(Role::Vcpu),
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
