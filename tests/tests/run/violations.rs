//! A vmm in a stranger's hands: its filter kills it, and everybody hears which thread did what.

use std::process::Command;

use serde_json::{Value, json};
use stockade_tests::guest::{self, Protocol};
use stockade_tests::violate::{CALL, Thread, violate};
use stockade_tests::{Scratch, test};

use crate::ordinary_user::User;
use crate::stockade::{NEEDS, descendant, finished, pid, run};

/// Runs a guest that does nothing until a thread of its vmm breaks the filter, with a report in `report`.
fn expect_violation(mut run: Command, report: &std::path::Path, thread: Thread, role: &str) {
    let child = run.spawn().unwrap();
    violate(descendant(pid(&child), "stockade-vmm"), thread);
    let finished = finished(child.wait_with_output().unwrap());
    let name = if let Thread::Named(name) = thread { name } else { "" };
    let said = format!("in the role {role}, phase run, {CALL}");
    finished.expect_error(123, &["killed for a system call that its filter forbids: thread \"", name, &said]);
    let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    let call = &report["violation"]["call"];
    let found = ["role", "phase", "name", "number"].map(|field| call[field].clone());
    assert_eq!(found, [json!(role), json!("run"), json!("setresuid"), json!(117)], "{report}");
    assert_eq!(call["arguments"], json!(["0x7", "0x0", "0xffffffff", "0x8", "0x9", "0xa"]), "{report}");
}

fn idle(scratch: &Scratch) -> String {
    scratch.file("idle", guest::IDLE.image(Protocol::Linux64)).to_str().unwrap().to_owned()
}

#[test]
fn a_run_whose_vmm_breaks_its_filter_says_who_and_what() {
    test(NEEDS, |scratch| {
        let (kernel, report) = (idle(scratch), scratch.join("report"));
        let arguments = ["--kernel", &kernel, "--report", report.to_str().unwrap(), "--", "true"];
        expect_violation(run(scratch, arguments), &report, Thread::Named("fc_vcpu 0"), "vcpu");
    });
}

#[test]
fn an_ordinary_user_hears_the_same() {
    test(NEEDS, |scratch| {
        let user = User::new(scratch);
        let (kernel, report) = (idle(scratch), user.runtime().join("report"));
        for (thread, role) in [(Thread::Named("fc_vcpu 0"), "vcpu"), (Thread::Main, "vmm-run-sealed")] {
            let arguments = ["--kernel", &kernel, "--report", report.to_str().unwrap(), "--", "true"];
            expect_violation(user.run(&arguments), &report, thread, role);
        }
        assert_eq!(user.machines(), 0);
    });
}
