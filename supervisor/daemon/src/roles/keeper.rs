//! The parent's side of any role: starts it, and starts it again when it dies.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use stockade_confinement::Record;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::Role;
use super::channel::{Channel, ChannelError, pair};
use super::confine::{CHANNEL, RECORD};
use super::frame::Frame;
use crate::messages;
use crate::paths::Paths;

/// The argument that makes this program a role.
pub const ROLE_ARGUMENT: &str = "--role";
/// The argument with the folder that a role mounts its root on.
pub const EMPTY_ARGUMENT: &str = "--empty";
/// How long to wait before a role is started again, so that one that dies at once does not keep the host busy.
const PAUSE: Duration = Duration::from_millis(200);

/// Who talks to a role, through all of its lives.
pub trait Attendant {
    /// What is said to the role.
    type Says: Frame;
    /// What the role says.
    type Hears: Frame;

    /// Talks to one life of it, until that is over. Returns why.
    fn attend(&mut self, channel: &Channel<Self::Says, Self::Hears>) -> impl Future<Output = ChannelError>;

    /// That life is over, or could not begin: tells those who wait for an answer.
    fn bereave(&mut self);
}

/// Keeps a role for as long as the daemon lives.
pub async fn keep(role: &Role, paths: &Paths, mut attendant: impl Attendant) {
    loop {
        match start(role, paths) {
            Ok((mut child, channel)) => {
                log::info!("{} runs as process {}", role.name, child.id().unwrap_or_default());
                // Whoever else has got hold of its end of the channel: with the process, its word ends.
                let error = tokio::select! {
                    error = attendant.attend(&channel) => error,
                    _ = child.wait() => ChannelError::Gone,
                };
                log::error!("{} is started again: {error}", role.name);
                let _ = child.start_kill();
                let _ = child.wait().await;
            }
            Err(error) => log::error!("{} can't be started: {error}", role.name),
        }
        attendant.bereave();
        sleep(PAUSE).await;
    }
}

fn start<Out: Frame, In: Frame>(role: &Role, paths: &Paths) -> io::Result<(Child, Channel<Out, In>)> {
    let (ours, theirs) = pair()?;
    let record = record(&paths.role(role.name))?;
    // This very program, whatever has its name by now.
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg0(role.title()).args([ROLE_ARGUMENT, role.name, EMPTY_ARGUMENT]).arg(paths.empty());
    command.args(messages::arguments());
    command.env_clear().current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
    let mappings = vec![
        FdMapping { parent_fd: theirs, child_fd: CHANNEL },
        FdMapping { parent_fd: record.into(), child_fd: RECORD },
    ];
    command.fd_mappings(mappings).map_err(io::Error::other)?;
    let child = Command::from(command).kill_on_drop(true).spawn()?;
    Ok((child, Channel::new(ours)?))
}

/// An empty file for a role's record, which the role writes through this descriptor and can't reach otherwise.
fn record(folder: &Path) -> io::Result<File> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let path = folder.join(Record::FILE);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    File::options().write(true).create_new(true).mode(Record::MODE).open(path)
}
