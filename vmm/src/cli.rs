//! The command line: Firecracker's, and `--fd`.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::Path;

use lexopt::prelude::*;
use stockade_confinement::{Expectation, ExpectationError};
use stockade_vmm_api::FIRECRACKER_VERSION;
use stockade_vmm_api::id::{VmId, VmIdError};
use stockade_vmm_api::logger::Logger;

use crate::descriptors::{KVM, SnapshotFiles};
use crate::threads::Filters;

/// Where the API listens if the command line doesn't say.
pub const DEFAULT_API_SOCKET: &str = "/run/firecracker.socket";
/// Most bytes in the body of a request, if the command line doesn't say.
pub const DEFAULT_BODY_MAX_BYTES: usize = 51200;

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// A VM.
    Run(Box<Arguments>),
    /// The version.
    Version,
    /// The list of options.
    Help,
}

/// What the command line says of a VM.
#[derive(Debug)]
pub struct Arguments {
    /// Its name.
    pub id: VmId,
    /// Where the API listens: a path, or `fd:NAME`. `None` for a VM without API.
    pub api_socket: Option<String>,
    /// Most bytes in the body of a request.
    pub body_max_bytes: usize,
    /// The file with its configuration: a path, or `fd:NAME`.
    pub config_file: Option<String>,
    /// Whether the guest has a boot timer.
    pub boot_timer: bool,
    /// The log.
    pub logger: Logger,
    /// Whether system calls are filtered.
    pub filters: Filters,
    /// What the jailer says confines this process; none if there is no jailer, or none that says it.
    pub confinement: Option<Expectation>,
    /// Whether the files of a snapshot may be made while the guest runs.
    pub snapshot_files: SnapshotFiles,
    /// Inherited descriptors by name. No two have the same name or number.
    pub descriptors: Vec<(String, RawFd)>,
}

/// What is wrong with the command line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArgumentError {
    /// An unknown option, or an option without its value.
    #[error("{0}; see --help")]
    Syntax(#[from] lexopt::Error),
    /// An option that makes no sense twice.
    #[error("the argument '{0}' was given more than once; give it once")]
    Repeated(String),
    /// An option that needs another.
    #[error("the argument '{option}' needs '{needs}'; add it")]
    Needs {
        /// The option.
        option: &'static str,
        /// The other.
        needs: &'static str,
    },
    /// Files to be made by a vmm that opens no path.
    #[error(
        "the argument '--snapshot-files' has no meaning with --fd kvm=N, with which no path is opened; hand the files over: \
         --fd new_snapshot=N --fd new_memory=N"
    )]
    SnapshotFilesSealed,
    /// A value that is no number.
    #[error("{option}: {value:?} is no number from 0 to 18446744073709551615")]
    Number {
        /// The option.
        option: String,
        /// Its value.
        value: OsString,
    },
    /// What a jailer says that this vmm doesn't understand.
    #[error("{variable}: {source}; it is the jailer's to set, and has to be of the same version", variable = Expectation::VARIABLE)]
    Confinement {
        /// Why.
        source: ExpectationError,
    },
    /// A name that a VM can't have.
    #[error("--id {id:?}: {source}")]
    Id {
        /// The name.
        id: String,
        /// Why.
        source: VmIdError,
    },
    /// An unknown level.
    #[error("--level: {0}")]
    Level(#[from] stockade_vmm_api::logger::LevelError),
    /// A descriptor that is not `NAME=N`.
    #[error("--fd {0:?}: write NAME=N, with a name of lower-case letters, digits and '_', and a descriptor from 3 up")]
    Descriptor(String),
    /// Two descriptors with one name or number.
    #[error("--fd {0:?}: an earlier --fd has the same name or number; give each once")]
    DescriptorRepeated(String),
    /// An option of Firecracker that this vmm doesn't have.
    #[error("the argument '{option}': {what} not available in this version of Stockade; leave it out")]
    Unavailable {
        /// The option.
        option: String,
        /// What is not available, with its verb.
        what: &'static str,
    },
}

/// Parses a command line, the program's name included.
///
/// # Errors
/// If it is not understood.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, ArgumentError> {
    let mut parser = lexopt::Parser::from_iter(arguments);
    let mut given: Vec<String> = Vec::new();
    let mut parsed = Parsed::default();
    while let Some(argument) = parser.next()? {
        let option = match argument {
            Long(name) => format!("--{name}"),
            other => return Err(other.unexpected().into()),
        };
        match option.as_str() {
            "--help" => return Ok(Command::Help),
            "--version" => return Ok(Command::Version),
            "--fd" => parsed.add_descriptor(&parser.value()?.string()?)?,
            _ if given.contains(&option) => return Err(ArgumentError::Repeated(option)),
            _ => parsed.set(&option, &mut parser)?,
        }
        given.push(option);
    }
    Ok(Command::Run(Box::new(parsed.finish()?)))
}

impl Arguments {
    /// Takes over what a jailer says whose vmm's command line is a client's: the value of [`Expectation::VARIABLE`].
    ///
    /// # Errors
    /// If it is not understood.
    pub fn hear(&mut self, variable: Option<OsString>) -> Result<(), ArgumentError> {
        if let Some(text) = variable.filter(|_| self.confinement.is_none()) {
            let expected = text.to_string_lossy().parse();
            self.confinement = Some(expected.map_err(|source| ArgumentError::Confinement { source })?);
        }
        Ok(())
    }
}

#[derive(Default)]
struct Parsed {
    id: VmId,
    api_socket: Option<String>,
    no_api: bool,
    body_max_bytes: Option<u64>,
    config_file: Option<String>,
    boot_timer: bool,
    logger: Logger,
    filters: Filters,
    confinement: Option<Expectation>,
    snapshot_files: SnapshotFiles,
    descriptors: Vec<(String, RawFd)>,
}

impl Parsed {
    fn set(&mut self, option: &str, parser: &mut lexopt::Parser) -> Result<(), ArgumentError> {
        match option {
            "--id" => {
                let id = parser.value()?.string()?;
                self.id = VmId::new(&id).map_err(|source| ArgumentError::Id { id, source })?;
            }
            "--api-sock" => self.api_socket = Some(parser.value()?.string()?),
            "--no-api" => self.no_api = true,
            "--config-file" => self.config_file = Some(parser.value()?.string()?),
            "--boot-timer" => self.boot_timer = true,
            "--log-path" => self.logger.log_path = Some(parser.value()?.string()?),
            "--level" => self.logger.level = Some(parser.value()?.string()?.parse()?),
            "--module" => self.logger.module = Some(parser.value()?.string()?),
            "--show-level" => self.logger.show_level = Some(true),
            "--show-log-origin" => self.logger.show_log_origin = Some(true),
            "--no-seccomp" => self.filters = Filters::Off,
            "--snapshot-files" => self.snapshot_files = SnapshotFiles::Made,
            "--confined" => self.confinement = Some(parser.value()?.parse()?),
            "--http-api-max-payload-size" => self.body_max_bytes = Some(number(option, parser)?),
            // From a jailer, for metrics that this vmm doesn't have; and a limit on what it doesn't have.
            "--start-time-us" | "--start-time-cpu-us" | "--parent-cpu-time-us" | "--mmds-size-limit" => {
                number(option, parser)?;
            }
            _ => return Err(refused(option)),
        }
        Ok(())
    }

    fn add_descriptor(&mut self, text: &str) -> Result<(), ArgumentError> {
        let invalid = || ArgumentError::Descriptor(text.to_owned());
        let (name, number) = text.split_once('=').ok_or_else(invalid)?;
        let name_is_valid = !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        let number: RawFd = number.parse().map_err(|_| invalid())?;
        if !name_is_valid || number < 3 {
            return Err(invalid());
        }
        if self.descriptors.iter().any(|(other, taken)| other == name || *taken == number) {
            return Err(ArgumentError::DescriptorRepeated(text.to_owned()));
        }
        self.descriptors.push((name.to_owned(), number));
        Ok(())
    }

    fn finish(self) -> Result<Arguments, ArgumentError> {
        if self.no_api && self.config_file.is_none() {
            return Err(ArgumentError::Needs { option: "--no-api", needs: "--config-file" });
        }
        if self.snapshot_files == SnapshotFiles::Made && self.descriptors.iter().any(|(name, _)| name == KVM) {
            return Err(ArgumentError::SnapshotFilesSealed);
        }
        let api_socket = (!self.no_api).then(|| self.api_socket.unwrap_or_else(|| DEFAULT_API_SOCKET.to_owned()));
        let body_max_bytes =
            self.body_max_bytes.map_or(DEFAULT_BODY_MAX_BYTES, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(Arguments {
            id: self.id,
            api_socket,
            body_max_bytes,
            config_file: self.config_file,
            boot_timer: self.boot_timer,
            logger: self.logger,
            filters: self.filters,
            confinement: self.confinement,
            snapshot_files: self.snapshot_files,
            descriptors: self.descriptors,
        })
    }
}

fn refused(option: &str) -> ArgumentError {
    let what = match option {
        "--seccomp-filter" => "filters of your own are",
        "--metadata" => "the metadata service is",
        "--metrics-path" => "the metrics file is",
        "--snapshot-version" | "--describe-snapshot" => "snapshots are",
        "--enable-pci" => "PCI is",
        _ => return lexopt::Error::UnexpectedOption(option.to_owned()).into(),
    };
    ArgumentError::Unavailable { option: option.to_owned(), what }
}

fn number(option: &str, parser: &mut lexopt::Parser) -> Result<u64, ArgumentError> {
    let value = parser.value()?;
    let number = value.to_str().and_then(|text| text.parse().ok());
    number.ok_or_else(|| ArgumentError::Number { option: option.to_owned(), value })
}

/// What `--version` prints. Existing clients look for Firecracker's text when they call the program by that name.
pub fn version(program: &str) -> String {
    match Path::new(program).file_name().is_some_and(|name| name == "firecracker") {
        true => format!("Firecracker v{FIRECRACKER_VERSION}\n\n"),
        false => format!("{} (compatible with Firecracker v{FIRECRACKER_VERSION})\n", own_version()),
    }
}

/// Name and version of this program.
pub fn own_version() -> &'static str {
    concat!("Stockade vmm v", env!("CARGO_PKG_VERSION"))
}

/// What `--help` prints.
pub const HELP: &str = "\
Runs one virtual machine, driven over a unix socket with Firecracker's API.

usage: stockade-vmm [OPTION...]

      --id ID                  name of the VM [anonymous-instance]
      --api-sock PATH          where the API listens [/run/firecracker.socket]
      --no-api                 no API; needs --config-file
      --http-api-max-payload-size N
                               most bytes in the body of a request [51200]
      --config-file PATH       JSON file that configures the VM, which then starts at once
      --boot-timer             log the time to boot when the guest writes 123 to 0xc0000000
      --log-path PATH          where the log goes [standard error]
      --level LEVEL            Off, Error, Warn, Info, Debug or Trace [Info]
      --module PREFIX          log only what modules with this prefix write
      --show-level             show the level in each line of the log
      --show-log-origin        show source file and line in each line of the log
      --fd NAME=N              descriptor N is inherited as NAME: fd:NAME stands for it wherever a path does.
                               The names kvm (/dev/kvm) and events (what happens, as JSON lines) have a meaning of
                               their own. With kvm, no path is opened at all.
      --snapshot-files         PUT /snapshot/create may make the files that it names. Without it, no path is opened once the
                               guest runs, and snapshots go to the descriptors new_snapshot and new_memory
      --no-seccomp             filter no system calls
      --confined LAYERS        from stockade-jailer: what confines this process, which fails if it finds that it is not so
      --start-time-us N, --start-time-cpu-us N, --parent-cpu-time-us N, --mmds-size-limit N
                               accepted for compatibility, without effect
      --version, --help

exit codes: 0 the guest reset or powered off, 1 failure, 152 bad configuration file, 153 bad arguments, 160 all vCPUs
halted for good, 161 triple fault, 162 guest kernel panic, 163 KVM internal error, 164 guest state refused
";

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &str) -> Result<Box<Arguments>, String> {
        let words = std::iter::once("stockade-vmm").chain(line.split_whitespace()).map(OsString::from);
        match parse(words) {
            Ok(Command::Run(arguments)) => Ok(arguments),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn defaults_are_those_of_firecracker() {
        let arguments = arguments("").unwrap();
        assert_eq!(arguments.api_socket.as_deref(), Some("/run/firecracker.socket"));
        assert_eq!(arguments.id.as_str(), "anonymous-instance");
        assert_eq!(arguments.body_max_bytes, 51200);
        assert_eq!(arguments.filters, Filters::On);
    }

    #[test]
    fn what_a_jailer_and_a_client_pass_is_accepted() {
        let arguments = arguments(
            "--id a-1 --start-time-us 1 --start-time-cpu-us 2 --parent-cpu-time-us 3 --api-sock=/s --no-seccomp \
             --level warning --show-level --log-path l --http-api-max-payload-size 10 --boot-timer",
        )
        .unwrap();
        assert_eq!(arguments.api_socket.as_deref(), Some("/s"));
        assert_eq!(arguments.filters, Filters::Off);
        assert_eq!(arguments.body_max_bytes, 10);
        assert!(arguments.boot_timer);
        assert_eq!(arguments.logger.show_level, Some(true));
    }

    #[test]
    fn descriptors_have_distinct_names_and_numbers() {
        let given = arguments("--fd kvm=3 --fd vsock_1024=5").unwrap();
        assert_eq!(given.descriptors, [("kvm".to_owned(), 3), ("vsock_1024".to_owned(), 5)]);
        for line in ["--fd kvm", "--fd =3", "--fd K=3", "--fd kvm=2", "--fd kvm=-1", "--fd kvm=x"] {
            assert!(arguments(line).unwrap_err().contains("write NAME=N"), "{line}");
        }
        for line in ["--fd a=3 --fd a=4", "--fd a=3 --fd b=3"] {
            assert!(arguments(line).unwrap_err().contains("give each once"), "{line}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (line, part) in [
            ("--frobnicate", "--frobnicate"),
            ("--id", "--id"),
            ("--id a_b", "ASCII letters, digits and '-'"),
            ("--id a --id b", "more than once"),
            ("--no-api", "needs '--config-file'"),
            ("--start-time-us x", "no number"),
            ("--level loud", "use one of"),
            ("--metrics-path m", "not available"),
            ("--enable-pci", "not available"),
            ("--snapshot-files --fd kvm=3", "hand the files over"),
            ("--confined root,chains", "\"chains\" is no layer"),
            ("positional", "positional"),
        ] {
            let message = arguments(line).unwrap_err();
            assert!(message.contains(part), "{line}: {message}");
        }
    }

    #[test]
    fn the_name_decides_on_the_banner() {
        assert_eq!(version("/usr/bin/firecracker"), "Firecracker v1.16.1\n\n");
        assert!(version("stockade-vmm").starts_with("Stockade vmm v"));
        assert!(version("stockade-vmm").contains("(compatible with Firecracker v1.16.1)"));
    }
}
