//! Where Stockade's own programs and the default guest are, and whether they may be trusted.
//!
//! What root executes must not be in anybody else's hands, so a program has to belong to root (or the caller) and be
//! writable by its owner alone. It is opened once, checked, and then only used through the descriptor.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::process::geteuid;

/// Where an installed Stockade keeps what is not called by users, as it is named from the folder of a program that they call.
const LIBRARY: &str = "../lib/stockade";
/// The same, for a program that is somewhere else.
const SYSTEM_DIRECTORY: &str = "/usr/lib/stockade";

/// The folder with `stockade-jailer`, `stockade-vmm` and `guest/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    directory: PathBuf,
}

/// One of Stockade's programs is missing or can't be trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallationError {
    /// No folder has the programs.
    #[error(
        "stockade-jailer is neither beside {program}, nor in {LIBRARY} from there, nor in {SYSTEM_DIRECTORY}; run \
         tools/first-run or tools/install, or name the folder with --binaries"
    )]
    NotFound {
        /// The running program.
        program: String,
    },
    /// A part can't be opened.
    #[error("open {}; run tools/first-run, or name the right folder with --binaries", path.display())]
    Open {
        /// The part.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// A program could have been changed by somebody else.
    #[error(
        "{0} can be changed by others (owner {owner}, mode {mode:o}); it has to belong to root and be writable by root alone: \
         chown root {0} && chmod 755 {0}", path.display()
    )]
    Untrusted {
        /// The program.
        path: PathBuf,
        /// User id of its owner.
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
}

impl Installation {
    /// The one in `directory`.
    pub fn at(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The one beside the running program, or that which was installed with it, or else the system's.
    pub fn find() -> Result<Self, InstallationError> {
        let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("stockade"));
        let beside = program.parent().map(Path::to_path_buf);
        let library = beside.as_ref().map(|folder| folder.join(LIBRARY));
        let folders = beside.into_iter().chain(library).chain([PathBuf::from(SYSTEM_DIRECTORY)]);
        let found = folders.into_iter().find(|directory| directory.join("stockade-jailer").exists());
        found.map(Self::at).ok_or_else(|| InstallationError::NotFound { program: program.display().to_string() })
    }

    /// Opens the jailer.
    pub fn open_jailer(&self) -> Result<File, InstallationError> {
        self.open_program("stockade-jailer")
    }

    /// Opens the vmm.
    pub fn open_vmm(&self) -> Result<File, InstallationError> {
        self.open_program("stockade-vmm")
    }

    /// Opens the program that takes the vmm's place in a jail that is tested.
    pub fn open_prisoner(&self) -> Result<File, InstallationError> {
        self.open_program("stockade-prisoner")
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Path of the daemon.
    pub fn daemon(&self) -> PathBuf {
        self.directory.join("stockaded")
    }

    /// The folder of the default guest.
    pub fn guest(&self) -> PathBuf {
        self.directory.join("guest")
    }

    /// Path of the default guest's kernel.
    pub fn kernel(&self) -> PathBuf {
        self.directory.join("guest/vmlinux")
    }

    /// Path of the default guest's initial RAM disk.
    pub fn initramfs(&self) -> PathBuf {
        self.directory.join("guest/initramfs.cpio")
    }

    fn open_program(&self, name: &str) -> Result<File, InstallationError> {
        let path = self.directory.join(name);
        let open = || {
            let mut options = File::options();
            let file = options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(&path)?;
            let metadata = file.metadata()?;
            if metadata.is_file() { Ok((file, metadata)) } else { Err(std::io::Error::other("not a regular file")) }
        };
        let (file, metadata) = open().map_err(|source| InstallationError::Open { path: path.clone(), source })?;
        let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
        if (owner != 0 && owner != geteuid().as_raw()) || mode & 0o022 != 0 {
            return Err(InstallationError::Untrusted { path, owner, mode });
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn programs_that_others_can_write_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let installation = Installation::at(directory.path().to_path_buf());
        assert!(matches!(installation.open_vmm(), Err(InstallationError::Open { .. })));

        let path = directory.path().join("stockade-vmm");
        std::fs::write(&path, "program").unwrap();
        for (mode, trusted) in [(0o755, true), (0o775, false), (0o757, false), (0o700, true)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(installation.open_vmm().is_ok(), trusted, "{mode:o}");
        }

        std::fs::create_dir(directory.path().join("stockade-jailer")).unwrap();
        assert!(matches!(installation.open_jailer(), Err(InstallationError::Open { .. })));
    }
}
