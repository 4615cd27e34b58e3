//! What a vmm says of itself: `GET /`, `GET /version`, and the body of an error.

use serde::{Deserialize, Serialize};

/// Answer to `GET /`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceInfo {
    /// Name of the VM.
    pub id: String,
    /// Where in its life the VM is.
    pub state: InstanceState,
    /// Firecracker's version, see [`FIRECRACKER_VERSION`](crate::FIRECRACKER_VERSION).
    pub vmm_version: String,
    /// `Firecracker`, which is what existing clients look for.
    pub app_name: String,
}

/// Where in its life a VM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum InstanceState {
    /// It is being configured.
    #[serde(rename = "Not started")]
    NotStarted,
    /// Its vCPUs and devices stand still.
    Paused,
    /// It runs.
    Running,
}

/// Answer to `GET /version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Firecracker's version, see [`FIRECRACKER_VERSION`](crate::FIRECRACKER_VERSION).
    pub firecracker_version: String,
}

/// Body of every answer of the API that reports an error. A request that is no HTTP is answered with the key `error`
/// instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What went wrong, and the remedy.
    pub fault_message: String,
}
