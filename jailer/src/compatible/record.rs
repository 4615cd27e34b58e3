//! What the jailer writes down of a compatible jail, and what it tells the vmm: what is in force, of which the kernel shows others
//! the most, but not Landlock.
//!
//! The [record](Record) is beside the jail's `root`, where no path of the vmm leads, and belongs to root. It is made while this
//! process can, and written once it can't do more: the file says what is, not what is to be. Until then it is empty, which is no
//! record.
//!
//! The vmm's command line is its client's, so that it hears what to find from a [variable](Expectation::VARIABLE) of its environment
//! instead. A vmm of other make passes it over.

use std::fs::File;
use std::io::{self, Write};

use rustix::fs::fstat;
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use seccomp_filters::Enforced;
use stockade_confinement::{Ceilings, Expectation, JailKind, JailRoot, LayerReport, Record, identity};

use super::arguments::{Arguments, Processes};
use super::jail::{LOCKED_BYTES, owner};
use super::tree::Tree;
use crate::plan::{Layer, NamespaceKind};

/// A record that is to be written.
#[derive(Debug)]
pub(super) struct Draft {
    file: File,
    pid: i32,
    identity: u64,
    root: (u64, u64),
}

impl Draft {
    /// Takes down what has to be looked at while there is a right to it: this process, which has this number on the host, and the
    /// folder that becomes its root directory.
    pub(super) fn begin(file: File, pid: i32, root: &Tree) -> io::Result<Self> {
        let root = fstat(root)?;
        let identity = identity(pidfd_open(getpid(), PidfdFlags::empty())?)?;
        Ok(Self { file, pid, identity, root: (root.st_dev, root.st_ino) })
    }

    /// Writes the record. `hidden` is what Landlock hides. Returns what the vmm is to find.
    pub(super) fn finish(mut self, arguments: &Arguments, hidden: Option<&Enforced>) -> io::Result<Expectation> {
        let (uid, gid) = owner(arguments);
        let ceilings = ceilings(arguments);
        let record = Record {
            id: arguments.id.clone(),
            pid: self.pid,
            identity: self.identity,
            uid,
            gid,
            jail: JailKind::Compatible { root: self.root, ceilings },
            layers: Layer::ALL.map(|layer| report(arguments, layer, hidden)).into(),
        };
        self.file.write_all(&serde_json::to_vec(&record)?)?;
        let seen = |layer: &Layer| match layer {
            Layer::Namespaces => arguments.processes == Processes::Own,
            _ => true,
        };
        let seen = Layer::ALL.into_iter().filter(|layer| arguments.wants(*layer)).filter(seen);
        Ok(Expectation::new(seen, JailRoot::Folder(self.root.0, self.root.1), (uid, gid), ceilings))
    }
}

fn ceilings(arguments: &Arguments) -> Ceilings {
    let limits = arguments.limits;
    Ceilings { descriptors: limits.descriptors, processes: limits.processes, locked_bytes: LOCKED_BYTES }
}

fn report(arguments: &Arguments, layer: Layer, hidden: Option<&Enforced>) -> LayerReport {
    let is_given_up = !arguments.wants(layer);
    let (enforced, detail) = match layer {
        _ if is_given_up => (false, "given up".to_owned()),
        Layer::Cgroup if arguments.cgroup.is_empty() => {
            (false, "not asked for; --cgroup limits memory, processor time and processes".to_owned())
        }
        Layer::Cgroup => {
            let values = arguments.cgroup.iter().map(|value| format!("{}={}", value.file, value.value));
            (true, values.collect::<Vec<_>>().join(", "))
        }
        Layer::Namespaces => (true, namespaces(arguments)),
        Layer::Root => (true, "the jail's folder: nosuid, noexec".to_owned()),
        Layer::ResourceLimits => (true, resource_limits(arguments)),
        Layer::Capabilities => (true, "every set empty, securebits locked".to_owned()),
        Layer::Uid => (true, format!("user {} and group {}", arguments.uid, arguments.gid)),
        Layer::Landlock => {
            let left = "left is the jail's folder, KVM, network devices and page faults, and the vmm's program";
            hidden.map_or((false, String::new()), |hidden| (true, format!("{hidden}; {left}")))
        }
        Layer::Seccomp => (true, "the launch filter, and those of the vmm's own".to_owned()),
    };
    LayerReport { layer, enforced, detail }
}

fn namespaces(arguments: &Arguments) -> String {
    let on_demand = [
        (NamespaceKind::Mount.name(), arguments.wants(Layer::Root)),
        (NamespaceKind::Pid.name(), arguments.processes == Processes::Own),
        (NamespaceKind::Network.name(), arguments.network.is_some()),
    ];
    let always = [NamespaceKind::Ipc, NamespaceKind::Uts, NamespaceKind::Cgroup];
    let always = always.map(|kind| (kind.name(), arguments.wants_namespace(kind)));
    let own = on_demand.into_iter().chain(always).filter(|(_, is_own)| *is_own).map(|(name, _)| name);
    own.collect::<Vec<_>>().join(", ")
}

fn resource_limits(arguments: &Arguments) -> String {
    let Ceilings { descriptors, processes, locked_bytes } = ceilings(arguments);
    let files =
        arguments.limits.file_bytes.map_or(String::new(), |bytes| format!(", no file larger than {bytes} bytes"));
    format!(
        "no core dump, {descriptors} descriptors, {processes} processes, {locked_bytes} bytes of locked memory, no message \
         queues{files}"
    )
}
