//! What the project knows of its own layers, and whether it still is so.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use stockade_jailer::plan::Layer;
use stockade_prisoner::{Description, Phase};

use crate::roles::Compromise;
use crate::verdict::{Condition, Entry, Mode, Outcome, Part, Verdict};

const TEXT: &str = include_str!("known.json");

/// Attempts of which something is known.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// Those that succeed with every layer on, as that mode does not promise to stop them.
    pub given_up: Vec<GivenUp>,
    /// Those that only one part of a jail stops.
    pub single: Vec<Single>,
    /// Those that do not succeed even in a bare jail.
    pub never: Vec<Never>,
    /// Those that succeed in a role of the daemon.
    pub roles: Vec<SparedRole>,
    /// For each layer, some that it stops by itself, so that it is missed when it is not there.
    pub alone: Vec<Alone>,
}

/// Attempts that a role of the daemon does not promise to stop.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SparedRole {
    /// The role.
    pub role: String,
    /// Names of the attempts.
    pub attempts: Vec<String>,
    /// Why nothing stops them, and what is left to.
    pub reason: String,
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

/// Attempts that a mode does not promise to stop.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GivenUp {
    /// The mode.
    pub mode: Mode,
    /// In which jails of it.
    pub jails: Jails,
    /// Until when, with the vmm's own filters.
    pub phases: Vec<Phase>,
    /// Names of the attempts.
    pub attempts: Vec<String>,
    /// What compatibility needs it for, and what is left to stop it.
    pub reason: String,
    /// What it depends on, if they succeed on some hosts only.
    #[serde(default)]
    pub depends_on: Option<String>,
}

/// Which jails of a mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Jails {
    /// All of them.
    All,
    /// Those that are asked for without options.
    Plain,
}

/// Attempts that only one part of a jail stops, and succeed without it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Single {
    /// In which modes.
    pub modes: Vec<Mode>,
    /// The part.
    pub part: Part,
    /// Names of the attempts.
    pub attempts: Vec<String>,
    /// Why no other part does.
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

    /// What is known of an attempt that only this part of a jail of that mode stops.
    fn stopped_by(&self, mode: Mode, part: Part, attempt: &str) -> Option<&Single> {
        let mut of_part = self.single.iter().filter(|single| single.part == part && single.modes.contains(&mode));
        of_part.find(|single| single.attempts.iter().any(|name| name == attempt))
    }

    fn is_never(&self, attempt: &str) -> bool {
        self.never.iter().any(|never| never.attempts.iter().any(|name| name == attempt))
    }

    /// Why an attempt is known to succeed in such a jail, although no layer was taken away.
    pub fn given_up(&self, condition: &Condition, attempt: &str) -> Option<&GivenUp> {
        let is_plain = *condition == Condition::plain();
        self.given_up.iter().find(|given_up| {
            given_up.mode == condition.mode
                && given_up.phases.contains(&condition.phase)
                && (given_up.jails == Jails::All || is_plain)
                && given_up.attempts.iter().any(|name| name == attempt)
        })
    }

    /// Why an attempt is known to succeed in a role of the daemon.
    pub fn spared(&self, found: &Compromise) -> Option<&SparedRole> {
        self.roles.iter().find(|spared| spared.role == found.role && spared.attempts.contains(&found.attempt))
    }

    /// Attempts from roles of the daemon that should not have come out as they did.
    pub fn surprises<'a>(&self, found: &'a [Compromise]) -> Vec<&'a Compromise> {
        found
            .iter()
            .filter(|one| one.outcome.is_success() != self.spared(one).is_some() || one.is_undecided())
            .collect()
    }

    /// What of these verdicts is not as it is known. A verdict that there isn't is none: what was not run is not compared.
    pub fn deviations(&self, verdicts: &[Verdict]) -> Vec<Deviation> {
        // Not to be had on this host, whatever the jail.
        let unattainable: HashSet<_> = verdicts
            .iter()
            .filter(|verdict| {
                verdict.condition == Condition::bare(verdict.condition.mode) && !verdict.outcome.is_success()
            })
            .map(|verdict| (verdict.condition.mode, verdict.attempt.as_str()))
            .collect();
        let complaints = verdicts.iter().filter_map(|verdict| {
            let is_unattainable = unattainable.contains(&(verdict.condition.mode, verdict.attempt.as_str()));
            let text = self.complaint(verdict, is_unattainable)?;
            Some(Deviation { verdict: Some(verdict.clone()), text: text.to_owned() })
        });
        complaints.collect()
    }

    fn complaint(&self, verdict: &Verdict, unattainable: bool) -> Option<&'static str> {
        let Verdict { attempt, condition, outcome } = verdict;
        if !outcome.is_success() && !outcome.is_failure() {
            return Some("it has to end in one of both");
        }
        let given_up = self.given_up(condition, attempt);
        if condition.without.is_empty() || *condition == Condition::plain() {
            return match (given_up, outcome.is_success()) {
                (None, true) => Some("with every layer on, nothing may succeed"),
                (Some(GivenUp { depends_on: None, .. }), false)
                    if condition.entry == Entry::Program && !unattainable =>
                {
                    Some("it is known to be given up, but something stops it by now; take it off the list")
                }
                _ => None,
            };
        }
        if let Some(layer) = condition.has_only() {
            let stops = self.alone.iter().any(|alone| alone.layer == layer && alone.attempts.contains(attempt));
            return (stops && outcome.is_success()).then_some("it is known that this layer stops it by itself");
        }
        let Some(part) = condition.lacks() else { return self.bare_complaint(condition.mode, attempt, outcome) };
        if given_up.is_some() {
            return None;
        }
        match (self.stopped_by(condition.mode, part, attempt), outcome.is_success()) {
            (None, true) => Some("only this stops it, which is not known; say why, or have something else stop it"),
            (Some(Single { depends_on: None, .. }), false) if !unattainable => {
                Some("it is known that only this stops it, but something else does by now; take it off the list")
            }
            _ => None,
        }
    }

    fn depends_on_host(&self, attempt: &str) -> bool {
        let single = self.single.iter().filter(|single| single.depends_on.is_some()).map(|single| &single.attempts);
        let given_up =
            self.given_up.iter().filter(|given_up| given_up.depends_on.is_some()).map(|given_up| &given_up.attempts);
        single.chain(given_up).any(|names| names.iter().any(|name| name == attempt))
    }

    fn bare_complaint(&self, mode: Mode, attempt: &str, outcome: &Outcome) -> Option<&'static str> {
        if self.depends_on_host(attempt) {
            return None;
        }
        match (self.is_never(attempt), outcome) {
            // What there is in a sealed jail alone, or in a compatible one alone, is shown there.
            (false, Outcome::Refused(_)) if mode == Mode::Sealed => {
                Some("without any layer it has to succeed, or it shows nothing")
            }
            (true, Outcome::Succeeded(_)) => Some("it is known never to succeed; take it off the list"),
            _ => None,
        }
    }

    /// The jails with one layer alone, and what that stops.
    pub fn alone(&self) -> Vec<(&str, Condition)> {
        let of = |alone: &Alone| Condition::only(alone.layer);
        self.alone.iter().flat_map(|alone| alone.attempts.iter().map(move |name| (name.as_str(), of(alone)))).collect()
    }

    /// The jails of this mode that lack one part, and what succeeds there and in no other.
    pub fn single(&self, mode: Mode) -> Vec<(&str, Condition)> {
        let of_mode = self.single.iter().filter(|single| single.modes.contains(&mode));
        let of = |single: &Single| Condition::without(mode, single.part);
        of_mode.flat_map(|single| single.attempts.iter().map(move |name| (name.as_str(), of(single)))).collect()
    }

    /// Names on the list that are no attempt's, or are there twice.
    pub fn strangers(&self, attempts: &[Description]) -> Vec<String> {
        let names: HashSet<_> = attempts.iter().map(|attempt| attempt.name.as_str()).collect();
        let mut seen = HashSet::new();
        let single = self.single.iter().flat_map(|single| {
            let of = move |mode| single.attempts.iter().map(move |name| (Some((mode, Some(single.part))), name));
            single.modes.iter().copied().flat_map(of)
        });
        let given_up = self.given_up.iter();
        let given_up =
            given_up.flat_map(|given_up| given_up.attempts.iter().map(|name| (Some((given_up.mode, None)), name)));
        let never = self.never.iter().flat_map(|never| never.attempts.iter().map(|name| (None, name)));
        let all = single.chain(given_up).chain(never);
        let alone = self.alone.iter().flat_map(|alone| &alone.attempts);
        let unknown = alone.filter(|name| !names.contains(name.as_str())).cloned();
        all.filter(|(of, name)| !names.contains(name.as_str()) || !seen.insert((*of, *name)))
            .map(|(_, name)| name.clone())
            .chain(unknown)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        let single = |attempts: &[&str], depends_on: Option<&str>| Single {
            modes: vec![Mode::Sealed],
            part: Part::Layer(Layer::Seccomp),
            attempts: attempts.iter().map(|name| (*name).to_owned()).collect(),
            reason: "a reason".into(),
            depends_on: depends_on.map(String::from),
        };
        let never = Never { attempts: vec!["never".into()], reason: "a reason".into() };
        let alone = Alone { layer: Layer::Root, attempts: vec!["read".into()] };
        let given_up = GivenUp {
            mode: Mode::Compatible,
            jails: Jails::Plain,
            phases: vec![Phase::Launch],
            attempts: vec!["given".into()],
            reason: "a reason".into(),
            depends_on: None,
        };
        let always = GivenUp { jails: Jails::All, attempts: vec!["always".into()], ..given_up.clone() };
        Known {
            given_up: vec![given_up, always],
            single: vec![single(&["single"], None), single(&["sometimes"], Some("a setting"))],
            never: vec![never],
            alone: vec![alone],
            roles: vec![SparedRole {
                role: "control".into(),
                attempts: vec!["spared".into()],
                reason: "a reason".into(),
            }],
        }
    }

    #[test]
    fn what_a_role_is_spared_is_known() {
        let one = |attempt: &str, outcome| Compromise { role: "control".into(), attempt: attempt.into(), outcome };
        let (succeeded, refused) = (Outcome::Succeeded("x".into()), Outcome::Refused("y".into()));
        let as_known = [one("spared", succeeded.clone()), one("other", refused.clone())];
        assert_eq!(known().surprises(&as_known), [&as_known[0]; 0]);
        let undecided = Outcome::Undecided("z".into());
        let others = [one("spared", refused), one("other", succeeded), one("other", undecided)];
        assert_eq!(known().surprises(&others).len(), 3);
    }

    fn complaints(verdicts: &[(&str, Condition, Outcome)]) -> usize {
        let verdicts: Vec<_> = verdicts
            .iter()
            .cloned()
            .map(|(attempt, condition, outcome)| Verdict { attempt: attempt.into(), condition, outcome })
            .collect();
        known().deviations(&verdicts).len()
    }

    fn sealed(phase: Phase) -> Condition {
        Condition::complete(Mode::Sealed, phase)
    }

    fn without(layer: Layer) -> Condition {
        Condition::without(Mode::Sealed, Part::Layer(layer))
    }

    fn bare() -> Condition {
        Condition::bare(Mode::Sealed)
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
            assert_eq!(complaints(&[("any", sealed(phase), no())]), 0);
            assert_eq!(complaints(&[("single", sealed(phase), yes())]), 1);
        }
        assert_eq!(complaints(&[("any", sealed(Phase::Run), Outcome::Undecided("x".into()))]), 1);
    }

    #[test]
    fn what_one_layer_stops_is_on_the_list_and_nothing_else() {
        let seccomp = || without(Layer::Seccomp);
        assert_eq!(complaints(&[("single", seccomp(), yes()), ("other", seccomp(), no())]), 0);
        assert_eq!(complaints(&[("other", seccomp(), yes())]), 1);
        assert_eq!(complaints(&[("single", seccomp(), no())]), 1);
        assert_eq!(complaints(&[("single", without(Layer::Uid), yes())]), 1);
        // What depends on the host, or can't be had there at all.
        assert_eq!(complaints(&[("sometimes", seccomp(), no()), ("sometimes", seccomp(), yes())]), 0);
        let absent = Outcome::Absent("ENOSYS".into());
        assert_eq!(complaints(&[("single", seccomp(), no()), ("single", bare(), absent)]), 0);
    }

    #[test]
    fn what_is_given_up_is_given_up_in_that_mode_and_until_then() {
        let complete = |phase| Condition::complete(Mode::Compatible, phase);
        assert_eq!(complaints(&[("always", complete(Phase::Launch), yes()), ("given", Condition::plain(), yes())]), 0);
        assert_eq!(complaints(&[("always", complete(Phase::Run), yes())]), 1);
        assert_eq!(complaints(&[("always", sealed(Phase::Launch), yes())]), 1);
        assert_eq!(complaints(&[("given", complete(Phase::Launch), yes())]), 1);
        assert_eq!(complaints(&[("always", complete(Phase::Launch), no())]), 1);
        assert_eq!(complaints(&[("always", Condition::injected(Mode::Compatible, Phase::Run), yes())]), 1);
        assert_eq!(complaints(&[("other", Condition::injected(Mode::Sealed, Phase::Vcpu), yes())]), 1);
        // Also when something is taken away.
        let namespaces = Condition::without(Mode::Compatible, Part::Layer(Layer::Namespaces));
        assert_eq!(complaints(&[("always", namespaces, yes())]), 0);
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
        assert_eq!(complaints(&[("any", bare(), yes()), ("never", bare(), no())]), 0);
        assert_eq!(complaints(&[("any", bare(), no()), ("sometimes", bare(), no())]), 1);
        assert_eq!(complaints(&[("never", bare(), yes())]), 1);
    }
}
