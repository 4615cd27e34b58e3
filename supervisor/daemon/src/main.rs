//! `stockaded`: keeps virtual machines that outlive it.
//!
//! Who I am: root. What I hold: the lock on my folders, the control socket's listener, and a connection to the warden of each
//! machine. I read vm.conf, which is root's, open files with the rights of who named them, and start jailers. I read nothing
//! that a client or a guest has written: `control`, which is this program again and can do nothing, does that, and asks me.
//! If I die, everything runs on, and the next one of me takes over.

#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use log::LevelFilter;
use stockade_config::host::RealHost;
use stockade_config::{Style, Verbosity, check};
use stockaded::arguments::Arguments;
use stockaded::daemon;
use stockaded::messages;
use stockaded::roles::Role;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_log(&arguments);
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

fn start_log(arguments: &Arguments) {
    let style = match (arguments.role.is_some(), arguments.foreground) {
        (true, _) if arguments.journal => messages::Style::Journal,
        (true, _) | (false, true) => messages::Style::Plain,
        (false, false) => messages::style_of_standard_error(),
    };
    let level = if arguments.verbose > 0 { LevelFilter::Debug } else { LevelFilter::Info };
    messages::start(style, arguments.role.as_deref(), level);
}
