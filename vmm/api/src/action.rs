//! `PUT /actions` and `PATCH /vm`: what to do with the VM, now.

use serde::{Deserialize, Serialize};

/// Body of `PUT /actions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActionBody {
    /// What to do.
    pub action_type: ActionType,
}

/// What `PUT /actions` can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ActionType {
    /// Write the metrics out. Only once the VM runs.
    FlushMetrics,
    /// Build the VM and let its vCPUs go. Once.
    InstanceStart,
    /// Press Ctrl+Alt+Del on the guest's keyboard. Only once the VM runs.
    SendCtrlAltDel,
}

/// Body of `PATCH /vm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmPatch {
    /// The state to be in; asking for the present one is no error.
    pub state: RequestedState,
}

/// States that `PATCH /vm` can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestedState {
    /// vCPUs and devices stand still.
    Paused,
    /// vCPUs and devices run.
    Resumed,
}
