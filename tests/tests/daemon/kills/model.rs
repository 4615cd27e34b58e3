//! A small model: what may be known of a virtual machine after what was done to it.

use serde_json::Value;
use stockade_tests::guest::{self, Guest};

/// A virtual machine that takes part.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    pub guest: Guest,
    /// Whether its guest ends by itself as soon as it runs.
    pub is_short: bool,
    /// What is in its block of vm.conf; one without is made by clients.
    pub block: Option<&'static str>,
}

impl Part {
    pub const ALL: [Self; 6] = [
        Self { guest: guest::IDLE, is_short: false, block: Some("disable\n    stop timeout 1") },
        Self { guest: guest::OBEDIENT, is_short: false, block: Some("disable") },
        Self { guest: guest::ECHO, is_short: false, block: Some("disable\n    stop timeout 1") },
        Self { guest: guest::POWER_OFF, is_short: true, block: Some("disable") },
        Self { guest: guest::OBEDIENT, is_short: false, block: Some("enable\n    disk \"$disk\"") },
        Self { guest: guest::OBEDIENT, is_short: false, block: None },
    ];
    /// The one whose guest ends when a line is typed.
    pub const ECHO: usize = 2;
    /// The one with a disk that nobody else may write to.
    pub const WITH_DISK: usize = 4;
    /// The one that clients make.
    pub const MADE: usize = 5;

    pub fn starts_by_itself(self) -> bool {
        self.block.is_some_and(|block| block.starts_with("enable"))
    }
}

/// Something that is done to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    Start,
    Stop,
    Force,
    Pause,
    Unpause,
    Create,
    /// Its vmm is killed, or its warden.
    KillVmm,
    KillWarden,
    /// Its guest ends.
    Type,
    /// vm.conf does not define it any more, or does again.
    Drop,
    Add,
}

impl Deed {
    /// Those that a client asks for.
    pub const REQUESTS: [Self; 7] =
        [Self::Start, Self::Start, Self::Stop, Self::Force, Self::Pause, Self::Unpause, Self::Create];
}

/// What a virtual machine is like, in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Gone,
    /// Defined, or stopped.
    Down,
    Running,
    Paused,
}

impl State {
    pub fn of(vm: Option<&Value>) -> Self {
        match vm.map(|vm| vm["state"].as_str().unwrap()) {
            None => Self::Gone,
            Some("running") => Self::Running,
            Some("paused") => Self::Paused,
            Some("defined" | "stopped") => Self::Down,
            Some(other) => panic!("{other}"),
        }
    }

    pub fn is_live(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

/// What comes of a deed that nothing else interferes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// The answer, if it is a request.
    pub word: &'static str,
    pub state: State,
    /// How often it is started.
    pub starts: u64,
}

/// What comes of `deed`, done to a virtual machine that is `before`.
pub fn expect(part: Part, before: Option<&Value>, deed: Deed) -> Expected {
    let state = State::of(before);
    let is_configured = before.is_some_and(|vm| vm["configured"] == true);
    let same = |word| Expected { word, state, starts: 0 };
    let to = |word, state| Expected { word, state, starts: 0 };
    let down = if is_configured { State::Down } else { State::Gone };
    let started = |word| {
        let ended = if part.block.is_some() { State::Down } else { State::Gone };
        Expected { word, state: if part.is_short { ended } else { State::Running }, starts: 1 }
    };
    match (deed, state) {
        (Deed::Create, State::Gone) => started("201"),
        (Deed::Create, _) => same("exists"),
        (Deed::Drop, State::Down) => to("", State::Gone),
        (Deed::Add, State::Gone) if part.starts_by_itself() => started(""),
        (Deed::Add, State::Gone) => to("", State::Down),
        (Deed::Drop | Deed::Add, _) => same(""),
        (_, State::Gone) => same("not_found"),
        (Deed::Start, State::Down) => started("200"),
        (Deed::Start, _) => same("already_running"),
        (_, State::Down) => same("not_running"),
        (Deed::Stop | Deed::Force, _) => to("200", down),
        (Deed::KillVmm | Deed::KillWarden, _) => to("", down),
        (Deed::Pause, State::Running) => to("200", State::Paused),
        (Deed::Pause, State::Paused) => same("already_paused"),
        (Deed::Unpause, State::Paused) => to("200", State::Running),
        (Deed::Unpause, State::Running) => same("not_paused"),
        (Deed::Type, _) => Expected { word: "", state: State::Running, starts: 1 },
    }
}
