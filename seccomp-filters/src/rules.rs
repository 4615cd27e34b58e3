//! The rules of each role, as they were compiled: to explain a filter, and to measure it.
//!
//! They are text until somebody asks. A table would be full of pointers, each of which the start of a program would have to
//! relocate, on pages that it would not share with anybody: two dozen for a jailer, which only needs rules when a filter was violated.

use std::fmt;
use std::sync::OnceLock;

use crate::{Role, syscall_name};

/// What a role may do: one system call, under conditions.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// The promise that it is part of.
    pub promise: &'static str,
    /// The system call's name.
    pub call: &'static str,
    /// Why the role needs it.
    pub reason: &'static str,
    /// What must hold for the arguments. All of it.
    pub conditions: Vec<Condition>,
}

/// What must hold for an argument of a system call.
#[derive(Debug, PartialEq, Eq)]
pub struct Condition {
    /// Which, from 0.
    pub argument: usize,
    /// How much of it is looked at.
    pub width: Width,
    /// How it is compared.
    pub operator: Operator,
    /// With what.
    pub value: u64,
    /// The value's name, or what it stands for.
    pub meaning: &'static str,
}

/// How much of an argument a condition looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// The lower 32 bits.
    Dword,
    /// All 64 bits.
    Qword,
}

/// How an argument is compared with a condition's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// It is the same.
    Eq,
    /// It is less or the same.
    Le,
    /// It is the same in the bits of this mask.
    MaskedEq(u64),
}

impl Rule {
    /// Whether it lets the system call `number` with these arguments pass.
    pub fn allows(&self, number: u32, arguments: &[u64; 6]) -> bool {
        syscall_name(number) == Some(self.call)
            && self.conditions.iter().all(|condition| condition.holds_for(arguments))
    }
}

/// The system call, and what its conditions stand for: a name for the rule, which no other of the same role has.
impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.call)?;
        let mut separator = " ";
        for condition in &self.conditions {
            write!(formatter, "{separator}{}", condition.meaning)?;
            separator = ", ";
        }
        Ok(())
    }
}

impl Condition {
    fn holds_for(&self, arguments: &[u64; 6]) -> bool {
        let Some(argument) = arguments.get(self.argument) else { return false };
        let argument = match self.width {
            Width::Dword => argument & u64::from(u32::MAX),
            Width::Qword => *argument,
        };
        match self.operator {
            Operator::Eq => argument == self.value,
            Operator::Le => argument <= self.value,
            Operator::MaskedEq(mask) => argument & mask == self.value & mask,
        }
    }
}

/// Text in which each line is a rule: its promise, call and reason, then of each condition the argument, width, operator, value
/// and meaning, all of them with a tab between. The operator is `eq`, `le` or a mask.
mod table {
    include!(concat!(env!("OUT_DIR"), "/rules.rs"));
}

/// The rules of a role.
pub(crate) fn of(role: Role) -> &'static [Rule] {
    static RULES: [OnceLock<Vec<Rule>>; Role::ALL.len()] = [const { OnceLock::new() }; Role::ALL.len()];
    let place = Role::ALL.iter().position(|other| *other == role).and_then(|index| RULES.get(index));
    place
        .map(|rules| rules.get_or_init(|| text(role).lines().filter_map(parse).collect()).as_slice())
        .unwrap_or_default()
}

fn parse(line: &'static str) -> Option<Rule> {
    let mut words = line.split('\t');
    let (promise, call, reason) = (words.next()?, words.next()?, words.next()?);
    let mut conditions = Vec::new();
    while let Some(argument) = words.next() {
        let width = if words.next()? == "dword" { Width::Dword } else { Width::Qword };
        let operator = match words.next()? {
            "eq" => Operator::Eq,
            "le" => Operator::Le,
            mask => Operator::MaskedEq(mask.parse().ok()?),
        };
        let (argument, value) = (argument.parse().ok()?, words.next()?.parse().ok()?);
        conditions.push(Condition { argument, width, operator, value, meaning: words.next()? });
    }
    Some(Rule { promise, call, reason, conditions })
}

const fn text(role: Role) -> &'static str {
    match role {
        Role::Launch => table::LAUNCH,
        Role::LaunchCompatible => table::LAUNCH_COMPATIBLE,
        Role::VmmConfigureSealed => table::VMM_CONFIGURE_SEALED,
        Role::VmmConfigure => table::VMM_CONFIGURE,
        Role::VmmConfigureSnapshot => table::VMM_CONFIGURE_SNAPSHOT,
        Role::VmmRunSnapshot => table::VMM_RUN_SNAPSHOT,
        Role::VmmRunSealed => table::VMM_RUN_SEALED,
        Role::VmmRun => table::VMM_RUN,
        Role::VmmRunSave => table::VMM_RUN_SAVE,
        Role::VmmRunSnapshotFiles => table::VMM_RUN_SNAPSHOT_FILES,
        Role::Api => table::API,
        Role::Vcpu => table::VCPU,
        Role::Warden => table::WARDEN,
        Role::Control => table::CONTROL,
        Role::Net => table::NET,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn all() -> impl Iterator<Item = (Role, &'static Rule)> {
        Role::ALL.into_iter().flat_map(|role| role.rules().iter().map(move |rule| (role, rule)))
    }

    /// A rule in the shadow of another could go, and nobody would notice. What vmms of other make may do is wider than what
    /// ours does, and not measured.
    #[test]
    fn no_two_rules_of_a_role_allow_the_same() {
        for (role, rule) in all().filter(|(role, _)| *role != Role::LaunchCompatible) {
            for other in role.rules().iter().filter(|other| other.call == rule.call && *other != rule) {
                let differs = |condition: &Condition| {
                    other
                        .conditions
                        .iter()
                        .any(|against| against.argument == condition.argument && against.value != condition.value)
                };
                assert!(rule.conditions.iter().any(differs), "{role:?}: {rule} and {other}");
            }
        }
    }

    #[test]
    fn every_line_is_a_rule() {
        for role in Role::ALL {
            assert!(!role.rules().is_empty());
            assert_eq!(role.rules().len(), text(role).lines().count(), "{role:?}");
        }
    }

    #[test]
    fn rules_of_a_role_have_names_of_their_own() {
        let mut names = BTreeSet::new();
        for (role, rule) in all() {
            assert!(names.insert((role.name(), rule.to_string())), "{role:?}: {rule}");
        }
    }

    #[test]
    fn a_rule_allows_what_its_conditions_say() {
        const READ: u32 = 0;
        let rule = |width, operator| Rule {
            promise: "",
            call: "read",
            reason: "",
            conditions: vec![Condition { argument: 1, width, operator, value: 6, meaning: "six" }],
        };
        let allows = |rule: &Rule, argument| rule.allows(READ, &[0, argument, 0, 0, 0, 0]);
        let half = rule(Width::Dword, Operator::Eq);
        assert!(allows(&half, 6) && allows(&half, 1 << 32 | 6) && !allows(&half, 7));
        assert!(!half.allows(READ + 1, &[0, 6, 0, 0, 0, 0]));
        let whole = rule(Width::Qword, Operator::Eq);
        assert!(allows(&whole, 6) && !allows(&whole, 1 << 32 | 6));
        let at_most = rule(Width::Qword, Operator::Le);
        assert!(allows(&at_most, 0) && allows(&at_most, 6) && !allows(&at_most, 7));
        let masked = rule(Width::Dword, Operator::MaskedEq(3));
        assert!(allows(&masked, 2) && allows(&masked, 6) && !allows(&masked, 7));
        assert_eq!(masked.to_string(), "read six");
    }
}
