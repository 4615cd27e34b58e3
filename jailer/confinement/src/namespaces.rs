//! The namespaces of a process, against those of the host (namespaces(7)).

use serde::{Deserialize, Serialize};

use crate::error::{ParseError, ReadError};
use crate::process::Process;

/// The namespaces of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Namespaces {
    /// What they were compared with.
    pub host: Host,
    /// Each of them.
    pub all: Vec<Namespace>,
}

/// Whose namespaces are the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Host {
    /// Those of process 1.
    FirstProcess,
    /// Those of whoever looks, who may not look at process 1.
    Reader,
}

/// One namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Namespace {
    /// What it is of.
    pub kind: NamespaceKind,
    /// Its number in the kernel.
    pub id: u64,
    /// Whether it is not the host's.
    pub own: bool,
}

/// What a namespace is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NamespaceKind {
    /// Mounts.
    Mount,
    /// Process ids.
    Pid,
    /// Network devices, addresses, ports and abstract sockets.
    Network,
    /// System V IPC and message queues.
    Ipc,
    /// Host name.
    Uts,
    /// Roots of control groups.
    Cgroup,
    /// User and group ids, and capabilities.
    User,
    /// Offsets of clocks.
    Time,
}

impl NamespaceKind {
    /// Every kind; those that a jail always has are first.
    pub const ALL: [Self; 8] =
        [Self::Mount, Self::Pid, Self::Network, Self::Ipc, Self::Uts, Self::Cgroup, Self::User, Self::Time];

    /// Its name in a sentence.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mount => "mount",
            Self::Pid => "pid",
            Self::Network => "network",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Cgroup => "cgroup",
            Self::User => "user",
            Self::Time => "time",
        }
    }

    /// Whether a jail is to have one of its own.
    pub const fn is_expected(self) -> bool {
        !matches!(self, Self::User | Self::Time)
    }

    /// Name of the link in `/proc/PID/ns`.
    const fn link(self) -> &'static str {
        match self {
            Self::Mount => "mnt",
            Self::Network => "net",
            other => other.name(),
        }
    }
}

impl Namespaces {
    /// Reads those of `process`, and those of the host to compare them with.
    ///
    /// # Errors
    /// They can't be read.
    pub fn read(process: &Process) -> Result<Self, ReadError> {
        let first = Process::open(1).and_then(|first| ids(&first)).map(|ids| (Host::FirstProcess, ids));
        let (host, hosts) = first.or_else(|_| own_ids().map(|ids| (Host::Reader, ids)))?;
        let all = ids(process)?.into_iter().map(|(kind, id)| Namespace { kind, id, own: !hosts.contains(&(kind, id)) });
        Ok(Self { host, all: all.collect() })
    }

    /// Whether the process has a namespace of this kind of its own.
    pub fn is_own(&self, kind: NamespaceKind) -> bool {
        self.all.iter().any(|namespace| namespace.kind == kind && namespace.own)
    }
}

fn own_ids() -> Result<Vec<(NamespaceKind, u64)>, ReadError> {
    ids(&Process::open(rustix::process::getpid().as_raw_nonzero().get())?)
}

fn ids(process: &Process) -> Result<Vec<(NamespaceKind, u64)>, ReadError> {
    let mut ids = Vec::new();
    for kind in NamespaceKind::ALL {
        let name = format!("ns/{}", kind.link());
        match process.link(&name) {
            Ok(link) => {
                let parsed = parse(kind, &link).map_err(|source| ReadError::Parse { path: name, source })?;
                ids.push((kind, parsed));
            }
            // A kernel without this kind. Of a process that has ended, none is there.
            Err(error) if error.is_gone() && kind != NamespaceKind::Mount => {}
            Err(error) => return Err(error),
        }
    }
    Ok(ids)
}

/// Parses what a link says: `mnt:[4026531841]`.
fn parse(kind: NamespaceKind, link: &str) -> Result<u64, ParseError> {
    let number = link.strip_prefix(kind.link()).and_then(|rest| rest.strip_prefix(":[")?.strip_suffix(']'));
    number.and_then(|number| number.parse().ok()).ok_or_else(|| ParseError::invalid("a namespace", link))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_have_numbers() {
        assert_eq!(parse(NamespaceKind::Mount, "mnt:[4026531841]"), Ok(4_026_531_841));
        assert_eq!(parse(NamespaceKind::Cgroup, "cgroup:[7]"), Ok(7));
        for link in ["net:[1]", "mnt:1", "mnt:[]", "mnt:[x]", "mnt:[1", ""] {
            assert!(parse(NamespaceKind::Mount, link).is_err(), "{link}");
        }
    }

    #[test]
    fn a_process_of_this_test_has_the_hosts() {
        let own = Process::open(std::process::id().try_into().unwrap()).unwrap();
        let namespaces = Namespaces::read(&own).unwrap();
        assert!(namespaces.all.len() >= 7, "{namespaces:?}");
        assert!(namespaces.host == Host::FirstProcess || namespaces.all.iter().all(|namespace| !namespace.own));
    }
}
