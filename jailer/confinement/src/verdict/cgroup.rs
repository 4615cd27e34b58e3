//! Whether memory, processor time and processes are limited, and as meant.

use super::{Finding, State};
use crate::cgroups::{Cgroups, Usage};
use crate::record::Record;

/// The kernel counts memory in pages, so that a limit is rounded.
const PAGE: u64 = 4096;

pub(super) fn judge(cgroups: &Cgroups, record: Option<&Record>) -> Finding {
    let limits = record.and_then(Record::limits);
    let resources = [
        ("memory", &cgroups.memory, limits.map(|limits| limits.memory_bytes / PAGE * PAGE)),
        ("processor time", &cgroups.cpu, limits.map(|limits| u64::from(limits.cpu_percent))),
        ("processes", &cgroups.processes, limits.map(|limits| u64::from(limits.processes))),
    ];
    if resources.iter().all(|(_, usage, _)| usage.folder.is_none()) {
        return Finding { state: State::Unknown, text: "its control groups are not visible from here".to_owned() };
    }
    let wrong: Vec<_> = resources.iter().filter_map(|(name, usage, meant)| wrong(name, usage, *meant)).collect();
    if resources.iter().all(|(_, usage, _)| usage.limit.is_none()) {
        return Finding::off("no limit on memory, processor time or processes");
    }
    Finding::weak_if(&wrong, describe(cgroups))
}

fn wrong(name: &str, usage: &Usage, meant: Option<u64>) -> Option<String> {
    match (usage.limit, meant) {
        (None, _) => Some(format!("no limit on {name}")),
        (Some(limit), Some(meant)) if limit > meant => {
            Some(format!("{name} is limited to {limit}, more than the {meant} that the jailer set"))
        }
        _ => None,
    }
}

fn describe(cgroups: &Cgroups) -> String {
    let of = |usage: &Usage| (usage.used.unwrap_or_default(), usage.limit.unwrap_or_default());
    let (memory, most_memory) = of(&cgroups.memory);
    let (processes, most_processes) = of(&cgroups.processes);
    let percent = of(&cgroups.cpu).1;
    format!(
        "memory {} of {} MiB, processes {processes} of {most_processes}, {percent} % of a processor",
        memory >> 20,
        most_memory >> 20
    )
}
