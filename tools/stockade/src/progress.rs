//! What the user sees while a run goes on: on a terminal the current phase, with `--verbose` the time of each, else nothing.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use stockade_supervisor::phases::{Observer, Phase};

use crate::terminal;

/// A phase that is shorter than this is not shown, so that nothing flickers.
const PATIENCE: Duration = Duration::from_millis(150);

/// Shows phases, and gives the terminal to the command while it runs.
#[derive(Debug)]
pub struct Progress {
    spinner: Option<ProgressBar>,
    verbose: bool,
    raw: bool,
}

/// Whether every phase leaves a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verbosity {
    /// Only what takes long, while it takes long.
    Quiet,
    /// The time of each phase.
    Verbose,
}

/// Whether the command gets the caller's terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TerminalUse {
    /// It has pipes, and the terminal stays as it is.
    Plain,
    /// It has a terminal, and the caller's is raw meanwhile.
    Raw,
}

impl Progress {
    /// Shows nothing yet.
    pub fn new(verbosity: Verbosity, terminal_use: TerminalUse) -> Self {
        let spinner = std::io::stderr().is_terminal().then(|| {
            let spinner = ProgressBar::new_spinner();
            spinner.set_style(ProgressStyle::default_spinner());
            spinner
        });
        Self { spinner, verbose: verbosity == Verbosity::Verbose, raw: terminal_use == TerminalUse::Raw }
    }
}

impl Observer for Progress {
    fn began(&mut self, phase: Phase) {
        if phase == Phase::Command {
            if let Some(spinner) = &self.spinner {
                spinner.disable_steady_tick();
                spinner.finish_and_clear();
            }
            if self.raw
                && let Err(error) = terminal::make_raw()
            {
                eprintln!("stockade: make the terminal raw: {error}");
            }
        } else if let Some(spinner) = &self.spinner {
            spinner.reset();
            spinner.set_message(description(phase));
            spinner.enable_steady_tick(PATIENCE);
        }
    }

    fn ended(&mut self, phase: Phase, duration: Duration) {
        terminal::restore();
        if let Some(spinner) = &self.spinner {
            spinner.disable_steady_tick();
            spinner.finish_and_clear();
        }
        if self.verbose {
            eprintln!("stockade: {:<8} {:>9.1} ms", phase.name(), duration.as_secs_f64() * 1000.0);
        }
    }
}

fn description(phase: Phase) -> &'static str {
    match phase {
        Phase::Jail => "building the jail",
        Phase::Kvm => "making the virtual machine",
        Phase::Load => "loading the guest",
        Phase::Resume => "waking the guest",
        Phase::Kernel => "booting the guest",
        Phase::Agent => "preparing the guest",
        Phase::CopyIn => "copying to the guest",
        Phase::Command => "running the command",
        Phase::CopyOut => "copying from the guest",
        Phase::Stop => "cleaning up",
    }
}
