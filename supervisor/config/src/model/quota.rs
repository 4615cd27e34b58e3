//! How much an owner's VMs may take together.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Definition, MemorySize};

/// `quota`: what all VMs of an owner may take together; an absent limit is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Whose VMs.
    pub subject: Subject,
    /// How many VMs.
    pub vms: Option<u32>,
    /// How many vCPUs.
    pub cpus: Option<u32>,
    /// How much memory of guests.
    pub memory: Option<MemorySize>,
    /// How many disks.
    pub disks: Option<u32>,
}

/// Whose VMs a quota is for. Root's VMs have none unless one names root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// Each user for whom there is no other.
    Default,
    /// A user.
    User(u32),
    /// All VMs of a group together, whichever user owns them.
    Group(u32),
}

/// What VMs take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// Number of VMs.
    pub vms: u64,
    /// Number of vCPUs.
    pub cpus: u64,
    /// Memory of guests, MiB.
    pub memory_mib: u64,
    /// Number of disks.
    pub disks: u64,
}

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resource {
    /// VMs.
    Vms,
    /// vCPUs.
    Cpus,
    /// Memory, MiB.
    Memory,
    /// Disks.
    Disks,
}

impl fmt::Display for Resource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Vms => "vms",
            Self::Cpus => "vCPUs",
            Self::Memory => "MiB of memory",
            Self::Disks => "disks",
        })
    }
}

/// A quota is not enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("quota exceeded: {used} of {limit} {resource} are in use, and {wanted} more are needed")]
pub struct Exceeded {
    /// Of what.
    pub resource: Resource,
    /// What the owner's VMs take already.
    pub used: u64,
    /// What is to be added.
    pub wanted: u64,
    /// What they may take.
    pub limit: u64,
}

impl Usage {
    /// What these VMs take together.
    pub fn of<'a>(definitions: impl IntoIterator<Item = &'a Definition>) -> Self {
        definitions.into_iter().fold(Self::default(), |sum, definition| Self {
            vms: sum.vms.saturating_add(1),
            cpus: sum.cpus.saturating_add(u64::from(definition.cpus)),
            memory_mib: sum.memory_mib.saturating_add(u64::from(definition.memory.mib())),
            disks: sum.disks.saturating_add(u64::try_from(definition.disks.len()).unwrap_or(u64::MAX)),
        })
    }
}

impl Quota {
    /// Whether there is room for `wanted` beside `used`.
    ///
    /// # Errors
    /// The first resource of which there is not enough.
    pub fn admit(&self, used: Usage, wanted: Usage) -> Result<(), Exceeded> {
        let limits = [
            (Resource::Vms, used.vms, wanted.vms, self.vms.map(u64::from)),
            (Resource::Cpus, used.cpus, wanted.cpus, self.cpus.map(u64::from)),
            (Resource::Memory, used.memory_mib, wanted.memory_mib, self.memory.map(|size| u64::from(size.mib()))),
            (Resource::Disks, used.disks, wanted.disks, self.disks.map(u64::from)),
        ];
        for (resource, used, wanted, limit) in limits {
            if let Some(limit) = limit
                && wanted > 0
                && used.saturating_add(wanted) > limit
            {
                return Err(Exceeded { resource, used, wanted, limit });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admits_up_to_the_limit_and_says_what_is_missing() {
        let quota = Quota {
            subject: Subject::Default,
            vms: Some(2),
            cpus: Some(3),
            memory: MemorySize::from_mib(1024),
            disks: None,
        };
        let one = Usage::of([&Definition::default()]);
        assert_eq!(quota.admit(one, one), Ok(()));
        let error = quota.admit(Usage { vms: 2, ..Usage::default() }, one).unwrap_err();
        assert_eq!(error.to_string(), "quota exceeded: 2 of 2 vms are in use, and 1 more are needed");
        let big = Definition { cpus: 3, ..Definition::default() };
        let error = quota.admit(one, Usage::of([&big])).unwrap_err();
        assert_eq!((error.resource, error.used, error.wanted, error.limit), (Resource::Cpus, 1, 3, 3));
        let large = Usage { memory_mib: 1025, ..Usage::default() };
        assert_eq!(quota.admit(Usage::default(), large).unwrap_err().resource, Resource::Memory);
        assert_eq!(quota.admit(Usage::default(), Usage { disks: 99, ..Usage::default() }), Ok(()));
    }
}
