//! What came of an attempt, in which jail.

use std::fmt;

use serde::{Deserialize, Serialize};
use stockade_jailer::plan::Layer;
use stockade_prisoner::Phase;

/// What a jail is like.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Condition {
    /// In which phase of its life the vmm falls into a stranger's hands.
    pub phase: Phase,
    /// Layers that are taken away.
    pub without: Vec<Layer>,
}

impl Condition {
    /// Every layer is there, in this phase.
    pub fn complete(phase: Phase) -> Self {
        Self { phase, without: Vec::new() }
    }

    /// One layer is not, at the start.
    pub fn without(layer: Layer) -> Self {
        Self { phase: Phase::Launch, without: vec![layer] }
    }

    /// No layer is.
    pub fn bare() -> Self {
        Self { phase: Phase::Launch, without: Layer::ALL.to_vec() }
    }

    /// Complete jails, in every phase.
    pub fn every_phase() -> Vec<Self> {
        Phase::ALL.map(Self::complete).to_vec()
    }

    /// Jails that lack one layer, for every layer.
    pub fn every_layer() -> Vec<Self> {
        Layer::ALL.map(Self::without).to_vec()
    }

    /// Only one layer is, at the start.
    pub fn only(layer: Layer) -> Self {
        Self { phase: Phase::Launch, without: Layer::ALL.into_iter().filter(|other| *other != layer).collect() }
    }

    /// The layer that alone is there.
    pub fn has_only(&self) -> Option<Layer> {
        let mut there = Layer::ALL.into_iter().filter(|layer| !self.without.contains(layer));
        there.next().filter(|_| there.next().is_none())
    }

    /// The layer that alone is not there.
    pub fn lacks(&self) -> Option<Layer> {
        match self.without.as_slice() {
            [layer] => Some(*layer),
            _ => None,
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.without.as_slice() {
            [] => write!(formatter, "all layers, {}", self.phase.name()),
            [layer] => write!(formatter, "without {}", layer.name()),
            _ => match self.has_only() {
                Some(layer) => write!(formatter, "only {}", layer.name()),
                None => formatter.write_str("bare"),
            },
        }
    }
}

/// What came of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", content = "detail", rename_all = "kebab-case")]
pub enum Outcome {
    /// The attack succeeded: what shows it.
    Succeeded(String),
    /// It was refused: by what.
    Refused(String),
    /// The host does not have what it is after, or it is out of sight.
    Absent(String),
    /// Nobody can say: the prisoner ended without a word, or not at all.
    Undecided(String),
}

impl Outcome {
    /// Whether the attack succeeded.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Succeeded(_))
    }

    /// Whether it certainly did not.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Absent(_))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Succeeded(detail) => write!(formatter, "succeeded: {detail}"),
            Self::Refused(detail) => write!(formatter, "refused: {detail}"),
            Self::Absent(detail) => write!(formatter, "not there: {detail}"),
            Self::Undecided(detail) => write!(formatter, "undecided: {detail}"),
        }
    }
}

/// One attempt in one jail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Name of the attempt.
    pub attempt: String,
    /// The jail.
    pub condition: Condition,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}
