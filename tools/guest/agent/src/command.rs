//! Starts commands as a shell would, and says why one can't be started.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::pty::OpenptFlags;
use stockade_guest_protocol::{self as protocol, TerminalSize};

use crate::sys;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What the kernel of an emulated host gives its first process, and commands have to have too: which of the processor's registers
/// it can't save for them.
const FROM_KERNEL: &str = "GLIBC_TUNABLES";
const DEFAULTS: [(&str, &str); 3] = [("PATH", DEFAULT_PATH), ("HOME", "/root"), ("TERM", "xterm")];
const SHELL: &[u8] = b"/bin/sh";

/// The program that is many commands (busybox), and the file with their names, a line each.
const APPLETS_PROGRAM: &str = "bin/busybox";
const APPLETS_LIST: &str = "etc/busybox-applets";

/// Why a command was not started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error("{0}: command not found")]
    NotFound(String),
    #[error("{0}: is a directory")]
    Directory(String),
    #[error("{0}: permission denied: it is not executable")]
    NotExecutable(String),
    #[error("{program}: can't be executed: {source}")]
    Exec { program: String, source: io::Error },
    #[error("working directory {directory}: {source}")]
    WorkingDirectory { directory: String, source: io::Error },
    #[error("environment entry {0:?} has no '='")]
    Environment(String),
    #[error("{operation}: {source}")]
    Prepare { operation: &'static str, source: io::Error },
}

impl CommandError {
    /// The code that a shell would give.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::NotFound(_) => 127,
            Self::Directory(_) | Self::NotExecutable(_) | Self::Exec { .. } => 126,
            Self::WorkingDirectory { .. } | Self::Environment(_) | Self::Prepare { .. } => 125,
        }
    }
}

/// A command that runs, and the agent's ends of its streams.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) child: Child,
    pub(crate) streams: Streams,
}

#[derive(Debug)]
pub(crate) enum Streams {
    Pipes {
        input: OwnedFd,
        output: OwnedFd,
        error: OwnedFd,
    },
    /// The controlling side of a terminal.
    Terminal(OwnedFd),
}

pub(crate) fn start(asked: &protocol::Command<'_>) -> Result<Started, CommandError> {
    let directory = Path::new(OsStr::from_bytes(asked.directory.unwrap_or(b"/")));
    check_directory(directory)?;
    let environment = environment(&asked.environment)?;
    let name = asked.arguments.first().copied().unwrap_or(SHELL);
    let path = environment.iter().rev().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_os_str());
    let name_in_path = OsStr::from_bytes(name);
    let program = find(name_in_path, path.unwrap_or_default(), directory).or_else(|error| match error {
        CommandError::NotFound(_) => applet(name_in_path, Path::new("/")).ok_or(error),
        _ => Err(error),
    })?;

    let mut command = Command::new(program);
    command.arg0(OsStr::from_bytes(name)).env_clear().envs(environment);
    // A child that has nothing to do before it executes the program shares the agent's memory until then.
    if std::env::current_dir().ok().as_deref() != Some(directory) {
        command.current_dir(directory);
    }
    command.args(asked.arguments.iter().skip(1).map(|argument| OsStr::from_bytes(argument)));
    let streams = match asked.terminal {
        None => pipes(&mut command),
        Some(size) => terminal(&mut command, size),
    };
    let streams =
        streams.map_err(|source| CommandError::Prepare { operation: "make the command's streams", source })?;
    let child = command.spawn().map_err(|error| spawn_error(shown(name), error))?;
    Ok(Started { child, streams })
}

fn check_directory(directory: &Path) -> Result<(), CommandError> {
    let failed = |source| CommandError::WorkingDirectory { directory: directory.display().to_string(), source };
    if std::fs::metadata(directory).map_err(failed)?.is_dir() {
        Ok(())
    } else {
        Err(failed(io::ErrorKind::NotADirectory.into()))
    }
}

fn environment(entries: &[&[u8]]) -> Result<Vec<(OsString, OsString)>, CommandError> {
    let mut environment: Vec<_> = DEFAULTS.iter().map(|(name, value)| (name.into(), value.into())).collect();
    environment.extend(std::env::var_os(FROM_KERNEL).map(|value| (FROM_KERNEL.into(), value)));
    for entry in entries {
        let at = entry.iter().position(|&byte| byte == b'=');
        let (name, value) = at
            .and_then(|at| entry.split_at_checked(at))
            .and_then(|(name, value)| Some((name, value.strip_prefix(b"=")?)))
            .ok_or_else(|| CommandError::Environment(shown(entry)))?;
        environment.push((OsStr::from_bytes(name).to_owned(), OsStr::from_bytes(value).to_owned()));
    }
    Ok(environment)
}

/// The file to execute: in one of the folders of `path`, unless `name` has a slash.
fn find(name: &OsStr, path: &OsStr, directory: &Path) -> Result<PathBuf, CommandError> {
    let bytes = name.as_bytes();
    if bytes.contains(&b'/') {
        let program = directory.join(name);
        return match std::fs::metadata(&program) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(spawn_error(shown(bytes), error)),
            Err(_) => Err(CommandError::NotFound(shown(bytes))),
            Ok(metadata) if metadata.is_dir() => Err(CommandError::Directory(shown(bytes))),
            Ok(metadata) if !executable(&metadata) => Err(CommandError::NotExecutable(shown(bytes))),
            Ok(_) => Ok(program),
        };
    }
    let mut otherwise = CommandError::NotFound(shown(bytes));
    if !bytes.is_empty() {
        for folder in std::env::split_paths(path) {
            let program = directory.join(folder).join(name);
            match std::fs::metadata(&program) {
                Ok(metadata) if metadata.is_file() && executable(&metadata) => return Ok(program),
                Ok(metadata) if metadata.is_file() => otherwise = CommandError::NotExecutable(shown(bytes)),
                _ => {}
            }
        }
    }
    Err(otherwise)
}

/// The program for a command that is part of busybox, below the folder `root`, and has no link in `/bin`: the default guest has
/// none, as making them takes an emulated kernel seconds. busybox goes by the name that it is called by.
fn applet(name: &OsStr, root: &Path) -> Option<PathBuf> {
    const FOLDERS: [&[u8]; 4] = [b"/bin/", b"/usr/bin/", b"/sbin/", b"/usr/sbin/"];
    let bytes = name.as_bytes();
    let bare = FOLDERS.iter().find_map(|folder| bytes.strip_prefix(*folder)).unwrap_or(bytes);
    let list = std::fs::read(root.join(APPLETS_LIST)).ok()?;
    let is_known = !bare.is_empty() && list.split(|&byte| byte == b'\n').any(|applet| applet == bare);
    is_known.then(|| root.join(APPLETS_PROGRAM))
}

fn executable(metadata: &std::fs::Metadata) -> bool {
    metadata.permissions().mode() & 0o111 != 0
}

fn pipes(command: &mut Command) -> io::Result<Streams> {
    let (stdin, input) = io::pipe()?;
    let (output, stdout) = io::pipe()?;
    let (error, stderr) = io::pipe()?;
    command.stdin(stdin).stdout(stdout).stderr(stderr).process_group(0);
    Ok(Streams::Pipes { input: input.into(), output: output.into(), error: error.into() })
}

fn terminal(command: &mut Command, size: TerminalSize) -> io::Result<Streams> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let controller = rustix::pty::openpt(flags)?;
    rustix::pty::unlockpt(&controller)?;
    let terminal = rustix::pty::ioctl_tiocgptpeer(&controller, flags)?;
    resize(&controller, size)?;
    command.stdin(Stdio::from(terminal.try_clone()?)).stdout(Stdio::from(terminal.try_clone()?)).stderr(terminal);
    sys::own_terminal(command);
    Ok(Streams::Terminal(controller))
}

/// Tells a terminal its size.
pub(crate) fn resize(controller: &OwnedFd, size: TerminalSize) -> io::Result<()> {
    let size = rustix::termios::Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(controller, size)?)
}

fn spawn_error(program: String, source: io::Error) -> CommandError {
    match source.kind() {
        // The file is there, or it would not have been found.
        io::ErrorKind::NotFound => CommandError::Exec {
            program,
            source: io::Error::other("its interpreter is missing (a dynamic executable needs its libraries as well)"),
        },
        io::ErrorKind::OutOfMemory | io::ErrorKind::WouldBlock | io::ErrorKind::InvalidInput => {
            CommandError::Prepare { operation: "start the command", source }
        }
        _ => CommandError::Exec { program, source },
    }
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_a_shell_finds_them() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, mode| {
            let path = folder.path().join(name);
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let (good, plain) = (make("good", 0o755), make("plain", 0o644));
        let look =
            |name: &str| find(name.as_ref(), folder.path().as_os_str(), Path::new("/")).map_err(|error| error.code());
        assert_eq!(look("good"), Ok(good.clone()));
        assert_eq!(look("plain"), Err(126));
        assert_eq!(look("other"), Err(127));
        assert_eq!(look(""), Err(127));
        assert_eq!(look(good.to_str().unwrap()), Ok(good.clone()));
        assert_eq!(look(plain.to_str().unwrap()), Err(126));
        assert_eq!(look(folder.path().to_str().unwrap()), Err(126));
        assert_eq!(look("/no/such/program"), Err(127));
        assert_eq!(find("./good".as_ref(), OsStr::new(""), folder.path()).unwrap(), folder.path().join("./good"));
    }

    #[test]
    fn parts_of_busybox_need_no_link() {
        let folder = tempfile::tempdir().unwrap();
        let look = |name: &str| applet(name.as_ref(), folder.path());
        assert_eq!(look("ls"), None);
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        std::fs::write(folder.path().join(APPLETS_LIST), "cat\nls\n").unwrap();
        let program = Some(folder.path().join(APPLETS_PROGRAM));
        assert_eq!((look("ls"), look("/bin/ls"), look("/usr/bin/cat")), (program.clone(), program.clone(), program));
        for name in ["l", "", "/bin/", "/opt/ls", "./ls", "ls\ncat", "no-such-command"] {
            assert_eq!(look(name), None, "{name:?}");
        }
    }

    #[test]
    fn environment_entries_come_on_top_of_defaults() {
        let environment = environment(&[b"PATH=/a", b"X=1=2", b"EMPTY="]).unwrap();
        let last =
            |name: &str| environment.iter().rev().find(|entry| entry.0 == name).map(|entry| entry.1.to_str().unwrap());
        assert_eq!(last("PATH"), Some("/a"));
        assert_eq!(last("HOME"), Some("/root"));
        assert_eq!(last("X"), Some("1=2"));
        assert_eq!(last("EMPTY"), Some(""));
        assert_eq!(super::environment(&[b"NONE"]).unwrap_err().code(), 125);
    }
}
