//! Everything that the kernel says of one process's confinement.

use std::path::Path;

use serde::Serialize;

use crate::cgroups::Cgroups;
use crate::descriptors::Descriptor;
use crate::error::ReadError;
use crate::limits::ResourceLimits;
use crate::mounts::Root;
use crate::namespaces::{NamespaceKind, Namespaces};
use crate::process::Process;
use crate::threads::Thread;

/// The confinement of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Confinement {
    /// Process id.
    pub pid: i32,
    /// Its program; none if that is the kernel's own.
    pub program: Option<String>,
    /// Whether its user may look into its memory; none if the kernel does not show it.
    pub dumpable: Option<bool>,
    /// Its threads, with the credentials and filters of each; the first one first.
    pub threads: Vec<Thread>,
    /// Other processes of its user.
    pub same_user: Vec<i32>,
    /// Namespaces.
    pub namespaces: Namespaces,
    /// What of the file system it sees.
    pub root: Root,
    /// Control groups.
    pub cgroups: Cgroups,
    /// Resource limits.
    pub limits: ResourceLimits,
    /// Open descriptors.
    pub descriptors: Vec<Descriptor>,
}

impl Confinement {
    /// Reads it all of `process`. Threads that start or end meanwhile may be missing.
    ///
    /// # Errors
    /// It has ended, or the kernel shows it to others only.
    pub fn read(process: &Process) -> Result<Self, ReadError> {
        let threads = Thread::read_all(process)?;
        let namespaces = Namespaces::read(process)?;
        let uid = threads.first().map(|thread| thread.status.uid.effective);
        Ok(Self {
            pid: process.pid(),
            program: process.link("exe").ok(),
            dumpable: uid.map(|uid| dumpable(process, uid, &namespaces)).transpose()?.flatten(),
            same_user: uid.map(|uid| processes_of(uid, process.pid())).unwrap_or_default(),
            threads,
            namespaces,
            root: Root::read(process)?,
            cgroups: Cgroups::read(process)?,
            limits: process.parsed("limits", ResourceLimits::parse)?,
            descriptors: Descriptor::read_all(process)?,
        })
    }
}

/// The files of a process belong to its user, or to root of its user namespace if it is not dumpable (proc_pid(5)). That tells
/// nothing where these two are one, as they are for root, and for an ordinary user who made the namespace.
fn dumpable(process: &Process, uid: u32, namespaces: &Namespaces) -> Result<Option<bool>, ReadError> {
    let is_users = process.metadata("status")?.st_uid == uid;
    let may_be_one = uid == 0 || namespaces.is_own(NamespaceKind::User);
    Ok(if is_users && may_be_one { None } else { Some(is_users) })
}

/// Processes of a user but `besides`. The folders themselves belong to the user always.
fn processes_of(uid: u32, besides: i32) -> Vec<i32> {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(Path::new("/proc")).into_iter().flatten().filter_map(Result::ok);
    let processes = entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry)));
    let of_user = |entry: &std::fs::DirEntry| entry.metadata().is_ok_and(|metadata| metadata.uid() == uid);
    processes.filter(|(pid, entry)| *pid != besides && of_user(entry)).map(|(pid, _)| pid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_can_read_itself() {
        let own = Process::open(std::process::id().try_into().unwrap()).unwrap();
        let confinement = Confinement::read(&own).unwrap();
        let program = std::env::current_exe().unwrap();
        assert_eq!(confinement.program.as_deref().map(Path::new), Some(program.as_path()));
        assert_eq!(confinement.root.path, "/");
        assert!(confinement.root.mounts.iter().any(|mount| mount.point == "/proc"));
        assert!(!confinement.same_user.contains(&own.pid()));
        let json = serde_json::to_value(&confinement).unwrap();
        assert!(json["threads"][0]["uid"]["effective"].is_number(), "{json}");
    }

    #[test]
    fn a_process_that_has_ended_is_named() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let process = Process::open(child.id().try_into().unwrap()).unwrap();
        let error = loop {
            match Confinement::read(&process) {
                Err(ReadError::Ended(pid)) => break pid,
                // It may still run, or be on its way out.
                _ => std::thread::yield_now(),
            }
        };
        assert_eq!(error, process.pid());
        child.wait().unwrap();
    }
}
