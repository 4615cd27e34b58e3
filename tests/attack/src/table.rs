//! Verdicts as people read them.

use std::fmt;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table};
use stockade_jailer::plan::Layer;
use stockade_prisoner::{Description, Group, Phase};

use crate::known::Known;
use crate::verdict::{Condition, Verdict};

/// How attempts went with every layer on, counted by what they are after, and each success by name.
#[derive(Debug)]
pub struct Summary<'a> {
    attempts: &'a [Description],
    verdicts: &'a [Verdict],
}

impl<'a> Summary<'a> {
    /// Of the verdicts about complete jails among these.
    pub fn new(attempts: &'a [Description], verdicts: &'a [Verdict]) -> Self {
        Self { attempts, verdicts }
    }

    /// What succeeded, or can't be told not to have, though every layer was on.
    pub fn failures(&self) -> impl Iterator<Item = &'a Verdict> {
        let complete = self.verdicts.iter().filter(|verdict| verdict.condition.without.is_empty());
        complete.filter(|verdict| !verdict.outcome.is_failure())
    }

    fn row(&self, group: Option<Group>) -> Vec<String> {
        let of_group = |name: &str| {
            self.attempts.iter().any(|attempt| attempt.name == name && group.is_none_or(|group| group == attempt.group))
        };
        let attempts = self.attempts.iter().filter(|attempt| of_group(&attempt.name)).count();
        let succeeded = |phase: Phase| {
            let of_phase = self.verdicts.iter().filter(|verdict| verdict.condition == Condition::complete(phase));
            let of_both = of_phase.filter(|verdict| of_group(&verdict.attempt));
            of_both.filter(|verdict| !verdict.outcome.is_failure()).count().to_string()
        };
        let name = group.map_or("all", Group::name).to_owned();
        [name, attempts.to_string()].into_iter().chain(Phase::ALL.map(succeeded)).collect()
    }
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phases = Phase::ALL.map(|phase| format!("succeeded: {}", phase.name()));
        let header = ["after".to_owned(), "attempts".to_owned()].into_iter().chain(phases);
        let mut table = numbers(header.collect());
        for group in Group::ALL.into_iter().map(Some).chain([None]) {
            table.add_row(self.row(group));
        }
        writeln!(formatter, "{table}")?;
        for Verdict { attempt, condition, outcome } in self.failures() {
            writeln!(formatter, "{attempt} ({condition}) {outcome}")?;
        }
        Ok(())
    }
}

/// Attempts by layers: which of them succeed when that layer is taken away. Only rows with such a layer are printed, and why.
#[derive(Debug)]
pub struct Matrix<'a> {
    attempts: &'a [Description],
    verdicts: &'a [Verdict],
    known: &'a Known,
}

impl<'a> Matrix<'a> {
    /// Of the verdicts about jails that lack one layer among these.
    pub fn new(attempts: &'a [Description], verdicts: &'a [Verdict], known: &'a Known) -> Self {
        Self { attempts, verdicts, known }
    }

    /// The attempts that only one layer stops, and which layer that is.
    pub fn single(&self) -> Vec<(&'a Description, Layer)> {
        let of = |attempt: &'a Description| {
            Layer::ALL
                .into_iter()
                .filter(|layer| self.succeeds_without(attempt, *layer))
                .map(move |layer| (attempt, layer))
        };
        self.attempts.iter().flat_map(of).collect()
    }

    fn succeeds_without(&self, attempt: &Description, layer: Layer) -> bool {
        let lacks = |verdict: &&Verdict| verdict.condition.lacks() == Some(layer) && verdict.attempt == attempt.name;
        self.verdicts.iter().find(lacks).is_some_and(|verdict| !verdict.outcome.is_failure())
    }

    fn counts(&self, group: Group) -> Vec<String> {
        let attempts: Vec<_> = self.attempts.iter().filter(|attempt| attempt.group == group).collect();
        let without = |layer| {
            let count = attempts.iter().filter(|attempt| self.succeeds_without(attempt, layer)).count();
            if count == 0 { "·".to_owned() } else { count.to_string() }
        };
        let head = [group.name().to_owned(), attempts.len().to_string()];
        head.into_iter().chain(Layer::ALL.map(without)).collect()
    }
}

impl fmt::Display for Matrix<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = ["succeeded without", "attempts"].into_iter().chain(Layer::ALL.map(Layer::name));
        let mut table = numbers(header.map(String::from).collect());
        for group in Group::ALL {
            table.add_row(self.counts(group));
        }
        writeln!(formatter, "{table}")?;
        let single = self.single();
        writeln!(formatter, "{} of {} attempts are stopped by one layer only:", single.len(), self.attempts.len())?;
        for layer in Layer::ALL {
            let of_layer: Vec<_> = single.iter().filter(|(_, by)| *by == layer).map(|(attempt, _)| *attempt).collect();
            for known in self.known.single.iter().filter(|known| known.layer == layer) {
                let names: Vec<_> = of_layer.iter().filter(|attempt| known.attempts.contains(&attempt.name)).collect();
                let names: Vec<_> = names.iter().map(|attempt| attempt.name.as_str()).collect();
                if !names.is_empty() {
                    writeln!(formatter, "{}: {}\n    {}", layer.name(), names.join(", "), known.reason)?;
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
    use super::*;
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
        let verdicts = [
            verdict("read-file", Condition::complete(Phase::Run), Outcome::Succeeded("read".into())),
            verdict("fork", Condition::complete(Phase::Run), Outcome::Refused("EPERM".into())),
            verdict("fork", Condition::without(Layer::Seccomp), Outcome::Succeeded("ran".into())),
        ];
        let summary = Summary::new(&attempts, &verdicts);
        assert_eq!(summary.failures().count(), 1);
        assert!(summary.to_string().contains("read-file (all layers, run) succeeded: read"), "{summary}");
        let known = Known { single: Vec::new(), never: Vec::new(), alone: Vec::new() };
        let matrix = Matrix::new(&attempts, &verdicts, &known);
        assert_eq!(matrix.single(), [(&attempts[1], Layer::Seccomp)]);
        assert!(matrix.to_string().contains("1 of 2 attempts"), "{matrix}");
    }
}
