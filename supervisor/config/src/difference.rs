//! What a reload, a load or a reset changes.

use serde::{Deserialize, Serialize};

use crate::model::{Config, Globals, Vm};

/// What is different in a new configuration. Equal configurations differ in [nothing](Difference::is_empty).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// Globals that have another value.
    pub globals: Vec<Global>,
    /// Switches: the removed ones first, the others in their new order.
    pub switches: Vec<Change<SwitchField>>,
    /// VMs: the removed ones first, the others in their new order.
    pub vms: Vec<Change<VmField>>,
    /// Whether any quota is another.
    pub quotas: bool,
}

impl Difference {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.globals.is_empty() && self.switches.is_empty() && self.vms.is_empty() && !self.quotas
    }
}

/// What happens to something that has a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change<F> {
    /// It was not there.
    Add {
        /// Its name.
        name: String,
    },
    /// It is not there any more.
    Remove {
        /// Its name.
        name: String,
    },
    /// It is another one under the same name.
    Replace {
        /// Its name.
        name: String,
        /// What is different, never empty.
        fields: Vec<F>,
    },
}

impl<F> Change<F> {
    /// Whom it happens to.
    pub fn name(&self) -> &str {
        match self {
            Self::Add { name } | Self::Remove { name } | Self::Replace { name, .. } => name,
        }
    }
}

macro_rules! fields {
    ($(#[$attribute:meta])* $fields:ident of $owner:ty { $($variant:ident = $($field:ident).+),* $(,)? }) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[expect(missing_docs, reason = "each is called like the field")]
        pub enum $fields { $($variant),* }

        impl $fields {
            fn between(old: &$owner, new: &$owner) -> Vec<Self> {
                [$((Self::$variant, old.$($field).+ != new.$($field).+)),*]
                    .into_iter().filter(|(_, differs)| *differs).map(|(field, _)| field).collect()
            }
        }
    };
}

fields! {
    /// A field of [`Globals`].
    Global of Globals {
        LocalPrefix = local_prefix, LocalInet6 = local_inet6, SocketOwner = socket_owner, AgentX = agentx,
        StaggeredStart = staggered_start, StatusVisible = status_visible, StopTimeout = stop_timeout_seconds,
        Shutdown = shutdown, ReservedMemory = reserved_memory,
    }
}

fields! {
    /// A field of [`Switch`](crate::model::Switch).
    SwitchField of crate::model::Switch {
        Start = start, Interface = interface, Group = group, SourceCheck = source_check, Rdomain = rdomain, Link = link,
    }
}

fields! {
    /// A field of [`Vm`] or its [`Definition`](crate::model::Definition).
    VmField of Vm {
        Start = start, Template = template, Cpus = definition.cpus, Memory = definition.memory, Boot = definition.boot,
        CommandLine = definition.command_line, BootDevice = definition.boot_device, Disks = definition.disks,
        Cdrom = definition.cdrom, Interfaces = definition.interfaces, Vsock = definition.vsock,
        EncryptedMemory = definition.encrypted_memory, Owner = definition.owner, Instances = definition.instances,
        Limits = definition.limits, StopTimeout = definition.stop_timeout_seconds,
    }
}

/// When a change of a VM that is running can take effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TakesEffect {
    /// At once: it is the daemon that acts on it.
    AtOnce,
    /// When the VM is started the next time: the machine is built with it.
    AtNextStart,
}

impl VmField {
    /// When a change of it takes effect.
    pub fn takes_effect(self) -> TakesEffect {
        match self {
            Self::Start | Self::Template | Self::Owner | Self::Instances | Self::StopTimeout => TakesEffect::AtOnce,
            _ => TakesEffect::AtNextStart,
        }
    }
}

/// What `reset` forgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reset {
    /// VMs.
    Vms,
    /// Switches.
    Switches,
    /// VMs and switches; and globals and quotas are what they are without a file.
    All,
}

impl Config {
    /// What has to be done to get from this configuration to `new`.
    pub fn difference(&self, new: &Self) -> Difference {
        let switches = (self.switches.iter(), new.switches.iter());
        let vms = (self.vms.iter(), new.vms.iter());
        Difference {
            globals: Global::between(&self.globals, &new.globals),
            switches: changes(switches.0, switches.1, |switch| &switch.name, SwitchField::between),
            vms: changes(vms.0, vms.1, |vm| vm.name.as_str(), VmField::between),
            quotas: self.quotas.len() != new.quotas.len()
                || self.quotas.iter().any(|quota| !new.quotas.contains(quota)),
        }
    }

    /// What is left after `reset`.
    #[must_use]
    pub fn reset(&self, reset: Reset) -> Self {
        match reset {
            Reset::Vms => Self { vms: Vec::new(), ..self.clone() },
            Reset::Switches => Self { switches: Vec::new(), ..self.clone() },
            Reset::All => Self::default(),
        }
    }
}

fn changes<'c, T: 'c, F>(
    old: impl Iterator<Item = &'c T> + Clone,
    new: impl Iterator<Item = &'c T> + Clone,
    name: impl Fn(&T) -> &str,
    between: impl Fn(&T, &T) -> Vec<F>,
) -> Vec<Change<F>> {
    let before: std::collections::HashMap<&str, &T> = old.clone().map(|item| (name(item), item)).collect();
    let after: std::collections::HashSet<&str> = new.clone().map(&name).collect();
    let removed =
        old.map(&name).filter(|name| !after.contains(name)).map(|name| Change::Remove { name: name.to_owned() });
    let others = new.filter_map(|item| {
        let name = name(item).to_owned();
        let Some(old) = before.get(name.as_str()) else { return Some(Change::Add { name }) };
        let fields = between(old, item);
        (!fields.is_empty()).then_some(Change::Replace { name, fields })
    });
    removed.chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Definition, MemorySize, Quota, Subject};

    fn vm(name: &str) -> Vm {
        Vm { name: name.parse().unwrap(), start: Default::default(), template: None, definition: Definition::default() }
    }

    #[test]
    fn names_what_is_to_be_done() {
        let old = Config { vms: vec![vm("a"), vm("b"), vm("c")], ..Config::default() };
        assert!(old.difference(&old).is_empty());
        let mut new = Config { vms: vec![vm("d"), vm("c"), vm("b")], ..Config::default() };
        new.vms[2].definition.cpus = 2;
        new.vms[2].definition.memory = MemorySize::from_mib(64).unwrap();
        new.globals.stop_timeout_seconds = 1;
        new.quotas.push(Quota { subject: Subject::Default, vms: Some(1), cpus: None, memory: None, disks: None });
        let difference = old.difference(&new);
        assert_eq!(
            difference.vms,
            [
                Change::Remove { name: "a".to_owned() },
                Change::Add { name: "d".to_owned() },
                Change::Replace { name: "b".to_owned(), fields: vec![VmField::Cpus, VmField::Memory] },
            ]
        );
        assert_eq!(difference.globals, [Global::StopTimeout]);
        assert!(difference.quotas && difference.switches.is_empty());
    }

    #[test]
    fn tells_what_waits_for_the_next_start() {
        assert_eq!(VmField::Owner.takes_effect(), TakesEffect::AtOnce);
        assert_eq!(VmField::Disks.takes_effect(), TakesEffect::AtNextStart);
    }

    #[test]
    fn reset_by_mask() {
        let mut config = Config { vms: vec![vm("a")], ..Config::default() };
        config.globals.stop_timeout_seconds = 1;
        assert_eq!(config.reset(Reset::Switches), config);
        assert_eq!(config.reset(Reset::Vms), Config { vms: Vec::new(), ..config.clone() });
        assert_eq!(config.reset(Reset::All), Config::default());
    }
}
