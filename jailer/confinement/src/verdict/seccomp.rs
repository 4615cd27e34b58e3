//! Whether the system calls of every thread are filtered.

use super::Finding;
use crate::layer::Layer;
use crate::record::Record;
use crate::status::Seccomp;
use crate::threads::Thread;

pub(super) fn judge(threads: &[Thread], record: Option<&Record>) -> Finding {
    let is_meant = |record: &&Record| record.layer(Layer::Seccomp).is_some_and(|report| report.enforced);
    let meant = record.filter(is_meant).map_or(1, Record::filters);
    let unfiltered: Vec<_> = threads.iter().filter(|thread| thread.status.seccomp == Seccomp::Off).collect();
    if unfiltered.len() == threads.len() {
        return Finding::off("no thread has a filter");
    }
    let mut wrong: Vec<_> = unfiltered.iter().map(|thread| format!("{} has no filter", name(thread))).collect();
    // What runs the kernel's code alone makes no system call, and never gets a filter of its own.
    let programs = threads.iter().filter(|thread| !thread.kernel_worker);
    let few = programs.filter(|thread| (1..meant).contains(&filters(thread).unwrap_or(meant)));
    wrong.extend(few.map(|thread| format!("{} has the filters alone that it inherited", name(thread))));
    let least = threads
        .iter()
        .filter(|thread| !thread.kernel_worker)
        .map(|thread| filters(thread).unwrap_or(meant))
        .min()
        .unwrap_or_default();
    let filters = if least == 1 { "filter" } else { "filters" };
    Finding::weak_if(&wrong, format!("{} threads, each with at least {least} {filters}", threads.len()))
}

/// How many; none if there are some and the kernel does not count them.
fn filters(thread: &Thread) -> Option<u32> {
    if thread.status.seccomp == Seccomp::Off { Some(0) } else { thread.status.seccomp_filters }
}

fn name(thread: &Thread) -> String {
    format!("thread {} ({})", thread.id, thread.status.name)
}
