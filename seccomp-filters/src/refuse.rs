//! The other way round: everything may be done but what is named. For a process whose descendants do much that it does not, each of
//! which gives up more for itself: filters are inherited, so that a [`Role`](crate::Role) of such a process would have to have all
//! that any of them ever needs.
//!
//! | refused | because |
//! |---|---|
//! | memory that is both made and executed (`PROT_EXEC`) | programs are executed by the kernel, and none makes code |
//! | user namespaces | they give capabilities to who has none; jails are made with those that the process has |
//! | sockets but unix, netlink and IPv4's | nothing else is spoken |
//! | modules, other kernels, restarts, swap, clocks | the host's, and no business of virtual machines |
//! | bpf(2), perf events, keys, io_uring, userfaultfd, ... | much code of the kernel's, often with holes, and not needed |
//! | reading and writing other processes' memory | debuggers do; tracing (ptrace(2)) stays, as wardens do that |

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use syscalls::Sysno;

/// Refused whatever the arguments.
const CALLS: [Sysno; 61] = [
    Sysno::acct,
    Sysno::add_key,
    Sysno::adjtimex,
    Sysno::bpf,
    Sysno::clock_adjtime,
    Sysno::clock_settime,
    Sysno::delete_module,
    Sysno::fanotify_init,
    Sysno::fanotify_mark,
    Sysno::finit_module,
    Sysno::get_mempolicy,
    Sysno::init_module,
    Sysno::io_cancel,
    Sysno::io_destroy,
    Sysno::io_getevents,
    Sysno::io_pgetevents,
    Sysno::io_setup,
    Sysno::io_submit,
    Sysno::io_uring_enter,
    Sysno::io_uring_register,
    Sysno::io_uring_setup,
    Sysno::kcmp,
    Sysno::kexec_file_load,
    Sysno::kexec_load,
    Sysno::keyctl,
    Sysno::lookup_dcookie,
    Sysno::mbind,
    Sysno::migrate_pages,
    Sysno::move_pages,
    Sysno::mq_getsetattr,
    Sysno::mq_notify,
    Sysno::mq_open,
    Sysno::mq_timedreceive,
    Sysno::mq_timedsend,
    Sysno::mq_unlink,
    Sysno::msgctl,
    Sysno::msgget,
    Sysno::msgrcv,
    Sysno::msgsnd,
    Sysno::name_to_handle_at,
    Sysno::nfsservctl,
    Sysno::open_by_handle_at,
    Sysno::perf_event_open,
    Sysno::process_vm_readv,
    Sysno::process_vm_writev,
    Sysno::quotactl,
    Sysno::reboot,
    Sysno::remap_file_pages,
    Sysno::request_key,
    Sysno::semctl,
    Sysno::semget,
    Sysno::semop,
    Sysno::set_mempolicy,
    Sysno::setdomainname,
    Sysno::settimeofday,
    Sysno::shmat,
    Sysno::shmget,
    Sysno::swapoff,
    Sysno::swapon,
    Sysno::syslog,
    Sysno::userfaultfd,
];
/// Those of one architecture alone.
#[cfg(target_arch = "x86_64")]
const CALLS_OF_ARCHITECTURE: [Sysno; 8] = [
    Sysno::_sysctl,
    Sysno::create_module,
    Sysno::ioperm,
    Sysno::iopl,
    Sysno::modify_ldt,
    Sysno::sysfs,
    Sysno::uselib,
    Sysno::ustat,
];
#[cfg(not(target_arch = "x86_64"))]
const CALLS_OF_ARCHITECTURE: [Sysno; 0] = [];

/// `PROT_EXEC`, `CLONE_NEWUSER`.
const EXECUTABLE: u64 = 4;
const NEW_USER: u64 = 0x1000_0000;
/// `AF_UNIX`, `AF_INET`, `AF_NETLINK`.
const SPOKEN: [u64; 3] = [1, 2, 16];

/// A filter that the kernel refuses, or can't be made for this processor.
#[derive(Debug, thiserror::Error)]
#[error("refuse what only others need: {0}; this needs a kernel with CONFIG_SECCOMP_FILTER")]
pub struct RefuseError(#[from] seccompiler::Error);

/// Refuses the calling thread all of that from now on, and everything that it starts: each kills the process that makes it. Needs
/// no_new_privs, or CAP_SYS_ADMIN.
///
/// # Errors
/// If the kernel refuses the filter (seccomp(2)).
pub fn refuse() -> Result<(), RefuseError> {
    Ok(seccompiler::apply_filter(&refusal()?)?)
}

/// The filter that [`refuse`] installs.
///
/// # Errors
/// It can't be made for this processor.
pub fn refusal() -> Result<BpfProgram, RefuseError> {
    Ok(filter().map_err(seccompiler::Error::Backend)?)
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let all = CALLS.into_iter().chain(CALLS_OF_ARCHITECTURE).map(|call| (call, Vec::new()));
    let has = |argument, bits| condition(argument, SeccompCmpOp::MaskedEq(bits), bits);
    let strange: Vec<_> =
        SPOKEN.into_iter().map(|domain| condition(0, SeccompCmpOp::Ne, domain)).collect::<Result<_, _>>()?;
    let some = [
        (Sysno::mmap, vec![has(2, EXECUTABLE)?]),
        (Sysno::mprotect, vec![has(2, EXECUTABLE)?]),
        (Sysno::pkey_mprotect, vec![has(2, EXECUTABLE)?]),
        (Sysno::unshare, vec![has(0, NEW_USER)?]),
        (Sysno::clone, vec![has(0, NEW_USER)?]),
        (Sysno::socket, strange),
    ];
    let some = some.into_iter().map(|(call, conditions)| Ok((call, vec![SeccompRule::new(conditions)?])));
    let rules = all.map(Ok).chain(some).collect::<Result<Vec<_>, seccompiler::BackendError>>()?;
    let rules: BTreeMap<_, _> = rules.into_iter().map(|(call, rules)| (i64::from(call.id()), rules)).collect();
    let architecture = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::KillProcess, architecture)?.try_into()
}

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_refused_once() {
        let mut names: Vec<_> = CALLS.iter().chain(&CALLS_OF_ARCHITECTURE).map(|call| call.name()).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        // Short enough to be run for every call that the kernel does not know to be let through (`SECCOMP_ARCH_NATIVE`).
        let length = filter().unwrap().len();
        assert!((100..1000).contains(&length), "{length}");
    }
}
