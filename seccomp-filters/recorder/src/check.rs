//! Compares what was used with what may be unused.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::io;
use std::path::Path;

use seccomp_filters::Role;
use serde::Deserialize;

use crate::record::Used;

/// What can't be compared.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The folder of records.
    #[error("read the records in {path}: {source}")]
    Records {
        /// Which.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// The list.
    #[error("read {path}: {source}")]
    List {
        /// Which.
        path: String,
        /// Why not.
        source: io::Error,
    },
}

/// The list of what may be unused.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    /// Rules that no test uses.
    unused: Vec<UnusedRule>,
    /// Rules that a run of the tests uses or not, as it happens.
    by_chance: Vec<UnusedRule>,
    /// Rules that vmms of other make need, which are no part of the tests.
    others: Vec<UnusedRule>,
    /// Roles that add to another, which is where what they have in common is measured.
    variants: Vec<Variant>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Variant {
    role: String,
    of: String,
    reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnusedRule {
    rule: String,
    roles: Vec<String>,
    reason: String,
}

/// Why each rule that is listed may be unused, by role and rule.
type Reasons = BTreeMap<(String, String), Listed>;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Listed {
    reason: String,
    frequency: Frequency,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frequency {
    Never,
    ByChance,
}

/// A rule of a role.
#[derive(Debug)]
struct Finding {
    role: Role,
    promise: &'static str,
    rule: String,
    is_used: bool,
    listed: Option<Listed>,
}

/// Every rule, and what is wrong.
#[derive(Debug)]
pub struct Report {
    findings: Vec<Finding>,
    failures: Vec<String>,
}

/// Reads records and list, and compares them.
///
/// # Errors
/// If one of them can't be read.
pub fn check(folder: &Path, list: &Path) -> Result<Report, CheckError> {
    let path = |path: &Path| path.display().to_string();
    let used = Used::read(folder).map_err(|source| CheckError::Records { path: path(folder), source })?;
    let text = fs::read(list).and_then(|text| serde_json::from_slice(&text).map_err(io::Error::other));
    let text = text.map_err(|source| CheckError::List { path: path(list), source })?;
    Ok(compare(&used, text))
}

fn compare(used: &Used, list: List) -> Report {
    let mut failures: Vec<String> =
        used.incomplete.iter().map(|reason| format!("a record is not complete: {reason}")).collect();
    let mut reasons = Reasons::new();
    collect(list.unused, Frequency::Never, &mut reasons, &mut failures);
    collect(list.by_chance, Frequency::ByChance, &mut reasons, &mut failures);
    collect(list.others, Frequency::ByChance, &mut reasons, &mut failures);
    for variant in &list.variants {
        add_variant(variant, &mut reasons, &mut failures);
    }
    let mut findings = Vec::new();
    for role in Role::ALL {
        for rule in role.rules() {
            let key = (role.name().to_owned(), rule.to_string());
            let is_used = used.rules.contains(&key);
            let listed = reasons.remove(&key);
            let (name, rule_name) = key;
            match (is_used, listed.as_ref().map(|listed| listed.frequency)) {
                (false, None) => failures.push(format!(
                    "{name}: no test uses \"{rule_name}\" of the promise {:?}; take it from the promise, or list it with \
                     the reason",
                    rule.promise
                )),
                (true, Some(Frequency::Never)) => failures.push(format!(
                    "{name}: \"{rule_name}\" is used; take it from the list of those that are not"
                )),
                _ => {}
            }
            findings.push(Finding { role, promise: rule.promise, rule: rule_name, is_used, listed });
        }
    }
    failures
        .extend(reasons.into_keys().map(|(role, rule)| format!("{role}: the list has \"{rule}\", which is no rule")));
    Report { findings, failures }
}

fn collect(rules: Vec<UnusedRule>, frequency: Frequency, reasons: &mut Reasons, failures: &mut Vec<String>) {
    for UnusedRule { rule, roles, reason } in rules {
        if reason.is_empty() {
            failures.push(format!("the list has \"{rule}\" without a reason"));
        }
        for role in roles {
            let listed = Listed { reason: reason.clone(), frequency };
            if reasons.insert((role.clone(), rule.clone()), listed).is_some() {
                failures.push(format!("{role}: the list has \"{rule}\" twice"));
            }
        }
    }
}

/// Lists what a role has in common with the one that it adds to, unless that is listed by itself.
fn add_variant(Variant { role, of, reason }: &Variant, reasons: &mut Reasons, failures: &mut Vec<String>) {
    let rules = |name: &String| {
        let role = Role::ALL.into_iter().find(|role| role.name() == name);
        role.map(|role| role.rules().iter().map(ToString::to_string).collect::<BTreeSet<_>>())
    };
    let (Some(own), Some(others)) = (rules(role), rules(of)) else {
        failures.push(format!("the list has {role} as a variant of {of}, and not both are roles"));
        return;
    };
    for rule in own.intersection(&others) {
        let listed = Listed { reason: format!("{reason}: {of}"), frequency: Frequency::ByChance };
        reasons.entry((role.clone(), rule.clone())).or_insert(listed);
    }
}

impl Report {
    /// What must not be.
    pub fn failures(&self) -> impl Iterator<Item = &str> {
        self.failures.iter().map(String::as_str)
    }
}

/// A line for each rule, and how many there are.
impl Display for Report {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        for Finding { role, promise, rule, is_used, listed } in &self.findings {
            let state = if *is_used { "used" } else { "unused" };
            write!(formatter, "{:<20} {state:<6} {promise:<11} {rule}", role.name())?;
            match listed {
                Some(listed) => writeln!(formatter, " ({})", listed.reason)?,
                None => writeln!(formatter)?,
            }
        }
        writeln!(formatter, "\n{:<20} rules  used  listed", "role")?;
        for role in Role::ALL {
            let of_role = || self.findings.iter().filter(move |finding| finding.role == role);
            let used = of_role().filter(|finding| finding.is_used).count();
            let listed = of_role().filter(|finding| finding.listed.is_some()).count();
            writeln!(formatter, "{:<20} {:>5} {used:>5} {listed:>7}", role.name(), of_role().count())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> Used {
        let rules = |role: Role| role.rules().iter().map(move |rule| (role.name().to_owned(), rule.to_string()));
        Used { rules: Role::ALL.into_iter().flat_map(rules).collect(), ..Used::default() }
    }

    fn without(role: &str, rule: &str) -> Used {
        let mut used = everything();
        assert!(used.rules.remove(&(role.to_owned(), rule.to_owned())));
        used
    }

    fn listed(role: &str, rule: &str, reason: &str) -> Vec<UnusedRule> {
        vec![UnusedRule { rule: rule.into(), roles: vec![role.into()], reason: reason.into() }]
    }

    fn failures(used: &Used, rules: Vec<UnusedRule>) -> Vec<String> {
        compare(used, List { unused: rules, ..List::default() }).failures
    }

    #[test]
    fn used_or_listed_is_right() {
        assert_eq!(failures(&everything(), Vec::new()), [""; 0]);
        assert_eq!(failures(&without("vcpu", "getpid"), listed("vcpu", "getpid", "rare")), [""; 0]);
    }

    #[test]
    fn what_is_used_by_chance_may_be_used_or_not() {
        for used in [everything(), without("vcpu", "getpid")] {
            let by_chance = listed("vcpu", "getpid", "rare");
            assert_eq!(compare(&used, List { by_chance, ..List::default() }).failures, [""; 0]);
        }
    }

    #[test]
    fn unused_and_not_listed_fails() {
        let failures = failures(&without("vcpu", "getpid"), Vec::new());
        assert!(failures.len() == 1 && failures[0].starts_with("vcpu: no test uses \"getpid\""), "{failures:?}");
    }

    #[test]
    fn listed_for_one_role_is_not_for_another() {
        assert_eq!(failures(&without("vcpu", "getpid"), listed("api", "getpid", "rare")).len(), 2);
    }

    #[test]
    fn a_list_that_is_not_true_fails() {
        for (role, rule, reason, expected) in [
            ("vcpu", "getpid", "rare", "is used"),
            ("vcpu", "fork", "rare", "no rule"),
            ("nobody", "getpid", "rare", "no rule"),
            ("vcpu", "getpid", "", "without a reason"),
        ] {
            let failures = failures(&everything(), listed(role, rule, reason));
            assert!(failures.iter().any(|failure| failure.contains(expected)), "{expected}: {failures:?}");
        }
        let twice = listed("vcpu", "getpid", "rare").into_iter().chain(listed("vcpu", "getpid", "rare")).collect();
        assert!(failures(&without("vcpu", "getpid"), twice)[0].contains("twice"));
    }

    #[test]
    fn a_variant_is_measured_where_it_differs() {
        let of = |role: &str, of: &str| List {
            variants: vec![Variant { role: role.into(), of: of.into(), reason: "there".into() }],
            ..List::default()
        };
        let (role, base) = ("vmm-run-save", "vmm-run");
        assert_eq!(compare(&without(role, "epoll_wait"), of(role, base)).failures, [""; 0]);
        assert_eq!(compare(&without(base, "epoll_wait"), of(role, base)).failures.len(), 1);
        assert_eq!(compare(&without(role, "ftruncate"), of(role, base)).failures.len(), 1);
        assert_eq!(compare(&everything(), of(role, "nobody")).failures.len(), 1);
    }

    #[test]
    fn a_record_that_ends_fails() {
        let used = Used { incomplete: ["lost".to_owned()].into(), ..everything() };
        assert_eq!(failures(&used, Vec::new()), ["a record is not complete: lost"]);
    }

    #[test]
    fn what_others_need_may_be_used_or_not() {
        for used in [everything(), without("launch-compatible", "dup2")] {
            let others = listed("launch-compatible", "dup2", "room");
            assert_eq!(compare(&used, List { others, ..List::default() }).failures, [""; 0]);
        }
    }

    #[test]
    fn the_table_has_every_rule() {
        let rules = listed("vcpu", "getpid", "rare");
        let report = compare(&without("vcpu", "getpid"), List { unused: rules, ..List::default() }).to_string();
        assert!(report.contains("vcpu                 unused abort       getpid (rare)\n"), "{report}");
        assert!(report.contains("vcpu                 used   vcpu        ioctl KVM_RUN\n"), "{report}");
    }
}
