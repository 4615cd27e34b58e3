//! What `--report` writes: one JSON object about a run.

use serde::Serialize;
use stockade_jailer::plan::Layer;
use stockade_jailer::violation::Violation;
use stockade_jailer::warden::LayerReport;

use crate::phases::PhaseTime;
use crate::run::Outcome;

/// Version of [`Report`]; a new field does not change it.
pub const VERSION: u32 = 1;

/// Where a guest came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Start {
    /// It was cloned from one that had booted.
    Warm,
    /// It booted.
    Cold {
        /// Why, in words.
        because: String,
    },
}

/// One run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// Version of Stockade.
    pub stockade: &'static str,
    /// Name of the virtual machine.
    pub name: String,
    /// Exit code of the run.
    pub exit_code: u8,
    /// Where the guest came from; `null` if there was none.
    pub start: Option<Start>,
    /// What came of it; `null` if Stockade failed.
    pub outcome: Option<Outcome>,
    /// Why Stockade failed, if it did.
    pub error: Option<String>,
    /// The system call for which a filter killed the vmm, if one did.
    pub violation: Option<Violation>,
    /// How long each phase took.
    pub phases: Vec<PhaseTime>,
    /// Each layer of the jail, as it really was; empty if there was no jail.
    pub confinement: Vec<LayerReport>,
    /// Layers that were given up by name.
    pub without: Vec<Layer>,
    /// What could not be copied or removed, in words.
    pub warnings: Vec<String>,
}
