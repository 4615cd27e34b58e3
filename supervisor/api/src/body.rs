//! Bodies of requests and of their answers in JSON that are neither a [`crate::Request`] nor a [`crate::Answer`].

use serde::{Deserialize, Serialize};

use crate::request::{ResetScope, StopMode, Verbosity};
use crate::switch::SwitchSummary;
use crate::vm::{Exit, VmSummary};

/// How to stop a virtual machine. Without it, the guest is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// How.
    #[serde(default)]
    pub mode: StopMode,
}

/// What to load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// Absolute path of a file in the language of vm.conf.
    #[cfg_attr(feature = "schema", schema(pattern = r"^/[^\x00]*$", max_length = 4095))]
    pub path: String,
}

/// What to forget. Without it, everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Reset {
    /// How much.
    #[serde(default)]
    pub what: ResetScope,
}

/// How much to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// How much.
    pub verbosity: Verbosity,
}

/// Virtual machines in the order of their numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct VmPage {
    /// As many as fit.
    pub vms: Vec<VmSummary>,
    /// Whether there are more; ask for those after the last one's number.
    pub more: bool,
}

/// Switches in the order of vm.conf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Switches {
    /// All that the caller may see.
    pub switches: Vec<SwitchSummary>,
}

/// A virtual machine that does not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Ended {
    /// How it ended; nothing for one that never ran.
    pub exit: Option<Exit>,
}
