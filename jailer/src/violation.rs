//! A system call for which a filter killed the vmm, as the kernel tells it.
//!
//! Nothing of it is the vmm's own word but the thread's name, which it chose before its filters were complete.

use std::fmt::{self, Display, Formatter};
use std::num::ParseIntError;
use std::str::FromStr;

use seccomp_filters::{Role, syscall_name};
use serde::{Deserialize, Serialize};

/// What is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Violation {
    /// The call.
    Call(Box<ForbiddenCall>),
    /// Nothing, for this reason.
    Unknown(String),
}

/// What a thread did that its filters do not allow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForbiddenCall {
    /// Name of the [`Role`] whose filter forbids it; none if that filter is no role's of Stockade's vmm.
    pub role: Option<String>,
    /// How far the vmm was; none if nobody knows.
    pub phase: Option<Phase>,
    /// The thread's name.
    pub thread: String,
    /// The thread's number in the supervisor's PID namespace.
    pub thread_id: i32,
    /// Whose table of system calls `number` is from.
    pub architecture: Architecture,
    /// The system call's name, if it is one of x86_64.
    pub name: Option<String>,
    /// The system call's number.
    pub number: u32,
    /// The registers with its arguments, those that the call does not have included.
    pub arguments: [Word; 6],
    /// Address behind the instruction that made the call.
    pub instruction_pointer: Word,
}

/// How far a vmm was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Executed, and without a pledge of its main thread's own.
    Launch,
    /// Being configured.
    Configure,
    /// With a guest.
    Run,
}

/// Architectures that a thread of an x86_64 process can make system calls of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// `AUDIT_ARCH_X86_64`, which x32 shares.
    #[serde(rename = "x86_64")]
    X86_64,
    /// `AUDIT_ARCH_I386`, by `int 0x80`.
    I386,
}

/// A machine word; `"0x7f00"` in JSON, whose numbers are too short for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Word(pub u64);

/// The filters of a thread, as their number tells: the vmm installs them in an order of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Filters {
    pub(crate) is_main: bool,
    pub(crate) count: u32,
}

impl Filters {
    /// The roles that the thread may have, the narrowest first.
    fn roles(self) -> &'static [Role] {
        match (self.is_main, self.count) {
            (_, 1) => &[Role::Launch],
            (true, 2) => &[Role::VmmConfigureSealed, Role::Launch],
            (true, 3) => &[Role::VmmRunSealed, Role::VmmConfigureSealed, Role::Launch],
            // A vCPU's thread is not confined further yet, for a moment.
            (false, 2) => &[Role::Api, Role::VmmConfigureSealed, Role::Launch],
            (false, 3) => &[Role::Vcpu, Role::VmmConfigureSealed, Role::Launch],
            _ => &[],
        }
    }

    /// The role that forbids a system call of x86_64.
    pub(crate) fn forbidding_role(
        self,
        architecture: Architecture,
        number: u32,
        arguments: &[Word; 6],
    ) -> Option<Role> {
        let arguments = arguments.map(|Word(word)| word);
        let allows = |role: &Role| {
            architecture == Architecture::X86_64 && role.rules().iter().any(|rule| rule.allows(number, &arguments))
        };
        self.roles().iter().copied().find(|role| !allows(role))
    }
}

impl Phase {
    /// Of a vmm whose main thread has so many filters.
    pub(crate) fn of(main_filters: u32) -> Self {
        match main_filters {
            0 | 1 => Self::Launch,
            2 => Self::Configure,
            _ => Self::Run,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Launch => "launch",
            Self::Configure => "configure",
            Self::Run => "run",
        }
    }
}

impl Architecture {
    /// Name of a system call; the filters know those of x86_64 only.
    pub(crate) fn call_name(self, number: u32) -> Option<&'static str> {
        match self {
            Self::X86_64 => syscall_name(number),
            Self::I386 => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::I386 => "i386",
        }
    }
}

impl ForbiddenCall {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        let is_ours = |name: &String| Role::Launch.rules().iter().any(|rule| rule.call == name);
        match (self.phase, self.name.as_ref().is_some_and(is_ours)) {
            (Some(Phase::Launch), _) => {
                "no guest had a say by then, so that most likely stockade-vmm, or the C library that it was built with, is not \
                 the one that tools/build makes: build it anew, and if that does not help, report this line as a bug"
            }
            (_, true) => {
                "the vmm makes this call, but not there or not with these arguments: report this line as a bug, and trust \
                 nothing of this guest until it is explained, because a guest that has taken over its vmm looks the same"
            }
            (_, false) => {
                "no part of stockade-vmm makes this call: take it that the guest has taken over its vmm, which the filter \
                 stopped; keep the guest's images and this line, and report both"
            }
        }
    }
}

/// One line, with what to do.
impl Display for Violation {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(call) => call.fmt(formatter),
            Self::Unknown(why) => write!(
                formatter,
                "which one is not known ({why}), but where the kernel audits, its log names it (dmesg | grep type=1326): \
                 report it, and trust nothing of this guest until it is explained"
            ),
        }
    }
}

impl Display for ForbiddenCall {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let Self { thread, thread_id, number, arguments, instruction_pointer, .. } = self;
        write!(formatter, "thread {thread:?} ({thread_id})")?;
        match &self.role {
            Some(role) => write!(formatter, " in the role {role}")?,
            None => formatter.write_str(" under a filter of no role")?,
        }
        if let Some(phase) = self.phase {
            write!(formatter, ", phase {},", phase.name())?;
        }
        match &self.name {
            Some(name) => write!(formatter, " called {name} (number {number})")?,
            None => write!(formatter, " made the system call number {number} of {}", self.architecture.name())?,
        }
        let [first, rest @ ..] = arguments;
        write!(formatter, " with {first}")?;
        rest.iter().try_for_each(|argument| write!(formatter, ", {argument}"))?;
        write!(formatter, " at {instruction_pointer}; {}", self.remedy())
    }
}

impl Display for Word {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#x}", self.0)
    }
}

impl FromStr for Word {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).map(Self)
    }
}

impl From<Word> for String {
    fn from(word: Word) -> Self {
        word.to_string()
    }
}

impl TryFrom<String> for Word {
    type Error = ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNT: u32 = 165;
    const IOCTL: u32 = 16;
    const KVM_RUN: u64 = 44672;
    const KVM_CREATE_VM: u64 = 44545;

    fn call() -> ForbiddenCall {
        ForbiddenCall {
            role: Some("vcpu".into()),
            phase: Some(Phase::Run),
            thread: "fc_vcpu 0".into(),
            thread_id: 4711,
            architecture: Architecture::X86_64,
            name: Some("mount".into()),
            number: MOUNT,
            arguments: [1, 2, 3, 4, 5, u64::MAX].map(Word),
            instruction_pointer: Word(0x43_eb79),
        }
    }

    fn role(is_main: bool, count: u32, number: u32, request: u64) -> Option<Role> {
        let arguments = [3, request, 0, 0, 0, 0].map(Word);
        Filters { is_main, count }.forbidding_role(Architecture::X86_64, number, &arguments)
    }

    #[test]
    fn the_number_of_filters_tells_the_role() {
        for (is_main, count, expected) in [
            (true, 1, Role::Launch),
            (true, 2, Role::VmmConfigureSealed),
            (true, 3, Role::VmmRunSealed),
            (false, 1, Role::Launch),
            (false, 2, Role::Api),
            (false, 3, Role::Vcpu),
        ] {
            assert_eq!(role(is_main, count, MOUNT, 0), Some(expected), "{is_main} {count}");
        }
    }

    #[test]
    fn a_role_that_allows_the_call_did_not_forbid_it() {
        assert_eq!(role(false, 3, IOCTL, KVM_CREATE_VM), Some(Role::Vcpu));
        // Every filter of Stockade's lets it pass, so somebody has installed another.
        assert_eq!(role(false, 3, IOCTL, KVM_RUN), None);
        assert_eq!(role(true, 4, MOUNT, 0), None);
        assert_eq!(role(true, 0, MOUNT, 0), None);
    }

    #[test]
    fn calls_of_another_architecture_are_allowed_nowhere() {
        let arguments = [Word(3), Word(KVM_RUN), Word(0), Word(0), Word(0), Word(0)];
        let filters = Filters { is_main: false, count: 3 };
        assert_eq!(filters.forbidding_role(Architecture::I386, IOCTL, &arguments), Some(Role::Vcpu));
        assert_eq!(Architecture::I386.call_name(IOCTL), None);
        let foreign = ForbiddenCall { architecture: Architecture::I386, name: None, number: 21, ..call() };
        assert!(foreign.to_string().contains("made the system call number 21 of i386"), "{foreign}");
    }

    #[test]
    fn a_violation_is_one_line() {
        assert!(call().to_string().starts_with(
            "thread \"fc_vcpu 0\" (4711) in the role vcpu, phase run, called mount (number 165) with 0x1, 0x2, 0x3, 0x4, \
             0x5, 0xffffffffffffffff at 0x43eb79; no part of stockade-vmm makes this call"
        ));
        let hostile = ForbiddenCall { thread: "\n\x1b[31m".into(), role: None, phase: None, ..call() };
        assert!(hostile.to_string().starts_with("thread \"\\n\\u{1b}[31m\" (4711) under a filter of no role called"));
    }

    #[test]
    fn the_remedy_depends_on_the_call_and_the_phase() {
        let remedies = [
            call(),
            ForbiddenCall { name: Some("ioctl".into()), ..call() },
            ForbiddenCall { phase: Some(Phase::Launch), ..call() },
        ]
        .map(|call| call.remedy());
        assert!(remedies[0].contains("taken over its vmm, which"), "{}", remedies[0]);
        assert!(remedies[1].contains("not there or not with these arguments"), "{}", remedies[1]);
        assert!(remedies[2].contains("build it anew"), "{}", remedies[2]);
    }

    #[test]
    fn a_violation_survives_json() {
        let violation = Violation::Call(Box::new(call()));
        let text = serde_json::to_string(&violation).unwrap();
        assert!(text.contains("\"phase\":\"run\"") && text.contains("\"architecture\":\"x86_64\""), "{text}");
        assert!(text.contains("\"instruction_pointer\":\"0x43eb79\""), "{text}");
        assert_eq!(serde_json::from_str::<Violation>(&text).unwrap(), violation);
        let unknown = Violation::Unknown("no tracer".into());
        assert!(unknown.to_string().starts_with("which one is not known (no tracer), but"), "{unknown}");
        assert!("0xg".parse::<Word>().is_err());
    }
}
