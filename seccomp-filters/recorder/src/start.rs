//! Getting a tracer beside a program, without being its parent or its child.
//!
//! This process becomes the program, so it is what the tracer attaches to. The tracer is started from here, forks, and so has
//! the reaper of orphans as its parent.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::fcntl::AtFlags;
use nix::unistd::{self, Pid};
use seccomp_filters::Role;

use crate::record::Record;
use crate::tracer::{Extent, Tracer};

/// The first argument of a tracer; process id and folder follow.
pub const TRACE: &str = "trace";
/// The same for one that follows no further than [`Extent::Children`].
pub const TRACE_PARENTS: &str = "trace-parents";

/// A program that can't be recorded.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The tracer.
    #[error("start a tracer: {0}")]
    Tracer(#[source] io::Error),
    /// The process that is to be traced.
    #[error("trace process {pid}: {source}; this takes root, or a kernel where kernel.yama.ptrace_scope is 0")]
    Attach {
        /// Which.
        pid: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The program.
    #[error("execute {program}: {source}")]
    Execute {
        /// Its path.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Whether a program has a filter before it is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It has none.
    Plain,
    /// It has this one, as from the jailer.
    Filtered(Role),
}

/// Becomes the program once a tracer looks on. Returns if that can't be.
pub fn record(start: Start, extent: Extent, folder: &Path, program: &Path, arguments: &[OsString]) -> StartError {
    if let Err(error) = start_tracer(folder, extent) {
        return StartError::Tracer(error);
    }
    let source = match start {
        Start::Plain => Command::new(program).args(arguments).exec(),
        Start::Filtered(role) => match launch(role, program, arguments) {
            Ok(never) => match never {},
            Err(error) => error,
        },
    };
    StartError::Execute { program: program.display().to_string(), source }
}

/// As the jailer does.
fn launch(role: Role, program: &Path, arguments: &[OsString]) -> io::Result<Infallible> {
    let executable = File::open(program)?;
    let text = |text: &OsStr| CString::new(text.as_bytes());
    let arguments = std::iter::once(program.as_os_str()).chain(arguments.iter().map(OsString::as_os_str));
    let arguments = arguments.map(text).collect::<Result<Vec<_>, _>>()?;
    seccomp_filters::pledge(role).map_err(io::Error::other)?;
    let environment: [CString; 0] = [];
    Ok(unistd::execveat(executable, c"", &arguments, &environment, AtFlags::AT_EMPTY_PATH)?)
}

fn start_tracer(folder: &Path, extent: Extent) -> io::Result<()> {
    let mode = match extent {
        Extent::All => TRACE,
        Extent::Children => TRACE_PARENTS,
    };
    let mut tracer = Command::new(std::env::current_exe()?)
        .args([mode, &std::process::id().to_string()])
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let attached = tracer.stdout.take().map(|mut report| report.read_exact(&mut [0]));
    // It forked, so this one has ended.
    tracer.wait()?;
    attached.unwrap_or(Ok(()))
}

/// Traces a process to its end, and reports with a byte on standard output that it has begun.
///
/// # Errors
/// If it can't be traced.
pub fn trace(pid: &str, folder: &Path, extent: Extent) -> Result<(), StartError> {
    let attach = |source| StartError::Attach { pid: pid.to_owned(), source };
    let number = pid.parse().map_err(|error| attach(io::Error::other(error)))?;
    let tracer = detach()
        .and_then(|()| Record::open(folder, pid))
        .and_then(|record| Tracer::attach(Pid::from_raw(number), record, extent))
        .map_err(attach)?;
    let mut output = io::stdout();
    output.write_all(&[0]).and_then(|()| output.flush()).map_err(attach)?;
    // Nobody is told of its errors from here on but the record.
    unistd::dup2_stderr(io::stdin()).map_err(|error| attach(error.into()))?;
    tracer.follow();
    Ok(())
}

/// Lets go of the descriptors that are the program's, and of the parent.
fn detach() -> io::Result<()> {
    const FIRST: i32 = 3;
    let numbers: Vec<i32> =
        fs::read_dir("/proc/self/fd")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number >= FIRST) {
        // One was the folder's, which is closed by now.
        let _ = unistd::close(number);
    }
    Ok(unistd::daemon(true, true)?)
}
