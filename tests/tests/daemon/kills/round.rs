//! One round: what is done, in random order and with random pauses, and what has to be true afterwards.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};

use super::client::{Outcome, Pending};
use super::host::{self, Processes};
use super::model::{Deed, Part, State, expect};
use super::{Run, Wait};

/// Pauses between actions, milliseconds.
const PAUSES: [u64; 8] = [0, 0, 0, 1, 2, 5, 15, 50];

/// Something that is done.
#[derive(Debug, Clone)]
enum Action {
    Do(usize, Deed),
    /// The parent is killed, and the next one started.
    KillParent,
    /// One of its roles.
    KillRole,
    /// A client looks around.
    Look,
    /// A client waits for the end of one.
    Wait(usize),
}

/// What was done to one virtual machine.
#[derive(Debug, Default)]
struct Touched {
    deeds: Vec<(Deed, Option<Outcome>)>,
    /// A generation whose vmm or warden was killed.
    killed: Option<u64>,
}

/// What happened in a round.
#[derive(Debug, Default)]
struct Events {
    actions: Vec<Action>,
    asked: Vec<Asked>,
    touched: Vec<Touched>,
    parents: u64,
    roles: Vec<String>,
    reconfigured: bool,
    /// Clients that began to wait for an end.
    waits: usize,
}

/// A request, which is part of a deed or none.
#[derive(Debug)]
struct Asked {
    deed: Option<(usize, Deed)>,
    /// Nothing if nobody listened.
    pending: Option<Pending>,
}

impl Events {
    /// Whether a client may have got no answer.
    fn are_disturbing(&self) -> bool {
        self.parents > 0 || self.roles.iter().any(|role| role == "control")
    }
}

impl Run<'_> {
    pub(super) fn round(&mut self) {
        let mut events = Events { actions: self.plan(), ..Events::default() };
        events.touched.resize_with(Part::ALL.len(), Touched::default);
        for action in events.actions.clone() {
            std::thread::sleep(Duration::from_millis(PAUSES[self.random.usize(..PAUSES.len())]));
            self.perform(action, &mut events);
        }
        self.daemon.wait_until_it_serves();
        if events.reconfigured {
            // Its request may have been lost.
            self.daemon.post("reload").ok();
        }
        for Asked { deed, pending } in std::mem::take(&mut events.asked) {
            let what = pending.as_ref().map(|pending| pending.what.clone());
            let outcome = pending.map_or(Outcome::NotAsked, Pending::outcome);
            *self.outcomes.entry(outcome.word()).or_default() += 1;
            assert!(outcome.is_known() || events.are_disturbing(), "{what:?}: {outcome:?} in {:?}", events.actions);
            assert_ne!(outcome.word(), "internal", "{what:?}: {outcome:?}");
            if let Some((part, deed)) = deed {
                events.touched[part].deeds.push((deed, Some(outcome)));
            }
        }
        if events.are_disturbing() {
            self.waits.iter_mut().for_each(|wait| wait.may_be_lost = true);
        }
        let what = format!("{:?}, {:?}", events.actions, events.touched);
        let vms = self.settle(&what, |run, vms| run.wrong(vms, &events));
        self.note(&vms);
        host::reap(self.daemon.pid());
    }

    fn plan(&mut self) -> Vec<Action> {
        let mut plan = Vec::new();
        for part in 0..Part::ALL.len() {
            let state = State::of(self.known[part].as_ref());
            match self.random.u8(..14) {
                0..=2 => {}
                3 if part == Part::ECHO && state == State::Running => plan.push(Action::Do(part, Deed::Type)),
                3 | 4 | 12 | 13 if state.is_live() => {
                    let deed = if self.random.bool() { Deed::KillVmm } else { Deed::KillWarden };
                    plan.push(Action::Do(part, deed));
                }
                4..=10 if self.dropped[part] => plan.push(Action::Do(part, Deed::Add)),
                5 if part != Part::MADE => plan.push(Action::Do(part, Deed::Drop)),
                6 => plan.push(Action::Wait(part)),
                // What comes of one is known exactly, of several only that it makes sense.
                choice => {
                    let count = if choice == 11 { 2 } else { 1 };
                    plan.extend((0..count).map(|_| Action::Do(part, self.request(part))));
                }
            }
        }
        for _ in 0..self.random.u8(1..4) {
            plan.push([Action::KillParent, Action::KillParent, Action::KillRole][self.random.usize(..3)].clone());
        }
        plan.extend((0..self.random.u8(..4)).map(|_| Action::Look));
        self.random.shuffle(&mut plan);
        plan
    }

    fn request(&mut self, part: usize) -> Deed {
        if !State::of(self.known[part].as_ref()).is_live() && self.random.bool() {
            return if part == Part::MADE { Deed::Create } else { Deed::Start };
        }
        match Deed::REQUESTS[self.random.usize(..Deed::REQUESTS.len())] {
            Deed::Start if part == Part::MADE => Deed::Create,
            Deed::Create if part != Part::MADE => Deed::Start,
            deed => deed,
        }
    }

    fn perform(&mut self, action: Action, events: &mut Events) {
        match action {
            Action::Do(part, deed) => self.act(part, deed, events),
            Action::KillParent => {
                self.daemon.kill();
                self.daemon.spawn();
                self.waits.iter_mut().for_each(|wait| wait.is_lost = true);
                events.parents += 1;
                *self.kills.entry("parent".to_owned()).or_default() += 1;
            }
            Action::KillRole => {
                let roles: Vec<_> = Processes::observe().roles_of(self.daemon.pid());
                if roles.is_empty() {
                    return;
                }
                let (role, process) = &roles[self.random.usize(..roles.len())];
                if process.kill() {
                    // One that was sent a moment ago may not have come that far.
                    let heard = self.waits.len().saturating_sub(events.waits);
                    let heard = self.waits.iter_mut().take(heard).filter(|_| role == "control");
                    heard.for_each(|wait| wait.is_lost = true);
                    events.roles.push(role.clone());
                    *self.kills.entry(role.clone()).or_default() += 1;
                }
            }
            Action::Look => {
                let after = self.random.u32(..9);
                let path = ["version".to_owned(), "vms".to_owned(), format!("vms?after={after}"), "events".to_owned()];
                let path = &path[self.random.usize(..4)];
                let pending = Pending::send(&self.daemon.socket(), "GET", path, None);
                events.asked.push(Asked { deed: None, pending });
            }
            Action::Wait(part) => {
                let path = format!("vms/{}/wait", self.names[part]);
                let pending = Pending::send(&self.daemon.socket(), "POST", &path, None);
                events.waits += usize::from(pending.is_some());
                self.waits.extend(pending.map(|pending| Wait { part, pending, may_be_lost: false, is_lost: false }));
            }
        }
    }

    fn act(&mut self, part: usize, deed: Deed, events: &mut Events) {
        let name = self.names[part].clone();
        let to = |verb: &str| format!("vms/{name}/{verb}");
        let (path, body) = match deed {
            Deed::Start => (to("start"), None),
            Deed::Stop => (to("stop"), None),
            Deed::Force => (to("stop"), Some(json!({ "mode": "force" }))),
            Deed::Pause => (to("pause"), None),
            Deed::Unpause => (to("unpause"), None),
            Deed::Create => {
                ("vms".to_owned(), Some(json!({ "name": name, "kernel": self.kernels[part], "memory_mib": 64 })))
            }
            Deed::KillVmm | Deed::KillWarden => {
                let Some([vmm, warden]) = &self.victims[part] else { return };
                let (what, victim) = if deed == Deed::KillVmm { ("vmm", vmm) } else { ("warden", warden) };
                if victim.kill() {
                    *self.kills.entry(what.to_owned()).or_default() += 1;
                }
                events.touched[part].killed = Some(self.generations[part]);
                events.touched[part].deeds.push((deed, None));
                return;
            }
            Deed::Type => {
                let id = &self.known[part].as_ref().unwrap()["id"];
                let path = self.daemon.run_directory().join(format!("daemon/consoles/{id}.input"));
                let mut console = File::options().write(true).custom_flags(nix::libc::O_NONBLOCK).open(path).unwrap();
                console.write_all(b"x\n").unwrap();
                events.touched[part].deeds.push((deed, None));
                return;
            }
            Deed::Drop | Deed::Add => {
                self.dropped[part] = deed == Deed::Drop;
                self.configure();
                events.reconfigured = true;
                events.touched[part].deeds.push((deed, None));
                let pending = Pending::send(&self.daemon.socket(), "POST", "reload", None);
                events.asked.push(Asked { deed: None, pending });
                return;
            }
        };
        let pending = Pending::send(&self.daemon.socket(), "POST", &path, body);
        events.asked.push(Asked { deed: Some((part, deed)), pending });
    }

    /// What is under way.
    pub(super) fn unsettled(&mut self, vms: &[Value]) -> Vec<String> {
        let is_short = |vm: &Value| {
            self.names.iter().zip(Part::ALL).any(|(name, part)| part.is_short && vm["name"] == json!(name))
        };
        let under_way = vms.iter().filter(|vm| {
            let state = vm["state"].as_str().unwrap();
            ["waiting", "starting", "stopping"].contains(&state) || (state == "running" && is_short(vm))
        });
        under_way.map(|vm| format!("under way: {} {}", vm["name"], vm["state"])).collect()
    }

    /// Everything that is not as it should be after these events.
    fn wrong(&mut self, vms: &[Value], events: &Events) -> Vec<String> {
        let mut wrong = self.unsettled(vms);
        if !wrong.is_empty() {
            return wrong;
        }
        for (part, touched) in events.touched.iter().enumerate() {
            let vm = vms.iter().find(|vm| vm["name"] == json!(self.names[part]));
            wrong.extend(
                self.wrong_with(part, vm, touched, events.parents).map(|why| format!("{}: {why}", self.names[part])),
            );
        }
        for vm in vms {
            wrong.extend(self.inconstant(vm));
        }
        wrong.extend(self.wrong_waits(vms));
        wrong.extend(self.wrong_lock(vms));
        if wrong.is_empty() { host::faults(&self.daemon, vms) } else { wrong }
    }

    /// Why one can't be what it is after what was done to it, while so many parents were killed.
    fn wrong_with(&self, part: usize, vm: Option<&Value>, touched: &Touched, parents: u64) -> Option<String> {
        let before = self.known[part].as_ref();
        let (state, generation) =
            (State::of(vm), vm.map_or(self.generations[part], |vm| vm["generation"].as_u64().unwrap()));
        let starts = generation.checked_sub(self.generations[part]);
        let Some(starts) = starts else {
            return Some(format!("generation {generation} after {}", self.generations[part]));
        };
        if touched.killed == Some(generation) && state.is_live() {
            return Some(format!("generation {generation} was killed"));
        }
        match touched.deeds.as_slice() {
            [] => (vm != before).then(|| format!("nobody touched it, but it was {before:?}")),
            [(deed, outcome)] => {
                let expected = expect(Part::ALL[part], before, *deed);
                let is_known = outcome.as_ref().is_none_or(Outcome::is_known);
                if let Some(outcome) = outcome.as_ref().filter(|_| is_known)
                    && outcome.word() != expected.word
                {
                    return Some(format!("{} after {deed:?}, and not {}", outcome.word(), expected.word));
                }
                // A start that a parent did not survive is made again, or undone.
                let again = if expected.starts > 0 { parents } else { 0 };
                let is_counted = (expected.starts..=expected.starts + again).contains(&starts)
                    // One that is gone does not say how often it was started.
                    || (vm.is_none() && starts == 0);
                let is_done = state == expected.state && is_counted;
                let is_undone = expected.starts > 0 && parents > 0 && !state.is_live() && starts <= 1 + parents;
                let is_unchanged = !is_known && vm == before;
                let is_too_quick = *deed == Deed::Type && vm.is_some_and(|vm| !vm["last_error"].is_null());
                let is_right = is_done || is_undone || is_unchanged || is_too_quick;
                (!is_right).then(|| format!("{vm:?} after {deed:?}, and not {expected:?}; it was {before:?}"))
            }
            deeds => {
                let most = u64::try_from(deeds.len()).unwrap() + parents;
                (starts > most).then(|| format!("started {starts} times by {deeds:?}"))
            }
        }
    }

    /// What never changes: the number of a name, and the vmm of a start.
    fn inconstant(&mut self, vm: &Value) -> Option<String> {
        let name = vm["name"].as_str().unwrap().to_owned();
        let id = self.ids.entry(name.clone()).or_insert_with(|| vm["id"].clone());
        if *id != vm["id"] {
            return Some(format!("{name} was {id}, and is {}", vm["id"]));
        }
        if vm["pid"].is_null() {
            return None;
        }
        let start = (name, vm["generation"].as_u64().unwrap());
        let pid = self.vmms.entry(start.clone()).or_insert_with(|| vm["pid"].clone());
        (*pid != vm["pid"]).then(|| format!("{start:?} was process {pid}, and is {}", vm["pid"]))
    }

    /// Who waits for the end of one that runs still waits, and nobody else does.
    fn wrong_waits(&mut self, vms: &[Value]) -> Vec<String> {
        let mut wrong = Vec::new();
        for mut wait in std::mem::take(&mut self.waits) {
            let vm = vms.iter().find(|vm| vm["name"] == json!(self.names[wait.part]));
            if !wait.pending.is_over() {
                if wait.is_lost || !State::of(vm).is_live() {
                    wrong.push(format!("{}: still waits", wait.pending.what));
                }
                self.waits.push(wait);
                continue;
            }
            let (what, may_be_lost) = (wait.pending.what.clone(), wait.may_be_lost);
            let outcome = wait.pending.outcome();
            assert!(outcome.is_known() || may_be_lost, "{what}: {outcome:?}");
            *self.outcomes.entry(outcome.word()).or_default() += 1;
        }
        wrong
    }

    /// The disk is locked as long as its virtual machine runs, and not longer.
    fn wrong_lock(&self, vms: &[Value]) -> Option<String> {
        let vm = vms.iter().find(|vm| vm["name"] == json!(self.names[Part::WITH_DISK]));
        let disk = File::options().read(true).write(true).open(&self.disk).unwrap();
        let is_locked = Flock::lock(disk, FlockArg::LockExclusiveNonblock).is_err();
        (is_locked != State::of(vm).is_live()).then(|| format!("the disk is locked: {is_locked}"))
    }
}
