//! What a vm.conf means: plain, checked data, without a trace of the text that it came from.
//!
//! Every value is complete: defaults are filled in, macros and templates resolved, paths absolute, users and groups numbers. Two configurations
//! are the same if they are equal, whatever their files look like.

mod definition;
mod globals;
mod interface;
mod quota;
mod values;

use serde::{Deserialize, Serialize};

pub use definition::{
    Boot, BootDevice, Definition, Disk, DiskAccess, DiskFormat, DiskRate, EncryptedMemory, InstancePolicy, Limits,
    Override, Owner, StartPolicy, Vm, Vsock,
};
pub use globals::{AgentX, Globals, LocalInet6, Shutdown, StaggeredStart, StatusVisibility};
pub use interface::{Interface, InvalidMacAddress, LinkState, MacAddress, Rdomain, SourceCheck, Switch};
pub use quota::{Exceeded, Quota, Resource, Subject, Usage};
pub use values::{InvalidName, InvalidPrefix, MemorySize, Prefix, VmName};

/// A whole configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What concerns the daemon.
    pub globals: Globals,
    /// Switches, in the order in which they are defined; names are unique.
    pub switches: Vec<Switch>,
    /// VMs, in the order in which they are defined; names are unique, and a template comes before its instances.
    pub vms: Vec<Vm>,
    /// Quotas; subjects are unique.
    pub quotas: Vec<Quota>,
}

impl Config {
    /// The VM that is called `name`.
    pub fn vm(&self, name: &str) -> Option<&Vm> {
        self.vms.iter().find(|vm| vm.name.as_str() == name)
    }

    /// The switch that is called `name`.
    pub fn switch(&self, name: &str) -> Option<&Switch> {
        self.switches.iter().find(|switch| switch.name == name)
    }

    /// The quota of a user: the one that names the user, else the default one, which is not for root.
    pub fn quota_of_user(&self, uid: u32) -> Option<&Quota> {
        let of = |subject| self.quotas.iter().find(|quota| quota.subject == subject);
        of(Subject::User(uid)).or_else(|| of(Subject::Default).filter(|_| uid != 0))
    }

    /// The quota that all VMs of a group share.
    pub fn quota_of_group(&self, gid: u32) -> Option<&Quota> {
        self.quotas.iter().find(|quota| quota.subject == Subject::Group(gid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_quota_is_for_users_without_one_and_not_for_root() {
        let quota = |subject| Quota { subject, vms: Some(1), cpus: None, memory: None, disks: None };
        let subjects = [Subject::Default, Subject::User(7), Subject::Group(8)];
        let mut config = Config { quotas: subjects.map(quota).to_vec(), ..Config::default() };
        let subject = |config: &Config, uid| config.quota_of_user(uid).map(|quota| quota.subject);
        assert_eq!(subject(&config, 7), Some(Subject::User(7)));
        assert_eq!(subject(&config, 8), Some(Subject::Default));
        assert_eq!(subject(&config, 0), None);
        config.quotas.push(quota(Subject::User(0)));
        assert_eq!(subject(&config, 0), Some(Subject::User(0)));
        assert!(config.quota_of_group(8).is_some() && config.quota_of_group(7).is_none());
    }
}
