//! Records which rules of the filters are used by programs that run, and tells those that are not.
//!
//! ```text
//! seccomp-recorder record FOLDER PROGRAM [ARGUMENT...]   becomes PROGRAM, recorded in FOLDER with all that it starts
//! seccomp-recorder parents FOLDER PROGRAM [ARGUMENT...]  the same, without what the processes start that it starts
//! seccomp-recorder launch FOLDER PROGRAM [ARGUMENT...]   the same under the launch filter, and without an environment
//! seccomp-recorder launch-compatible FOLDER ...          the same under the launch filter of a compatible jail
//! seccomp-recorder check FOLDER LIST                     compares what FOLDER has with the LIST of rules that nothing uses
//! ```
//! The programs are those that are shipped, under their own filters: a tracer (ptrace(2)) sees each system call just before
//! the filters do. It is no child and no parent of what it traces, and does not take its place: process ids, descriptors,
//! streams and exit codes are as without it.

mod check;
mod filters;
mod record;
mod start;
mod sys;
mod tracer;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use seccomp_filters::Role;
use start::{Start, StartError};
use tracer::Extent;

const USAGE: &str =
    "usage: seccomp-recorder record|parents|launch|launch-compatible FOLDER PROGRAM [ARGUMENT...] | check FOLDER LIST";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(|argument| argument.to_str().unwrap_or_default()).collect();
    match words.as_slice() {
        [mode @ ("record" | "parents" | "launch" | "launch-compatible"), _, _, ..] => {
            let [_, folder, program, rest @ ..] = arguments.as_slice() else { return usage() };
            let launch = [Role::Launch, Role::LaunchCompatible].into_iter().find(|role| role.name() == *mode);
            let start = launch.map_or(Start::Plain, Start::Filtered);
            let extent = if *mode == "parents" { Extent::Children } else { Extent::All };
            failure(start::record(start, extent, Path::new(folder), Path::new(program), rest))
        }
        [start::TRACE, pid, folder] => traced(start::trace(pid, Path::new(folder), Extent::All)),
        [start::TRACE_PARENTS, pid, folder] => traced(start::trace(pid, Path::new(folder), Extent::Children)),

        ["check", folder, list] => match check::check(Path::new(folder), Path::new(list)) {
            Ok(report) => {
                print!("{report}");
                report.failures().for_each(|failure| eprintln!("error: {failure}"));
                if report.failures().next().is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            }
            Err(error) => failure(error),
        },
        _ => usage(),
    }
}

fn traced(result: Result<(), StartError>) -> ExitCode {
    result.map_or_else(failure, |()| ExitCode::SUCCESS)
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::FAILURE
}

fn failure(error: impl std::fmt::Display) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}
