//! Medians of the rounds, and how they compare.

use std::fmt;
use std::path::Path;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::contestant::Contestant;
use crate::round::Round;

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    guest_mib: u64,
    contestants: Vec<Entry>,
}

/// One contestant's part.
#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    vmm: String,
    vmm_bytes: Option<u64>,
    jailer: Option<String>,
    jailer_bytes: Option<u64>,
    /// Medians, in the order and with the names of [`FIGURES`].
    medians: Vec<Median>,
    rounds: Vec<Round>,
}

#[derive(Debug, Serialize)]
struct Median {
    name: &'static str,
    value: f64,
}

/// A figure of every round: what it is called, with its unit, and where it is.
type Figure = (&'static str, fn(&Round) -> f64);

const FIGURES: [Figure; 7] = [
    ("spawn to API answer, ms", |round| milliseconds(round.api)),
    ("configure, ms", |round| milliseconds(round.configure)),
    ("start to first guest byte, ms", |round| milliseconds(round.first_byte)),
    ("total, ms", |round| milliseconds(round.total)),
    ("pause, ms", |round| milliseconds(round.pause)),
    ("private dirty memory, KiB", |round| round.footprint.private_dirty_kib as f64),
    ("PSS, KiB", |round| round.footprint.pss_kib as f64),
];

/// For tables.
pub fn milliseconds(duration: std::time::Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

impl Report {
    /// Sums the rounds up.
    pub fn new(results: Vec<(&Contestant, Vec<Round>)>) -> Self {
        let contestants = results.into_iter().map(|(contestant, rounds)| Entry::new(contestant, rounds)).collect();
        Self { guest_mib: crate::round::GUEST_MIB, contestants }
    }

    /// Everything, round by round.
    pub fn to_json(&self) -> String {
        format!("{:#}\n", serde_json::json!(self))
    }
}

impl Entry {
    fn new(contestant: &Contestant, rounds: Vec<Round>) -> Self {
        let size = |path: &Path| std::fs::metadata(path).ok().map(|metadata| metadata.len());
        let text = |path: &Path| path.display().to_string();
        let medians = FIGURES
            .iter()
            .map(|(name, figure)| Median { name, value: median(rounds.iter().map(figure).collect()) })
            .collect();
        Self {
            name: contestant.name.clone(),
            vmm: text(&contestant.vmm),
            vmm_bytes: size(&contestant.vmm),
            jailer: contestant.jailer().map(text),
            jailer_bytes: contestant.jailer().and_then(size),
            medians,
            rounds,
        }
    }

    fn filters(&self) -> String {
        let last = self.rounds.last();
        last.map_or_else(String::new, |round| format!("{} of {}", round.filtered_threads, round.threads))
    }
}

/// The middle of the values, or of the two in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.get(values.len().saturating_sub(1) / 2), values.get(values.len() / 2));
    low.zip(high).map_or(f64::NAN, |(low, high)| (low + high) / 2.0)
}

/// One column a contestant; each but the first is followed by how many times the first's value its own is.
impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((first, others)) = self.contestants.split_first() else { return Ok(()) };
        let mut table = Table::new();
        table.load_preset(UTF8_HORIZONTAL_ONLY);
        let headings = others.iter().flat_map(|other| [other.name.clone(), "ratio".into()]);
        table.set_header(["median".into(), first.name.clone()].into_iter().chain(headings));
        for (index, median) in first.medians.iter().enumerate() {
            let mut row = vec![median.name.to_owned(), decimals(median.value)];
            for other in others {
                let value = other.medians.get(index).map_or(f64::NAN, |median| median.value);
                row.extend([decimals(value), format!("{:.2}", value / median.value)]);
            }
            table.add_row(row);
        }
        let sizes = |name: &str, bytes: fn(&Entry) -> Option<u64>| {
            let own = bytes(first);
            let kib = |bytes: Option<u64>| bytes.map_or_else(|| "-".into(), |bytes| decimals(bytes as f64 / 1024.0));
            let mut row = vec![name.to_owned(), kib(own)];
            for other in others {
                let ratio = bytes(other).zip(own).map(|(other, own)| format!("{:.2}", other as f64 / own as f64));
                row.extend([kib(bytes(other)), ratio.unwrap_or_default()]);
            }
            row
        };
        table.add_row(sizes("size of the vmm, KiB", |entry| entry.vmm_bytes));
        table.add_row(sizes("size of the jailer, KiB", |entry| entry.jailer_bytes));
        let filters = others.iter().flat_map(|other| [other.filters(), String::new()]);
        table.add_row(["threads with a filter".into(), first.filters()].into_iter().chain(filters));
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        writeln!(formatter, "{table}")?;
        let rounds = first.rounds.len();
        write!(formatter, "{rounds} starts each, of a one-page guest with {} MiB, after one uncounted.", self.guest_mib)
    }
}

/// As many decimals as mean something.
pub fn decimals(value: f64) -> String {
    if value < 100.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_even_and_no_values() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }
}
