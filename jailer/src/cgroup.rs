//! Control groups of a virtual machine: one folder `stockade/NAME` in each hierarchy that the host has, version 1 or 2.
//!
//! The folders belong to the machine's user id, and their parent to the group of wardens, so that a warden without any
//! capability can remove them.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use crate::folder::{Contents, Folder};
use crate::plan::{Limits, WARDEN_GID};

const ROOT: &str = "/sys/fs/cgroup";
const PARENT: &str = "stockade";
const PROCESSES: &str = "cgroup.procs";
/// Threads, in version 1: a process with one thread moves itself by it at once. For `cgroup.procs`, which moves all threads of any
/// process, the kernel waits ten milliseconds for everybody who forks.
const THREADS: &str = "tasks";
/// Microseconds in which a share of processor time is given out (cpu.cfs_period_us).
const CPU_PERIOD_US: u64 = 100_000;

/// The controllers that limit something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Controller {
    Memory,
    Cpu,
    Pids,
}

impl Controller {
    const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Pids];

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }
}

/// The folders of one machine.
#[derive(Debug)]
pub struct Cgroup {
    folders: Vec<Folder>,
    /// The folder of version 2.
    unified: Option<OwnedFd>,
    limits: Limits,
}

impl Cgroup {
    /// Makes the folders of `name` for the user id `owner`, with `limits` in force.
    ///
    /// # Errors
    /// A controller is missing, or a folder can't be made. Nothing is left then.
    pub fn create(name: &str, owner: u32, limits: &Limits) -> io::Result<Self> {
        let unified = Path::new(ROOT).join("cgroup.controllers").exists();
        expect_controllers(unified)?;
        let mut cgroup = Self { folders: Vec::new(), unified: None, limits: limits.clone() };
        let made =
            if unified { cgroup.create_unified(name, owner, limits) } else { cgroup.create_v1(name, owner, limits) };
        if made.is_err() {
            cgroup.remove();
        }
        made.map(|()| cgroup)
    }

    /// What the layer report says.
    pub fn describe(&self) -> String {
        let paths: Vec<_> = self.folders.iter().map(|folder| folder.path().display().to_string()).collect();
        let Limits { memory_bytes, processes, cpu_percent } = self.limits;
        let version = if self.unified.is_some() { 2 } else { 1 };
        let limits = format!("{} MiB, {processes} processes, {cpu_percent} % of a processor", memory_bytes >> 20);
        format!("version {version}, {limits}: {}", paths.join(", "))
    }

    /// The folders.
    pub fn folders(&self) -> &[Folder] {
        &self.folders
    }

    /// Where a process has to be born to be in it, in version 2.
    pub fn birthplace(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(AsFd::as_fd)
    }

    /// Moves the calling process, which has one thread, into it, unless that is a matter of [birth](Self::birthplace).
    ///
    /// # Errors
    /// As writing `tasks`.
    pub fn join(&self) -> io::Result<()> {
        if self.unified.is_some() {
            return Ok(());
        }
        self.folders.iter().try_for_each(|folder| write(folder.path(), THREADS, "0"))
    }

    /// Removes the folders. Returns what could not be removed, in words.
    pub fn remove(&self) -> Vec<String> {
        self.folders.iter().filter_map(Folder::remove).collect()
    }

    fn create_v1(&mut self, name: &str, owner: u32, limits: &Limits) -> io::Result<()> {
        for controller in Controller::ALL {
            let folder = self.make(&Path::new(ROOT).join(controller.name()).join(PARENT), name, owner)?;
            match controller {
                Controller::Memory => {
                    write(&folder, "memory.limit_in_bytes", &limits.memory_bytes.to_string())?;
                    // Not there where the kernel does not account swap, which then is not limited either.
                    optional(write(&folder, "memory.memsw.limit_in_bytes", &limits.memory_bytes.to_string()))?;
                    write(&folder, "memory.swappiness", "0")?;
                }
                Controller::Cpu => {
                    write(&folder, "cpu.cfs_period_us", &CPU_PERIOD_US.to_string())?;
                    write(&folder, "cpu.cfs_quota_us", &quota_us(limits).to_string())?;
                }
                Controller::Pids => write(&folder, "pids.max", &limits.processes.to_string())?,
            }
        }
        Ok(())
    }

    fn create_unified(&mut self, name: &str, owner: u32, limits: &Limits) -> io::Result<()> {
        let parent = Path::new(ROOT).join(PARENT);
        delegate(Path::new(ROOT))?;
        make_parent(&parent)?;
        delegate(&parent)?;
        let folder = self.make(&parent, name, owner)?;
        write(&folder, "memory.max", &limits.memory_bytes.to_string())?;
        optional(write(&folder, "memory.swap.max", "0"))?;
        write(&folder, "cpu.max", &format!("{} {CPU_PERIOD_US}", quota_us(limits)))?;
        write(&folder, "pids.max", &limits.processes.to_string())?;
        self.unified = Some(File::open(&folder)?.into());
        Ok(())
    }

    fn make(&mut self, parent: &Path, name: &str, owner: u32) -> io::Result<PathBuf> {
        make_parent(parent)?;
        let folder = parent.join(name);
        fs::create_dir(&folder)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", folder.display())))?;
        match Folder::open(&folder, Contents::Kernel) {
            Ok(removable) => self.folders.push(removable),
            Err(error) => {
                let _ = fs::remove_dir(&folder);
                return Err(error);
            }
        }
        // The folder alone: what is in it, the limits above all, stays root's.
        chown(&folder, Some(owner), Some(owner))?;
        Ok(folder)
    }
}

/// Removes every folder of `name` that is there. Returns what could not be removed, in words.
pub fn sweep(name: &str) -> Vec<String> {
    let mut parents: Vec<_> = Controller::ALL.iter().map(|c| Path::new(ROOT).join(c.name()).join(PARENT)).collect();
    parents.push(Path::new(ROOT).join(PARENT));
    let folders = parents.iter().map(|parent| parent.join(name)).filter(|folder| folder.exists());
    folders
        .filter_map(|path| match Folder::open(&path, Contents::Kernel) {
            Ok(folder) => folder.remove(),
            Err(error) => Some(format!("{}: {error}", path.display())),
        })
        .collect()
}

/// A host that has every controller, in one place.
fn expect_controllers(unified: bool) -> io::Result<()> {
    let root = Path::new(ROOT);
    let listed = if unified { fs::read_to_string(root.join("cgroup.controllers"))? } else { String::new() };
    let has = |name: &str| {
        if unified {
            listed.split_whitespace().any(|word| word == name)
        } else {
            root.join(name).join(PROCESSES).exists()
        }
    };
    let missing: Vec<_> = Controller::ALL.into_iter().map(Controller::name).filter(|name| !has(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let place = if unified { "cgroup.controllers does not list" } else { "no mounted version 1 hierarchy has" };
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!(
            "below {ROOT}, {place} the controllers {}; in a container, its host has to pass them on",
            missing.join(", ")
        ),
    ))
}

/// Lets the folders below `folder` have limits (cgroup v2, `cgroup.subtree_control`), if they may not have them already: the
/// kernel refuses it to a folder with processes of its own, which the root of a container is.
fn delegate(folder: &Path) -> io::Result<()> {
    const FILE: &str = "cgroup.subtree_control";
    let delegated = fs::read_to_string(folder.join(FILE))?;
    let is_there = |controller: Controller| delegated.split_whitespace().any(|word| word == controller.name());
    if Controller::ALL.into_iter().all(is_there) {
        return Ok(());
    }
    write(folder, FILE, "+memory +cpu +pids")
}

fn quota_us(limits: &Limits) -> u64 {
    u64::from(limits.cpu_percent).saturating_mul(CPU_PERIOD_US) / 100
}

fn make_parent(parent: &Path) -> io::Result<()> {
    match fs::create_dir(parent) {
        Ok(()) => {
            chown(parent, Some(0), Some(WARDEN_GID))?;
            fs::set_permissions(parent, fs::Permissions::from_mode(0o1770))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn write(folder: &Path, file: &str, value: &str) -> io::Result<()> {
    let path = folder.join(file);
    fs::write(&path, value).map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn optional(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A file that is there but can't be made: creating a file is what writing to one that is missing comes to.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other,
    }
}
