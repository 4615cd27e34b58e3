//! Boots a guest, and keeps it.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use stockade_guest_protocol::kernel_command_line;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{Ingredients, MANIFEST, MEMORY, Manifest, STATE, WarmGuest, folder};
use crate::config::{descriptor, inherited, vmm_configuration};
use crate::images::{self, ImageError};
use crate::installation::{Installation, InstallationError};
use crate::machine::launch::{Blueprint, LaunchError, Origin, launch};
use crate::machine::{Machine, MachineEnd};
use crate::request::{Cpus, MemorySize, VmName};
use crate::run::{BOOT_LIMIT, RunError, open_kvm};
use crate::session::{Connection, SessionError};

/// How long saving may take.
const SAVE_LIMIT: Duration = Duration::from_secs(120);
/// Most of an answer of the vmm.
const ANSWER_BYTES_MAX: u64 = 64 << 10;
/// What a folder that is not complete begins with.
const UNFINISHED: &str = ".warm-";

/// No guest was kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WarmError {
    /// Stockade's own programs.
    #[error(transparent)]
    Installation(#[from] InstallationError),
    /// The guest's images.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// `/dev/kvm`.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The host's part of the start.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The guest's end.
    #[error(transparent)]
    Machine(#[from] MachineEnd),
    /// The agent.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The guest did not come up.
    #[error("the guest did not call in time")]
    BootTimeout,
    /// The vmm.
    #[error("the vmm did not save the guest: {0}")]
    Save(String),
    /// The folder.
    #[error("{}", path.display())]
    Keep {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// What there is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    /// The guest that was there fits.
    UpToDate,
    /// A new one.
    New,
}

/// Makes sure that a booted guest of this shape is kept. To be called within a runtime.
///
/// # Errors
/// If there is none, and none can be made.
pub async fn make(installation: &Installation, cpus: Cpus, memory: MemorySize) -> Result<Made, WarmError> {
    let (jailer, vmm) = (installation.open_jailer()?, installation.open_vmm()?);
    let kernel = images::open_kernel(&installation.kernel())?.file;
    let initramfs = images::open_initramfs(&installation.initramfs())?.file;
    let configuration = vmm_configuration(cpus, memory, kernel_command_line(cpus.get()), None);
    let ingredients = Ingredients { vmm: &vmm, kernel: &kernel, initramfs: &initramfs, configuration: &configuration };
    let kept = folder(installation, cpus, memory);
    if WarmGuest::open(&kept, &ingredients).is_ok() {
        return Ok(Made::UpToDate);
    }
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| WarmError::Keep { path, source }
    };
    let manifest = Manifest::of(&ingredients).map_err(at(&kept))?;
    sweep(&installation.guest());
    let new = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(installation.guest()).map_err(at(&kept))?;
    std::fs::set_permissions(new.path(), Permissions::from_mode(0o755)).map_err(at(new.path()))?;
    let create = |name: &str, length: u64| {
        let path = new.path().join(name);
        let create = || {
            let file = File::options().read(true).write(true).create_new(true).open(&path)?;
            file.set_permissions(Permissions::from_mode(0o644))?;
            // No file of a jail grows.
            file.set_len(length)?;
            Ok(file)
        };
        create().map_err(at(&path))
    };
    let blueprint = Blueprint {
        name: VmName::random().map_err(at(&kept))?,
        cpus,
        memory,
        jailer,
        vmm: vmm.try_clone().map_err(at(&kept))?,
        kvm: open_kvm()?,
        origin: Origin::Boot { kernel, initramfs, configuration },
        new_snapshot: Some((create(STATE, 0)?, create(MEMORY, memory.bytes())?)),
        root: None,
        without: Vec::new(),
    };
    let (mut machine, agent) = launch(blueprint)?;
    let saved = save(&mut machine, agent).await;
    machine.remove().await;
    saved?;
    let text = serde_json::to_vec_pretty(&manifest).map_err(|error| at(&kept)(error.into()))?;
    let path = new.path().join(MANIFEST);
    std::fs::write(&path, text).map_err(at(&path))?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).map_err(at(&path))?;
    replace(new, &kept).map_err(at(&kept))?;
    Ok(Made::New)
}

/// From the start to a guest whose state is in its files.
async fn save(machine: &mut Machine, agent: UnixStream) -> Result<(), WarmError> {
    machine.started().await?;
    let (reader, writer) = agent.into_split();
    let hold = async {
        let mut connection = Connection::greet(reader, writer).await?;
        connection.hold().await?;
        Ok::<_, SessionError>(connection)
    };
    // The session lasts until the guest is saved: its end is what a clone knows itself by.
    let _held = tokio::select! {
        biased;
        held = timeout(BOOT_LIMIT, hold) => held.map_err(|_| WarmError::BootTimeout)??,
        end = machine.ended() => return Err(end.into()),
    };
    let socket = machine.api_socket();
    let ask = async {
        request(&socket, "PATCH", "/vm", r#"{"state":"Paused"}"#).await?;
        let [state, memory] = descriptor::NEW_SNAPSHOT.map(inherited);
        let body = serde_json::json!({ "snapshot_path": state, "mem_file_path": memory });
        request(&socket, "PUT", "/snapshot/create", &body.to_string()).await
    };
    tokio::select! {
        biased;
        saved = timeout(SAVE_LIMIT, ask) => saved.map_err(|_| WarmError::Save("it takes too long".to_owned()))?,
        end = machine.ended() => Err(end.into()),
    }
}

/// One request to a vmm, which must succeed.
async fn request(socket: &Path, method: &str, path: &str, body: &str) -> Result<(), WarmError> {
    let exchange = async {
        let mut stream = UnixStream::connect(socket).await?;
        let length = body.len();
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(text.as_bytes()).await?;
        let mut answer = Vec::new();
        let mut limited = (&mut stream).take(ANSWER_BYTES_MAX);
        // An answer without a body ends with its head, and one that is an error is shown as far as it came at once.
        while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
            if limited.read_buf(&mut answer).await? == 0 {
                break;
            }
        }
        Ok::<_, io::Error>(answer)
    };
    let answer = exchange.await.map_err(|error| WarmError::Save(format!("{method} {path}: {error}")))?;
    let text = String::from_utf8_lossy(&answer);
    match text.starts_with("HTTP/1.1 204") {
        true => Ok(()),
        false => Err(WarmError::Save(crate::text::printable(&text))),
    }
}

/// Puts a complete folder in the place of the one that is there, if one is.
fn replace(new: tempfile::TempDir, kept: &Path) -> io::Result<()> {
    match std::fs::rename(new.path(), kept) {
        Ok(()) => {}
        Err(error) if [io::ErrorKind::DirectoryNotEmpty, io::ErrorKind::AlreadyExists].contains(&error.kind()) => {
            let parent = kept.parent().unwrap_or(Path::new("."));
            let old = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(parent)?;
            std::fs::rename(kept, old.path())?;
            std::fs::rename(new.path(), kept)?;
        }
        Err(error) => return Err(error),
    }
    // It is no longer where it would be removed from.
    let _ = new.keep();
    Ok(())
}

/// Removes what was left behind by somebody who was killed.
fn sweep(guest: &Path) {
    for entry in std::fs::read_dir(guest).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
