//! `stockaded`: keeps virtual machines that outlive it.
//!
//! Who I am: root. What I hold: the lock on my folders, the control socket's listener, and a connection to the warden of each
//! machine. I read vm.conf, which is root's, open files with the rights of who named them, and start jailers. I read nothing
//! that a client or a guest has written: `control`, which is this program again and can do nothing, does that, and asks me.
//! If I die, everything runs on, and the next one of me takes over.

#![forbid(unsafe_code)]

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use log::{LevelFilter, Log, Metadata, Record};
use stockade_config::host::RealHost;
use stockade_config::{Style, Verbosity, check};
use stockaded::arguments::Arguments;
use stockaded::daemon;
use stockaded::roles::Role;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_log(arguments.verbose);
    let result = match arguments.role.as_deref() {
        Some(name) => match Role::find(name) {
            Some(role) => (role.run)(arguments.empty.as_deref().unwrap_or(Path::new("/"))),
            None => Err(format!("--role {name}: there is no such role")),
        },
        None if arguments.check => return check_configuration(&arguments),
        None => daemon::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            log::error!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn check_configuration(arguments: &Arguments) -> ExitCode {
    let verbosity = if arguments.verbose > 0 { Verbosity::Verbose } else { Verbosity::Brief };
    let output = &mut std::io::stderr().lock();
    match check(&RealHost, &arguments.configuration(), verbosity, Style::Plain, output) {
        Ok(verdict) => ExitCode::from(verdict.exit_code()),
        Err(_) => ExitCode::FAILURE,
    }
}

/// Standard error, where the service manager keeps it.
struct StandardError;

static LOG: StandardError = StandardError;

impl Log for StandardError {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("stockade")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            // One that can't be written is lost.
            let _ = writeln!(std::io::stderr(), "stockaded: {}", record.args());
        }
    }

    fn flush(&self) {}
}

fn start_log(verbose: u8) {
    log::set_max_level(if verbose > 0 { LevelFilter::Debug } else { LevelFilter::Info });
    // Fails if there is a log already, which is this one.
    let _ = log::set_logger(&LOG);
}
