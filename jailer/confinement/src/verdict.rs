//! The verdict on a process's confinement: each layer, and all of them, in words that one can act on.
//!
//! What counts is what the kernel says. The jailer's record adds what was meant (which user, which limits), and is all there is on
//! Landlock. A record alone never makes a layer good that the kernel says is not there.

mod cgroup;
mod identity;
mod root;
mod seccomp;
#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::confinement::Confinement;
use crate::layer::Layer;
use crate::limits::{Ceilings, Limit, MOST_DESCRIPTORS};
use crate::namespaces::NamespaceKind;
use crate::record::{JailKind, Record};

/// What is to be said of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Of all layers together.
    pub state: State,
    /// The same in words.
    pub summary: String,
    /// Of each.
    pub layers: Vec<LayerVerdict>,
}

/// What is to be said of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerVerdict {
    /// Which.
    pub layer: Layer,
    /// Whether it is on.
    pub state: State,
    /// What is in force, or what is wrong.
    pub text: String,
}

/// Whether a layer confines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// As meant.
    On,
    /// Only in part.
    Weak,
    /// Not at all.
    Off,
    /// The kernel does not say, and there is no record.
    Unknown,
    /// Not meant for this process, which does what the layer would forbid.
    NotMeant,
}

impl State {
    /// Its name in a table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Weak => "weak",
            Self::Off => "OFF",
            Self::Unknown => "unknown",
            Self::NotMeant => "-",
        }
    }
}

impl Verdict {
    /// Judges `confinement` by what the jailer recorded, if it did.
    pub fn on(confinement: &Confinement, record: Option<&Record>) -> Self {
        let is_daemons = record.is_some_and(|record| matches!(record.jail, JailKind::Daemon { .. }));
        let judge = |layer| {
            let report = record.and_then(|record| record.layer(layer));
            if let Some(report) = report.filter(|report| is_daemons && !report.enforced) {
                return LayerVerdict { layer, state: State::NotMeant, text: report.detail.clone() };
            }
            let Finding { state, text } = match layer {
                Layer::Cgroup => cgroup::judge(&confinement.cgroups, record),
                Layer::Namespaces => namespaces(confinement, record),
                Layer::Root => root::judge(confinement, record),
                Layer::ResourceLimits => resource_limits(confinement, record),
                Layer::Capabilities => identity::judge_capabilities(&confinement.threads, record),
                Layer::Uid => identity::judge_user(confinement, record),
                Layer::Landlock => landlock(record),
                Layer::Seccomp => seccomp::judge(&confinement.threads, record),
            };
            let text = match report {
                // Given up by name, or beyond who built the jail.
                Some(report) if !report.enforced && state != State::On => format!("{}; {text}", report.detail),
                _ => text,
            };
            LayerVerdict { layer, state, text }
        };
        Self::of(Layer::ALL.map(judge).into())
    }

    /// Whether every layer is on.
    pub fn is_confined(&self) -> bool {
        self.state == State::On
    }

    fn of(layers: Vec<LayerVerdict>) -> Self {
        let has = |state| layers.iter().any(|layer| layer.state == state);
        let state = match () {
            () if !has(State::On) => State::Off,
            () if has(State::Off) || has(State::Weak) => State::Weak,
            () if has(State::Unknown) => State::Unknown,
            () => State::On,
        };
        let is_wrong = |layer: &&LayerVerdict| !matches!(layer.state, State::On | State::NotMeant);
        let wrong: Vec<_> = layers.iter().filter(is_wrong).map(|layer| layer.layer.name()).collect();
        let summary = match state {
            State::On if has(State::NotMeant) => "confined: every layer that is meant for it is on".to_owned(),
            State::On => "confined: every layer is on".to_owned(),
            State::Off => "not confined: no layer is on".to_owned(),
            State::Weak | State::Unknown | State::NotMeant => {
                format!("not confined in full: look at {}", wrong.join(", "))
            }
        };
        Self { state, summary, layers }
    }
}

/// What was found about a layer.
struct Finding {
    state: State,
    text: String,
}

impl Finding {
    fn on(text: impl Into<String>) -> Self {
        Self { state: State::On, text: text.into() }
    }

    fn off(text: impl Into<String>) -> Self {
        Self { state: State::Off, text: text.into() }
    }

    /// On with this text if nothing is wrong, weak if something is.
    fn weak_if(wrong: &[String], text: impl Into<String>) -> Self {
        if wrong.is_empty() { Self::on(text) } else { Self { state: State::Weak, text: wrong.join("; ") } }
    }
}

/// What makes the namespaces that a jail of compatible mode has only on demand.
const ON_DEMAND: &str = "the jailer makes those for network and processes with --netns and --new-pid-ns";

fn namespaces(confinement: &Confinement, record: Option<&Record>) -> Finding {
    let expected = || match record.map(|record| &record.jail) {
        Some(JailKind::Daemon { namespaces, .. }) => namespaces.clone(),
        _ => NamespaceKind::ALL.into_iter().filter(|kind| kind.is_expected()).collect(),
    };
    let (own, shared): (Vec<_>, Vec<_>) = expected().into_iter().partition(|kind| confinement.namespaces.is_own(*kind));
    let list = |kinds: Vec<NamespaceKind>| kinds.into_iter().map(NamespaceKind::name).collect::<Vec<_>>().join(", ");
    if own.is_empty() {
        return Finding::off("shares every namespace with the host");
    }
    let mut wrong: Vec<_> =
        (!shared.is_empty()).then(|| format!("shares the host's {}", list(shared))).into_iter().collect();
    let is_compatible = record.is_some_and(|record| matches!(record.jail, JailKind::Compatible { .. }));
    wrong.extend((is_compatible && !wrong.is_empty()).then(|| ON_DEMAND.to_owned()));
    Finding::weak_if(&wrong, format!("own {}", list(own)))
}

fn resource_limits(confinement: &Confinement, record: Option<&Record>) -> Finding {
    let ceilings = record.map_or(Ceilings::sealed(MOST_DESCRIPTORS), Record::ceilings);
    let expected = [
        ("core file size", 0),
        ("open files", ceilings.descriptors),
        ("processes", ceilings.processes),
        ("locked memory", ceilings.locked_bytes),
        ("msgqueue size", 0),
    ];
    let of = |name| confinement.limits.hard(name);
    let mut wrong: Vec<_> = expected
        .iter()
        .filter(|(name, most)| !of(name).is_at_most(*most))
        .map(|(name, most)| format!("{name} is {}, not {most}", of(name)))
        .collect();
    let grows = of("file size") == Limit(None);
    wrong.extend(grows.then(|| "file size is unlimited: it can fill a disk that it may write to".to_owned()));
    if wrong.len() > expected.len() {
        return Finding::off(wrong.join("; "));
    }
    Finding::weak_if(
        &wrong,
        format!(
            "no core dump, {} descriptors, {} processes, {} locked memory",
            of("open files"),
            of("processes"),
            match of("locked memory") {
                Limit(Some(bytes)) if bytes > 0 => format!("{} KiB of", bytes / 1024),
                _ => "no".to_owned(),
            }
        ),
    )
}

fn landlock(record: Option<&Record>) -> Finding {
    match record.and_then(|record| record.layer(Layer::Landlock)) {
        Some(report) if report.enforced => Finding::on(format!("recorded by the jailer: {}", report.detail)),
        Some(_) => Finding::off("nothing is hidden by Landlock"),
        None => Finding {
            state: State::Unknown,
            text: "no record: the kernel shows nobody what Landlock enforces".to_owned(),
        },
    }
}
