//! Who the process is, and what it may do beyond that. The weakest thread counts: threads of a process share its memory.

use super::Finding;
use crate::confinement::Confinement;
use crate::record::{JailKind, Record};
use crate::threads::Thread;

pub(super) fn judge_user(confinement: &Confinement, record: Option<&Record>) -> Finding {
    let threads = &confinement.threads;
    let any = |wrong: fn(&Thread) -> bool| threads.iter().any(wrong);
    if any(|thread| thread.status.uid.has(0)) {
        return Finding::off("runs as root; give it a user of its own");
    }
    let mut wrong = Vec::new();
    let mut say = |is_wrong: bool, text: &dyn Fn() -> String| wrong.extend(is_wrong.then(text));
    say(any(|thread| thread.status.gid.has(0)), &|| "its group is root's".to_owned());
    say(any(|thread| !thread.status.uid.are_one() || !thread.status.gid.are_one()), &|| {
        "it can change between several users or groups".to_owned()
    });
    let groups = || threads.iter().flat_map(|thread| &thread.status.groups);
    say(groups().next().is_some(), &|| {
        let mut groups: Vec<_> = groups().collect();
        groups.sort_unstable();
        groups.dedup();
        format!("it is in the groups {}", groups.into_iter().map(u32::to_string).collect::<Vec<_>>().join(", "))
    });
    let uid = threads.first().map(|thread| thread.status.uid.real).unwrap_or_default();
    let gid = threads.first().map(|thread| thread.status.gid.real).unwrap_or_default();
    if let Some(record) = record {
        say((uid, gid) != (record.uid, record.gid), &|| {
            format!("it is user {uid} and group {gid}, not {} and {} as the jailer made it", record.uid, record.gid)
        });
    }
    let warden = record.and_then(Record::warden);
    let others = confinement.same_user.iter().filter(|pid| Some(**pid) != warden).count();
    // The daemon's roles have one user: signals and tracing between them are for other layers to stop.
    let is_shared = record.is_some_and(|record| matches!(record.jail, JailKind::Daemon { .. }));
    say(others > 0 && !is_shared, &|| format!("user {uid} has {others} other processes"));
    let whose = if is_shared { ", the same for all roles" } else { "" };
    Finding::weak_if(&wrong, format!("user {uid}, group {gid}, no other group{whose}"))
}

pub(super) fn judge_capabilities(threads: &[Thread], record: Option<&Record>) -> Finding {
    let kept = record.map(Record::capabilities).unwrap_or_default();
    let all = || threads.iter().map(|thread| thread.status.capabilities);
    let can_gain = threads.iter().any(|thread| !thread.status.no_new_privs);
    let mut wrong = Vec::new();
    let first = all().next().unwrap_or_default();
    for (index, (name, _)) in first.sets().into_iter().enumerate() {
        let held = all().filter_map(|sets| sets.sets().get(index).map(|(_, set)| set.0)).fold(0, |all, set| all | set);
        let held = held & !kept.0;
        if held != 0 {
            wrong.push(format!("{name} set: {}", crate::CapabilitySet(held)));
        }
    }
    wrong.extend(can_gain.then(|| "no_new_privs is off, so that a set-user-id program gives it more".to_owned()));
    // Nothing was given up: whatever could be had is permitted.
    if all().any(|sets| !sets.permitted.is_empty() && sets.permitted.0 & sets.bounding.0 == sets.bounding.0) && can_gain
    {
        return Finding::off(wrong.join("; "));
    }
    let sets = match kept.is_empty() {
        true => "every set is empty".to_owned(),
        false => format!("none but {}", kept.names().join(", ")),
    };
    Finding::weak_if(&wrong, format!("{sets}, and no_new_privs is on"))
}
