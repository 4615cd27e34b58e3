//! What happened, in an order that a client can resume at.

use serde::{Deserialize, Serialize};

use crate::vm::{Exit, VmId, VmState};

/// One change of one virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Event {
    /// Its place in the order of all events; each is greater than the one before, also after a restart of the daemon.
    pub cursor: u64,
    /// When: milliseconds since 1970.
    pub at_ms: u64,
    /// Number of the virtual machine.
    pub vm: VmId,
    /// Its name.
    pub name: String,
    /// Which of its starts this belongs to.
    pub generation: u64,
    /// What changed.
    pub change: Change,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// It is in another state.
    State {
        /// The new state.
        state: VmState,
        /// How it ended, if it did.
        exit: Option<Exit>,
    },
    /// The guest reset itself, and is started again.
    Rebooted,
    /// It could not be started.
    StartFailed {
        /// Why.
        message: String,
    },
    /// Nobody knows of it any more.
    Removed,
}

/// Events after a cursor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct EventPage {
    /// The events, oldest first.
    pub events: Vec<Event>,
    /// What to ask after next time.
    pub next: u64,
}
