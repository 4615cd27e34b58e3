//! Processes: the one that becomes the vmm, and the one that was started, if that is another one.

use std::io::{self, PipeReader, PipeWriter, Read, Write};

use nix::sched::{CloneFlags, unshare};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{ForkResult, getpid, getsid, setsid};

use super::arguments::{Arguments, Processes, Session};
use crate::error::{JailError, Step};
use crate::sys;

/// Which of the processes this is.
#[derive(Debug)]
pub(super) enum Part {
    /// The one that becomes the vmm.
    Vmm(Vmm),
    /// The one that was started.
    Launcher(Launcher),
}

/// What the process that becomes the vmm knows.
#[derive(Debug, Default)]
pub(super) struct Vmm {
    /// Where the launcher, if there is one, hears why there is no vmm. Silence until it is closed means that there is.
    report: Option<PipeWriter>,
    /// Processor time of those before, microseconds.
    earlier_us: u64,
}

impl Vmm {
    /// Says why there is no vmm to the launcher, or returns it if there is none.
    pub(super) fn fail(self, message: String) -> Result<(), String> {
        match self.report {
            // A launcher that is gone has nobody to tell it to either.
            Some(mut report) => {
                let _ = report.write_all(message.as_bytes());
                Ok(())
            }
            None => Err(message),
        }
    }

    /// Processor time that the jailer has used so far, microseconds.
    pub(super) fn processor_time_us(&self) -> u64 {
        self.earlier_us.saturating_add(now_us(ClockId::CLOCK_PROCESS_CPUTIME_ID))
    }
}

/// The process that was started, while another one becomes the vmm.
#[derive(Debug)]
pub(super) struct Launcher(PipeReader);

impl Launcher {
    /// Waits until there is a vmm, or none.
    pub(super) fn wait(mut self) -> Result<(), String> {
        let mut message = String::new();
        self.0.read_to_string(&mut message).map_err(|error| format!("hear from the vmm's process: {error}"))?;
        if message.is_empty() { Ok(()) } else { Err(message) }
    }
}

/// Makes the process that becomes the vmm, if that can't be this one.
///
/// # Errors
/// The step that failed, with what the process that it failed in knows.
pub(super) fn split(arguments: &Arguments) -> Result<Part, (Vmm, JailError)> {
    let mut vmm = Vmm::default();
    if arguments.session == Session::Inherited && arguments.processes == Processes::Host {
        return Ok(Part::Vmm(vmm));
    }
    match try_split(arguments, &mut vmm) {
        Ok(Some(launcher)) => Ok(Part::Launcher(launcher)),
        Ok(None) => Ok(Part::Vmm(vmm)),
        Err(error) => Err((vmm, error)),
    }
}

/// Returns the launcher in the process that was started, and nothing in the one that becomes the vmm. Those in the middle end.
fn try_split(arguments: &Arguments, vmm: &mut Vmm) -> Result<Option<Launcher>, JailError> {
    let (hear, say) = io::pipe().step("make a pipe")?;
    let (mut hear, mut say) = (Some(hear), Some(say));
    let leads_session = getsid(None).step("ask for the session")? == getpid();
    if arguments.session == Session::Own {
        if step_aside(vmm, &mut say).step("--daemonize: fork")? {
            return Ok(hear.map(Launcher));
        }
        hear = None;
        setsid().step("--daemonize: begin a session")?;
        // A second time, because who leads a session can get a terminal.
        if step_aside(vmm, &mut say).step("--daemonize: fork")? {
            std::process::exit(0);
        }
    }
    if arguments.processes == Processes::Own {
        unshare(CloneFlags::CLONE_NEWPID).step("--new-pid-ns: make a PID namespace")?;
        if step_aside(vmm, &mut say).step("--new-pid-ns: fork")? {
            return hear.map(Launcher).map_or_else(|| std::process::exit(0), |launcher| Ok(Some(launcher)));
        }
        if leads_session && arguments.session == Session::Inherited {
            // The end of the launcher, which leads the session, would be a hangup for the vmm.
            setsid().step("--new-pid-ns: begin a session")?;
        }
    }
    Ok(None)
}

/// Continues in a new process, which has the end of the pipe to say something to the launcher. Returns whether this is the old one.
fn step_aside(vmm: &mut Vmm, say: &mut Option<PipeWriter>) -> io::Result<bool> {
    let used = vmm.processor_time_us();
    match sys::split(None)? {
        ForkResult::Parent { .. } => Ok(true),
        ForkResult::Child => {
            vmm.report = say.take().or(vmm.report.take());
            vmm.earlier_us = used;
            Ok(false)
        }
    }
}

/// Microseconds on a clock.
pub(super) fn now_us(clock: ClockId) -> u64 {
    let Ok(now) = clock_gettime(clock) else { return 0 };
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec()).unwrap_or(0);
    seconds.saturating_mul(1_000_000).saturating_add(nanoseconds / 1000)
}
