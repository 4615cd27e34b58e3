//! The control groups of a process, what they limit, and what of that is used (cgroups(7)); version 1, version 2 or both.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{ParseError, ReadError};
use crate::mounts::Mount;
use crate::process::Process;

/// Where a process is in the host's control groups, and what that means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cgroups {
    /// One for each hierarchy.
    pub memberships: Vec<Membership>,
    /// Memory, bytes.
    pub memory: Usage,
    /// Processes and threads.
    pub processes: Usage,
    /// Processor time: the limit in hundredths of one processor, what was used in microseconds.
    pub cpu: Usage,
}

/// A control group that a process is in: a line of `/proc/PID/cgroup`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Membership {
    /// Version of the hierarchy: 1 or 2.
    pub version: u8,
    /// Controllers of a version 1 hierarchy.
    pub controllers: Vec<String>,
    /// Path of the group, from the reader's own root.
    pub path: String,
}

/// What is limited, and used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// The least limit of the group and those above it; none if there is no limit.
    pub limit: Option<u64>,
    /// What the group uses.
    pub used: Option<u64>,
    /// The folder of the group; none if the reader does not see it.
    pub folder: Option<PathBuf>,
}

impl Cgroups {
    /// Reads those of `process`.
    ///
    /// # Errors
    /// They can't be read.
    pub fn read(process: &Process) -> Result<Self, ReadError> {
        let memberships = process.parsed("cgroup", Membership::parse_all)?;
        // The process itself sees none of them, so what is mounted at the reader's is asked.
        let reader = Process::open(rustix::process::getpid().as_raw_nonzero().get())?;
        let mounts = reader.parsed("mountinfo", Mount::parse_all)?;
        Ok(Self::of(memberships, &mounts))
    }

    fn of(memberships: Vec<Membership>, mounts: &[Mount]) -> Self {
        let place = |controller| Place::find(controller, &memberships, mounts);
        let usage = |place: Option<Place>, read: fn(&Place) -> Usage| place.as_ref().map(read).unwrap_or_default();
        Self {
            memory: usage(place("memory"), memory),
            processes: usage(place("pids"), processes),
            cpu: usage(place("cpu"), cpu),
            memberships,
        }
    }
}

impl Membership {
    /// Parses the file.
    ///
    /// # Errors
    /// A line is not as it should be.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, ParseError> {
        text.lines().map(Self::parse).collect()
    }

    /// Parses `NUMBER:CONTROLLERS:PATH`; version 2 has number 0 and no controllers.
    fn parse(line: &str) -> Result<Self, ParseError> {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(ParseError::invalid("a control group", line));
        };
        let controllers: Vec<_> = controllers.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        let version = if number == "0" && controllers.is_empty() { 2 } else { 1 };
        Ok(Self { version, controllers, path: path.to_owned() })
    }
}

/// The folder of a group, and that of the uppermost group that the reader sees.
struct Place {
    version: u8,
    folder: PathBuf,
    top: PathBuf,
}

impl Place {
    /// Where the group is that has the controller's limits.
    fn find(controller: &str, memberships: &[Membership], mounts: &[Mount]) -> Option<Self> {
        let has = |membership: &&Membership| membership.controllers.iter().any(|name| name == controller);
        let membership = memberships.iter().find(has).or_else(|| memberships.iter().find(|one| one.version == 2))?;
        let is_its_mount = |mount: &&Mount| match membership.version {
            2 => mount.file_system == "cgroup2",
            _ => mount.file_system == "cgroup" && mount.super_options.iter().any(|option| option == controller),
        };
        let mount = mounts.iter().find(is_its_mount)?;
        // In a container only a part may be mounted.
        let below = Path::new(&membership.path).strip_prefix(&mount.root).ok()?;
        if below.components().any(|part| part.as_os_str() == "..") {
            return None;
        }
        let top = PathBuf::from(&mount.point);
        Some(Self { version: membership.version, folder: top.join(below), top })
    }

    /// The least that `limit` finds in the group's folder and those above it.
    fn least(&self, limit: impl Fn(&Path) -> Option<u64>) -> Option<u64> {
        self.folder.ancestors().take_while(|folder| folder.starts_with(&self.top)).filter_map(limit).min()
    }

    fn usage(&self, limit: impl Fn(&Path) -> Option<u64>, used: Option<u64>) -> Usage {
        Usage { limit: self.least(limit), used, folder: Some(self.folder.clone()) }
    }
}

fn memory(place: &Place) -> Usage {
    /// What version 1 says where there is no limit, or more: as many pages as there are numbers for.
    const NO_LIMIT: u64 = 1 << 62;
    let (limit, used) = match place.version {
        2 => ("memory.max", "memory.current"),
        _ => ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    };
    place.usage(|folder| number(folder, limit).filter(|limit| *limit < NO_LIMIT), number(&place.folder, used))
}

fn processes(place: &Place) -> Usage {
    place.usage(|folder| number(folder, "pids.max"), number(&place.folder, "pids.current"))
}

fn cpu(place: &Place) -> Usage {
    let used = match place.version {
        2 => text(&place.folder, "cpu.stat").as_deref().and_then(usage_us),
        _ => number(&place.folder, "cpuacct.usage").map(|nanoseconds| nanoseconds / 1000),
    };
    let limit = |folder: &Path| match place.version {
        2 => text(folder, "cpu.max").as_deref().and_then(percent_of),
        _ => percent(number(folder, "cpu.cfs_quota_us")?, number(folder, "cpu.cfs_period_us")?),
    };
    place.usage(limit, used)
}

/// Parses `QUOTA PERIOD` or `max PERIOD`.
fn percent_of(text: &str) -> Option<u64> {
    let (quota, period) = text.trim().split_once(' ')?;
    percent(quota.parse().ok()?, period.parse().ok()?)
}

fn percent(quota: u64, period: u64) -> Option<u64> {
    quota.saturating_mul(100).checked_div(period)
}

/// Finds `usage_usec NUMBER`.
fn usage_us(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("usage_usec ")?.trim().parse().ok())
}

/// The number in a file; none if there is no such file or it has a word (`max`, or -1 for no limit).
fn number(folder: &Path, file: &str) -> Option<u64> {
    text(folder, file)?.trim().parse().ok()
}

fn text(folder: &Path, file: &str) -> Option<String> {
    std::fs::read_to_string(folder.join(file)).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mount(root: &str, point: &Path, file_system: &str, option: &str) -> Mount {
        Mount {
            device: "0:1".into(),
            root: root.into(),
            point: point.display().to_string(),
            options: vec!["rw".into()],
            file_system: file_system.into(),
            source: "cgroup".into(),
            super_options: vec!["rw".into(), option.into()],
        }
    }

    fn write(folder: &Path, files: &[(&str, &str)]) {
        std::fs::create_dir_all(folder).unwrap();
        for (file, value) in files {
            std::fs::write(folder.join(file), format!("{value}\n")).unwrap();
        }
    }

    #[test]
    fn memberships_of_both_versions() {
        let text = "9:name=systemd:/\n8:pids:/stockade/a:b\n2:cpu,cpuacct:/\n0::/user.slice\n";
        let all = Membership::parse_all(text).unwrap();
        assert_eq!(all.iter().map(|one| one.version).collect::<Vec<_>>(), [1, 1, 1, 2]);
        assert_eq!((all[1].path.as_str(), all[3].path.as_str()), ("/stockade/a:b", "/user.slice"));
        assert_eq!(all[2].controllers, ["cpu", "cpuacct"]);
        assert!(Membership::parse_all("0:x\n").is_err());
    }

    #[test]
    fn limits_of_version_1() {
        let host = tempfile::tempdir().unwrap();
        let (memory, cpu, pids) = (host.path().join("memory"), host.path().join("cpu"), host.path().join("pids"));
        write(&memory, &[("memory.limit_in_bytes", "9223372036854771712")]);
        let group = [("memory.limit_in_bytes", "4096000"), ("memory.usage_in_bytes", "4096")];
        write(&memory.join("stockade/x"), &group);
        // A group above may allow less.
        write(&memory.join("stockade"), &[("memory.limit_in_bytes", "8192")]);
        write(&cpu.join("stockade/x"), &[("cpu.cfs_quota_us", "150000"), ("cpu.cfs_period_us", "100000")]);
        write(&cpu, &[("cpu.cfs_quota_us", "-1"), ("cpu.cfs_period_us", "100000")]);
        write(&pids.join("stockade/x"), &[("pids.max", "max"), ("pids.current", "3")]);
        let mounts =
            [("memory", &memory), ("cpu", &cpu), ("pids", &pids)].map(|(name, at)| mount("/", at, "cgroup", name));
        let text = "4:memory:/stockade/x\n3:cpu:/stockade/x\n2:pids:/stockade/x\n0::/\n";
        let cgroups = Cgroups::of(Membership::parse_all(text).unwrap(), &mounts);
        assert_eq!((cgroups.memory.limit, cgroups.memory.used), (Some(8192), Some(4096)));
        assert_eq!((cgroups.cpu.limit, cgroups.cpu.used), (Some(150), None));
        assert_eq!((cgroups.processes.limit, cgroups.processes.used), (None, Some(3)));
        assert_eq!(cgroups.memory.folder, Some(memory.join("stockade/x")));
    }

    #[test]
    fn limits_of_version_2() {
        let host = tempfile::tempdir().unwrap();
        let files = [
            ("memory.max", "1048576"),
            ("memory.current", "7"),
            ("pids.max", "18"),
            ("cpu.max", "50000 100000"),
            ("cpu.stat", "usage_usec 1234\nuser_usec 1000"),
        ];
        write(&host.path().join("x"), &files);
        // As in a container that sees a part only.
        let mounts = [mount("/docker/1", host.path(), "cgroup2", "nsdelegate")];
        let cgroups = Cgroups::of(Membership::parse_all("0::/docker/1/x\n").unwrap(), &mounts);
        assert_eq!((cgroups.memory.limit, cgroups.memory.used), (Some(1 << 20), Some(7)));
        assert_eq!((cgroups.processes.limit, cgroups.cpu.limit, cgroups.cpu.used), (Some(18), Some(50), Some(1234)));
        for path in ["0::/elsewhere\n", "0::/docker/1/../../x\n"] {
            let unseen = Cgroups::of(Membership::parse_all(path).unwrap(), &mounts);
            assert_eq!(unseen.memory, Usage::default());
        }
    }

    proptest! {
        #[test]
        fn no_text_is_a_surprise(text in "\\PC{0,60}") {
            let _ = (Membership::parse_all(&text), percent_of(&text), usage_us(&text));
        }
    }
}
