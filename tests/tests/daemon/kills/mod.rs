//! Random lives against the real thing: requests in any order, guests that end, and kills of the daemon's processes, wardens
//! and vmms in the middle of it. After each round everything must belong together ([`host`]), be what a small model
//! allows ([`model`]), and every request be answered once ([`client`]).
//!
//! `STOCKADE_KILLS=1000 cargo test -p stockade-tests --test daemon kills` makes it longer, and `STOCKADE_SEED` gives it another
//! life.

mod client;
mod host;
mod model;
mod round;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stockade_tests::guest::Protocol;
use stockade_tests::{Scratch, test, wait_for};

use crate::daemon::{Daemon, NEEDS};
use client::Pending;
use host::Victim;
use model::{Part, State};

/// Kills in a run of the test suite.
const KILLS: u32 = 60;
/// How long things may take to settle after a round.
const SETTLING: Duration = Duration::from_secs(60);

/// A daemon with its virtual machines, and what is known of them.
struct Run<'a> {
    daemon: Daemon<'a>,
    random: fastrand::Rng,
    names: Vec<String>,
    kernels: Vec<PathBuf>,
    disk: PathBuf,
    /// Which vm.conf does not define at the moment.
    dropped: Vec<bool>,
    /// What was known of each after the last round.
    known: Vec<Option<Value>>,
    /// The last generation of each.
    generations: Vec<u64>,
    ids: BTreeMap<String, Value>,
    /// The vmm of each start that there ever was.
    vmms: BTreeMap<(String, u64), Value>,
    /// Those that may be killed.
    victims: Vec<Option<[Victim; 2]>>,
    /// Clients that wait for the end of one.
    waits: Vec<Wait>,
    kills: BTreeMap<String, u32>,
    outcomes: BTreeMap<String, u32>,
}

/// A client that waits for the end of one.
struct Wait {
    part: usize,
    pending: Pending,
    /// Whether it may have got no answer, because a process was killed that serves it, and whether that is certain.
    may_be_lost: bool,
    is_lost: bool,
}

impl<'a> Run<'a> {
    fn new(scratch: &'a Scratch, seed: u64) -> Self {
        let names: Vec<_> = Part::ALL.map(|_| scratch.vm_name()).into();
        let kernel = |(part, name): (&Part, &String)| {
            scratch.file(&format!("{name}.kernel"), part.guest.image(Protocol::Linux64))
        };
        let kernels = Part::ALL.iter().zip(&names).map(kernel).collect();
        let count = Part::ALL.len();
        let mut run = Self {
            daemon: Daemon::new(scratch),
            random: fastrand::Rng::with_seed(seed),
            disk: scratch.file("writable.disk", vec![0; 4096]),
            dropped: vec![false; count],
            known: vec![None; count],
            generations: vec![0; count],
            ids: BTreeMap::new(),
            vmms: BTreeMap::new(),
            victims: (0..count).map(|_| None).collect(),
            waits: Vec::new(),
            kills: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            names,
            kernels,
        };
        run.configure();
        run.daemon.run();
        run
    }

    /// Writes vm.conf.
    fn configure(&self) {
        let mut text = "staggered start parallel 8 delay 1\n".to_owned();
        for (number, part) in Part::ALL.iter().enumerate().filter(|(number, _)| !self.dropped[*number]) {
            let Some(block) = part.block else { continue };
            let block = block.replace("$disk", &self.disk.display().to_string());
            let (name, kernel) = (&self.names[number], self.kernels[number].display());
            writeln!(text, "vm \"{name}\" {{\n    boot \"{kernel}\"\n    memory 64M\n    {block}\n}}").unwrap();
        }
        self.daemon.configure(&text);
    }

    /// What the daemon says about all of them.
    fn list(&self) -> Vec<Value> {
        let answer = || self.daemon.try_request("GET", "vms", None).filter(|answer| answer.status == 200);
        wait_for("a list", answer).body["vms"].as_array().unwrap().clone()
    }

    /// Waits until nothing is wrong that time may put right.
    fn settle(&mut self, what: &str, faults: impl Fn(&mut Self, &[Value]) -> Vec<String>) -> Vec<Value> {
        let deadline = Instant::now() + SETTLING;
        loop {
            let vms = self.list();
            let faults = faults(self, &vms);
            if faults.is_empty() {
                return vms;
            }
            assert!(Instant::now() < deadline, "after {what}:\n  {}\n{vms:#?}", faults.join("\n  "));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Takes note of what there is now.
    fn note(&mut self, vms: &[Value]) {
        for (number, name) in self.names.iter().enumerate() {
            let vm = vms.iter().find(|vm| vm["name"] == json!(name)).cloned();
            if let Some(vm) = &vm {
                self.generations[number] = vm["generation"].as_u64().unwrap();
            }
            self.victims[number] = vm.as_ref().filter(|vm| State::of(Some(vm)).is_live()).and_then(Victim::of);
            self.known[number] = vm;
        }
    }

    fn killed(&self) -> u32 {
        self.kills.values().sum()
    }

    /// Everything ends.
    fn finish(mut self) {
        for name in self.names.clone() {
            self.daemon.try_request("POST", &format!("vms/{name}/stop"), Some(json!({ "mode": "force" })));
        }
        self.daemon.post("reset").ok();
        for wait in std::mem::take(&mut self.waits) {
            let (what, may_be_lost) = (wait.pending.what.clone(), wait.may_be_lost);
            assert!(wait.pending.outcome().is_known() || may_be_lost, "{what}: not answered");
        }
        self.settle("the end", |run, vms| {
            let mut faults = host::faults(&run.daemon, vms);
            faults.extend(vms.iter().map(|vm| format!("not gone: {vm}")));
            faults
        });
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text}: no number")))
}

#[test]
fn whatever_is_killed_each_process_has_one_record_and_each_request_one_answer() {
    test(NEEDS, |scratch| {
        let goal = number("STOCKADE_KILLS").map_or(KILLS, |kills| kills.try_into().unwrap());
        let seed = number("STOCKADE_SEED").unwrap_or_else(|| fastrand::u64(..));
        eprintln!("STOCKADE_SEED={seed}");
        let mut run = Run::new(scratch, seed);
        let vms = run.settle("the start", |run, vms| run.unsettled(vms));
        run.note(&vms);
        let mut rounds = 0;
        while run.killed() < goal {
            run.round();
            rounds += 1;
            if rounds % 50 == 0 {
                eprintln!("{rounds} rounds, kills: {:?}, answers: {:?}", run.kills, run.outcomes);
            }
        }
        eprintln!("{rounds} rounds, {} kills: {:?}, answers: {:?}", run.killed(), run.kills, run.outcomes);
        run.finish();
    });
}
