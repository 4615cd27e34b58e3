//! The command line, as clap sees it.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser, ValueParser};
use clap::{Args, Parser, Subcommand};
use stockade_jailer::plan::Layer;
use stockade_supervisor::request::{
    CopyIn, CopyOut, Cpus, EnvironmentEntry, InvalidValue, MemorySize, RootImage, VmName, parse_layer,
};

/// Runs commands in microVMs.
#[derive(Debug, Parser)]
#[command(name = "stockade", version, about, arg_required_else_help = true)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What the command line can do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Runs a command in a virtual machine of its own, of which nothing is left afterwards
    #[command(after_help = EXIT_CODES)]
    Run(Box<RunArguments>),

    /// Shows what confines a virtual machine or any process: each layer, read back from the kernel
    #[command(after_help = INSPECT_EXIT_CODES)]
    Inspect(InspectArguments),

    /// Attacks the jails of this host, and shows what comes of it
    #[command(after_help = DOCTOR_EXIT_CODES)]
    Doctor(DoctorArguments),
}

const EXIT_CODES: &str = "\
Exit code:
  that of the command, or
  128+n  signal n ended the command
  124    the command took longer than --timeout
  125    stockade itself failed
  126    the command could not be executed
  127    the command was not found
One line on standard error says which, unless it is the command's own.

Examples:
  stockade run -- uname -a
  stockade run -t
  stockade run --rootfs debian.ext4:rw --memory 1G -- apt-get update
  stockade run --copy-in src:/src --copy-out /src/out:out --workdir /src -- make";

const INSPECT_EXIT_CODES: &str = "\
Exit code:
  0      every layer is on, as the jailer meant it
  3      a layer is weak, off, or not known to be on
  125    stockade itself failed: there is no such virtual machine or process, or it can't be looked at

What the kernel shows of no other process is what the jailer recorded: Landlock. A process that is in no jail of
Stockade's has no record.

Examples:
  stockade inspect build-17
  stockade inspect $(pidof firecracker)
  stockade inspect --json build-17 | jq .verdict.layers";

const DOCTOR_EXIT_CODES: &str = "\
Exit code:
  0      no attempt succeeded with every layer on
  3      at least one did, or ended so that nobody can say; it is named
  125    stockade itself failed, and nothing is known

A hostile program takes the vmm's place in jails that are made for that, one for each attempt. It is after files,
processes, sockets and a virtual machine that are made for it as well; nothing else of the host is touched. It takes
root, and about half a minute, with --matrix a minute more.

With --matrix, jails lack one layer each, so the program has more rights there than any vmm ever has.

Examples:
  stockade doctor --attack
  stockade doctor --attack --matrix
  stockade doctor --attack --json | jq '.verdicts[] | select(.outcome == \"succeeded\")'";

/// Options of `stockade doctor`.
#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// Make every attempt of the hostile suite, with every layer on, in each phase of a vmm's life
    #[arg(long, required = true)]
    pub attack: bool,

    /// Make them once more with each single layer taken away, and show what only one layer stops
    #[arg(long)]
    pub matrix: bool,

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

/// Options of `stockade inspect`.
#[derive(Debug, Args)]
pub struct InspectArguments {
    /// Name of a virtual machine that `stockade run --name` started, or the number of any process
    #[arg(value_name = "VM|PID")]
    pub subject: String,

    /// Print everything that was found, as JSON
    #[arg(long)]
    pub json: bool,
}

/// Options of `stockade run`.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// Command and its arguments; an interactive shell if there is none
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<OsString>,

    /// Give the command a terminal; done by itself for a shell on a terminal
    #[arg(short = 't', long)]
    pub terminal: bool,

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

    /// Set a variable of the command, or pass on one's own
    #[arg(long, short = 'e', value_name = "NAME[=VALUE]", value_parser = os(environment_entry))]
    pub env: Vec<EnvironmentEntry>,

    /// Working directory of the command
    #[arg(long, short = 'w', value_name = "DIRECTORY", value_parser = os(directory))]
    pub workdir: Option<PathBuf>,

    /// Copy a file or tree to the guest before the command
    #[arg(long, value_name = "HOST:GUEST", value_parser = os(CopyIn::parse))]
    pub copy_in: Vec<CopyIn>,

    /// Copy a file or tree from the guest after the command
    #[arg(long, value_name = "GUEST:HOST", value_parser = os(CopyOut::parse))]
    pub copy_out: Vec<CopyOut>,

    /// Name of the virtual machine and host name of the guest; random if not given
    #[arg(long, value_name = "NAME")]
    pub name: Option<VmName>,

    /// End the command after this time, for instance 30s or 5m
    #[arg(long, value_name = "TIME", value_parser = timeout)]
    pub timeout: Option<Duration>,

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
    use clap::CommandFactory;

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
    fn options_end_where_the_command_begins() {
        let parsed = run(&["--cpus", "2", "ls", "--cpus", "-t"]).unwrap();
        assert_eq!((parsed.cpus.get(), parsed.terminal), (2, false));
        assert_eq!(parsed.command, ["ls", "--cpus", "-t"]);
        assert_eq!(run(&["--", "-t", "--", "x"]).unwrap().command, ["-t", "--", "x"]);
        assert!(run(&["-t"]).unwrap().command.is_empty());
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
        assert_eq!(parsed.env.len(), 2);
        assert_eq!(parsed.without, [Layer::Uid, Layer::Root]);
    }
}
