//! Where control groups are mounted, and where in them this process is.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::arguments::CgroupVersion;

const PROCESSES: &str = "cgroup.procs";

/// What control groups can't be had for.
#[derive(Debug, thiserror::Error)]
enum HierarchyError {
    #[error("no hierarchy of this version is mounted; give the other --cgroup-version")]
    Missing,
    #[error(
        "the controller {0} is in no mounted hierarchy of this version; mount it, or give the other --cgroup-version"
    )]
    Controller(String),
}

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Where it is mounted.
    pub(super) mount: PathBuf,
    controllers: Vec<String>,
    /// The group of this process in it.
    current: Option<String>,
}

impl Hierarchy {
    /// Makes sure that it has a controller. What begins with `cgroup.` every group has.
    pub(super) fn expect(&self, controller: &str) -> io::Result<()> {
        let has = controller == "cgroup" || self.controllers.iter().any(|name| name == controller);
        has.then_some(()).ok_or_else(|| io::Error::other(HierarchyError::Controller(controller.to_owned())))
    }

    /// By what this process gets back to where it is.
    pub(super) fn entrance(&self) -> Option<File> {
        let group = self.current.as_deref()?.trim_start_matches('/');
        fs::OpenOptions::new().write(true).open(self.mount.join(group).join(PROCESSES)).ok()
    }
}

/// The mounted hierarchies of one version.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hierarchies(Vec<Hierarchy>);

impl Hierarchies {
    /// Reads `/proc/mounts` and `/proc/self/cgroup`.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn read(version: CgroupVersion) -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/mounts")?;
        let groups = fs::read_to_string("/proc/self/cgroup")?;
        let mut found = Self::parse(version, &mounts, &groups);
        if version == CgroupVersion::V2 {
            for hierarchy in &mut found.0 {
                let controllers = fs::read_to_string(hierarchy.mount.join("cgroup.controllers"))?;
                hierarchy.controllers = controllers.split_whitespace().map(String::from).collect();
            }
        }
        if found.0.is_empty() { Err(io::Error::other(HierarchyError::Missing)) } else { Ok(found) }
    }

    /// The hierarchy of version 1 that has a controller.
    pub(super) fn of(&self, controller: &str) -> io::Result<&Hierarchy> {
        let found = self.0.iter().find(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller));
        found.ok_or_else(|| io::Error::other(HierarchyError::Controller(controller.to_owned())))
    }

    /// The hierarchy of version 2.
    pub(super) fn unified(&self) -> io::Result<&Hierarchy> {
        self.0.first().ok_or_else(|| io::Error::other(HierarchyError::Missing))
    }

    fn parse(version: CgroupVersion, mounts: &str, groups: &str) -> Self {
        let kind = match version {
            CgroupVersion::V1 => "cgroup",
            CgroupVersion::V2 => "cgroup2",
        };
        let parse = |line: &str| {
            let mut words = line.split_whitespace().skip(1);
            let (mount, found, options) = (words.next()?, words.next()?, words.next()?);
            (found == kind).then(|| Hierarchy {
                mount: Path::new(mount).to_owned(),
                controllers: options.split(',').map(String::from).collect(),
                current: current(version, groups, options),
            })
        };
        Self(mounts.lines().filter_map(parse).collect())
    }
}

/// The group of this process, by a line `NUMBER:CONTROLLERS:GROUP` (cgroups(7)).
fn current(version: CgroupVersion, groups: &str, options: &str) -> Option<String> {
    let is_of = |controllers: &str| match version {
        CgroupVersion::V1 => controllers.split(',').all(|name| options.split(',').any(|option| option == name)),
        CgroupVersion::V2 => controllers.is_empty(),
    };
    groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, group) = (parts.next()?, parts.next()?);
        (is_of(controllers) && (version == CgroupVersion::V2 || !controllers.is_empty())).then(|| group.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
tmpfs /sys/fs/cgroup tmpfs rw,relatime,mode=755 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nosuid,nodev,noexec,relatime,nsdelegate 0 0
broken
";
    const GROUPS: &str = "4:memory:/a:b\n1:cpu,cpuacct:/\n0::/c\n";

    #[test]
    fn a_controller_is_where_its_hierarchy_is_mounted() {
        let found = Hierarchies::parse(CgroupVersion::V1, MOUNTS, GROUPS);
        assert_eq!(found.of("cpuacct").unwrap().mount, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(found.of("cpuacct").unwrap().current.as_deref(), Some("/"));
        assert_eq!(found.of("memory").unwrap().current.as_deref(), Some("/a:b"));
        let message = found.of("pids").unwrap_err().to_string();
        assert!(message.contains("pids") && message.contains("--cgroup-version"), "{message}");
    }

    #[test]
    fn version_2_has_one_hierarchy() {
        let found = Hierarchies::parse(CgroupVersion::V2, MOUNTS, GROUPS);
        let unified = found.unified().unwrap();
        assert_eq!(unified.mount, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(unified.current.as_deref(), Some("/c"));
        assert!(unified.expect("cgroup").is_ok());
        assert!(unified.expect("memory").is_err());
        assert!(Hierarchies::parse(CgroupVersion::V2, "", GROUPS).unified().is_err());
    }
}
