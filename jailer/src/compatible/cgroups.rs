//! Control groups as the command line asks for them: `PARENT/ID` in the hierarchy of each controller (version 1), or in the one
//! hierarchy (version 2). They stay when the vmm ends; whoever starts it removes them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat2};
use rustix::io::Errno;

use super::arguments::{Arguments, CgroupValue, CgroupVersion};
use super::hierarchies::Hierarchies;
use super::undo::{Made, Undo};
use crate::error::{JailError, Step};
use crate::plan::Layer;

const PROCESSES: &str = "cgroup.procs";
/// In version 1 a process with one thread moves itself by it at once; `cgroup.procs` waits for everybody who forks.
const THREADS: &str = "tasks";
const SUBTREE: &str = "cgroup.subtree_control";

/// Control groups that a process can join.
#[derive(Debug, Default)]
pub(super) struct Cgroups {
    entrances: Vec<Entrance>,
}

#[derive(Debug)]
struct Entrance {
    path: PathBuf,
    file: File,
    /// That of the control group where the jailer is, to get back.
    before: Option<File>,
}

impl Cgroups {
    /// Makes the control groups, with their values in force.
    ///
    /// # Errors
    /// The option that can't be had.
    pub(super) fn prepare(arguments: &Arguments, program: &OsStr, undo: &mut Undo) -> Result<Self, JailError> {
        let parent = arguments.parent_cgroup.as_deref().unwrap_or_else(|| Path::new(program));
        let is_asked = !arguments.cgroup.is_empty() || arguments.cgroup_version == CgroupVersion::V2;
        if !is_asked || !arguments.wants(Layer::Cgroup) {
            return Ok(Self::default());
        }
        let hierarchies = Hierarchies::read(arguments.cgroup_version)
            .step(format!("--cgroup-version {}", arguments.cgroup_version.number()))?;
        match arguments.cgroup_version {
            CgroupVersion::V1 => prepare_v1(arguments, &hierarchies, parent, undo),
            CgroupVersion::V2 if arguments.cgroup.is_empty() => join_parent(&hierarchies, parent),
            CgroupVersion::V2 => prepare_v2(arguments, &hierarchies, parent, undo),
        }
    }

    /// Moves the calling process, which has one thread, into them.
    ///
    /// # Errors
    /// As writing `tasks` or `cgroup.procs`.
    pub(super) fn join(&mut self, undo: &mut Undo) -> Result<(), JailError> {
        for entrance in &mut self.entrances {
            let joined = entrance.file.write_all(b"0").map_err(explain_busy);
            joined.layer(Layer::Cgroup, format!("join the control group {}", entrance.path.display()))?;
            entrance.before.take().into_iter().for_each(|before| undo.add(Made::Joined(before)));
        }
        Ok(())
    }

    fn add(&mut self, group: &Group, file: &str, before: Option<File>) -> io::Result<()> {
        let entrance = Entrance { path: group.path.clone(), file: group.open(file, OFlags::WRONLY)?, before };
        self.entrances.push(entrance);
        Ok(())
    }
}

fn prepare_v1(
    arguments: &Arguments,
    hierarchies: &Hierarchies,
    parent: &Path,
    undo: &mut Undo,
) -> Result<Cgroups, JailError> {
    const CPUSET: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];
    let mut cgroups = Cgroups::default();
    let mut mounts = BTreeSet::new();
    for value in &arguments.cgroup {
        let hierarchy = hierarchies.of(value.controller()).step(value.flag())?;
        let path = parent.join(&arguments.id);
        let inherited: &[&str] = if value.controller() == "cpuset" { &CPUSET } else { &[] };
        let group = Group::make(&hierarchy.mount, &path, inherited, undo).step(value.flag())?;
        group.set(value).step(value.flag())?;
        if mounts.insert(hierarchy.mount.clone()) {
            cgroups.add(&group, THREADS, hierarchy.entrance()).step(value.flag())?;
        }
    }
    Ok(cgroups)
}

fn prepare_v2(
    arguments: &Arguments,
    hierarchies: &Hierarchies,
    parent: &Path,
    undo: &mut Undo,
) -> Result<Cgroups, JailError> {
    let mut cgroups = Cgroups::default();
    let path = parent.join(&arguments.id);
    let hierarchy = hierarchies.unified().step("--cgroup-version 2")?;
    let group = Group::make(&hierarchy.mount, &path, &[], undo).step("--cgroup-version 2")?;
    for value in &arguments.cgroup {
        let enabled = hierarchy.expect(value.controller()).and_then(|()| enable(&hierarchy.mount, parent, value));
        enabled.and_then(|()| group.set(value)).step(value.flag())?;
    }
    cgroups.add(&group, PROCESSES, hierarchy.entrance()).step("--cgroup-version 2")?;
    Ok(cgroups)
}

/// Without a value, the vmm is one of the processes of its parent, if that is there.
fn join_parent(hierarchies: &Hierarchies, parent: &Path) -> Result<Cgroups, JailError> {
    let mut cgroups = Cgroups::default();
    let hierarchy = hierarchies.unified().step("--cgroup-version 2")?;
    let flag = || format!("--parent-cgroup {}", parent.display());
    match Group::open_existing(&hierarchy.mount, parent) {
        Ok(group) => cgroups.add(&group, PROCESSES, hierarchy.entrance()).step(flag())?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).step(flag()),
    }
    Ok(cgroups)
}

/// Lets the groups on the way to the VM's have values of a controller.
fn enable(mount: &Path, parent: &Path, value: &CgroupValue) -> io::Result<()> {
    // What a group has of its own, as cgroup.max.depth.
    if value.controller() == "cgroup" {
        return Ok(());
    }
    let mut path = PathBuf::new();
    let steps = std::iter::once(OsStr::new("")).chain(parent.iter());
    for step in steps {
        path.push(step);
        let group = Group::open_existing(mount, &path)?;
        let enabled = group.read(SUBTREE)?;
        if !enabled.split_whitespace().any(|controller| controller == value.controller()) {
            group.write(SUBTREE, &format!("+{}", value.controller())).map_err(explain_busy)?;
        }
    }
    Ok(())
}

/// A folder of a hierarchy.
#[derive(Debug)]
struct Group {
    folder: Arc<OwnedFd>,
    path: PathBuf,
}

impl Group {
    /// Opens the group at `path` below `mount`, and makes what is missing on the way. Files in `inherited` that are empty get what
    /// the parent's say.
    fn make(mount: &Path, path: &Path, inherited: &[&str], undo: &mut Undo) -> io::Result<Self> {
        let mut group = Self::open_existing(mount, Path::new(""))?;
        for name in path {
            match mkdirat(&*group.folder, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => undo.add(Made::Folder(group.folder.clone(), name.to_owned())),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(group.explain(name, errno.into())),
            }
            let child = group.descend(name)?;
            for file in inherited {
                if child.read(file)?.trim().is_empty() {
                    child.write(file, group.read(file)?.trim())?;
                }
            }
            group = child;
        }
        Ok(group)
    }

    fn open_existing(mount: &Path, path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = openat2(CWD, mount, flags, Mode::empty(), ResolveFlags::empty())?;
        let root = Self { folder: Arc::new(folder), path: mount.to_owned() };
        path.iter().try_fold(root, |group, name| group.descend(name))
    }

    fn descend(&self, name: &OsStr) -> io::Result<Self> {
        let folder = self.open_as(name, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(Self { folder: Arc::new(folder), path: self.path.join(name) })
    }

    fn set(&self, value: &CgroupValue) -> io::Result<()> {
        let explain = |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!("{error}; give a file and a value that this kernel has, or leave it out"),
            )
        };
        self.write(&value.file, &value.value).map_err(explain)
    }

    fn read(&self, file: &str) -> io::Result<String> {
        let mut text = String::new();
        self.open(file, OFlags::RDONLY)?.read_to_string(&mut text)?;
        Ok(text)
    }

    fn write(&self, file: &str, value: &str) -> io::Result<()> {
        let written = self.open(file, OFlags::WRONLY)?.write_all(value.as_bytes());
        written.map_err(|error| self.explain(OsStr::new(file), error))
    }

    fn open(&self, file: &str, flags: OFlags) -> io::Result<File> {
        Ok(self.open_as(OsStr::new(file), flags)?.into())
    }

    fn open_as(&self, name: &OsStr, flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        let opened = openat2(&*self.folder, name, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
        opened.map_err(|errno| self.explain(name, errno.into()))
    }

    fn explain(&self, name: &OsStr, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", self.path.join(name).display()))
    }
}

/// In version 2 a group has either processes or groups with controllers.
fn explain_busy(error: io::Error) -> io::Error {
    if error.kind() != io::ErrorKind::ResourceBusy {
        return error;
    }
    let remedy = "a control group of version 2 has either processes or children with controllers: give --cgroup for a group \
                  of the VM's own, or another --parent-cgroup";
    io::Error::new(error.kind(), format!("{error}; {remedy}"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn value(file: &str) -> CgroupValue {
        CgroupValue { file: file.to_owned(), value: "1000".to_owned() }
    }

    /// A hierarchy of version 2 without a kernel behind it: `a/b`, with the controllers that `a` has enabled.
    fn hierarchy(enabled: &str) -> tempfile::TempDir {
        let mount = tempfile::tempdir().unwrap();
        fs::create_dir_all(mount.path().join("a/b/vm")).unwrap();
        for (group, controllers) in [("", "cpu memory pids"), ("a", enabled), ("a/b", "")] {
            fs::write(mount.path().join(group).join(SUBTREE), controllers).unwrap();
        }
        fs::write(mount.path().join("a/b/vm/memory.max"), "").unwrap();
        mount
    }

    fn subtree(mount: &tempfile::TempDir, group: &str) -> String {
        fs::read_to_string(mount.path().join(group).join(SUBTREE)).unwrap()
    }

    #[test]
    fn a_controller_is_enabled_where_it_is_not_yet() {
        let mount = hierarchy("io");
        enable(mount.path(), Path::new("a/b"), &value("memory.max")).unwrap();
        assert!(subtree(&mount, "").starts_with("cpu memory"));
        assert_eq!((subtree(&mount, "a"), subtree(&mount, "a/b")), ("+memory".into(), "+memory".into()));
        let mount = hierarchy("memory_other");
        enable(mount.path(), Path::new("a/b"), &value("memory.max")).unwrap();
        assert!(subtree(&mount, "a").starts_with("+memory"));
        let mount = hierarchy("io");
        enable(mount.path(), Path::new("a/b"), &value("cgroup.max.depth")).unwrap();
        assert_eq!((subtree(&mount, "a"), subtree(&mount, "a/b")), ("io".into(), String::new()));
        let error = enable(mount.path(), Path::new("a/missing"), &value("memory.max")).unwrap_err();
        assert!(error.to_string().contains("a/missing"), "{error}");
    }

    #[test]
    fn groups_are_made_where_they_are_missing_and_undone() {
        let mount = hierarchy("");
        let mut undo = Undo::default();
        let group = Group::make(mount.path(), Path::new("a/b/vm"), &[], &mut undo).unwrap();
        group.set(&value("memory.max")).unwrap();
        assert_eq!(fs::read_to_string(mount.path().join("a/b/vm/memory.max")).unwrap(), "1000");
        let error = group.set(&value("memory.none")).unwrap_err().to_string();
        assert!(error.contains("a/b/vm/memory.none") && error.contains("give a file"), "{error}");
        Group::make(mount.path(), Path::new("a/new/vm"), &[], &mut undo).unwrap();
        assert!(mount.path().join("a/new/vm").is_dir());
        drop(undo);
        assert!(!mount.path().join("a/new").exists() && mount.path().join("a/b/vm").is_dir());
    }

    #[test]
    fn no_group_is_reached_through_a_link() {
        let mount = hierarchy("");
        std::os::unix::fs::symlink("b", mount.path().join("a/link")).unwrap();
        let made = Group::make(mount.path(), Path::new("a/link/vm"), &[], &mut Undo::default());
        assert!(made.unwrap_err().to_string().contains("a/link"));
    }
}
