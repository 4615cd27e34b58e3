//! The table, played through: each test says what happens, and looks at what is to be done.
#![allow(clippy::unwrap_used, clippy::panic)]

mod codes;
mod life;
mod model;
mod permissions;
mod recovery;
mod run;

use std::path::PathBuf;

use stockade_api::{Answer, ConsoleAccess, Error, ExitCause, Request, StopMode, Target, VmId, VmReference, VmState};
use stockade_config::Config;
use stockade_config::model::{Boot, Definition, Owner, StartPolicy, Vm};

use stockade_confinement::Fingerprint;

use super::*;

/// One that can be started, and is not.
pub(super) fn record(name: &str) -> Record {
    Record::new(VmId(1), vm(name, StartPolicy::Disabled), true, Caller::root(), VmState::Defined)
}

pub(super) fn vm(name: &str, start: StartPolicy) -> Vm {
    let boot = Boot::Kernel { path: PathBuf::from("/kernel"), initramfs: None };
    let owner = Owner { uid: OWNER, gid: Some(GROUP) };
    let definition = Definition { boot, owner, ..Definition::default() };
    Vm { name: name.parse().unwrap(), start, template: None, definition }
}

fn jail(pid: i32) -> Jail {
    Jail { pid, identity: Fingerprint { number: 2, started_ticks: 3, program: (4, 5) } }
}

const OWNER: u32 = 1000;
const GROUP: u32 = 500;

fn caller(uid: u32, groups: &[u32]) -> Caller {
    Caller { uid, gid: uid, groups: groups.to_vec() }
}

/// A table, and what it wanted.
pub(super) struct Play {
    pub(super) table: Table,
    clock: Clock,
    effects: Vec<Effect>,
    requests: u64,
}

impl Play {
    /// With these virtual machines of the configuration.
    pub(super) fn with(vms: Vec<Vm>) -> Self {
        let mut play = Self::of(Config::default(), Vec::new());
        play.configure(Config { vms, ..Config::default() });
        play
    }

    fn of(config: Config, records: Vec<Record>) -> Self {
        let clock = Clock { boot_ms: 1_000_000, wall_ms: 1 };
        let host = Host { memory_mib: 16_384, cpus: 2, identity: 0 };
        let table = Table::new(config, host, Ids::default(), records, clock);
        Self { table, clock, effects: Vec::new(), requests: 0 }
    }

    /// With one, `vm`, that runs.
    fn running() -> Self {
        let mut play = Self::with(vec![vm("vm", StartPolicy::Enabled)]);
        play.machine(MachineEvent::Started);
        play.effects.clear();
        play
    }

    fn handle(&mut self, input: Input) {
        let effects = self.table.handle(input, self.clock);
        self.effects.extend(effects);
    }

    fn configure(&mut self, config: Config) {
        self.handle(Input::Configured { config: Box::new(config), request: None });
    }

    fn request(&mut self, caller: Caller, request: Request) -> RequestId {
        self.requests += 1;
        let id = RequestId(self.requests);
        self.handle(Input::Request { id, caller, request: Box::new(request) });
        id
    }

    fn ask(&mut self, request: Request) -> RequestId {
        self.request(Caller::root(), request)
    }

    /// Something is heard of the machine of `vm`.
    fn machine(&mut self, event: MachineEvent) {
        let record = self.record("vm");
        let (vm, generation) = (record.id, record.generation);
        self.handle(Input::Machine { vm, generation, event });
    }

    fn ends(&mut self, cause: ExitCause) {
        self.machine(MachineEvent::Ended { cause, message: "m".into() });
    }

    fn passes(&mut self, milliseconds: u64) {
        self.clock.boot_ms += milliseconds;
        self.clock.wall_ms += milliseconds;
        self.handle(Input::Time);
    }

    fn record(&self, name: &str) -> Record {
        let found = self.table.records().find(|record| record.name.as_str() == name);
        found.unwrap_or_else(|| panic!("no {name}")).clone()
    }

    fn state(&self, name: &str) -> VmState {
        self.record(name).state
    }

    /// The answer to a request, which is there once.
    fn answer(&self, request: RequestId) -> Result<Answer, Error> {
        let mut answers = self.answers(request);
        assert_eq!(answers.len(), 1, "{:?}", self.effects);
        answers.remove(0)
    }

    fn answers(&self, request: RequestId) -> Vec<Result<Answer, Error>> {
        let answers = self.effects.iter().filter_map(|effect| match effect {
            Effect::Answer { id, answer } if *id == request => Some(answer.clone()),
            _ => None,
        });
        answers.collect()
    }

    /// What is to be done, in a word each, beside answers.
    fn acts(&mut self) -> Vec<&'static str> {
        let acts = self.effects.iter().filter_map(|effect| match effect {
            Effect::Save(_) => Some("save"),
            Effect::Forget(_) => Some("forget"),
            Effect::SaveIds(_) => Some("save ids"),
            Effect::Launch(_) => Some("launch"),
            Effect::Ask { .. } => Some("ask"),
            Effect::Kill { .. } => Some("kill"),
            Effect::Pause { .. } => Some("pause"),
            Effect::Resume { .. } => Some("resume"),
            Effect::Configure { .. } => Some("configure"),
            Effect::LookUp { .. } => Some("look up"),
            Effect::Log(_) => Some("log"),
            Effect::Attach { .. } | Effect::GiveAgent { .. } => Some("attach"),
            Effect::Exit => Some("exit"),
            Effect::Answer { .. } => None,
        });
        let acts = acts.collect();
        self.effects.clear();
        acts
    }
}

fn named(name: &str) -> VmReference {
    VmReference::Name(name.into())
}

fn start() -> Request {
    Request::Start { vm: named("vm") }
}

fn stop(mode: StopMode) -> Request {
    Request::Stop { vm: named("vm"), mode }
}

fn wait() -> Request {
    Request::Wait { vm: named("vm") }
}

fn pause() -> Request {
    Request::Pause { vm: named("vm") }
}

fn console(access: ConsoleAccess) -> Request {
    Request::Attach { vm: named("vm"), target: Target::Console { access } }
}

fn unpause() -> Request {
    Request::Unpause { vm: named("vm") }
}
