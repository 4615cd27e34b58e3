//! A booted guest, kept to start others from.
//!
//! Booting is the longest part of a run, and the same each time: the default guest waits for its first command in a state
//! that no tenant has ever touched. `stockade warm` boots one, saves it when its agent is [held](crate::session::Connection::hold), and keeps it
//! beside the guest's images, in a folder for each shape (processors and memory):
//!
//! | file | what |
//! |---|---|
//! | `state` | the state of the VM, as the vmm saved it |
//! | `memory` | its memory, which every clone maps and none can change |
//! | `manifest.json` | [`Manifest`]: what it was made of |
//!
//! A run starts from it only if everything that it depends on is still the same, and boots if anything differs. Nobody may be
//! able to change it but its owner, who is root or the caller. The files are opened here, read-only, and handed to the vmm
//! as descriptors; the vmm believes their content nothing.

mod identity;
mod make;

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use stockade_vmm_api::vm_config::ConfigFile;

use crate::installation::Installation;
use crate::request::{Cpus, MemorySize};
pub use identity::{Host, Part};
pub use make::{Made, WarmError, make};

/// Version of [`Manifest`], and of everything that is not in it: how a guest is held, saved and restored.
const VERSION: u32 = 1;
/// Most bytes of a manifest.
const MANIFEST_BYTES_MAX: u64 = 64 << 10;

const STATE: &str = "state";
const MEMORY: &str = "memory";
const MANIFEST: &str = "manifest.json";

/// What a kept guest was made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    version: u32,
    stockade: String,
    protocol: u32,
    /// Processors, memory, devices and command line, as the vmm was told.
    configuration: ConfigFile,
    vmm: Part,
    kernel: Part,
    initramfs: Part,
    host: Host,
}

/// What a run would boot.
#[derive(Debug)]
pub struct Ingredients<'a> {
    /// The vmm's program.
    pub vmm: &'a File,
    /// The kernel.
    pub kernel: &'a File,
    /// The initial RAM disk.
    pub initramfs: &'a File,
    /// What the vmm is told.
    pub configuration: &'a ConfigFile,
}

/// A booted guest that can be started from.
#[derive(Debug)]
pub struct WarmGuest {
    /// Its state.
    pub state: File,
    /// Its memory.
    pub memory: File,
}

/// Why a run boots instead, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(pub String);

impl From<io::Error> for Unfit {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

/// The folder for guests of this shape.
pub fn folder(installation: &Installation, cpus: Cpus, memory: MemorySize) -> PathBuf {
    installation.guest().join(format!("warm-{cpus}-{memory}"))
}

impl WarmGuest {
    /// Opens the booted guest in `folder`, if a run of `ingredients` may start from it.
    ///
    /// # Errors
    /// Why it may not.
    pub fn open(folder: &Path, ingredients: &Ingredients<'_>) -> Result<Self, Unfit> {
        let directory = open_trusted(folder, OFlags::DIRECTORY).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                Unfit("no booted guest of this shape is kept; stockade warm makes one".to_owned())
            }
            _ => Unfit(format!("{}: {error}", folder.display())),
        })?;
        // Below the descriptor, so that all three are of one guest while another one takes its place.
        let base = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&directory)));
        let open = |name: &str| {
            open_trusted(&base.join(name), OFlags::empty())
                .map_err(|error| Unfit(format!("{}: {error}", folder.join(name).display())))
        };
        let manifest = read_manifest(&open(MANIFEST)?)?;
        manifest.fits(ingredients)?;
        Ok(Self { state: open(STATE)?, memory: open(MEMORY)? })
    }
}

impl Manifest {
    fn of(ingredients: &Ingredients<'_>) -> io::Result<Self> {
        Ok(Self {
            version: VERSION,
            stockade: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: stockade_guest_protocol::VERSION,
            configuration: ingredients.configuration.clone(),
            vmm: Part::of(ingredients.vmm)?,
            kernel: Part::of(ingredients.kernel)?,
            initramfs: Part::of(ingredients.initramfs)?,
            host: Host::current()?,
        })
    }

    fn fits(&self, ingredients: &Ingredients<'_>) -> Result<(), Unfit> {
        let differs =
            |what: &str| Err(Unfit(format!("the booted guest that is kept has {what}; stockade warm makes a new one")));
        if (self.version, self.stockade.as_str()) != (VERSION, env!("CARGO_PKG_VERSION")) {
            return differs("been made by another version of Stockade");
        }
        if self.protocol != stockade_guest_protocol::VERSION {
            return differs("another version of the agent's protocol");
        }
        if self.configuration != *ingredients.configuration {
            return differs("another configuration");
        }
        if self.host != Host::current()? {
            return differs("been made on another host, or another kernel of this one");
        }
        let parts = [
            ("stockade-vmm", &self.vmm, ingredients.vmm),
            ("kernel", &self.kernel, ingredients.kernel),
            ("initramfs", &self.initramfs, ingredients.initramfs),
        ];
        for (name, part, file) in parts {
            if !part.is(file)? {
                return differs(&format!("another {name}"));
            }
        }
        Ok(())
    }
}

fn read_manifest(file: &File) -> Result<Manifest, Unfit> {
    let mut text = Vec::new();
    file.take(MANIFEST_BYTES_MAX).read_to_end(&mut text)?;
    serde_json::from_slice(&text).map_err(|error| Unfit(format!("{MANIFEST}: {error}; stockade warm makes a new one")))
}

/// Opens what nobody but root or the caller can have written.
fn open_trusted(path: &Path, kind: OFlags) -> io::Result<File> {
    let flags = kind | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    let metadata = file.metadata()?;
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if !metadata.is_file() && !metadata.is_dir() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if (owner != 0 && owner != geteuid().as_raw()) || mode & 0o022 != 0 {
        return Err(io::Error::other(format!(
            "it can be changed by others (owner {owner}, mode {mode:o}); it has to belong to root and be writable by root \
             alone: remove the folder, and stockade warm makes a new one"
        )));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::vmm_configuration;

    struct Kept {
        folder: tempfile::TempDir,
        parts: Vec<File>,
        configuration: ConfigFile,
    }

    impl Kept {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
            let configuration = vmm_configuration(Cpus::default(), MemorySize::default(), "quiet".to_owned(), None);
            let mut kept = Self { folder, parts: Vec::new(), configuration };
            for part in ["vmm", "kernel", "initramfs"] {
                let file = kept.write(part, part);
                kept.parts.push(file);
            }
            let manifest = Manifest::of(&kept.ingredients()).unwrap();
            kept.write(MANIFEST, &serde_json::to_string(&manifest).unwrap());
            kept.write(STATE, "state");
            kept.write(MEMORY, "memory");
            kept
        }

        fn write(&self, name: &str, content: &str) -> File {
            let path = self.folder.path().join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
            File::open(path).unwrap()
        }

        fn ingredients(&self) -> Ingredients<'_> {
            let [vmm, kernel, initramfs] = self.parts.as_slice() else { panic!("three parts") };
            Ingredients { vmm, kernel, initramfs, configuration: &self.configuration }
        }

        fn open(&self) -> Result<WarmGuest, String> {
            WarmGuest::open(self.folder.path(), &self.ingredients()).map_err(|error| error.to_string())
        }
    }

    #[test]
    fn a_guest_is_started_from_as_long_as_nothing_differs() {
        let mut kept = Kept::new();
        kept.open().unwrap();
        // A copy has the same content.
        kept.parts[1] = kept.write("copy", "kernel");
        kept.open().unwrap();
        kept.parts[1] = kept.write("other", "Kernel");
        assert!(kept.open().unwrap_err().contains("another kernel"));

        let mut kept = Kept::new();
        kept.configuration.boot_source.boot_args = Some("loud".to_owned());
        assert!(kept.open().unwrap_err().contains("another configuration"));
        let kept = Kept::new();
        kept.write(MANIFEST, "{}");
        assert!(kept.open().unwrap_err().contains("manifest.json"));
        let missing = WarmGuest::open(&kept.folder.path().join("none"), &kept.ingredients()).unwrap_err();
        assert!(missing.to_string().contains("stockade warm makes one"));
    }

    #[test]
    fn what_others_can_write_is_not_started_from() {
        for name in ["", STATE, MEMORY, MANIFEST] {
            let kept = Kept::new();
            let path = kept.folder.path().join(name);
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o775)).unwrap();
            assert!(kept.open().unwrap_err().contains("can be changed by others"), "{name:?}");
        }
        let kept = Kept::new();
        let state = kept.folder.path().join(STATE);
        std::fs::rename(&state, kept.folder.path().join("elsewhere")).unwrap();
        std::os::unix::fs::symlink("elsewhere", &state).unwrap();
        assert!(kept.open().is_err(), "a link is followed");
    }
}
