//! What holds for the promises as they are written.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use seccomp_filters::syscall_name;
use seccompiler::{TargetArch, compile_from_json};
use serde_json::{Value, json};

/// System calls that do very different things, as their arguments have it.
const CONSTRAINED: [&str; 31] = [
    "accept4",
    "arch_prctl",
    "bind",
    "clone",
    "close_range",
    "connect",
    "epoll_create1",
    "eventfd2",
    "execveat",
    "fallocate",
    "fcntl",
    "futex",
    "ioctl",
    "lseek",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "openat",
    "pidfd_send_signal",
    "prctl",
    "prlimit64",
    "ptrace",
    "recvfrom",
    "rt_sigaction",
    "seccomp",
    "sendto",
    "socket",
    "statx",
    "tgkill",
    "waitid",
];
const PROT_EXEC: u64 = 4;

fn read(path: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn roles() -> BTreeMap<String, Vec<String>> {
    serde_json::from_value(read("roles.json")).unwrap()
}

fn rules(promise: &str) -> Vec<Value> {
    read(&format!("promises/{promise}.json"))["filter"].as_array().unwrap().clone()
}

fn syscall(rule: &Value) -> &str {
    rule["syscall"].as_str().unwrap()
}

fn promises() -> BTreeSet<String> {
    roles().into_values().flatten().collect()
}

/// Rules of a role without their comments.
fn bare_rules(role: &str) -> BTreeSet<String> {
    let promises = &roles()[role];
    let all = promises.iter().flat_map(|promise| rules(promise));
    all.map(|rule| json!([rule["syscall"], rule["args"]]).to_string()).collect()
}

fn calls(role: &str) -> BTreeSet<String> {
    let promises = &roles()[role];
    promises.iter().flat_map(|promise| rules(promise)).map(|rule| syscall(&rule).to_owned()).collect()
}

#[test]
fn no_promise_says_the_same_twice() {
    for promise in promises() {
        let rules = rules(&promise);
        let distinct: BTreeSet<_> =
            rules.iter().map(|rule| json!([rule["syscall"], rule["args"]]).to_string()).collect();
        assert_eq!(distinct.len(), rules.len(), "{promise}");
    }
    for (role, promises) in roles() {
        assert_eq!(promises.iter().collect::<BTreeSet<_>>().len(), promises.len(), "{role}");
    }
}

#[test]
fn every_value_is_named() {
    for promise in promises() {
        for rule in rules(&promise) {
            for condition in rule["args"].as_array().into_iter().flatten() {
                let comment = condition["comment"].as_str().unwrap_or_default();
                assert!(!comment.is_empty(), "{promise}: {rule}");
            }
        }
    }
}

#[test]
fn what_does_many_things_is_constrained() {
    for promise in promises() {
        for rule in rules(&promise) {
            let is_bare = rule["args"].as_array().is_none_or(Vec::is_empty);
            assert!(!(is_bare && CONSTRAINED.contains(&syscall(&rule))), "{promise}: {rule}");
        }
    }
}

#[test]
fn memory_is_never_executable() {
    for promise in promises() {
        for rule in rules(&promise).iter().filter(|rule| ["mmap", "mprotect"].contains(&syscall(rule))) {
            let conditions = rule["args"].as_array().unwrap();
            let protection = conditions.iter().find(|condition| condition["index"] == 2).unwrap();
            assert_eq!(protection["op"], "eq", "{promise}: {rule}");
            assert_eq!(protection["val"].as_u64().unwrap() & PROT_EXEC, 0, "{promise}: {rule}");
        }
    }
}

/// A later filter takes away and adds nothing, so an earlier one must have what a later one promises.
#[test]
fn each_role_is_part_of_the_one_before() {
    let earlier_and_later = [
        ("launch", "vmm-configure-sealed"),
        ("launch", "api"),
        ("launch-compatible", "api"),
        ("launch-compatible", "vmm-configure"),
        ("launch-compatible", "vmm-run"),
        ("vmm-configure-sealed", "vmm-run-sealed"),
        ("vmm-configure-sealed", "vcpu"),
        ("launch", "vmm-configure-snapshot"),
        ("vmm-configure-snapshot", "vmm-configure-sealed"),
        ("vmm-configure-snapshot", "vmm-run-snapshot"),
        ("vmm-configure", "vmm-configure-snapshot"),
        ("vmm-configure", "vmm-run-snapshot-files"),
        ("vmm-run-snapshot-files", "vmm-run-save"),
        ("vmm-run-save", "vmm-run"),
        ("vmm-run-save", "vmm-run-snapshot"),
        ("vmm-run-snapshot", "vmm-run-sealed"),
        ("vmm-configure", "vmm-run"),
        ("vmm-configure", "vcpu"),
        ("vmm-configure", "vmm-configure-sealed"),
        ("vmm-run", "vmm-run-sealed"),
    ];
    for (earlier, later) in earlier_and_later {
        let (earlier_rules, later_rules) = (bare_rules(earlier), bare_rules(later));
        let lost: Vec<_> = later_rules.difference(&earlier_rules).collect();
        assert!(lost.is_empty(), "{later} promises what {earlier} does not: {lost:?}");
    }
}

/// Firecracker 1.17 has 50, 50, 31 and 27.
#[test]
fn roles_are_narrow() {
    for (role, most) in [("vmm-run-sealed", 27), ("vmm-run-snapshot", 29), ("vmm-run", 32), ("api", 20), ("vcpu", 17)] {
        assert!(calls(role).len() <= most, "{role}: {}", calls(role).len());
    }
}

/// A vmm that was not asked to make the files of snapshots opens nothing once it is configured.
#[test]
fn nothing_is_opened_at_run_time() {
    let opening = ["open", "openat", "openat2", "creat", "open_by_handle_at"];
    let opens = |role: &str| calls(role).iter().any(|call| opening.contains(&call.as_str()));
    for role in ["vmm-run-sealed", "vmm-run-snapshot", "vmm-run", "vmm-run-save", "api", "vcpu"] {
        assert!(!opens(role), "{role}");
    }
    assert!(opens("vmm-run-snapshot-files"));
}

#[test]
fn every_promised_call_has_its_name() {
    let architecture = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    for call in promises().iter().flat_map(|promise| rules(promise)).map(|rule| syscall(&rule).to_owned()) {
        let filter = json!([{ "syscall": call }]);
        let document = json!({ "x": { "mismatch_action": "trap", "match_action": "allow", "filter": filter } });
        let program = compile_from_json(document.to_string().as_bytes(), architecture).unwrap().remove("x").unwrap();
        assert!(program.iter().any(|instruction| syscall_name(instruction.k) == Some(&call)), "{call}");
    }
}

#[test]
fn a_number_without_a_call_has_no_name() {
    assert_eq!(syscall_name(u32::MAX), None);
    assert_eq!(syscall_name(0x4000_0000), None);
}
