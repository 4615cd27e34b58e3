//! The command line of Stockade.
//!
//! Who I am: the caller, with the caller's rights. What I hold: the caller's streams and the files that the caller names.
//! `stockade run` carries a supervisor in itself: it leases a user id, opens every file, and hands all of it to
//! `stockade-jailer` as descriptors. If I die, however suddenly, the jailer's warden sees its control socket close, kills the
//! virtual machine and removes what was made for it. The verbs of `machines` ask `stockaded`, over its socket, and hold nothing.

#![forbid(unsafe_code)]

mod arguments;
mod create;
mod doctor;
mod exec;
mod failure;
mod generate;
mod inspect;
mod machines;
mod progress;
mod run;
mod signals;
mod terminal;
mod warm;

use std::process::ExitCode;

use clap::Parser;
use stockade_supervisor::run::Outcome;

use arguments::{Arguments, Verb};

fn main() -> ExitCode {
    restore_terminal_on_panic();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            match arguments::ambiguity(&error) {
                Some(verbs) => run::say(&verbs),
                None => drop(error.print()),
            }
            return if error.use_stderr() { Outcome::FAILED.into() } else { ExitCode::SUCCESS };
        }
    };
    ExitCode::from(match arguments.verb {
        Verb::Run(arguments) => run::execute(*arguments),
        Verb::Exec(arguments) => exec::execute(*arguments),
        Verb::Warm(arguments) => warm::execute(arguments),
        Verb::Inspect(arguments) => inspect::execute(&arguments),
        Verb::Doctor(arguments) => doctor::execute(&arguments),
        Verb::Create(arguments) => create::execute(&arguments),
        Verb::Generate(arguments) => generate::execute(&arguments),
        Verb::Daemon(verb) => machines::execute(&verb),
    })
}

/// A panic ends this program as an error of Stockade's own, and not with a raw terminal.
fn restore_terminal_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        terminal::restore();
        run::say(&format!("internal error, please report it: {panic}"));
        std::process::exit(Outcome::FAILED.into());
    }));
}
