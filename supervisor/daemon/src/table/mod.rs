//! All virtual machines, and what becomes of them: a state machine without input or output.
//!
//! Something happens ([`Input`]), the table changes, and says what is to be done about it ([`Effect`]), in this order. A
//! record is saved before the act that it describes, so that after a death between any two effects what was saved says at
//! least as much as what was done.
//!
//! ```text
//!  Defined ──start──▶ Starting ──▶ Running ◀──▶ Paused
//!  Waiting ──turn───▶    │  ▲         │            │
//!  Stopped ──start──▶    │  └─reset───┤            │
//!     ▲                  └──stop──────┴──▶ Stopping
//!     └──────────────── ended ────────────────┘
//! ```
//!
//! Invariants: a virtual machine has a process only in the live states, and then one at most, that of its generation;
//! what is heard of any other generation changes nothing; each request is answered once, unless its client has gone.

mod addresses;
mod admission;
mod configuration;
mod creation;
mod effect;
mod events;
mod ids;
mod machine;
mod permission;
mod record;
mod request;
mod schedule;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use stockade_api::event::Change;
use stockade_api::{Answer, Error, Exit, VmId, VmState};
use stockade_config::Config;
use stockade_config::model::Shutdown;

pub use admission::Host;
pub use effect::{Effect, Input, MachineEvent, RequestId};
pub use ids::Ids;
pub use permission::{Caller, Verb, may};
pub use record::{Held, Jail, Record, StopOrder};

use events::EventLog;

/// What time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Milliseconds since the host booted, sleep included (`CLOCK_BOOTTIME`).
    pub boot_ms: u64,
    /// Milliseconds since 1970.
    pub wall_ms: u64,
}

/// All virtual machines.
#[derive(Debug)]
pub struct Table {
    vms: BTreeMap<VmId, Vm>,
    ids: Ids,
    config: Config,
    host: Host,
    log: EventLog,
    /// When the next of those that wait may start.
    next_batch_ms: u64,
    /// Whether the daemon has had its first configuration.
    is_configured: bool,
    /// Whether the daemon is going down.
    shutting_down: bool,
    /// Who waits for everything to be gone.
    resetting: Option<Vec<RequestId>>,
    clock: Clock,
    effects: Vec<Effect>,
}

/// One of them.
#[derive(Debug)]
struct Vm {
    record: Record,
    waiters: Vec<Waiter>,
    /// The request on whose connection it depends, if it is there for one command.
    holder: Option<RequestId>,
}

impl Vm {
    fn of(record: Record) -> Self {
        Self { record, waiters: Vec::new(), holder: None }
    }
}

/// A client that waits for something to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waiter {
    request: RequestId,
    awaits: Awaited,
}

/// What it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    Start,
    /// The start, and then the connection of the guest's agent.
    Agent,
    End,
    Pause,
    Unpause,
}

impl Table {
    /// A table of what was saved; nothing at the first start.
    pub fn new(config: Config, host: Host, ids: Ids, records: Vec<Record>, clock: Clock) -> Self {
        let vms = records.into_iter().map(|record| (record.id, Vm::of(record))).collect();
        Self {
            vms,
            ids,
            config,
            host,
            log: EventLog::new(clock.wall_ms),
            next_batch_ms: 0,
            is_configured: false,
            shutting_down: false,
            resetting: None,
            clock,
            effects: Vec::new(),
        }
    }

    /// Takes note of what happened. Returns what is to be done, in this order.
    pub fn handle(&mut self, input: Input, clock: Clock) -> Vec<Effect> {
        self.clock = clock;
        match input {
            Input::Request { id, caller, request } => self.request(id, &caller, *request),
            Input::Abandoned { id } => self.abandon(id),
            Input::Machine { vm, generation, event } => self.machine(vm, generation, event),
            Input::Configured { config, request } => self.configure(*config, request),
            Input::NotConfigured { error, request } => self.answer(request, Err(error)),
            Input::Recovered => self.recovered(),
            Input::SwitchesLookedUp { request, answer } => self.answer(request, answer.map(Answer::Switches)),
            Input::Time => {}
            Input::ShutDown => self.shut_down(),
        }
        self.start_waiting();
        self.end_overdue();
        if let Some(requests) = self.resetting.take_if(|_| self.vms.is_empty()) {
            self.ids = Ids::default();
            self.effect(Effect::SaveIds(self.ids.clone()));
            requests.into_iter().for_each(|request| self.answer(request, Ok(Answer::Done)));
        }
        if self.shutting_down && !self.vms.values().any(|vm| vm.record.state.is_live()) {
            self.effect(Effect::Exit);
        }
        std::mem::take(&mut self.effects)
    }

    /// When there is something to do even if nothing happens: milliseconds since the host booted.
    pub fn deadline_ms(&self) -> Option<u64> {
        let overdue = self.vms.values().filter_map(|vm| vm.record.stop.and_then(|stop| stop.deadline_ms));
        let waiting = self.vms.values().any(|vm| vm.record.state == VmState::Waiting) && !self.shutting_down;
        overdue.chain(waiting.then_some(self.next_batch_ms)).min()
    }

    /// What is known of each.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.vms.values().map(|vm| &vm.record)
    }

    /// What is known of one.
    pub fn record(&self, id: VmId) -> Option<&Record> {
        self.vms.get(&id).map(|vm| &vm.record)
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    fn answer(&mut self, request: RequestId, answer: Result<Answer, Error>) {
        self.effect(Effect::Answer { id: request, answer });
    }

    fn save(&mut self, id: VmId) {
        if let Some(vm) = self.vms.get(&id) {
            self.effects.push(Effect::Save(Box::new(vm.record.clone())));
        }
    }

    /// Moves one to another state, saves that, and tells who listens.
    fn enter(&mut self, id: VmId, state: VmState, exit: Option<Exit>) {
        let Some(vm) = self.vms.get_mut(&id) else { return };
        vm.record.state = state;
        self.save(id);
        self.publish(id, Change::State { state, exit });
    }

    fn publish(&mut self, id: VmId, change: Change) {
        let Some(vm) = self.vms.get(&id) else { return };
        let answers = self.log.publish(&vm.record, change, self.clock.wall_ms, self.config.globals.status_visible);
        for (request, page) in answers {
            self.answer(request, Ok(Answer::Events(page)));
        }
    }

    /// Answers those that wait for one of these with the same words.
    fn answer_waiters(&mut self, id: VmId, awaited: &[Awaited], answer: impl Fn(&Record) -> Result<Answer, Error>) {
        let Some(vm) = self.vms.get_mut(&id) else { return };
        let (answered, rest) = vm.waiters.drain(..).partition(|waiter| awaited.contains(&waiter.awaits));
        vm.waiters = rest;
        let answered: Vec<Waiter> = answered;
        let answer = answer(&vm.record);
        answered.into_iter().for_each(|waiter| self.answer(waiter.request, answer.clone()));
    }

    fn abandon(&mut self, request: RequestId) {
        for vm in self.vms.values_mut() {
            vm.waiters.retain(|waiter| waiter.request != request);
        }
        self.log.abandon(request);
        self.resetting.iter_mut().for_each(|requests| requests.retain(|waiting| *waiting != request));
        let held = self.vms.iter().find(|(_, vm)| vm.holder == Some(request) && vm.record.state.is_live());
        if let Some(id) = held.map(|(id, _)| *id) {
            self.kill(id);
        }
    }

    /// Somebody goes after each machine that was saved: goes on with what was half done.
    fn recovered(&mut self) {
        let stopping: Vec<_> = self.records().filter(|record| record.state == VmState::Stopping).cloned().collect();
        for record in stopping {
            let (vm, generation) = (record.id, record.generation);
            let ask = record.stop.is_some_and(|stop| stop.deadline_ms.is_some());
            self.effect(if ask { Effect::Ask { vm, generation } } else { Effect::Kill { vm, generation } });
        }
        // Their clients were connected to the daemon before this one.
        let held = self.records().filter(|record| record.held.is_some() && record.state.is_live());
        let held: Vec<_> = held.map(|record| record.id).collect();
        held.into_iter().for_each(|id| self.kill(id));
    }

    /// Told again, it does not wait for guests any more.
    fn shut_down(&mut self) {
        let again = std::mem::replace(&mut self.shutting_down, true);
        if self.config.globals.shutdown == Shutdown::Leave {
            self.effect(Effect::Exit);
            return;
        }
        let live: Vec<_> = self.records().filter(|record| record.state.is_live()).map(|record| record.id).collect();
        live.into_iter().for_each(|id| if again { self.kill(id) } else { self.ask_to_stop(id) });
    }
}
