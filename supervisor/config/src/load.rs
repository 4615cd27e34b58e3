//! Files to configurations: the whole way, and the check of the daemon's `-n`.

use std::io;
use std::path::{Path, PathBuf};

use crate::check::{Mode, check as check_tree};
use crate::diagnostic::{Diagnostic, Report, Severity, Style};
use crate::host::Host;
use crate::lexer::{self, Macro};
use crate::model::Config;
use crate::syntax;

/// Where the configuration is if nothing else is said.
pub const DEFAULT_PATH: &str = "/etc/stockade/vm.conf";

/// Which file, and what is known besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// The file.
    pub path: PathBuf,
    /// Macros of the command line.
    pub macros: Vec<Macro>,
}

impl Default for Input {
    fn default() -> Self {
        Self { path: PathBuf::from(DEFAULT_PATH), macros: Vec::new() }
    }
}

/// A configuration that can be used, and what is suspicious about it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Warnings, if there are any.
    pub report: Report,
}

/// A configuration that can't be used. It changes nothing.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{report}")]
pub struct Rejected {
    /// What is wrong: at least one error.
    pub report: Report,
}

/// Reads a whole configuration, as for the start of the daemon and `reload`. A file that is not there is an empty configuration, with a warning unless it
/// is [`DEFAULT_PATH`].
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(host: &dyn Host, input: &Input) -> Result<Loaded, Rejected> {
    read(host, input, Mode::Whole)
}

/// Reads a file that adds to `current`, as for `load FILE`: the result is both together. What is there already may be there again, if it is the same.
///
/// # Errors
/// Everything that is wrong with it, also together with `current`.
pub fn load_beside(host: &dyn Host, input: &Input, current: &Config) -> Result<Loaded, Rejected> {
    read(host, input, Mode::Beside(current))
}

fn read(host: &dyn Host, input: &Input, mode: Mode<'_>) -> Result<Loaded, Rejected> {
    let mut report = Report::default();
    let failed = |severity, error: &io::Error| {
        Diagnostic::new(severity, format!("failed to open {}: {error}", input.path.display()))
    };
    let bytes = match (host.read(&input.path), mode) {
        (Ok(bytes), _) => bytes,
        (Err(error), Mode::Whole) if error.kind() == io::ErrorKind::NotFound => {
            if input.path != Path::new(DEFAULT_PATH) {
                report.push(failed(Severity::Warning, &error));
            }
            return Ok(Loaded { config: Config::default(), report });
        }
        (Err(error), _) => {
            report.push(failed(Severity::Error, &error));
            return Err(Rejected { report });
        }
    };
    let tokens = lexer::read(host, &input.path, &bytes, &input.macros, &mut report);
    let tree = syntax::parse(&tokens, &mut report);
    let config = check_tree(&tree, host, mode, &mut report);
    if report.errors() == 0 { Ok(Loaded { config, report }) } else { Err(Rejected { report }) }
}

/// How much is said about a configuration that is good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// That it is.
    #[default]
    Brief,
    /// What is in it, and what can't be started yet.
    Verbose,
}

/// Outcome of a [`check()`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// `configuration OK`: exit code 0.
    Good,
    /// Exit code 1.
    Bad,
}

impl Verdict {
    /// The exit code of `stockaded -n`.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Bad => 1,
        }
    }
}

/// `stockaded -n [-f FILE] [-D NAME=VALUE] [-v]`: checks a configuration with every rule there is, and says to `output` (standard error) what comes of it.
///
/// # Errors
/// The output can't be written.
pub fn check(
    host: &dyn Host,
    input: &Input,
    verbosity: Verbosity,
    style: Style,
    output: &mut dyn io::Write,
) -> io::Result<Verdict> {
    match load(host, input) {
        Err(Rejected { report }) => {
            output.write_all(report.render(style).as_bytes())?;
            let count = report.errors();
            writeln!(output, "configuration has {count} {}", if count == 1 { "error" } else { "errors" })?;
            Ok(Verdict::Bad)
        }
        Ok(Loaded { config, report }) => {
            output.write_all(report.render(style).as_bytes())?;
            if verbosity == Verbosity::Verbose {
                describe(&config, output)?;
            }
            writeln!(output, "configuration OK")?;
            Ok(Verdict::Good)
        }
    }
}

fn describe(config: &Config, output: &mut dyn io::Write) -> io::Result<()> {
    for switch in &config.switches {
        writeln!(output, "switch \"{}\" registered", switch.name)?;
    }
    for vm in &config.vms {
        let state = match vm.start {
            crate::model::StartPolicy::Enabled => "enabled",
            crate::model::StartPolicy::Disabled => "disabled",
        };
        writeln!(output, "vm \"{}\" registered ({state})", vm.name)?;
        for missing in vm.definition.missing() {
            writeln!(output, "vm \"{}\" can't be started: {missing}", vm.name)?;
        }
    }
    Ok(())
}
