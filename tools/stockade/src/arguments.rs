//! The command line, as clap sees it.

mod help;
mod interfaces;
mod machines;
mod values;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser, ValueParser};
use clap::error::{ContextKind, ContextValue};
use clap::{Args, CommandFactory, Parser, Subcommand};
use stockade_attack::Mode;
use stockade_client::DEFAULT_SOCKET;
use stockade_jailer::plan::Layer;
use stockade_supervisor::request::{
    CopyIn, CopyOut, Cpus, EnvironmentEntry, InvalidValue, MemorySize, RootImage, VmName, parse_layer,
};
use stockade_supervisor::text::printable;

#[cfg(test)]
pub use help::EXIT_CODES;
pub use machines::{
    ConsoleArguments, DaemonOptions, EventsArguments, ExecArguments, LoadArguments, LogArguments, LogsArguments,
    OneArguments, PsArguments, ReloadArguments, ResetArguments, StartArguments, StatusArguments, StopArguments,
    SwitchesArguments,
};
pub use values::{DiskSize, ImageFormat, NewImage};

/// Runs commands and virtual machines, each in a jail of its own.
///
/// Verbs may be shortened as long as it is clear which one is meant.
#[derive(Debug, Parser)]
#[command(name = "stockade", version, about, arg_required_else_help = true, infer_subcommands = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What the command line can do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Runs a command in a virtual machine of its own, of which nothing is left afterwards
    #[command(after_help = help::RUN)]
    Run(Box<RunArguments>),

    /// Boots a guest once and keeps it, for runs with as many processors and as much memory to start from
    #[command(after_help = WARM_HELP)]
    Warm(WarmArguments),

    /// Shows what confines a virtual machine or any process: each layer, read back from the kernel
    #[command(after_help = help::INSPECT)]
    Inspect(InspectArguments),

    /// Attacks the jails of this host, and shows what comes of it
    #[command(after_help = help::DOCTOR)]
    Doctor(DoctorArguments),

    /// What the daemon carries out.
    #[command(flatten)]
    Daemon(DaemonVerb),

    /// Runs a command in a virtual machine that the daemon keeps, through the agent of its guest
    #[command(after_help = help::EXEC)]
    Exec(Box<ExecArguments>),

    /// Makes the image of a disk
    #[command(after_help = help::CREATE)]
    Create(CreateArguments),

    /// Writes man pages and shell completions
    #[command(hide = true)]
    Generate(GenerateArguments),
}

/// What the daemon carries out.
#[derive(Debug, Subcommand)]
pub enum DaemonVerb {
    /// Shows the virtual machines that the daemon knows
    #[command(visible_alias = "show", after_help = help::STATUS)]
    Status(StatusArguments),

    /// Shows the virtual machines that run
    #[command(after_help = help::PS)]
    Ps(PsArguments),

    /// Shows the switches of vm.conf, and the host's bridges in their place
    #[command(after_help = help::SWITCHES)]
    Switches(SwitchesArguments),

    /// Starts a virtual machine: one that is known, or one that the options describe
    #[command(after_help = help::START)]
    Start(Box<StartArguments>),

    /// Stops a virtual machine
    #[command(after_help = help::STOP)]
    Stop(StopArguments),

    /// Waits until a virtual machine does not run any more, and says how it ended
    #[command(after_help = help::WAIT)]
    Wait(OneArguments),

    /// Has a guest stand still
    #[command(after_help = help::PAUSE)]
    Pause(OneArguments),

    /// Has a guest go on that stands still
    #[command(after_help = help::PAUSE)]
    Unpause(OneArguments),

    /// Has the daemon read vm.conf again; if there is a mistake in it, nothing changes
    #[command(after_help = help::RELOAD)]
    Reload(ReloadArguments),

    /// Has the daemon read another file, and add what it defines
    #[command(after_help = help::LOAD)]
    Load(LoadArguments),

    /// Has the daemon forget what was configured, and end what runs of it
    #[command(after_help = help::RESET)]
    Reset(ResetArguments),

    /// Says how much the daemon logs
    #[command(after_help = help::LOG)]
    Log(LogArguments),

    /// Shows what happens to virtual machines
    #[command(after_help = help::EVENTS)]
    Events(EventsArguments),

    /// Attaches to the console of a virtual machine that runs
    #[command(after_help = help::CONSOLE)]
    Console(ConsoleArguments),

    /// Shows what a guest has written to its console
    #[command(after_help = help::LOGS)]
    Logs(LogsArguments),
}

/// Options of `stockade doctor`.
#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// Make every attempt of the hostile suite, with every layer on, in each phase of a vmm's life
    #[arg(long, required = true)]
    pub attack: bool,

    /// Make them once more with each single layer and namespace taken away, and show what only one of them stops
    #[arg(long)]
    pub matrix: bool,

    /// In sealed jails, or in those that take the place of Firecracker's; in both if not given
    #[arg(long, value_name = "sealed|compatible", value_parser = mode)]
    pub mode: Option<Mode>,

    /// Print attempts and verdicts as JSON
    #[arg(long)]
    pub json: bool,

    /// Beginning of the names of jails and files; doctor- and a number if not given
    #[arg(long, value_name = "NAME")]
    pub name: Option<VmName>,

    /// Folder with stockade-jailer and stockade-prisoner; the one that stockade itself is in, or /usr/lib/stockade
    #[arg(long, value_name = "DIRECTORY", env = "STOCKADE_BINARIES", hide_env_values = true)]
    pub binaries: Option<PathBuf>,
}

fn mode(text: &str) -> Result<Mode, String> {
    let named = Mode::ALL.into_iter().find(|mode| mode.name() == text);
    named.ok_or_else(|| "give sealed or compatible".to_owned())
}

/// Options of `stockade create`.
#[derive(Debug, Args)]
pub struct CreateArguments {
    /// Where; qcow2: before it, or .qcow2 at its end, stand for another format than raw
    #[arg(value_name = "[FORMAT:]PATH", value_parser = os(NewImage::parse))]
    pub image: NewImage,

    /// Size of the disk, for instance 10G
    #[arg(short, long, value_name = "SIZE", required_unless_present_any = ["input", "base"])]
    pub size: Option<DiskSize>,

    /// Copy this image to it, which may be smaller
    #[arg(short, long, value_name = "IMAGE", conflicts_with = "base")]
    pub input: Option<PathBuf>,

    /// Record only what differs from this image, which takes the format qcow2
    #[arg(short, long, value_name = "IMAGE")]
    pub base: Option<PathBuf>,

    /// Print path, format and size as JSON; an error as well, on standard error
    #[arg(long)]
    pub json: bool,
}

/// Options of `stockade generate`.
#[derive(Debug, Args)]
pub struct GenerateArguments {
    /// Folder that gets man/, bash-completion/, zsh/ and fish/, as /usr/share has them
    #[arg(value_name = "DIRECTORY")]
    pub directory: PathBuf,
}

/// Options of `stockade inspect`.
#[derive(Debug, Args)]
pub struct InspectArguments {
    /// Name of a virtual machine that `stockade run --name` started, the number of any process, or the folder of a jail that
    /// stockade-jailer made in the place of Firecracker's: BASE/NAME/ID
    #[arg(value_name = "VM|PID|JAIL", required_unless_present = "daemon")]
    pub subject: Option<String>,

    /// Show what confines each process of the daemon
    #[arg(long, conflicts_with = "subject")]
    pub daemon: bool,

    /// Socket of the daemon, beside which it keeps what is known of its processes
    #[arg(long, value_name = "PATH", env = "STOCKADE_SOCKET", default_value = stockade_client::DEFAULT_SOCKET, hide_env_values = true)]
    pub socket: std::path::PathBuf,

    /// Print everything that was found, as JSON
    #[arg(long)]
    pub json: bool,
}

const WARM_HELP: &str = "\
The guest is saved before it has seen anything of anybody's, and kept beside the guest's kernel. Runs start from it
as long as nothing differs: Stockade's programs, kernel, initramfs, processors, memory, this host. Other runs boot, as do
those with --rootfs, --kernel, --initramfs or --cold. If what is kept still fits, nothing is done.

Examples:
  stockade warm
  stockade warm --cpus 2 --memory 1G";

/// Options of `stockade warm`.
#[derive(Debug, Args)]
pub struct WarmArguments {
    /// Virtual processors, 1 to 32
    #[arg(long, value_name = "NUMBER", default_value_t = Cpus::default())]
    pub cpus: Cpus,

    /// Memory of the guest
    #[arg(long, value_name = "SIZE", default_value_t = MemorySize::default())]
    pub memory: MemorySize,

    /// Folder with stockade-jailer, stockade-vmm and guest/; the one that stockade itself is in, or /usr/lib/stockade
    #[arg(long, value_name = "DIRECTORY", env = "STOCKADE_BINARIES", hide_env_values = true)]
    pub binaries: Option<PathBuf>,
}

/// A command, and what it gets.
#[derive(Debug, Args)]
pub struct CommandArguments {
    /// Command and its arguments; an interactive shell if there is none
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,

    /// Give the command a terminal; done by itself for a shell on a terminal
    #[arg(short = 't', long)]
    pub terminal: bool,

    /// Set a variable of the command, or pass on one's own
    #[arg(long, short = 'e', value_name = "NAME[=VALUE]", value_parser = os(environment_entry))]
    pub env: Vec<EnvironmentEntry>,

    /// Working directory of the command
    #[arg(long, short = 'w', value_name = "DIRECTORY", value_parser = os(directory))]
    pub workdir: Option<PathBuf>,

    /// End the command after this time, for instance 30s or 5m
    #[arg(long, value_name = "TIME", value_parser = timeout)]
    pub timeout: Option<Duration>,
}

/// Options of `stockade run`.
#[derive(Debug, Args)]
pub struct RunArguments {
    #[command(flatten)]
    pub command: CommandArguments,

    /// Virtual processors, 1 to 32
    #[arg(long, value_name = "NUMBER", default_value_t = Cpus::default())]
    pub cpus: Cpus,

    /// Memory of the guest
    #[arg(long, value_name = "SIZE", default_value_t = MemorySize::default())]
    pub memory: MemorySize,

    /// Boot this kernel: an ELF vmlinux or a bzImage
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,

    /// Boot with this initial RAM disk, whose /init has to be stockade-agent
    #[arg(long, value_name = "FILE")]
    pub initramfs: Option<PathBuf>,

    /// Root of the command: an ext4 or squashfs image, read-only (writes are lost) unless it ends in :rw
    #[arg(long, value_name = "IMAGE[:ro|:rw]", value_parser = os(RootImage::parse))]
    pub rootfs: Option<RootImage>,

    /// Copy a file or tree to the guest before the command
    #[arg(long, value_name = "HOST:GUEST", value_parser = os(CopyIn::parse))]
    pub copy_in: Vec<CopyIn>,

    /// Copy a file or tree from the guest after the command
    #[arg(long, value_name = "GUEST:HOST", value_parser = os(CopyOut::parse))]
    pub copy_out: Vec<CopyOut>,

    /// Name of the virtual machine and host name of the guest; random if not given
    #[arg(long, value_name = "NAME")]
    pub name: Option<VmName>,

    /// Have the daemon keep the virtual machine; done by itself if it runs, and the caller is not root
    #[arg(long, conflicts_with_all = ["embedded", "without"])]
    pub daemon: bool,

    /// Keep the virtual machine without the daemon, as its child
    #[arg(long)]
    pub embedded: bool,

    /// Socket of the daemon
    #[arg(long, value_name = "PATH", env = "STOCKADE_SOCKET", default_value = DEFAULT_SOCKET, hide_env_values = true)]
    pub socket: PathBuf,

    /// Boot the guest, even if a booted one is kept that it could be cloned from (see stockade warm)
    #[arg(long)]
    pub cold: bool,

    /// Give up a layer of the jail: cgroup, namespaces, root, resource-limits, capabilities, uid, landlock or seccomp
    #[arg(long, value_name = "LAYER", value_parser = parse_layer)]
    pub without: Vec<Layer>,

    /// Show how long each phase takes, and what confines the virtual machine
    #[arg(long, short = 'v')]
    pub verbose: bool,

    /// Write phases, confinement and outcome to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,

    /// Folder with stockade-jailer, stockade-vmm and guest/; the one that stockade itself is in, or /usr/lib/stockade
    #[arg(long, value_name = "DIRECTORY", env = "STOCKADE_BINARIES", hide_env_values = true)]
    pub binaries: Option<PathBuf>,
}

/// What is to be said of a verb that was shortened too much; nothing if `error` is about something else.
pub fn ambiguity(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(verb)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    let command = Arguments::command();
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set());
    let names = verbs.flat_map(|verb| std::iter::once(verb.get_name()).chain(verb.get_visible_aliases()));
    let mut meant: Vec<_> = names.filter(|name| name.starts_with(verb.as_str())).collect();
    meant.sort_unstable();
    let (last, others) = meant.split_last()?;
    if others.is_empty() {
        return None;
    }
    Some(format!("{}: ambiguous, it could be {} or {last}; write more of it", printable(verb), others.join(", ")))
}

/// A parser of values that need not be UTF-8.
fn os<T: Clone + Send + Sync + 'static>(parse: fn(&OsStr) -> Result<T, InvalidValue>) -> ValueParser {
    OsStringValueParser::new().try_map(move |text| parse(&text)).into()
}

fn environment_entry(text: &OsStr) -> Result<EnvironmentEntry, InvalidValue> {
    EnvironmentEntry::parse(text, |name| std::env::var_os(name))
}

fn directory(text: &OsStr) -> Result<PathBuf, InvalidValue> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err(InvalidValue::new("not an absolute path", "start it with /")) }
}

fn timeout(text: &str) -> Result<Duration, InvalidValue> {
    const REMEDY: &str = "use a time such as 30s, 5m or 1h 30m, up to a year";
    const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
    let time = humantime::parse_duration(text).map_err(|error| InvalidValue::new(error.to_string(), REMEDY))?;
    if time.is_zero() || time > YEAR {
        return Err(InvalidValue::new("out of range", REMEDY));
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arguments: &[&str]) -> Result<RunArguments, String> {
        let line = ["stockade", "run"].iter().chain(arguments);
        match Arguments::try_parse_from(line).map_err(|error| error.to_string())?.verb {
            Verb::Run(run) => Ok(*run),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn verbs_may_be_shortened_as_long_as_it_is_clear_which_one_is_meant() {
        let parse = |verb: &str| Arguments::try_parse_from(["stockade", verb, "x"]);
        assert!(matches!(parse("wai").unwrap().verb, Verb::Daemon(DaemonVerb::Wait(_))));
        assert!(matches!(parse("un").unwrap().verb, Verb::Daemon(DaemonVerb::Unpause(_))));
        assert!(matches!(parse("sh").unwrap().verb, Verb::Daemon(DaemonVerb::Status(_))));
        for (verb, meant) in
            [("sta", "start or status"), ("re", "reload or reset"), ("s", "show, start, status, stop or switches")]
        {
            assert!(ambiguity(&parse(verb).unwrap_err()).unwrap().contains(meant), "{verb}");
        }
        for verb in ["x", "runs", ""] {
            let line = parse(verb).unwrap_err();
            assert!(verb.is_empty() || ambiguity(&line).is_none(), "{verb}");
        }
    }

    #[test]
    fn options_stand_before_or_after_the_name() {
        for line in [["stop", "-fw", "web"], ["stop", "web", "-fw"]] {
            match Arguments::try_parse_from(["stockade"].iter().chain(&line)).unwrap().verb {
                Verb::Daemon(DaemonVerb::Stop(stop)) => assert!(stop.force && stop.wait && stop.vm.is_some()),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn options_end_where_the_command_begins() {
        let parsed = run(&["--cpus", "2", "ls", "--cpus", "-t"]).unwrap();
        assert_eq!((parsed.cpus.get(), parsed.command.terminal), (2, false));
        assert_eq!(parsed.command.command, ["ls", "--cpus", "-t"]);
        assert_eq!(run(&["--", "-t", "--", "x"]).unwrap().command.command, ["-t", "--", "x"]);
        assert!(run(&["-t"]).unwrap().command.command.is_empty());
    }

    #[test]
    fn a_command_for_a_virtual_machine_begins_behind_its_name() {
        for line in [&["-t", "web", "--", "ls", "-t"][..], &["-t", "web", "ls", "-t"], &["web", "-t", "--", "ls", "-t"]]
        {
            match Arguments::try_parse_from(["stockade", "exec"].iter().chain(line)).unwrap().verb {
                Verb::Exec(exec) => {
                    assert_eq!((exec.vm.to_string().as_str(), exec.command.terminal), ("web", true), "{line:?}");
                    assert_eq!(exec.command.command, ["ls", "-t"], "{line:?}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_run_is_the_daemons_or_the_callers_own() {
        assert!(run(&["--daemon", "x"]).unwrap().daemon && run(&["--embedded", "x"]).unwrap().embedded);
        assert!(run(&["--daemon", "--embedded", "x"]).is_err());
        assert!(run(&["--daemon", "--without", "uid", "x"]).unwrap_err().contains("--without"));
    }

    #[test]
    fn values_are_checked_and_errors_name_value_and_remedy() {
        for (arguments, parts) in [
            (["--cpus", "33"], ["'33'", "1 to 32"]),
            (["--memory", "1T"], ["'1T'", "256M or 2G"]),
            (["--timeout", "0s"], ["'0s'", "such as 30s"]),
            (["--timeout", "soon"], ["'soon'", "such as 30s"]),
            (["--without", "everything"], ["'everything'", "landlock"]),
            (["--workdir", "src"], ["'src'", "start it with /"]),
            (["--copy-in", "a:b"], ["'a:b'", "HOST:GUEST"]),
            (["--copy-out", "a:b"], ["'a:b'", "GUEST:HOST"]),
            (["--env", "=x"], ["'=x'", "NAME=VALUE"]),
            (["--name", "a/b"], ["'a/b'", "letters, digits"]),
        ] {
            let error = run(&arguments).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn options_that_take_lists_repeat() {
        let parsed = run(&["-e", "A=1", "-e", "B=2", "--without", "uid", "--without", "root", "x"]).unwrap();
        assert_eq!(parsed.command.env.len(), 2);
        assert_eq!(parsed.without, [Layer::Uid, Layer::Root]);
    }
}
