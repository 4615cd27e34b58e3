//! Looks at the confinement of a virtual machine's vmm, or of any other process.

use std::io;
use std::path::Path;

use serde::Serialize;
use stockade_confinement::{Confinement, JailKind, Process, ReadError, Record, RecordError, Root, Verdict, identity};

use crate::machine::state::State;

/// Where the daemon has a folder for the record of each of its processes, in its run directory.
pub const ROLES: &str = "daemon/roles";
/// Name of a root directory in the folder of a jail of compatible mode.
const ROOT: &str = "root";

/// What was found.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// Name of the virtual machine; none if the process is none's.
    pub vm: Option<String>,
    /// What is to be said of it.
    pub verdict: Verdict,
    /// What the jailer recorded; none if the process is in no jail of Stockade's.
    pub record: Option<Record>,
    /// What the kernel says.
    pub process: Confinement,
}

/// Nothing could be found out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectionError {
    /// It is neither a virtual machine nor a number.
    #[error("{name:?}: there is no virtual machine of this name; {}", there_are(known))]
    NoSuchMachine {
        /// What was asked for.
        name: String,
        /// Which there are.
        known: Vec<String>,
    },
    /// It has a folder, but no vmm was confined for it.
    #[error("{0}: its jail is not complete yet; try again, or name the process by its number")]
    Incomplete(String),
    /// Its vmm is not there any more.
    #[error("{0}: it has ended; its folder goes with the next `stockade run`")]
    Ended(String),
    /// A process of the daemon is not there any more.
    #[error("{0}: this process of the daemon has ended; one that dies is started again, so try again")]
    RoleEnded(String),
    /// The jailer's record can't be used.
    #[error("{name}: the jailer's record")]
    Record {
        /// Of which virtual machine.
        name: String,
        /// What is wrong with it.
        #[source]
        source: RecordError,
    },
    /// There is no daemon with this run directory.
    #[error("no daemon has left anything in {0}; start stockaded, or name its socket")]
    NoDaemon(String),
    /// The folders of virtual machines are root's.
    #[error("look for virtual machines in {folder}: run as root")]
    NotPermitted {
        /// Where.
        folder: String,
    },
    /// The process can't be looked at.
    #[error(transparent)]
    Read(#[from] ReadError),
}

fn there_are(known: &[String]) -> String {
    if known.is_empty() { "none runs".to_owned() } else { format!("there are: {}", known.join(", ")) }
}

/// Looks at `subject`: the name of a virtual machine that `stockade run` started, the folder of a jail of compatible mode, or the
/// number of a process.
///
/// # Errors
/// There is none, or it can't be looked at.
pub fn inspect(subject: &str) -> Result<Inspection, InspectionError> {
    inspect_among(&State::of_caller().machines(), subject)
}

/// Looks at each process of the daemon that has this run directory.
///
/// # Errors
/// There is none, or one of them has ended.
pub fn inspect_daemon(run: &Path) -> Result<Vec<Inspection>, InspectionError> {
    let folder = run.join(ROLES);
    let entries = std::fs::read_dir(&folder).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => InspectionError::NotPermitted { folder: folder.display().to_string() },
        _ => InspectionError::NoDaemon(run.display().to_string()),
    })?;
    drop(entries);
    let inspect = |name: &String| {
        let record = Record::read(&folder.join(name));
        let record = record.map_err(|source| InspectionError::Record { name: name.clone(), source })?;
        let process = process_of(&record).ok_or_else(|| InspectionError::RoleEnded(name.clone()))?;
        let process = Confinement::read(&process)?;
        Ok(Inspection { vm: None, verdict: Verdict::on(&process, Some(&record)), record: Some(record), process })
    };
    match names(&folder).as_slice() {
        [] => Err(InspectionError::NoDaemon(run.display().to_string())),
        names => names.iter().map(inspect).collect(),
    }
}

fn inspect_among(machines: &Path, subject: &str) -> Result<Inspection, InspectionError> {
    let found = if subject.contains('/') { Some(compatible(subject)?) } else { find(machines, subject)? };
    let (process, record) = match (found, subject.parse()) {
        (Some(record), _) => {
            let process = process_of(&record).ok_or_else(|| InspectionError::Ended(subject.to_owned()))?;
            (process, Some(record))
        }
        (None, Ok(pid)) => {
            let process = Process::open(pid)?;
            let record = record_of(machines, &process).or_else(|| record_around(&process));
            (process, record)
        }
        (None, Err(_)) => {
            let known = names(machines);
            return Err(InspectionError::NoSuchMachine { name: subject.to_owned(), known });
        }
    };
    let process = Confinement::read(&process)?;
    let verdict = Verdict::on(&process, record.as_ref());
    Ok(Inspection { vm: record.as_ref().map(|record| record.id.clone()), verdict, record, process })
}

/// The record of the virtual machine of this name, if there is such a machine.
fn find(machines: &Path, name: &str) -> Result<Option<Record>, InspectionError> {
    let is_name = name.parse::<crate::request::VmName>().is_ok();
    let folder = machines.join(name);
    if !is_name {
        return Ok(None);
    }
    match std::fs::symlink_metadata(&folder) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && name.parse::<i32>().is_err() => {
            return Err(InspectionError::NotPermitted { folder: machines.display().to_string() });
        }
        Err(_) => return Ok(None),
    }
    match Record::read(&folder) {
        Ok(record) => Ok(Some(record)),
        Err(RecordError::Read(error)) if error.kind() == io::ErrorKind::NotFound => {
            Err(InspectionError::Incomplete(name.to_owned()))
        }
        Err(source) => Err(InspectionError::Record { name: name.to_owned(), source }),
    }
}

/// The record of the jail of compatible mode in this folder, or around this root directory.
fn compatible(folder: &str) -> Result<Record, InspectionError> {
    let path = Path::new(folder);
    let missing =
        |error: &RecordError| matches!(error, RecordError::Read(error) if error.kind() == io::ErrorKind::NotFound);
    let around = |error| match path.parent().filter(|_| path.ends_with(ROOT) && missing(&error)) {
        Some(around) => Record::read(around),
        None => Err(error),
    };
    let record = Record::read(path).or_else(around);
    record.map_err(|source| InspectionError::Record { name: folder.to_owned(), source })
}

/// The record beside the root directory of `process`, if it is in a jail of compatible mode.
fn record_around(process: &Process) -> Option<Record> {
    let root = Root::read(process).ok()?.place().ok()??;
    let record = Record::read(root.parent()?).ok()?;
    (matches!(record.jail, JailKind::Compatible { .. }) && is_of(&record, process)).then_some(record)
}

/// The vmm that a record is about, if it is still there.
fn process_of(record: &Record) -> Option<Process> {
    Process::open(record.pid).ok().filter(|process| is_of(record, process))
}

fn is_of(record: &Record, process: &Process) -> bool {
    let found = process.descriptor().ok().and_then(|descriptor| identity(descriptor).ok());
    record.pid == process.pid() && found == Some(record.identity)
}

/// The record that is about `process`, if it is a vmm's.
fn record_of(machines: &Path, process: &Process) -> Option<Record> {
    let records = names(machines).into_iter().filter_map(|name| Record::read(&machines.join(name)).ok());
    records.into_iter().find(|record| is_of(record, process))
}

/// Names of the virtual machines that have a folder.
fn names(machines: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(machines).into_iter().flatten().filter_map(Result::ok);
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::PathBuf;

    use stockade_confinement::{Layer, LayerReport, Limits, State};

    use super::*;
    use crate::text::chain;

    /// Folders of machines, in which nothing is.
    fn machines() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        (folder, path)
    }

    /// The record of a machine whose vmm is this test.
    fn record() -> Record {
        let pid = std::process::id().try_into().unwrap();
        let layers = vec![LayerReport { layer: Layer::Landlock, enforced: true, detail: "ABI 6".into() }];
        Record {
            id: "one".into(),
            pid,
            identity: identity(Process::open(pid).unwrap().descriptor().unwrap()).unwrap(),
            uid: 1,
            gid: 1,
            jail: JailKind::Sealed {
                warden: 1,
                limits: Limits { memory_bytes: 1, processes: 1, cpu_percent: 1 },
                filters: 2,
            },
            layers,
        }
    }

    fn write(machines: &Path, record: &Record) {
        let folder = machines.join(&record.id);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        let mut options = std::fs::File::options();
        let file = options.write(true).create_new(true).mode(Record::MODE).open(folder.join(Record::FILE)).unwrap();
        serde_json::to_writer(file, record).unwrap();
    }

    fn failure(machines: &Path, subject: &str) -> String {
        chain(&inspect_among(machines, subject).unwrap_err())
    }

    #[test]
    fn what_is_not_there_is_named_with_what_is() {
        let (_folder, machines) = machines();
        assert_eq!(failure(&machines, "one"), "\"one\": there is no virtual machine of this name; none runs");
        std::fs::create_dir(machines.join("one")).unwrap();
        std::fs::create_dir(machines.join("two")).unwrap();
        assert!(failure(&machines, "three").ends_with("; there are: one, two"));
        assert!(failure(&machines, "../one").starts_with("../one: the jailer's record: "));
        assert!(failure(&machines, "one").starts_with("one: its jail is not complete yet"));
        assert_eq!(failure(&machines, "2147483647"), "process 2147483647: there is no such process");
    }

    #[test]
    fn a_process_is_found_by_name_and_by_number() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (_folder, machines) = machines();
        let record = record();
        let number = record.pid.to_string();
        let landlock = |inspection: &Inspection| {
            let found = inspection.verdict.layers.iter().find(|layer| layer.layer == Layer::Landlock);
            found.map(|found| found.state)
        };
        let alone = inspect_among(&machines, &number).unwrap();
        assert_eq!((&alone.vm, landlock(&alone)), (&None, Some(State::Unknown)));
        write(&machines, &record);
        for subject in ["one", &number] {
            let inspection = inspect_among(&machines, subject).unwrap();
            assert_eq!(inspection.vm.as_deref(), Some("one"));
            assert_eq!(landlock(&inspection), Some(State::On));
            assert!(!inspection.verdict.is_confined());
        }
    }

    #[test]
    fn processes_of_a_daemon_are_found_by_their_records() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (_folder, run) = machines();
        assert!(chain(&inspect_daemon(&run).unwrap_err()).starts_with("no daemon"));
        std::fs::create_dir_all(run.join(ROLES)).unwrap();
        assert!(chain(&inspect_daemon(&run).unwrap_err()).starts_with("no daemon"));
        let record = record();
        write(&run.join(ROLES), &record);
        let found = inspect_daemon(&run).unwrap();
        assert_eq!((found.len(), found[0].process.pid), (1, record.pid));
        write(&run.join(ROLES), &Record { pid: i32::MAX, ..record });
        assert!(chain(&inspect_daemon(&run).unwrap_err()).starts_with("one: this process of the daemon has ended"));
    }

    #[test]
    fn a_record_of_a_process_that_has_ended_is_nobodys() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let (_folder, machines) = machines();
        let record = record();
        // Another process of the same number, as this test is.
        write(&machines, &Record { identity: record.identity + 1, ..record.clone() });
        assert!(failure(&machines, "one").starts_with("one: it has ended"));
        assert_eq!(inspect_among(&machines, &record.pid.to_string()).unwrap().vm, None);
        write(&machines, &Record { pid: i32::MAX, ..record });
        assert!(failure(&machines, "one").starts_with("one: it has ended"));
    }
}
