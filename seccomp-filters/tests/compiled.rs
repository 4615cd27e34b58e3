//! The compiled filters decide as the rules say, and as seccompiler's own compiler has it.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![forbid(unsafe_code)]

use proptest::prelude::*;
use seccomp_filters::rules::{Operator, Rule, Width};
use seccomp_filters::{Role, sock_filter};
use seccompiler::{TargetArch, compile_from_json};
use serde_json::{Value, json};

const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const ENOSYS: u32 = 0x0005_0000 | 38;
const CLONE3: u32 = 435;
/// More than there are.
const NUMBERS: u32 = 600;
const ARCHITECTURE: u32 = if cfg!(target_arch = "aarch64") { 0xc000_00b7 } else { 0xc000_003e };
/// Most instructions that the kernel takes (`BPF_MAXINSNS`).
const MOST_INSTRUCTIONS: usize = 4096;

/// What a filter says to a call. Everything that these filters use of classic BPF, and nothing else.
fn decide(filter: &[sock_filter], architecture: u32, number: u32, arguments: &[u64; 6]) -> u32 {
    let half = |value: u64, shift: u32| u32::try_from(value >> shift & u64::from(u32::MAX)).unwrap();
    let load = |offset: u32| match offset {
        0 => number,
        4 => architecture,
        _ => half(arguments[usize::try_from(offset - 16).unwrap() / 8], (offset % 8) * 8),
    };
    let (mut at, mut accumulator) = (0_usize, 0_u32);
    loop {
        let sock_filter { code, jt, jf, k } = filter[at].clone();
        at += 1;
        let jump = |holds: bool| usize::from(if holds { jt } else { jf });
        match code {
            0x20 => accumulator = load(k),
            0x54 => accumulator &= k,
            0x05 => at += usize::try_from(k).unwrap(),
            0x15 => at += jump(accumulator == k),
            0x25 => at += jump(accumulator > k),
            0x35 => at += jump(accumulator >= k),
            0x06 => return k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn condition(argument: usize, width: Width, operator: Operator, value: u64) -> Value {
    let width = match width {
        Width::Dword => "dword",
        Width::Qword => "qword",
    };
    let operator = match operator {
        Operator::Eq => json!("eq"),
        Operator::Le => json!("le"),
        Operator::MaskedEq(mask) => json!({ "masked_eq": mask }),
    };
    json!({ "index": argument, "type": width, "op": operator, "val": value })
}

/// The role's filter as seccompiler compiles it.
fn reference(role: Role) -> Vec<sock_filter> {
    let rule = |rule: &Rule| {
        let conditions = rule.conditions.iter();
        let arguments: Vec<_> =
            conditions.map(|each| condition(each.argument, each.width, each.operator, each.value)).collect();
        if arguments.is_empty() {
            json!({ "syscall": rule.call })
        } else {
            json!({ "syscall": rule.call, "args": arguments })
        }
    };
    let rules: Vec<_> = role.rules().iter().map(rule).collect();
    let document =
        json!({ "x": { "mismatch_action": "kill_process", "match_action": "allow", "filter": rules } }).to_string();
    let architecture = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    compile_from_json(document.as_bytes(), architecture).unwrap().remove("x").unwrap()
}

/// One call, three opinions.
fn agree(role: Role, reference: &[sock_filter], number: u32, arguments: &[u64; 6]) {
    let expected = match role.rules().iter().any(|rule| rule.allows(number, arguments)) {
        true => ALLOW,
        false if number == CLONE3 => ENOSYS,
        false => KILL_PROCESS,
    };
    let said = decide(role.filter(), ARCHITECTURE, number, arguments);
    assert_eq!(said, expected, "{role:?}: {number} {arguments:x?}");
    if number != CLONE3 {
        assert_eq!(said, decide(reference, ARCHITECTURE, number, arguments), "{role:?}: {number} {arguments:x?}");
    }
}

fn number(call: &str) -> u32 {
    (0..NUMBERS).find(|number| seccomp_filters::syscall_name(*number) == Some(call)).unwrap()
}

#[test]
fn every_number_is_decided() {
    for role in Role::ALL {
        let reference = reference(role);
        let strange = [0x4000_0000, 0x4000_0010, 0x8000_0000, u32::MAX];
        for number in (0..NUMBERS).chain(strange) {
            for argument in [0, 1, u64::from(u32::MAX), 1 << 32, u64::MAX] {
                agree(role, &reference, number, &[argument; 6]);
            }
        }
    }
}

/// The edges of each condition: what it wants, one more and one less, a bit more or less, high and low.
#[test]
fn every_condition_is_decided() {
    for role in Role::ALL {
        let reference = reference(role);
        for rule in role.rules() {
            let number = number(rule.call);
            let mut right = [0; 6];
            rule.conditions.iter().for_each(|condition| right[condition.argument] = condition.value);
            agree(role, &reference, number, &right);
            for condition in &rule.conditions {
                let wanted = right[condition.argument];
                let bits = (0..u64::BITS).map(|bit| wanted ^ 1 << bit);
                for other in bits.chain([wanted.wrapping_add(1), wanted.wrapping_sub(1)]) {
                    let mut arguments = right;
                    arguments[condition.argument] = other;
                    agree(role, &reference, number, &arguments);
                }
            }
        }
    }
}

#[test]
fn another_architecture_is_killed() {
    for role in Role::ALL {
        for number in 0..NUMBERS {
            assert_eq!(decide(role.filter(), 0x4000_0003, number, &[0; 6]), KILL_PROCESS);
        }
    }
}

#[test]
fn the_filters_are_small() {
    for role in Role::ALL {
        let (own, reference) = (role.filter().len(), reference(role).len());
        assert!(own < reference && own <= MOST_INSTRUCTIONS, "{role:?}: {own} instructions, not {reference}");
    }
}

proptest! {
    #[test]
    fn any_call_is_decided(index in 0..Role::ALL.len(), pick: prop::sample::Index, mix in any::<[u64; 6]>(), mask in 0_u8..64) {
        let role = Role::ALL[index];
        let rule = pick.get(role.rules());
        let mut arguments = mix;
        for condition in rule.conditions.iter().filter(|condition| mask & 1 << condition.argument == 0) {
            arguments[condition.argument] = condition.value;
        }
        let said = decide(role.filter(), ARCHITECTURE, number(rule.call), &arguments);
        let allowed = role.rules().iter().any(|other| other.allows(number(rule.call), &arguments));
        prop_assert_eq!(said == ALLOW, allowed);
    }
}
