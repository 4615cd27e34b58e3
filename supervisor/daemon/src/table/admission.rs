//! Whether there is room for one more: what Stockade can do at all, what the owner may have, what the host has.

use stockade_api::{Error, ErrorCode};
use stockade_config::Missing;
use stockade_config::model::{Definition, Exceeded, Subject, Usage};

use super::Table;

/// What a machine takes besides its guest's memory: a share of that for page tables, and vmm and warden, MiB.
const FIXED_OVERHEAD_MIB: u64 = 4;
const GUEST_MIB_PER_OVERHEAD_MIB: u64 = 64;

/// What the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host {
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Processors.
    pub cpus: u32,
    /// What tells it from other hosts.
    pub identity: u128,
}

/// What a virtual machine of this size takes of the host, MiB.
fn needed_mib(definition: &Definition) -> u64 {
    let guest = u64::from(definition.memory.mib());
    guest.saturating_add(guest / GUEST_MIB_PER_OVERHEAD_MIB).saturating_add(FIXED_OVERHEAD_MIB)
}

/// Whether this Stockade can start it.
pub(super) fn expect_possible(name: &str, definition: &Definition) -> Result<(), Error> {
    if !definition.is_bootable() {
        let remedy = "give it a kernel: boot \"path\", or boot default";
        return Err(Error::new(ErrorCode::NothingToBoot, format!("{name} has nothing to boot from"), remedy));
    }
    // A kernel starts without firmware, and the boot device then only says that a reset ends it.
    let missing = definition.missing().into_iter().find(|missing| *missing != Missing::BootDevice);
    missing.map_or(Ok(()), |missing| {
        let text = missing.to_string();
        let (what, remedy) = text.split_once("; ").unwrap_or((&text, ""));
        Err(Error::new(ErrorCode::Unsupported, format!("{name} can't be started: {what}"), remedy))
    })
}

impl Table {
    /// Whether there is room for it beside those that run.
    pub(super) fn admit(&self, name: &str, definition: &Definition) -> Result<(), Error> {
        expect_possible(name, definition)?;
        self.expect_quota(name, definition)?;
        let Host { memory_mib, cpus, .. } = self.host;
        if u32::from(definition.cpus) > cpus {
            let message = format!("{name} needs {} processors, and the host has {cpus}", definition.cpus);
            return Err(Error::new(ErrorCode::NotEnoughCpus, message, format!("give it at most {cpus}")));
        }
        let reserved = self.config.globals.reserved_memory.map_or(0, |size| u64::from(size.mib()));
        let live = self.live_definitions().map(needed_mib).fold(0, u64::saturating_add);
        let free = memory_mib.saturating_sub(reserved).saturating_sub(live);
        let needed = needed_mib(definition);
        if needed > free {
            let message = format!(
                "{name} needs {needed} MiB, and {free} MiB are free: of the host's {memory_mib} MiB, {reserved} MiB are \
                 reserved and {live} MiB belong to virtual machines that run"
            );
            return Err(Error::new(ErrorCode::NotEnoughMemory, message, "stop others, or give it less memory"));
        }
        Ok(())
    }

    fn expect_quota(&self, name: &str, definition: &Definition) -> Result<(), Error> {
        let owner = definition.owner;
        let wanted = Usage::of([definition]);
        let exceeded = |whose: String, exceeded: Exceeded| {
            let message = format!("{name}: {exceeded} ({whose})");
            Error::new(ErrorCode::QuotaExceeded, message, "stop another of them, or have the quota in vm.conf raised")
        };
        // Root's have none unless one names root.
        let of_user = self.config.quota_of_user(owner.uid);
        if let Some(quota) = of_user.filter(|quota| owner.uid != 0 || quota.subject == Subject::User(0)) {
            let used = Usage::of(self.live_definitions().filter(|other| other.owner.uid == owner.uid));
            quota.admit(used, wanted).map_err(|error| exceeded(format!("user {}", owner.uid), error))?;
        }
        if let Some(gid) = owner.gid
            && let Some(quota) = self.config.quota_of_group(gid)
        {
            let used = Usage::of(self.live_definitions().filter(|other| other.owner.gid == Some(gid)));
            quota.admit(used, wanted).map_err(|error| exceeded(format!("group {gid}"), error))?;
        }
        Ok(())
    }

    fn live_definitions(&self) -> impl Iterator<Item = &Definition> {
        self.records().filter(|record| record.state.is_live()).map(|record| &record.definition)
    }
}
