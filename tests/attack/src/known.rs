//! What the project knows of its own layers, and whether it still is so.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use stockade_jailer::plan::Layer;
use stockade_prisoner::Description;

use crate::verdict::{Condition, Outcome, Verdict};

const TEXT: &str = include_str!("known.json");

/// Attempts of which something is known.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// Those that only one layer stops.
    pub single: Vec<Single>,
    /// Those that do not succeed even in a bare jail.
    pub never: Vec<Never>,
    /// For each layer, some that it stops by itself, so that it is missed when it is not there.
    pub alone: Vec<Alone>,
}

/// Attempts that a layer stops when it is the only one.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alone {
    /// The layer.
    pub layer: Layer,
    /// Names of the attempts.
    pub attempts: Vec<String>,
}

/// Attempts that only one layer stops, and succeed without it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Single {
    /// The layer.
    pub layer: Layer,
    /// Names of the attempts.
    pub attempts: Vec<String>,
    /// Why no other layer does.
    pub reason: String,
    /// What it depends on, if they succeed on some hosts only.
    #[serde(default)]
    pub depends_on: Option<String>,
}

/// Attempts that nothing has to stop.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Never {
    /// Names of the attempts.
    pub attempts: Vec<String>,
    /// What stops them then.
    pub reason: String,
}

/// Something that is not as it is known, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deviation {
    /// The verdict, if it is one.
    pub verdict: Option<Verdict>,
    text: String,
}

impl fmt::Display for Deviation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.verdict {
            Some(Verdict { attempt, condition, outcome }) => {
                write!(formatter, "{attempt} ({condition}) {outcome}: {}", self.text)
            }
            None => formatter.write_str(&self.text),
        }
    }
}

impl Known {
    /// What is known.
    ///
    /// # Errors
    /// The list is none, which a test rules out.
    pub fn read() -> Result<Self, serde_json::Error> {
        serde_json::from_str(TEXT)
    }

    /// The attempts that only `layer` stops: name, and whether that depends on the host.
    fn stopped_by(&self, layer: Layer, attempt: &str) -> Option<&Single> {
        self.single.iter().find(|single| single.layer == layer && single.attempts.iter().any(|name| name == attempt))
    }

    fn is_never(&self, attempt: &str) -> bool {
        self.never.iter().any(|never| never.attempts.iter().any(|name| name == attempt))
    }

    /// What of these verdicts is not as it is known. A verdict that there isn't is none: what was not run is not compared.
    pub fn deviations(&self, verdicts: &[Verdict]) -> Vec<Deviation> {
        let bare = Condition::bare();
        // Not to be had on this host, whatever the jail.
        let unattainable: HashSet<_> = verdicts
            .iter()
            .filter(|verdict| verdict.condition == bare && !verdict.outcome.is_success())
            .map(|verdict| verdict.attempt.as_str())
            .collect();
        let complaints = verdicts.iter().filter_map(|verdict| {
            let text = self.complaint(verdict, unattainable.contains(verdict.attempt.as_str()))?;
            Some(Deviation { verdict: Some(verdict.clone()), text: text.to_owned() })
        });
        complaints.collect()
    }

    fn complaint(&self, verdict: &Verdict, unattainable: bool) -> Option<&'static str> {
        let Verdict { attempt, condition, outcome } = verdict;
        if !outcome.is_success() && !outcome.is_failure() {
            return Some("it has to end in one of both");
        }
        if condition.without.is_empty() {
            return outcome.is_success().then_some("with every layer on, nothing may succeed");
        }
        if let Some(layer) = condition.has_only() {
            let stops = self.alone.iter().any(|alone| alone.layer == layer && alone.attempts.contains(attempt));
            return (stops && outcome.is_success()).then_some("it is known that this layer stops it by itself");
        }
        let Some(layer) = condition.lacks() else { return self.bare_complaint(attempt, outcome) };
        match (self.stopped_by(layer, attempt), outcome.is_success()) {
            (None, true) => Some("only this layer stops it, which is not known; say why, or have another one stop it"),
            (Some(Single { depends_on: None, .. }), false) if !unattainable => {
                Some("it is known that only this layer stops it, but another one does by now; take it off the list")
            }
            _ => None,
        }
    }

    fn depends_on_host(&self, attempt: &str) -> bool {
        let mut dependent = self.single.iter().filter(|single| single.depends_on.is_some());
        dependent.any(|single| single.attempts.iter().any(|name| name == attempt))
    }

    fn bare_complaint(&self, attempt: &str, outcome: &Outcome) -> Option<&'static str> {
        if self.depends_on_host(attempt) {
            return None;
        }
        match (self.is_never(attempt), outcome) {
            (false, Outcome::Refused(_)) => Some("without any layer it has to succeed, or it shows nothing"),
            (true, Outcome::Succeeded(_)) => Some("it is known never to succeed; take it off the list"),
            _ => None,
        }
    }

    /// The jails with one layer alone, and what that stops.
    pub fn alone(&self) -> Vec<(&str, Condition)> {
        let of = |alone: &Alone| Condition::only(alone.layer);
        self.alone.iter().flat_map(|alone| alone.attempts.iter().map(move |name| (name.as_str(), of(alone)))).collect()
    }

    /// Names on the list that are no attempt's, or are there twice.
    pub fn strangers(&self, attempts: &[Description]) -> Vec<String> {
        let names: HashSet<_> = attempts.iter().map(|attempt| attempt.name.as_str()).collect();
        let mut seen = HashSet::new();
        let single =
            self.single.iter().flat_map(|single| single.attempts.iter().map(|name| (Some(single.layer), name)));
        let never = self.never.iter().flat_map(|never| never.attempts.iter().map(|name| (None, name)));
        let all = single.chain(never);
        let alone = self.alone.iter().flat_map(|alone| &alone.attempts);
        let unknown = alone.filter(|name| !names.contains(name.as_str())).cloned();
        all.filter(|(layer, name)| !names.contains(name.as_str()) || !seen.insert((*layer, *name)))
            .map(|(_, name)| name.clone())
            .chain(unknown)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use stockade_prisoner::Phase;

    use super::*;

    fn known() -> Known {
        let single = |attempts: &[&str], depends_on: Option<&str>| Single {
            layer: Layer::Seccomp,
            attempts: attempts.iter().map(|name| (*name).to_owned()).collect(),
            reason: "a reason".into(),
            depends_on: depends_on.map(String::from),
        };
        let never = Never { attempts: vec!["never".into()], reason: "a reason".into() };
        let alone = Alone { layer: Layer::Root, attempts: vec!["read".into()] };
        Known {
            single: vec![single(&["single"], None), single(&["sometimes"], Some("a setting"))],
            never: vec![never],
            alone: vec![alone],
        }
    }

    fn complaints(verdicts: &[(&str, Condition, Outcome)]) -> usize {
        let verdicts: Vec<_> = verdicts
            .iter()
            .cloned()
            .map(|(attempt, condition, outcome)| Verdict { attempt: attempt.into(), condition, outcome })
            .collect();
        known().deviations(&verdicts).len()
    }

    fn yes() -> Outcome {
        Outcome::Succeeded("x".into())
    }

    fn no() -> Outcome {
        Outcome::Refused("x".into())
    }

    #[test]
    fn the_list_is_one() {
        let known = Known::read().unwrap();
        for reason in known.single.iter().map(|s| &s.reason).chain(known.never.iter().map(|n| &n.reason)) {
            assert!(reason.len() > 20, "{reason}");
        }
    }

    #[test]
    fn nothing_succeeds_with_every_layer() {
        for phase in Phase::ALL {
            assert_eq!(complaints(&[("any", Condition::complete(phase), no())]), 0);
            assert_eq!(complaints(&[("single", Condition::complete(phase), yes())]), 1);
        }
        assert_eq!(complaints(&[("any", Condition::complete(Phase::Run), Outcome::Undecided("x".into()))]), 1);
    }

    #[test]
    fn what_one_layer_stops_is_on_the_list_and_nothing_else() {
        let seccomp = || Condition::without(Layer::Seccomp);
        assert_eq!(complaints(&[("single", seccomp(), yes()), ("other", seccomp(), no())]), 0);
        assert_eq!(complaints(&[("other", seccomp(), yes())]), 1);
        assert_eq!(complaints(&[("single", seccomp(), no())]), 1);
        assert_eq!(complaints(&[("single", Condition::without(Layer::Uid), yes())]), 1);
        // What depends on the host, or can't be had there at all.
        assert_eq!(complaints(&[("sometimes", seccomp(), no()), ("sometimes", seccomp(), yes())]), 0);
        let absent = Outcome::Absent("ENOSYS".into());
        assert_eq!(complaints(&[("single", seccomp(), no()), ("single", Condition::bare(), absent)]), 0);
    }

    #[test]
    fn a_layer_that_does_nothing_is_missed() {
        assert_eq!(complaints(&[("read", Condition::only(Layer::Root), no())]), 0);
        assert_eq!(complaints(&[("read", Condition::only(Layer::Root), yes())]), 1);
        assert_eq!(complaints(&[("read", Condition::only(Layer::Uid), yes())]), 0);
        let known = Known::read().unwrap();
        for layer in Layer::ALL {
            assert_eq!(Condition::only(layer).has_only(), Some(layer));
            assert!(known.alone.iter().any(|alone| alone.layer == layer && !alone.attempts.is_empty()), "{layer:?}");
        }
    }

    #[test]
    fn attempts_succeed_in_a_bare_jail() {
        assert_eq!(complaints(&[("any", Condition::bare(), yes()), ("never", Condition::bare(), no())]), 0);
        assert_eq!(complaints(&[("any", Condition::bare(), no()), ("sometimes", Condition::bare(), no())]), 1);
        assert_eq!(complaints(&[("never", Condition::bare(), yes())]), 1);
    }
}
