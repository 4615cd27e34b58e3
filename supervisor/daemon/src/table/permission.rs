//! Who may do what to a virtual machine: vmd's rules, where an owner is a user, and a group if there is one.
//!
//! | | root | owner | runs it | owner's group | else |
//! |---|---|---|---|---|---|
//! | start, stop, pause, unpause, wait, console, status | yes | yes | while it does | yes | no |
//! | status, where the configuration shows all | yes | yes | yes | yes | yes |
//! | make an instance | yes | as the template allows | | | |
//! | load, reload, reset | yes | no | no | no | no |
//!
//! Group 0 is a group like any other. What somebody may not know of does not exist for them.

use serde::{Deserialize, Serialize};
use stockade_config::model::{Owner, StatusVisibility};

use super::record::Record;

/// Who asks, as the kernel says (`SO_PEERCRED`, `SO_PEERGROUPS`, unix(7)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl Caller {
    /// Root, and the daemon itself.
    pub const fn root() -> Self {
        Self { uid: 0, gid: 0, groups: Vec::new() }
    }

    fn is_root(&self) -> bool {
        self.uid == 0
    }

    fn is_in(&self, group: Option<u32>) -> bool {
        group.is_some_and(|group| self.gid == group || self.groups.contains(&group))
    }

    fn is(&self, owner: Owner) -> bool {
        self.uid == owner.uid || self.is_in(owner.gid)
    }
}

/// What can be done to a virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Start it.
    Start,
    /// Stop it.
    Stop,
    /// Have it stand still, or go on.
    Pause,
    /// Wait for its end.
    Wait,
    /// See that it is there.
    Status,
    /// Read and write its console.
    Console,
    /// Make another one like it.
    Instance,
    /// Change what is configured.
    Reload,
}

/// Whether `caller` may do this to the virtual machine.
pub fn may(caller: &Caller, verb: Verb, vm: &Record, visible: StatusVisibility) -> bool {
    if caller.is_root() {
        return true;
    }
    let touches = caller.is(vm.definition.owner) || (vm.state.is_live() && vm.run_by == Some(caller.uid));
    match verb {
        Verb::Start | Verb::Stop | Verb::Pause | Verb::Wait | Verb::Console => touches,
        Verb::Status => touches || visible == StatusVisibility::All,
        Verb::Instance => vm.definition.instances.owner.is_some_and(|owner| caller.is(owner)),
        Verb::Reload => false,
    }
}
