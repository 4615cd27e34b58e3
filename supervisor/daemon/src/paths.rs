//! Where everything of the daemon's is. Two daemons with other folders do not know of each other.

use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use stockade_api::VmId;
use stockade_supervisor::inspection::ROLES;

/// The daemon's folders.
///
/// | below `run` | what | whose |
/// |---|---|---|
/// | `control.sock` | the control socket | root, and who `socket owner` says |
/// | `vms/JAIL` | the folder of each jail | the VM's own user |
/// | `daemon/lock` | locked while a daemon runs | root, like all that follows |
/// | `daemon/vms/ID.json` | what is known of each virtual machine | |
/// | `daemon/journals/JAIL` | what its warden says | |
/// | `daemon/consoles/ID`, `ID.input` | its console's ring, and the fifo that feeds it | |
/// | `daemon/roles/NAME` | what confines a role, for `stockade inspect --daemon` | |
/// | `daemon/empty` | where roles mount their empty root | |
#[derive(Debug, Clone)]
pub struct Paths {
    /// What is gone with the next boot of the host.
    pub run: PathBuf,
    /// What stays: `ids.json`, numbers of virtual machines.
    pub state: PathBuf,
}

impl Paths {
    /// Makes the folders.
    ///
    /// # Errors
    /// The folder that can't be made.
    pub fn prepare(&self) -> io::Result<()> {
        let named =
            |path: &Path, error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let folders = [
            self.daemon(),
            self.records(),
            self.daemon().join("journals"),
            self.daemon().join("consoles"),
            self.empty(),
            self.run.join(ROLES),
        ];
        std::fs::create_dir_all(&self.run).map_err(|error| named(&self.run, error))?;
        for folder in folders.iter().chain([&self.state]) {
            let made = std::fs::DirBuilder::new().mode(0o700).recursive(true).create(folder);
            let made = made.and_then(|()| std::fs::set_permissions(folder, PermissionsExt::from_mode(0o700)));
            made.map_err(|error| named(folder, error))?;
        }
        Ok(())
    }

    /// The daemon's own folder.
    pub fn daemon(&self) -> PathBuf {
        self.run.join("daemon")
    }

    /// What is known of each virtual machine.
    pub fn records(&self) -> PathBuf {
        self.daemon().join("vms")
    }

    /// The file of one of them.
    pub fn record(&self, id: VmId) -> PathBuf {
        self.records().join(format!("{id}.json"))
    }

    /// What the warden of a jail says.
    pub fn journal(&self, jail: &str) -> PathBuf {
        self.daemon().join("journals").join(jail)
    }

    /// All of them.
    pub fn journals(&self) -> PathBuf {
        self.daemon().join("journals")
    }

    /// The ring of a console (see `stockade_jailer::console`).
    pub fn console(&self, id: VmId) -> PathBuf {
        self.daemon().join("consoles").join(id.to_string())
    }

    /// The fifo that feeds a console.
    pub fn console_input(&self, id: VmId) -> PathBuf {
        self.daemon().join("consoles").join(format!("{id}.input"))
    }

    /// Where the record of a role is.
    pub fn role(&self, name: &str) -> PathBuf {
        self.run.join(ROLES).join(name)
    }

    /// An empty folder.
    pub fn empty(&self) -> PathBuf {
        self.daemon().join("empty")
    }

    /// Numbers of virtual machines.
    pub fn ids(&self) -> PathBuf {
        self.state.join("ids.json")
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.run.join("control.sock")
    }
}
