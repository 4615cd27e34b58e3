//! Whether the system calls of every thread are filtered.

use super::Finding;
use crate::layer::Layer;
use crate::record::Record;
use crate::status::Seccomp;
use crate::threads::Thread;

/// In a jail of Stockade's: the launch filter, which all threads inherit, and upon that at least the thread's own.
const FILTERS_IN_JAIL: u32 = 2;

pub(super) fn judge(threads: &[Thread], record: Option<&Record>) -> Finding {
    let in_jail = record.and_then(|record| record.layer(Layer::Seccomp)).is_some_and(|report| report.enforced);
    let unfiltered: Vec<_> = threads.iter().filter(|thread| thread.status.seccomp == Seccomp::Off).collect();
    if unfiltered.len() == threads.len() {
        return Finding::off("no thread has a filter");
    }
    let mut wrong: Vec<_> = unfiltered.iter().map(|thread| format!("{} has no filter", name(thread))).collect();
    if in_jail {
        // What runs the kernel's code alone makes no system call, and never gets a filter of its own.
        let programs = threads.iter().filter(|thread| !thread.kernel_worker);
        let few = programs.filter(|thread| (1..FILTERS_IN_JAIL).contains(&filters(thread)));
        wrong.extend(few.map(|thread| format!("{} has the launch filter alone", name(thread))));
    }
    let least = threads.iter().filter(|thread| !thread.kernel_worker).map(filters).min().unwrap_or_default();
    let filters = if least == 1 { "filter" } else { "filters" };
    Finding::weak_if(&wrong, format!("{} threads, each with at least {least} {filters}", threads.len()))
}

fn filters(thread: &Thread) -> u32 {
    // A kernel that does not count them has at least one where there is any.
    thread.status.seccomp_filters.unwrap_or(FILTERS_IN_JAIL)
}

fn name(thread: &Thread) -> String {
    format!("thread {} ({})", thread.id, thread.status.name)
}
