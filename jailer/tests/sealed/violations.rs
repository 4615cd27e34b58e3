//! A vmm that is traced, and what its warden says when a filter kills it.

use nix::sys::signal::{Signal, kill};
use serde_json::json;
use stockade_jailer::plan::{Layer, Tracing};
use stockade_jailer::violation::{Architecture, ForbiddenCall, Phase, Violation, Word};
use stockade_jailer::warden::{self, ProcessEnd};

use crate::harness::{Jail, status_of};

/// Number and first arguments of the call that the prisoner must not make: setresuid(WHO, 0, -1).
fn expect_forbidden(call: &ForbiddenCall, who: u64) {
    let [first, second, third, ..] = call.arguments;
    assert_eq!((call.name.as_deref(), call.number), (Some("setresuid"), 117), "{call:?}");
    assert_eq!([first, second, third], [Word(who), Word(0), Word(u32::MAX.into())], "{call:?}");
    assert_eq!(call.architecture, Architecture::X86_64);
    assert_ne!(call.instruction_pointer, Word(0));
}

#[test]
fn a_violated_filter_is_reported_with_thread_role_phase_and_call() {
    for (who, number, role, thread, phase) in [
        ("launch", 1, "launch", None, Phase::Launch),
        ("api", 2, "api", Some("fc_api"), Phase::Launch),
        ("configure", 3, "vmm-configure-sealed", None, Phase::Configure),
        ("vcpu", 5, "vcpu", Some("fc_vcpu 1"), Phase::Configure),
        ("run", 6, "vmm-run-sealed", None, Phase::Run),
    ] {
        let call = Jail::build(&format!("violate {who}")).violated();
        expect_forbidden(&call, number);
        assert_eq!(call.role.as_deref(), Some(role), "{call:?}");
        if let Some(thread) = thread {
            assert_eq!(call.thread, thread);
        }
        // The main thread goes on meanwhile.
        assert!(call.phase >= Some(phase), "{call:?}");
    }
}

#[test]
fn of_threads_that_die_together_one_is_reported_as_it_was() {
    for _ in 0..8 {
        let call = Jail::build("violate all").violated();
        let Word(who) = call.arguments[0];
        expect_forbidden(&call, who);
        let (role, thread) = match who {
            2 => ("api", Some("fc_api")),
            4 => ("vcpu", Some("fc_vcpu 0")),
            5 => ("vcpu", Some("fc_vcpu 1")),
            6 => ("vmm-run-sealed", None),
            other => panic!("{other}"),
        };
        assert_eq!((call.role.as_deref(), call.phase), (Some(role), Some(Phase::Run)), "{call:?}");
        assert!(thread.is_none_or(|thread| call.thread == thread), "{call:?}");
    }
}

#[test]
fn a_signal_that_looks_like_a_violation_is_none() {
    // In a PID namespace of its own it would not even get the signal.
    let jail = Jail::build_with("sleep", |plan| plan.without = vec![Layer::Namespaces]);
    let (vmm, _) = jail.confined();
    kill(vmm, Signal::SIGSYS).unwrap();
    assert_eq!(jail.ended(), (ProcessEnd::Signaled(31), "killed by signal 31 (SIGSYS)".to_owned()));
}

/// More than the warden handles at once, too.
#[test]
fn a_traced_vmm_gets_its_signals() {
    let mut jail = Jail::build("signals 8 exit 3");
    jail.confined();
    assert_eq!(jail.report(), json!(1500));
    assert_eq!(jail.ended().0, ProcessEnd::Exited(3));
}

#[test]
fn a_traced_vmm_can_be_stopped_and_continued() {
    let jail = Jail::build("violate none");
    let (vmm, _) = jail.confined();
    for (signal, states) in [(Signal::SIGSTOP, ["T", "t"]), (Signal::SIGCONT, ["S", "S"])].repeat(2) {
        kill(vmm, signal).unwrap();
        while !states.iter().any(|state| status_of(vmm, "State:").starts_with(state)) {
            std::thread::yield_now();
        }
    }
    kill(vmm, Signal::SIGKILL).unwrap();
    assert_eq!(jail.ended().0, ProcessEnd::Signaled(9));
}

#[test]
fn a_vmm_that_floods_its_warden_is_killed_all_the_same() {
    let jail = Jail::build("flood");
    jail.confined();
    jail.send(&serde_json::to_vec(&warden::Command::Kill).unwrap());
    assert_eq!(jail.ended().0, ProcessEnd::Signaled(9));
}

#[test]
fn the_first_instruction_of_a_vmm_is_watched() {
    let call = Jail::build("mount").violated();
    assert_eq!(
        (call.name.as_deref(), call.role.as_deref(), call.phase),
        (Some("mount"), Some("launch"), Some(Phase::Launch))
    );
}

#[test]
fn a_warden_that_may_not_trace_says_so() {
    let jail = Jail::build_with("violate vcpu", |plan| plan.tracing = Tracing::Another);
    jail.confined();
    let (end, message, violation) = jail.ended_with();
    assert_eq!(end, ProcessEnd::Signaled(31));
    assert!(matches!(violation, Some(Violation::Unknown(why)) if why.contains("leaves that to another")), "{message}");
    assert!(message.contains("system call that its filter forbids: which one is not known"), "{message}");
}
