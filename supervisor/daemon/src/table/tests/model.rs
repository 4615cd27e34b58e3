//! Random lives against a small model of the host: what was saved, and which machines there are. The daemon is killed between
//! any two effects, also of its first, and comes back to what is there.
//!
//! `PROPTEST_CASES=10000` makes it longer; 256 cases kill the daemon more than 1,000 times.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use stockade_api::ResetScope;
use stockade_api::request::NewVm;
use stockade_config::model::VmName;

use super::*;

/// What happens.
#[derive(Debug, Clone)]
enum Step {
    Ask {
        which: u8,
        vm: u8,
        root: bool,
    },
    Machine {
        pick: u8,
        what: u8,
    },
    Stale {
        vm: u8,
        generation: u8,
        what: u8,
    },
    Time {
        milliseconds: u16,
    },
    Configure {
        vms: u8,
    },
    Abandon {
        pick: u8,
    },
    /// Root makes one, has everything reset, or ends the daemon, in whose place comes another.
    Create {
        vm: u8,
    },
    Reset,
    ShutDown,
    /// The daemon is killed after so many effects of the next step, and the next one likewise.
    Die {
        after: u8,
        again: Option<u8>,
    },
}

/// A machine of the host.
#[derive(Debug, Clone, PartialEq)]
enum Machine {
    Starting,
    Running,
    Paused,
    /// It has ended, and its warden has written down why.
    Ended(ExitCause),
}

struct Host {
    play: Play,
    saved: BTreeMap<VmId, Record>,
    ids: Ids,
    config: Config,
    machines: BTreeMap<(VmId, u64), Machine>,
    /// Machines that this daemon goes after, of which it has not heard yet.
    found: BTreeSet<(VmId, u64)>,
    /// Machines that there ever were, and the number of each name, since numbers were forgotten.
    launched: BTreeSet<(VmId, u64)>,
    numbers: BTreeMap<VmName, VmId>,
    /// Answers that each request got that could get one.
    answers: BTreeMap<RequestId, u32>,
    /// Effects until this daemon is killed, and then the next.
    fuse: Option<u8>,
    next_fuse: Option<u8>,
    daemons: u32,
}

/// The first three may be in the configuration.
const NAMES: [&str; 5] = ["a", "b", "c", "x", "y"];

impl Host {
    fn new() -> Self {
        Self {
            play: Play::of(Config::default(), Vec::new()),
            saved: BTreeMap::new(),
            ids: Ids::default(),
            config: Config::default(),
            machines: BTreeMap::new(),
            found: BTreeSet::new(),
            launched: BTreeSet::new(),
            numbers: BTreeMap::new(),
            answers: BTreeMap::new(),
            fuse: None,
            next_fuse: None,
            daemons: 1,
        }
    }

    fn handle(&mut self, input: Input) {
        let effects = self.play.table.handle(input, self.play.clock);
        for effect in effects {
            if let Some(fuse) = &mut self.fuse {
                if *fuse == 0 {
                    self.fuse = self.next_fuse.take();
                    return self.another_daemon();
                }
                *fuse -= 1;
            }
            if effect == Effect::Exit {
                return self.another_daemon();
            }
            self.perform(effect);
        }
        self.check();
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Save(record) => drop(self.saved.insert(record.id, *record)),
            Effect::Forget(id) => drop(self.saved.remove(&id)),
            Effect::SaveIds(ids) => {
                if ids == Ids::default() {
                    self.launched.clear();
                    self.numbers.clear();
                }
                self.ids = ids;
            }
            Effect::Launch(record) => {
                self.machines.insert((record.id, record.generation), Machine::Starting);
                let is_new = self.launched.insert((record.id, record.generation));
                assert!(is_new, "launched twice: {record:?}");
            }
            Effect::Kill { vm, generation } => self.end(vm, generation, ExitCause::Failed),
            Effect::Ask { vm, generation } => {
                if generation % 2 == 0 {
                    self.end(vm, generation, ExitCause::PowerOff);
                }
            }
            Effect::Pause { vm, generation } => self.change(vm, generation, Machine::Running, Machine::Paused),
            Effect::Resume { vm, generation } => self.change(vm, generation, Machine::Paused, Machine::Running),
            Effect::Answer { id, .. } | Effect::Attach { id, .. } | Effect::GiveAgent { id, .. } => {
                if let Some(count) = self.answers.get_mut(&id) {
                    *count += 1;
                    assert_eq!(*count, 1, "{id:?} was answered twice");
                }
            }
            Effect::Configure { .. } | Effect::LookUp { .. } | Effect::Log(_) | Effect::Exit => {}
        }
    }

    fn change(&mut self, vm: VmId, generation: u64, from: Machine, to: Machine) {
        if let Some(machine) = self.machines.get_mut(&(vm, generation)).filter(|machine| **machine == from) {
            *machine = to;
        }
    }

    fn end(&mut self, vm: VmId, generation: u64, cause: ExitCause) {
        if let Some(machine) = self.machines.get_mut(&(vm, generation))
            && !matches!(machine, Machine::Ended(_))
        {
            *machine = Machine::Ended(cause);
        }
    }

    /// The daemon is gone, and another one comes.
    fn another_daemon(&mut self) {
        self.daemons += 1;
        // Who waited is told by the end of the connection.
        self.answers.retain(|_, count| *count > 0);
        let records: Vec<_> = self.saved.values().cloned().collect();
        self.play.table = Table::new(self.config.clone(), SIZE, self.ids.clone(), records.clone(), self.play.clock);
        let live = records.iter().filter(|record| record.state.is_live());
        self.found = live.map(|record| (record.id, record.generation)).collect();
        // What no record knows of is swept.
        self.machines.retain(|machine, _| self.found.contains(machine));
        let daemons = self.daemons;
        self.handle(Input::Configured { config: Box::new(self.config.clone()), request: None });
        if self.daemons == daemons {
            self.handle(Input::Recovered);
        }
    }

    /// What is heard of a machine now.
    fn hear(&mut self, vm: VmId, generation: u64) {
        let was_found = self.found.remove(&(vm, generation));
        let machine = self.machines.get(&(vm, generation)).cloned();
        let events = match &machine {
            None if was_found => vec![MachineEvent::NeverLaunched],
            None => return,
            Some(machine) => said(machine),
        };
        let daemons = self.daemons;
        for event in events {
            self.handle(Input::Machine { vm, generation, event });
            if self.daemons != daemons {
                return;
            }
        }
        // Its journal is removed once what it says is saved.
        if matches!(machine, Some(Machine::Ended(_))) {
            self.machines.remove(&(vm, generation));
        }
    }

    fn check(&mut self) {
        let records: BTreeMap<_, _> = self.play.table.records().map(|record| (record.id, record)).collect();
        for ((id, generation), machine) in &self.machines {
            if !matches!(machine, Machine::Ended(_)) {
                let record = records.get(id).unwrap_or_else(|| panic!("nobody knows {id}"));
                assert!(record.state.is_live() && record.generation == *generation, "{record:?} {machine:?}");
            }
        }
        for record in records.values() {
            assert_eq!(self.saved.get(&record.id), Some(*record), "not saved");
            let is_over = !record.state.is_live() && record.state != VmState::Waiting;
            assert!(record.configured || !is_over, "not forgotten: {record:?}");
            let stopping = record.state == VmState::Stopping;
            assert_eq!(record.stop.is_some(), stopping, "{record:?}");
        }
        let names: BTreeSet<_> = records.values().map(|record| &record.name).collect();
        assert_eq!(names.len(), records.len());
        for record in records.values() {
            assert_eq!(*self.numbers.entry(record.name.clone()).or_insert(record.id), record.id, "{record:?}");
        }
    }

    fn ask(&mut self, caller: Caller, request: Request) {
        self.play.requests += 1;
        let id = RequestId(self.play.requests);
        self.answers.insert(id, 0);
        self.handle(Input::Request { id, caller, request: Box::new(request) });
    }

    fn step(&mut self, step: &Step) {
        let live: BTreeSet<_> = self.machines.keys().chain(&self.found).copied().collect();
        match *step {
            Step::Ask { which, vm, root } => {
                let who = if root { Caller::root() } else { caller(OWNER, &[]) };
                let vm = named(NAMES[usize::from(vm) % NAMES.len()]);
                let request = match which % 7 {
                    0 | 1 => Request::Start { vm },
                    2 => Request::Stop { vm, mode: StopMode::Ask },
                    3 => Request::Stop { vm, mode: StopMode::Force },
                    4 => Request::Wait { vm },
                    5 => Request::Pause { vm },
                    _ => Request::Unpause { vm },
                };
                self.ask(who, request);
            }
            Step::Machine { pick, what } => {
                let Some((vm, generation)) = live.iter().nth(usize::from(pick) % live.len().max(1)).copied() else {
                    return;
                };
                match what % 5 {
                    0 | 1 => self.change(vm, generation, Machine::Starting, Machine::Running),
                    2 => self.end(vm, generation, ExitCause::Reset),
                    3 => self.end(vm, generation, ExitCause::Halted),
                    _ => {}
                }
                self.hear(vm, generation);
            }
            Step::Stale { vm, generation, what } => {
                let vm = VmId(u32::from(vm % 4));
                // Never of one that there is.
                let generation = 1_000 + u64::from(generation);
                let event = [MachineEvent::Started, MachineEvent::Paused, MachineEvent::NeverLaunched]
                    [usize::from(what % 3)]
                .clone();
                self.handle(Input::Machine { vm, generation, event });
            }
            Step::Time { milliseconds } => {
                self.play.clock.boot_ms += u64::from(milliseconds);
                self.handle(Input::Time);
            }
            Step::Configure { vms } => {
                let chosen = NAMES.iter().enumerate().filter(|(bit, _)| vms & (1 << bit) != 0);
                let start =
                    |bit: usize| if vms & (8 << bit) == 0 { StartPolicy::Enabled } else { StartPolicy::Disabled };
                self.config.vms = chosen.map(|(bit, name)| vm(name, start(bit))).collect();
                self.handle(Input::Configured { config: Box::new(self.config.clone()), request: None });
            }
            Step::Abandon { pick } => {
                let open: Vec<_> = self.answers.iter().filter(|(_, count)| **count == 0).map(|(id, _)| *id).collect();
                if let Some(id) = open.get(usize::from(pick) % open.len().max(1)) {
                    self.answers.remove(id);
                    self.handle(Input::Abandoned { id: *id });
                }
            }
            Step::Create { vm } => {
                let name = NAMES[usize::from(vm) % NAMES.len()].to_owned();
                let new = NewVm { name, kernel: Some("/kernel".to_owned()), ..NewVm::default() };
                self.ask(Caller::root(), Request::Create { definition: Box::new(new) });
            }
            Step::Reset => self.ask(Caller::root(), Request::Reset { what: ResetScope::Vms }),
            Step::ShutDown => self.handle(Input::ShutDown),
            Step::Die { after, again } => (self.fuse, self.next_fuse) = (Some(after), again),
        }
    }

    /// Everything ends.
    fn finish(&mut self) {
        (self.fuse, self.next_fuse) = (None, None);
        self.another_daemon();
        self.ask(Caller::root(), Request::Reset { what: ResetScope::Vms });
        while let Some((vm, generation)) = self.machines.keys().chain(&self.found).next().copied() {
            self.end(vm, generation, ExitCause::Failed);
            self.hear(vm, generation);
        }
        assert_eq!(self.play.table.records().count(), 0);
        assert!(self.saved.is_empty());
        for (id, count) in &self.answers {
            assert_eq!(*count, 1, "{id:?} was not answered");
        }
    }
}

/// Room for two of the three.
const SIZE: super::super::Host = super::super::Host { memory_mib: 1200, cpus: 2, identity: 0 };

fn said(machine: &Machine) -> Vec<MachineEvent> {
    let confined = MachineEvent::Confined(jail(1));
    match machine {
        Machine::Starting => vec![confined],
        Machine::Running => vec![confined, MachineEvent::Started, MachineEvent::Resumed],
        Machine::Paused => vec![confined, MachineEvent::Started, MachineEvent::Paused],
        Machine::Ended(cause) => vec![MachineEvent::Ended { cause: *cause, message: String::new() }],
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (any::<u8>(), any::<u8>(), any::<bool>()).prop_map(|(which, vm, root)| Step::Ask { which, vm, root }),
        8 => (any::<u8>(), any::<u8>()).prop_map(|(pick, what)| Step::Machine { pick, what }),
        1 => (any::<u8>(), any::<u8>(), any::<u8>()).prop_map(|(vm, generation, what)| Step::Stale { vm, generation, what }),
        3 => any::<u16>().prop_map(|milliseconds| Step::Time { milliseconds }),
        1 => any::<u8>().prop_map(|vms| Step::Configure { vms }),
        1 => any::<u8>().prop_map(|pick| Step::Abandon { pick }),
        2 => any::<u8>().prop_map(|vm| Step::Create { vm }),
        1 => Just(Step::Reset),
        1 => Just(Step::ShutDown),
        4 => (0_u8..6, proptest::option::of(0_u8..6)).prop_map(|(after, again)| Step::Die { after, again }),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_each_machine_has_one_record_and_each_request_one_answer(
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut host = Host::new();
        host.step(&Step::Configure { vms: 0b111 });
        for step in &steps {
            host.step(step);
        }
        host.finish();
    }
}
