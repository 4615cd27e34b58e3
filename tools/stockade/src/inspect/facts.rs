//! What of an inspection is one of a kind: credentials, namespaces, root, control groups, limits.

use stockade_confinement::{Cgroups, Confinement, Host, Ids, Limit, ResourceLimits, Status, Usage};
use stockade_supervisor::inspection::Inspection;

/// Mounts that are listed one by one; all of them are in the JSON.
const MOST_MOUNTS: usize = 6;

/// Each with its name. What threads may have differently is that of the first.
pub fn of(inspection: &Inspection) -> Vec<(&'static str, String)> {
    let process = &inspection.process;
    let mut facts = Vec::new();
    if let Some(first) = process.threads.first() {
        facts.extend(credentials(&first.status));
    }
    let dumpable = match process.dumpable {
        Some(true) => "yes: its own user could trace it",
        Some(false) => "no",
        None => "not shown of root, nor in a user namespace of its own",
    };
    facts.extend([
        ("dumpable", dumpable.to_owned()),
        ("namespaces", namespaces(process)),
        ("root", process.root.path.clone()),
        ("mounts", mounts(process)),
    ]);
    facts.extend(cgroups(&process.cgroups));
    facts.push(("limits", limits(&process.limits)));
    if let Some(record) = &inspection.record {
        let warden = record.warden().map_or("no warden".to_owned(), |warden| format!("warden process {warden}"));
        facts.push(("as recorded", format!("user {}, group {}, {warden}", record.uid, record.gid)));
    }
    facts
}

fn credentials(status: &Status) -> [(&'static str, String); 5] {
    let groups: Vec<_> = status.groups.iter().map(u32::to_string).collect();
    let groups = if groups.is_empty() { "none".to_owned() } else { groups.join(" ") };
    let sets = status.capabilities.sets().map(|(name, set)| format!("{name} {set}")).join(", ");
    [
        ("user", ids(status.uid)),
        ("group", ids(status.gid)),
        ("other groups", groups),
        ("capabilities", sets),
        ("no_new_privs", if status.no_new_privs { "on" } else { "OFF" }.to_owned()),
    ]
}

/// One id where all are the same.
pub fn ids(ids: Ids) -> String {
    if ids.are_one() {
        return ids.real.to_string();
    }
    let Ids { real, effective, saved, file_system } = ids;
    format!("{real} (effective {effective}, saved {saved}, for files {file_system})")
}

fn namespaces(process: &Confinement) -> String {
    let (own, shared): (Vec<_>, Vec<_>) = process.namespaces.all.iter().partition(|namespace| namespace.own);
    let list = |namespaces: Vec<&stockade_confinement::Namespace>| {
        let names: Vec<_> = namespaces.iter().map(|namespace| namespace.kind.name()).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(" ") }
    };
    let whose = match process.namespaces.host {
        Host::FirstProcess => "process 1's",
        Host::Reader => "mine",
    };
    format!("own: {}; {whose}: {}", list(own), list(shared))
}

fn mounts(process: &Confinement) -> String {
    let mounts = &process.root.mounts;
    let shown = mounts.iter().take(MOST_MOUNTS);
    let mut lines: Vec<_> =
        shown.map(|mount| format!("{} {} ({})", mount.point, mount.file_system, mount.options.join(","))).collect();
    let more = mounts.len().saturating_sub(MOST_MOUNTS);
    lines.extend((more > 0).then(|| format!("and {more} more (--json)")));
    lines.join("; ")
}

fn cgroups(cgroups: &Cgroups) -> [(&'static str, String); 3] {
    let of = |usage: &Usage, show: fn(u64) -> String| {
        let used = usage.used.map_or("unknown".to_owned(), show);
        let limit = usage.limit.map_or("no limit".to_owned(), show);
        let folder = usage.folder.as_ref().map_or(String::new(), |folder| format!(", {}", folder.display()));
        format!("{used} of {limit}{folder}")
    };
    let cpu = Usage { used: None, ..cgroups.cpu.clone() };
    let percent = cpu.limit.map_or("no limit".to_owned(), |percent| format!("{percent} % of a processor"));
    let used = cgroups.cpu.used.map_or(String::new(), |used| format!(", {} ms used", used / 1000));
    let folder = cpu.folder.as_ref().map_or(String::new(), |folder| format!(", {}", folder.display()));
    [
        ("memory", of(&cgroups.memory, |bytes| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)))),
        ("processes", of(&cgroups.processes, |number| number.to_string())),
        ("processor", format!("{percent}{used}{folder}")),
    ]
}

/// Those that limit something.
fn limits(limits: &ResourceLimits) -> String {
    let limited = limits.0.iter().filter(|limit| limit.hard != Limit(None));
    let shown = limited.map(|limit| {
        let soft = if limit.soft == limit.hard { String::new() } else { format!(" (now {})", limit.soft) };
        format!("{} {}{soft}", limit.name, limit.hard)
    });
    shown.collect::<Vec<_>>().join(", ")
}
