//! `stockade run`: turns options into a request, runs it, and says what came of it.

mod kept;

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use stockade_supervisor::client::{Client, Notices};
use stockade_supervisor::installation::{Installation, InstallationError};
use stockade_supervisor::report::{Report, Start};
use stockade_supervisor::request::{BootMode, CommandRequest, EnvironmentEntry, RunRequest, VmName};
use stockade_supervisor::run::{Outcome, Run, run};
use stockade_supervisor::text::chain;

use crate::arguments::{CommandArguments, RunArguments};
use crate::progress::{Progress, TerminalUse, Verbosity};
use crate::{signals, terminal};

/// The command line's own part failed.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error(transparent)]
    Installation(#[from] InstallationError),
    #[error("choose a name")]
    Name(#[source] io::Error),
    #[error("--report {}", path.display())]
    Report { path: PathBuf, source: io::Error },
    #[error("prepare streams and signals")]
    Streams(#[source] io::Error),
    #[error("--without: the daemon gives up no layer of a jail; add --embedded to run without it")]
    Without,
}

/// Runs what `arguments` ask for, and returns the exit code.
pub fn execute(arguments: RunArguments) -> u8 {
    let executed = execute_or_explain(arguments);
    executed.unwrap_or_else(|error| {
        say(&chain(&error));
        Outcome::FAILED
    })
}

fn execute_or_explain(arguments: RunArguments) -> Result<u8, SetupError> {
    let report = arguments.report.as_deref().map(ReportFile::create).transpose()?;
    let place = Place::choose(&arguments)?;
    let verbosity = if arguments.verbose { Verbosity::Verbose } else { Verbosity::Quiet };
    let request = request(arguments)?;
    let terminal_use = if request.command.terminal.is_some() { TerminalUse::Raw } else { TerminalUse::Plain };
    let mut progress = Progress::new(verbosity, terminal_use);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(SetupError::Streams)?;
    let finished = runtime.block_on(async {
        let mut client = client(signals::notices()?)?;
        Ok(match &place {
            Place::Embedded(installation) => run(&request, installation, &mut client, &mut progress).await,
            Place::Daemon(daemon) => kept::run(&request, daemon, &mut client, &mut progress).await,
        })
    });
    // A thread may still wait for somebody to type something.
    runtime.shutdown_background();
    terminal::restore();
    let finished = finished.map_err(SetupError::Streams)?;

    let mut code = finished.report.exit_code;
    explain(&finished, verbosity, &place);
    if let Some(report) = report
        && let Err(error) = report.write(&finished.report)
    {
        say(&chain(&error));
        code = Outcome::FAILED;
    }
    Ok(code)
}

/// Who keeps the virtual machine.
enum Place {
    /// This process, with these programs.
    Embedded(Installation),
    /// The daemon.
    Daemon(stockade_client::Client),
}

impl Place {
    /// What was asked for by name; or else the daemon if there is one, unless the caller is root and can do all of it, or has
    /// named programs to use instead of the daemon's.
    fn choose(arguments: &RunArguments) -> Result<Self, SetupError> {
        let daemon = || Self::Daemon(stockade_client::Client::new(&arguments.socket));
        if arguments.daemon {
            return Ok(daemon());
        }
        let own = arguments.embedded || arguments.binaries.is_some() || rustix::process::geteuid().is_root();
        if own || UnixStream::connect(&arguments.socket).is_err() {
            let named = arguments.binaries.clone().map(Installation::at);
            return Ok(Self::Embedded(named.map_or_else(Installation::find, Ok)?));
        }
        if arguments.without.is_empty() { Ok(daemon()) } else { Err(SetupError::Without) }
    }
}

/// The command that `arguments` are about.
pub fn command(arguments: CommandArguments) -> CommandRequest {
    let shell_on_terminal = arguments.command.is_empty() && terminal::is_interactive();
    let with_terminal = arguments.terminal || shell_on_terminal;
    let mut environment = arguments.env;
    if with_terminal {
        // First, so that an option overrides it.
        environment.splice(0..0, EnvironmentEntry::parse("TERM".as_ref(), |name| std::env::var_os(name)).ok());
    }
    CommandRequest {
        arguments: arguments.command,
        environment,
        directory: arguments.workdir,
        terminal: with_terminal.then(terminal::size),
        timeout: arguments.timeout,
    }
}

fn request(arguments: RunArguments) -> Result<RunRequest, SetupError> {
    Ok(RunRequest {
        name: arguments.name.map_or_else(VmName::random, Ok).map_err(SetupError::Name)?,
        cpus: arguments.cpus,
        memory: arguments.memory,
        kernel: arguments.kernel,
        initramfs: arguments.initramfs,
        root: arguments.rootfs,
        command: command(arguments.command),
        copy_in: arguments.copy_in,
        copy_out: arguments.copy_out,
        boot: if arguments.cold { BootMode::Always } else { BootMode::IfNeeded },
        without: arguments.without,
    })
}

/// The caller, as whoever runs a command for it sees it.
pub fn client(notices: Notices) -> io::Result<Client> {
    let duplicate = |stream: &dyn AsFd| -> io::Result<OwnedFd> { stream.as_fd().try_clone_to_owned() };
    Ok(Client {
        input: duplicate(&io::stdin())?,
        output: duplicate(&io::stdout())?,
        error: duplicate(&io::stderr())?,
        notices,
    })
}

/// Says on standard error what the exit code means, and what else the caller has to know.
fn explain(finished: &Run, verbosity: Verbosity, place: &Place) {
    let report = &finished.report;
    if verbosity == Verbosity::Verbose {
        match &report.start {
            Some(Start::Warm) => say("the guest was cloned from one that had booted"),
            Some(Start::Cold { because }) => say(&format!("the guest booted: {because}")),
            None => {}
        }
        if matches!(place, Place::Daemon(_)) {
            say(&format!("the daemon kept the virtual machine {}", report.name));
        }
        for layer in &report.confinement {
            let state = if layer.enforced { "on" } else { "OFF" };
            let name = serde_json::to_value(layer.layer).unwrap_or_default();
            say(&format!("{:<15} {state:<3} {}", name.as_str().unwrap_or_default(), layer.detail));
        }
    } else {
        let given_up = report.confinement.iter().filter(|layer| !layer.enforced);
        for layer in given_up {
            let name = serde_json::to_value(layer.layer).unwrap_or_default();
            say(&format!("the jail was built without {} ({})", name.as_str().unwrap_or_default(), layer.detail));
        }
    }
    if !finished.console.is_empty() {
        say("the guest's console ended with:");
        for line in &finished.console {
            write_error_line(&format!("  {line}"));
        }
    }
    for warning in &report.warnings {
        say(warning);
    }
    match &finished.outcome {
        Ok(outcome) => outcome.message().iter().for_each(|message| say(message)),
        Err(error) => say(&chain(error)),
    }
}

/// Says one line about the run on standard error.
pub fn say(line: &str) {
    write_error_line(&format!("stockade: {line}"));
}

/// Standard error may be a full disk or gone; there is nobody to tell then.
pub fn write_error_line(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Where the report goes: opened before the run, so that a path that makes no sense costs nothing.
struct ReportFile {
    path: PathBuf,
    file: File,
}

impl ReportFile {
    fn create(path: &Path) -> Result<Self, SetupError> {
        let file = File::create(path).map_err(|source| SetupError::Report { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), file })
    }

    fn write(mut self, report: &Report) -> Result<(), SetupError> {
        let mut write = || -> io::Result<()> {
            let mut text = serde_json::to_vec_pretty(report)?;
            text.push(b'\n');
            self.file.write_all(&text)
        };
        write().map_err(|source| SetupError::Report { path: self.path.clone(), source })
    }
}
