//! What came of an attempt, in which jail.

use std::fmt;

use serde::{Deserialize, Serialize};
use stockade_jailer::plan::{Layer, NamespaceKind};
use stockade_prisoner::Phase;

/// What a jail is like.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Condition {
    /// Which kind of jail it is.
    pub mode: Mode,
    /// How the stranger got there.
    pub entry: Entry,
    /// In which phase of its life the vmm falls into a stranger's hands.
    pub phase: Phase,
    /// What is taken away of the jail.
    pub without: Vec<Part>,
}

/// A kind of jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Everything is handed over, and a warden watches.
    Sealed,
    /// As Firecracker's jailer has it, with every option that narrows it.
    Compatible,
}

impl Mode {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Sealed, Self::Compatible];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::Compatible => "compatible",
        }
    }
}

/// How a stranger got into a jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// As the program that the jailer executes.
    Program,
    /// By taking over a thread of a vmm that runs a guest.
    Thread,
}

/// What can be taken away of a jail. Its name is that of the layer, or of the namespace with `-namespace` behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Part {
    /// A layer.
    Layer(Layer),
    /// One of the namespaces; that for mounts with the root directory, which is a mount.
    Namespace(NamespaceKind),
}

impl Part {
    /// Everything that can be taken away of a sealed jail, and of a compatible one but for the first of the namespaces: that goes
    /// with the root directory.
    pub const ALL: [Self; 14] = [
        Self::Layer(Layer::Cgroup),
        Self::Layer(Layer::Namespaces),
        Self::Namespace(NamespaceKind::Mount),
        Self::Namespace(NamespaceKind::Pid),
        Self::Namespace(NamespaceKind::Network),
        Self::Namespace(NamespaceKind::Ipc),
        Self::Namespace(NamespaceKind::Uts),
        Self::Namespace(NamespaceKind::Cgroup),
        Self::Layer(Layer::Root),
        Self::Layer(Layer::ResourceLimits),
        Self::Layer(Layer::Capabilities),
        Self::Layer(Layer::Uid),
        Self::Layer(Layer::Landlock),
        Self::Layer(Layer::Seccomp),
    ];

    /// What can be taken away of a jail of this kind.
    pub fn of(mode: Mode) -> impl Iterator<Item = Self> {
        let with_root = Self::Namespace(NamespaceKind::Mount);
        Self::ALL.into_iter().filter(move |part| mode == Mode::Sealed || *part != with_root)
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Layer(layer) => layer.name(),
            Self::Namespace(NamespaceKind::Mount) => "mount-namespace",
            Self::Namespace(NamespaceKind::Pid) => "pid-namespace",
            Self::Namespace(NamespaceKind::Network) => "network-namespace",
            Self::Namespace(NamespaceKind::Ipc) => "ipc-namespace",
            Self::Namespace(NamespaceKind::Uts) => "uts-namespace",
            Self::Namespace(NamespaceKind::Cgroup) => "cgroup-namespace",
            Self::Namespace(NamespaceKind::User) => "user-namespace",
            Self::Namespace(NamespaceKind::Time) => "time-namespace",
        }
    }
}

impl From<Part> for String {
    fn from(part: Part) -> Self {
        part.name().to_owned()
    }
}

impl TryFrom<String> for Part {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::ALL.into_iter().find(|part| part.name() == name).ok_or_else(|| format!("{name:?} is no part of a jail"))
    }
}

impl Condition {
    /// Every layer is there, in this phase.
    pub fn complete(mode: Mode, phase: Phase) -> Self {
        Self { mode, entry: Entry::Program, phase, without: Vec::new() }
    }

    /// A thread of a vmm that runs a guest is taken over: the one whose phase this is.
    pub fn injected(mode: Mode, phase: Phase) -> Self {
        Self { entry: Entry::Thread, ..Self::complete(mode, phase) }
    }

    /// One part is not there, at the start.
    pub fn without(mode: Mode, part: Part) -> Self {
        Self { without: vec![part], ..Self::complete(mode, Phase::Launch) }
    }

    /// No layer is.
    pub fn bare(mode: Mode) -> Self {
        let layers = Layer::ALL.map(Part::Layer);
        // The layer of compatible mode has neither of these.
        let more = [NamespaceKind::Pid, NamespaceKind::Network].map(Part::Namespace);
        let more = more.into_iter().filter(|_| mode == Mode::Compatible);
        Self { without: layers.into_iter().chain(more).collect(), ..Self::complete(mode, Phase::Launch) }
    }

    /// A compatible jail that is asked for with no more than what has to be said.
    pub fn plain() -> Self {
        let namespaces = [NamespaceKind::Pid, NamespaceKind::Network].map(Part::Namespace);
        let without = std::iter::once(Part::Layer(Layer::Cgroup)).chain(namespaces).collect();
        Self { without, ..Self::complete(Mode::Compatible, Phase::Launch) }
    }

    /// Complete jails, in every phase.
    pub fn every_phase(mode: Mode) -> Vec<Self> {
        Phase::ALL.map(|phase| Self::complete(mode, phase)).to_vec()
    }

    /// Complete jails with a vmm of which a thread is taken over, for every thread.
    pub fn every_thread(mode: Mode) -> Vec<Self> {
        [Phase::Run, Phase::Api, Phase::Vcpu].map(|phase| Self::injected(mode, phase)).to_vec()
    }

    /// Jails that lack one part, for every part.
    pub fn every_part(mode: Mode) -> Vec<Self> {
        Part::of(mode).map(|part| Self::without(mode, part)).collect()
    }

    /// Only one layer is, at the start.
    pub fn only(layer: Layer) -> Self {
        let without = Layer::ALL.into_iter().filter(|other| *other != layer).map(Part::Layer).collect();
        Self { without, ..Self::complete(Mode::Sealed, Phase::Launch) }
    }

    /// The layers that are taken away.
    pub fn layers(&self) -> Vec<Layer> {
        let mount = Part::Namespace(NamespaceKind::Mount);
        let layer = |part: &Part| match part {
            Part::Layer(layer) => Some(*layer),
            Part::Namespace(_) => (*part == mount).then_some(Layer::Root),
        };
        self.without.iter().filter_map(layer).collect()
    }

    /// The namespaces that are taken away by themselves.
    pub fn namespaces(&self) -> Vec<NamespaceKind> {
        let kind = |part: &Part| match part {
            Part::Layer(_) => None,
            Part::Namespace(kind) => Some(*kind),
        };
        self.without.iter().filter_map(kind).collect()
    }

    /// The layer that alone is there.
    pub fn has_only(&self) -> Option<Layer> {
        let mut there = Layer::ALL.into_iter().filter(|layer| !self.without.contains(&Part::Layer(*layer)));
        there.next().filter(|_| there.next().is_none())
    }

    /// The part that alone is not there.
    pub fn lacks(&self) -> Option<Part> {
        match self.without.as_slice() {
            [part] => Some(*part),
            _ => None,
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}, ", self.mode.name())?;
        match (self.without.as_slice(), self.entry) {
            ([], Entry::Program) => write!(formatter, "all layers, {}", self.phase.name()),
            ([], Entry::Thread) => write!(formatter, "all layers, {} thread taken over", self.phase.name()),
            ([part], _) => write!(formatter, "without {}", part.name()),
            _ if *self == Self::plain() => formatter.write_str("plain"),
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
