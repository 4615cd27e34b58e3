//! Verdicts as people read them.

use std::collections::HashSet;
use std::fmt;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table};
use stockade_jailer::plan::Layer;
use stockade_prisoner::{Description, Group};

use crate::known::Known;
use crate::verdict::{Condition, Entry, Mode, Part, Verdict};

/// How attempts went in one mode with every layer on, counted by what they are after, and each success by name.
#[derive(Debug)]
pub struct Summary<'a> {
    mode: Mode,
    attempts: &'a [Description],
    verdicts: &'a [Verdict],
    known: &'a Known,
}

impl<'a> Summary<'a> {
    /// Of the verdicts about complete jails of `mode` among these.
    pub fn new(mode: Mode, attempts: &'a [Description], verdicts: &'a [Verdict], known: &'a Known) -> Self {
        Self { mode, attempts, verdicts, known }
    }

    /// What succeeded, or can't be told not to have, though every layer was on and the mode promises to stop it.
    pub fn failures(&self) -> impl Iterator<Item = &'a Verdict> {
        self.successes().filter(|verdict| !self.is_given_up(verdict))
    }

    /// What succeeded, or can't be told not to have.
    fn successes(&self) -> impl Iterator<Item = &'a Verdict> {
        let mode = self.mode;
        let of_mode = move |verdict: &&Verdict| {
            let Condition { mode: own, without, .. } = &verdict.condition;
            *own == mode && (without.is_empty() || verdict.condition == Condition::plain())
        };
        self.verdicts.iter().filter(of_mode).filter(|verdict| !verdict.outcome.is_failure())
    }

    fn is_given_up(&self, verdict: &Verdict) -> bool {
        verdict.outcome.is_success() && self.known.given_up(&verdict.condition, &verdict.attempt).is_some()
    }

    fn conditions(&self) -> impl Iterator<Item = Condition> {
        let plain = (self.mode == Mode::Compatible).then(Condition::plain);
        let complete = Condition::every_phase(self.mode).into_iter().chain(Condition::every_thread(self.mode));
        let verdicts = self.verdicts;
        let was_run = move |condition: &Condition| verdicts.iter().any(|verdict| verdict.condition == *condition);
        complete.chain(plain).filter(was_run)
    }

    fn row(&self, group: Option<Group>) -> Vec<String> {
        let of_group = |name: &str| {
            self.attempts.iter().any(|attempt| attempt.name == name && group.is_none_or(|group| group == attempt.group))
        };
        let attempts = self.attempts.iter().filter(|attempt| of_group(&attempt.name)).count();
        let succeeded = |condition: Condition| {
            let of_both =
                self.successes().filter(|verdict| verdict.condition == condition && of_group(&verdict.attempt));
            let (given_up, failed): (Vec<_>, Vec<_>) = of_both.partition(|verdict| self.is_given_up(verdict));
            match given_up.len() {
                0 => failed.len().to_string(),
                known => format!("{} (+{known})", failed.len()),
            }
        };
        let name = group.map_or("all", Group::name).to_owned();
        [name, attempts.to_string()].into_iter().chain(self.conditions().map(succeeded)).collect()
    }
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let column = |condition: Condition| match (condition.entry, condition.without.is_empty()) {
            (_, false) => "plain".to_owned(),
            (Entry::Program, _) => condition.phase.name().to_owned(),
            (Entry::Thread, _) => format!("{} thread", condition.phase.name()),
        };
        let header = [format!("{}: succeeded", self.mode.name()), "attempts".to_owned()];
        let mut table = numbers(header.into_iter().chain(self.conditions().map(column)).collect());
        for group in Group::ALL.into_iter().map(Some).chain([None]) {
            table.add_row(self.row(group));
        }
        writeln!(formatter, "{table}")?;
        for Verdict { attempt, condition, outcome } in self.failures() {
            writeln!(formatter, "{attempt} ({condition}) {outcome}")?;
        }
        let names: HashSet<_> = self
            .successes()
            .filter(|verdict| self.is_given_up(verdict))
            .map(|verdict| verdict.attempt.as_str())
            .collect();
        if !names.is_empty() {
            writeln!(formatter, "(+) {} attempts are given up for compatibility:", names.len())?;
        }
        for given_up in self.known.given_up.iter().filter(|given_up| given_up.mode == self.mode) {
            let seen: Vec<_> = given_up.attempts.iter().filter(|name| names.contains(name.as_str())).cloned().collect();
            if !seen.is_empty() {
                writeln!(formatter, "{}\n    {}", seen.join(", "), given_up.reason)?;
            }
        }
        Ok(())
    }
}

/// Attempts by parts of a jail: which of them succeed when that part is taken away, and nothing else. What only one part stops is
/// named, and why.
#[derive(Debug)]
pub struct Matrix<'a> {
    mode: Mode,
    attempts: &'a [Description],
    verdicts: &'a [Verdict],
    known: &'a Known,
}

impl<'a> Matrix<'a> {
    /// Of the verdicts about jails of `mode` that lack one part among these.
    pub fn new(mode: Mode, attempts: &'a [Description], verdicts: &'a [Verdict], known: &'a Known) -> Self {
        Self { mode, attempts, verdicts, known }
    }

    /// The attempts that only one part stops, and which part that is. What is given up is not among them. One that a layer stops by
    /// one of its namespaces is there with that.
    pub fn single(&self) -> Vec<(&'a Description, Part)> {
        let namespaces = Part::Layer(Layer::Namespaces);
        let of = |attempt: &'a Description| {
            let parts: Vec<_> = Part::of(self.mode).filter(|part| self.succeeds_without(attempt, *part)).collect();
            let has_one = parts.iter().any(|part| matches!(part, Part::Namespace(_)));
            parts.into_iter().filter(move |part| *part != namespaces || !has_one).map(move |part| (attempt, part))
        };
        self.attempts.iter().flat_map(of).collect()
    }

    fn succeeds_without(&self, attempt: &Description, part: Part) -> bool {
        let condition = Condition::without(self.mode, part);
        if self.known.given_up(&condition, &attempt.name).is_some() {
            return false;
        }
        let is_it = |verdict: &&Verdict| verdict.condition == condition && verdict.attempt == attempt.name;
        self.verdicts.iter().find(is_it).is_some_and(|verdict| !verdict.outcome.is_failure())
    }

    fn counts(&self, group: Group) -> Vec<String> {
        let attempts: Vec<_> = self.attempts.iter().filter(|attempt| attempt.group == group).collect();
        let without = |part| {
            let count = attempts.iter().filter(|attempt| self.succeeds_without(attempt, part)).count();
            if count == 0 { "·".to_owned() } else { count.to_string() }
        };
        let head = [group.name().to_owned(), attempts.len().to_string()];
        head.into_iter().chain(Part::of(self.mode).map(without)).collect()
    }
}

impl fmt::Display for Matrix<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Words below each other: there are many columns.
        let header = [format!("{}: succeeded without", self.mode.name()), "attempts".to_owned()];
        let parts = Part::of(self.mode).map(|part| part.name().replace('-', "\n"));
        let mut table = numbers(header.into_iter().chain(parts).collect());
        for group in Group::ALL {
            table.add_row(self.counts(group));
        }
        writeln!(formatter, "{table}")?;
        let single = self.single();
        let names: HashSet<_> = single.iter().map(|(attempt, _)| attempt.name.as_str()).collect();
        writeln!(formatter, "{} of {} attempts are stopped by one layer only:", names.len(), self.attempts.len())?;
        for part in Part::of(self.mode) {
            let of_part: Vec<_> = single.iter().filter(|(_, by)| *by == part).map(|(attempt, _)| *attempt).collect();
            let of_mode = self.known.single.iter().filter(|known| known.modes.contains(&self.mode));
            for known in of_mode.filter(|known| known.part == part) {
                let names: Vec<_> = of_part.iter().filter(|attempt| known.attempts.contains(&attempt.name)).collect();
                let names: Vec<_> = names.iter().map(|attempt| attempt.name.as_str()).collect();
                if !names.is_empty() {
                    writeln!(formatter, "{}: {}\n    {}", part.name(), names.join(", "), known.reason)?;
                }
            }
        }
        Ok(())
    }
}

fn numbers(header: Vec<String>) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_HORIZONTAL_ONLY).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use stockade_jailer::plan::NamespaceKind;
    use stockade_prisoner::Phase;

    use super::*;
    use crate::known::{GivenUp, Jails};
    use crate::verdict::Outcome;

    #[test]
    fn tables_count_and_name() {
        let description = |name: &str, group| {
            let text = || "x".to_owned();
            Description { name: name.into(), group, tries: text(), wins: text(), why: text() }
        };
        let attempts = [description("read-file", Group::Files), description("fork", Group::Processes)];
        let verdict =
            |attempt: &str, condition: Condition, outcome| Verdict { attempt: attempt.into(), condition, outcome };
        let seccomp = Part::Layer(Layer::Seccomp);
        let complete = |mode| Condition::complete(mode, Phase::Launch);
        let yes = || Outcome::Succeeded("read".into());
        let verdicts = [
            verdict("read-file", complete(Mode::Sealed), yes()),
            verdict("fork", complete(Mode::Sealed), Outcome::Refused("EPERM".into())),
            verdict("fork", Condition::without(Mode::Sealed, seccomp), yes()),
            verdict("fork", Condition::without(Mode::Sealed, Part::Layer(Layer::Namespaces)), yes()),
            verdict("fork", Condition::without(Mode::Sealed, Part::Namespace(NamespaceKind::Pid)), yes()),
            verdict("fork", complete(Mode::Compatible), yes()),
        ];
        let given_up = GivenUp {
            mode: Mode::Compatible,
            jails: Jails::All,
            phases: vec![Phase::Launch],
            attempts: vec!["fork".into()],
            reason: "because".into(),
            depends_on: None,
        };
        let known = Known {
            given_up: vec![given_up],
            single: Vec::new(),
            never: Vec::new(),
            alone: Vec::new(),
            roles: Vec::new(),
        };
        let summary = Summary::new(Mode::Sealed, &attempts, &verdicts, &known);
        assert_eq!(summary.failures().count(), 1);
        assert!(summary.to_string().contains("read-file (sealed, all layers, launch) succeeded: read"), "{summary}");
        let summary = Summary::new(Mode::Compatible, &attempts, &verdicts, &known);
        assert_eq!(summary.failures().count(), 0);
        assert!(summary.to_string().contains("0 (+1)") && summary.to_string().contains("because"), "{summary}");
        let matrix = Matrix::new(Mode::Sealed, &attempts, &verdicts, &known);
        let by = [Part::Namespace(NamespaceKind::Pid), seccomp];
        assert_eq!(matrix.single(), by.map(|part| (&attempts[1], part)));
        assert!(matrix.to_string().contains("1 of 2 attempts"), "{matrix}");
    }
}
