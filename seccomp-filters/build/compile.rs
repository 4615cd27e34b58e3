//! From the rules of a role to its filter: a classic BPF program (seccomp(2), `linux/filter.h`).
//!
//! ```text
//! wrong architecture? -> kill
//! clone3?             -> ENOSYS
//! which call?         -> a search that halves what is left with each step
//! one of its rules?   -> allow, or else kill
//! ```
//!
//! Why not seccompiler's own: that walks through all calls one after the other, and loads each argument anew for each value. It
//! comes to three times as many instructions, which the kernel checks, translates and walks through for each call that there is
//! whenever a filter is installed, and to ten times as many steps for the calls of a vCPU. That both decide alike is what
//! `tests/compiled.rs` shows.
//!
//! Jumps only lead forward, so the program is written from its end: whatever an instruction leads to is there already.

use std::collections::BTreeMap;
use std::error::Error;

use seccompiler::{TargetArch, sock_filter};

use crate::{Condition, Operator, Rule, Width};

/// Opcodes (`linux/bpf_common.h`): class, size and mode, added up.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER: u16 = 0x25;
const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// What a filter returns (`linux/seccomp.h`).
const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const ERRNO_ENOSYS: u32 = 0x0005_0000 | 38;

/// Where things are in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;
const ARGUMENT_BYTES: u32 = 8;
const HALF_BYTES: u32 = 4;

/// `AUDIT_ARCH_*` (`linux/audit.h`).
const X86_64: u32 = 0xc000_003e;
const AARCH64: u32 = 0xc000_00b7;
/// It has the same number everywhere. It fails with ENOSYS instead of killing the process, so that glibc falls back to clone,
/// whose flags a filter can see.
const CLONE3: u32 = 435;

/// A place in the program, counted from its end.
type Place = usize;

/// Compiles the filter that allows what one of `rules` does.
pub(crate) fn compile(rules: &[&Rule], architecture: TargetArch) -> Result<Vec<sock_filter>, Box<dyn Error>> {
    let mut calls: BTreeMap<u32, Vec<&Rule>> = BTreeMap::new();
    for rule in rules {
        calls.entry(number(&rule.syscall, architecture)?).or_default().push(rule);
    }
    let mut program = Program::default();
    let search = program.search(&stretches(calls))?;
    let missing = program.end(ERRNO_ENOSYS);
    let is_missing = program.test(JUMP_IF_EQUAL, CLONE3, missing, search);
    let call = program.load(NUMBER, is_missing);
    let wrong = program.end(KILL_PROCESS);
    let own = match architecture {
        TargetArch::x86_64 => X86_64,
        TargetArch::aarch64 => AARCH64,
        _ => return Err("there are no numbers of this architecture's system calls".into()),
    };
    let is_own = program.test(JUMP_IF_EQUAL, own, call, wrong);
    program.load(ARCHITECTURE, is_own);
    Ok(program.finish())
}

fn number(call: &str, architecture: TargetArch) -> Result<u32, Box<dyn Error>> {
    let number = match architecture {
        TargetArch::x86_64 => call.parse().map(|call: syscalls::x86_64::Sysno| call.id()).ok(),
        TargetArch::aarch64 => call.parse().map(|call: syscalls::aarch64::Sysno| call.id()).ok(),
        _ => None,
    };
    Ok(number.ok_or_else(|| format!("there is no system call {call} here"))?.try_into()?)
}

/// Calls of the same rules whose numbers follow each other: a single one, or several that are allowed in any case.
struct Stretch<'a> {
    first: u32,
    last: u32,
    rules: Vec<&'a Rule>,
}

impl Stretch<'_> {
    fn is_free(&self) -> bool {
        self.rules.iter().any(|rule| rule.args.is_empty())
    }
}

/// In the order of their numbers. Of the rules of one call, those that only allow what another one does are left out.
fn stretches(calls: BTreeMap<u32, Vec<&Rule>>) -> Vec<Stretch<'_>> {
    let mut all: Vec<Stretch<'_>> = Vec::new();
    for (number, rules) in calls {
        let is_of_another = |rule: &&Rule| {
            let narrows = |other: &&Rule| {
                other.args.len() < rule.args.len()
                    && other.args.iter().all(|condition| rule.args.iter().any(|own| same(own, condition)))
            };
            rules.iter().any(narrows)
        };
        let needed = rules.iter().copied().filter(|rule| !is_of_another(rule)).collect();
        let next = Stretch { first: number, last: number, rules: needed };
        match all.last_mut() {
            Some(before) if before.last + 1 == number && before.is_free() && next.is_free() => before.last = number,
            _ => all.push(next),
        }
    }
    all
}

/// Whether two conditions are the same but for what they are called.
fn same(one: &Condition, other: &Condition) -> bool {
    (one.index, one.width, one.op, one.val) == (other.index, other.width, other.op, other.val)
}

/// A program, its last instruction first.
#[derive(Default)]
struct Program(Vec<sock_filter>);

impl Program {
    /// Goes to the rules of the call whose number is loaded.
    fn search(&mut self, calls: &[Stretch<'_>]) -> Result<Place, Box<dyn Error>> {
        if let [Stretch { first, last, rules }] = calls {
            let wrong = self.end(KILL_PROCESS);
            let right = self.any(rules)?;
            if first == last {
                return Ok(self.test(JUMP_IF_EQUAL, *first, right, wrong));
            }
            let right = self.test(JUMP_IF_GREATER, *last, wrong, right);
            return Ok(self.test(JUMP_IF_GREATER_OR_EQUAL, *first, right, wrong));
        }
        let (lower, upper) = calls.split_at(calls.len() / 2);
        let Some(Stretch { first, .. }) = upper.first() else { return Ok(self.end(KILL_PROCESS)) };
        let upper = self.search(upper)?;
        let lower = self.search(lower)?;
        Ok(self.test(JUMP_IF_GREATER_OR_EQUAL, *first, upper, lower))
    }

    /// Allows what one of the rules does.
    fn any(&mut self, rules: &[&Rule]) -> Result<Place, Box<dyn Error>> {
        if rules.iter().any(|rule| rule.args.is_empty()) {
            return Ok(self.end(ALLOW));
        }
        let mut next = self.end(KILL_PROCESS);
        let (values, others): (Vec<&Rule>, Vec<&Rule>) = rules.iter().copied().partition(|rule| value(rule).is_some());
        for rule in others {
            let allow = self.end(ALLOW);
            next = rule.args.iter().rev().try_fold(allow, |right, condition| self.condition(condition, right, next))?;
        }
        // Rules that give one argument one value each share its load.
        let mut arguments: BTreeMap<u8, Vec<u32>> = BTreeMap::new();
        for (argument, value) in values.into_iter().filter_map(value) {
            arguments.entry(argument).or_default().push(value);
        }
        for (argument, values) in arguments {
            for value in values {
                let allow = self.end(ALLOW);
                next = self.test(JUMP_IF_EQUAL, value, allow, next);
            }
            next = self.load(low(argument), next);
        }
        Ok(next)
    }

    /// Goes on to `right` if the condition holds, and to `wrong` if not.
    fn condition(&mut self, condition: &Condition, right: Place, wrong: Place) -> Result<Place, Box<dyn Error>> {
        let Condition { index, val, .. } = *condition;
        let (low_value, high_value) = (u32::try_from(val & u64::from(u32::MAX))?, u32::try_from(val >> 32)?);
        let is_whole = condition.width == Width::Qword;
        if !is_whole && high_value != 0 {
            return Err(format!("{val:#x} is no value of 32 bits").into());
        }
        Ok(match condition.op {
            Operator::Eq => {
                let half = self.half(low(index), None, low_value, right, wrong);
                if is_whole { self.half(high(index), None, high_value, half, wrong) } else { half }
            }
            Operator::MaskedEq(mask) => {
                let (low_mask, high_mask) = (u32::try_from(mask & u64::from(u32::MAX))?, u32::try_from(mask >> 32)?);
                let half = self.half(low(index), Some(low_mask), low_value, right, wrong);
                if is_whole { self.half(high(index), Some(high_mask), high_value, half, wrong) } else { half }
            }
            Operator::Le => {
                let half = self.test(JUMP_IF_GREATER, low_value, wrong, right);
                let half = self.load(low(index), half);
                if !is_whole {
                    return Ok(half);
                }
                let is_same = self.test(JUMP_IF_EQUAL, high_value, half, right);
                let is_greater = self.test(JUMP_IF_GREATER, high_value, wrong, is_same);
                self.load(high(index), is_greater)
            }
        })
    }

    /// Compares the bits of `mask` of half an argument.
    fn half(&mut self, offset: u32, mask: Option<u32>, value: u32, right: Place, wrong: Place) -> Place {
        let test = self.test(JUMP_IF_EQUAL, value & mask.unwrap_or(u32::MAX), right, wrong);
        let masked = mask.map_or(test, |mask| self.follow(AND, mask, test));
        self.load(offset, masked)
    }

    fn load(&mut self, offset: u32, next: Place) -> Place {
        self.follow(LOAD, offset, next)
    }

    /// An instruction after which `next` comes.
    fn follow(&mut self, code: u16, k: u32, next: Place) -> Place {
        if next + 1 != self.0.len() {
            self.jump(next);
        }
        self.push(code, 0, 0, k)
    }

    /// An instruction after which `right` comes or `wrong`. One that is out of its reach is led to by a jump.
    fn test(&mut self, code: u16, k: u32, right: Place, wrong: Place) -> Place {
        // The second jump, if there is one, takes the first one further away, and itself.
        const MARGIN: usize = 2;
        let is_far = |program: &Self, place: Place| program.0.len() - place - 1 + MARGIN > u8::MAX.into();
        let right = if is_far(self, right) { self.jump(right) } else { right };
        let wrong = if is_far(self, wrong) { self.jump(wrong) } else { wrong };
        let distance = |place: Place| u8::try_from(self.0.len() - place - 1).unwrap_or(u8::MAX);
        let (jt, jf) = (distance(right), distance(wrong));
        self.push(code, jt, jf, k)
    }

    fn jump(&mut self, to: Place) -> Place {
        let distance = u32::try_from(self.0.len() - to - 1).unwrap_or(u32::MAX);
        self.push(JUMP, 0, 0, distance)
    }

    /// An end of the program: one that is near already, if there is one.
    fn end(&mut self, returned: u32) -> Place {
        const NEAR: usize = 128;
        let is_it = |instruction: &sock_filter| instruction.code == RETURN && instruction.k == returned;
        let found = self.0.iter().rposition(is_it).filter(|place| self.0.len() - place < NEAR);
        found.unwrap_or_else(|| self.push(RETURN, 0, 0, returned))
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Place {
        self.0.push(sock_filter { code, jt, jf, k });
        self.0.len() - 1
    }

    fn finish(mut self) -> Vec<sock_filter> {
        self.0.reverse();
        self.0
    }
}

/// The argument and its only value, if that is all that the rule looks at.
fn value(rule: &Rule) -> Option<(u8, u32)> {
    match rule.args.as_slice() {
        [Condition { index, width: Width::Dword, op: Operator::Eq, val, .. }] => {
            Some((*index, u32::try_from(*val).ok()?))
        }
        _ => None,
    }
}

/// Both architectures are little-endian.
fn low(argument: u8) -> u32 {
    ARGUMENTS + ARGUMENT_BYTES * u32::from(argument)
}

fn high(argument: u8) -> u32 {
    low(argument) + HALF_BYTES
}
