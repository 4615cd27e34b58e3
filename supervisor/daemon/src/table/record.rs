//! What is known of one virtual machine, and kept where the next daemon finds it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use stockade_api::request::BootMode;
use stockade_api::{Exit, InterfaceSummary, Owner, VmId, VmState, VmSummary};
use stockade_config::model::{Boot, Definition, Interface, MacAddress, StartPolicy, VmName};
use stockade_confinement::Fingerprint;

use super::permission::Caller;

/// What is known of one virtual machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its number.
    pub id: VmId,
    /// Its name.
    pub name: VmName,
    /// What it is, or will be the next time if it does not run.
    pub definition: Definition,
    /// What it will be the next time, if that is something else.
    pub next_definition: Option<Definition>,
    /// Addresses of its interfaces.
    #[serde(default)]
    pub lladdrs: Vec<MacAddress>,
    /// Whether the daemon starts it by itself.
    pub start: StartPolicy,
    /// Whether vm.conf defines it; if not, it is gone once it has stopped.
    pub configured: bool,
    /// Whether vm.conf did until it was changed while it ran, so that it may do so again.
    #[serde(default)]
    pub dropped: bool,
    /// With whose rights its files are opened: whoever named them.
    pub opened_by: Caller,
    /// Those of its files that root named, for a template.
    pub roots_paths: BTreeSet<PathBuf>,
    /// Whether a reset of the guest ends it, even if it boots from no device.
    pub ends_on_reset: bool,
    /// Set if it runs one command of a client, and is gone with that client's connection.
    #[serde(default)]
    pub held: Option<Held>,
    /// Where it is in its life.
    pub state: VmState,
    /// How often it was started.
    pub generation: u64,
    /// The user who started it, while it runs.
    pub run_by: Option<u32>,
    /// What its vmm is, while there is one.
    pub jail: Option<Jail>,
    /// How it is stopped, while it is.
    pub stop: Option<StopOrder>,
    /// Guest resets in a row that came quickly.
    pub quick_restarts: u32,
    /// When it was launched the last time: milliseconds since the host booted.
    pub launched_boot_ms: u64,
    /// When the guest was started the last time: milliseconds since 1970.
    pub started_ms: Option<u64>,
    /// How it ended the last time.
    pub last_exit: Option<Exit>,
    /// Why it could not be started the last time.
    pub last_error: Option<String>,
}

/// A virtual machine that is there for one command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// When its guest boots.
    pub boot: BootMode,
}

/// A vmm in its jail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jail {
    /// Process id.
    pub pid: i32,
    /// What tells it from every other process that gets this id.
    pub identity: Fingerprint,
}

/// How a virtual machine is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopOrder {
    /// Until when the guest may do it by itself: milliseconds since the host booted. Nothing once it is being killed.
    pub deadline_ms: Option<u64>,
    /// Whether the daemon's own end is the reason, so that the next one starts it again.
    pub until_next_daemon: bool,
}

impl Record {
    /// Most characters of a jail's name.
    const MAX_JAIL_NAME: usize = 64;

    /// Name of the jail of this generation: of its folder under `/run/stockade/vms` and its control groups. No other
    /// virtual machine, and no other start of this one, has the same.
    pub fn jail_name(&self) -> String {
        let suffix = format!("-{}-{}", self.id, self.generation);
        let room = Self::MAX_JAIL_NAME.saturating_sub(suffix.len());
        let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
        let name: String = self.name.as_str().chars().take(room).map(plain).collect();
        name + &suffix
    }

    /// Whether it has a vsock device.
    pub fn has_vsock(&self) -> bool {
        self.definition.vsock.is_some() || self.runs_agent()
    }

    /// Whether its guest runs an agent once it has booted.
    pub fn runs_agent(&self) -> bool {
        self.held.is_some() || self.definition.boot == Boot::Default
    }

    /// Every file that it needs.
    pub fn paths(&self) -> BTreeSet<PathBuf> {
        let Definition { boot, disks, cdrom, .. } = &self.definition;
        let (kernel, initramfs) = match boot {
            Boot::Kernel { path, initramfs } => (Some(path), initramfs.as_ref()),
            Boot::Firmware | Boot::Default => (None, None),
        };
        let disks = disks.iter().map(|disk| &disk.path);
        disks.chain(kernel).chain(initramfs).chain(cdrom).cloned().collect()
    }

    /// With whose rights one of its files is opened.
    pub fn opener(&self, path: &Path) -> Caller {
        if self.roots_paths.contains(path) { Caller::root() } else { self.opened_by.clone() }
    }

    fn interfaces(&self) -> Vec<InterfaceSummary> {
        let interfaces = self.definition.interfaces.iter().zip(&self.lladdrs);
        let summary = |(interface, lladdr): (&Interface, &MacAddress)| InterfaceSummary {
            lladdr: lladdr.to_string(),
            switch: interface.switch.clone(),
        };
        interfaces.map(summary).collect()
    }

    /// What clients get to know.
    pub fn summary(&self) -> VmSummary {
        VmSummary {
            id: self.id,
            name: self.name.as_str().to_owned(),
            state: self.state,
            generation: self.generation,
            owner: Owner { uid: self.definition.owner.uid, gid: self.definition.owner.gid },
            run_by: self.run_by,
            cpus: self.definition.cpus.into(),
            memory_mib: self.definition.memory.mib().into(),
            disks: u32::try_from(self.definition.disks.len()).unwrap_or(u32::MAX),
            interfaces: self.interfaces(),
            configured: self.configured,
            pid: self.jail.as_ref().map(|jail| jail.pid),
            jail: self.jail.as_ref().map(|_| self.jail_name()),
            started_ms: self.started_ms,
            last_exit: self.last_exit.clone(),
            last_error: self.last_error.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::record;

    #[test]
    fn a_jail_has_a_name_that_no_other_has_and_that_fits() {
        let mut record = record("a.b_c");
        record.generation = 7;
        assert_eq!(record.jail_name(), "a-b-c-1-7");
        record = super::super::tests::record(&"x".repeat(63));
        record.generation = u64::MAX;
        assert_eq!(record.jail_name().len(), 64);
        assert!(record.jail_name().ends_with(&format!("-1-{}", u64::MAX)));
    }
}
