//! The hostile suite against the jails of this host: nothing succeeds, and what only one layer stops is known.
// A test reports what went wrong by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use stockade_attack::{Compromise, Condition, Known, Matrix, Mode, Suite, Verdict};
use stockade_prisoner::{PIECES, Storm};
use stockade_supervisor::installation::Installation;
use stockade_tests::{Need, Scratch, distribution, program, test};

const NEEDS: &[Need] = &[Need::Root];

/// Fails with the name of every attempt that came out as it should not.
fn expect_known(verdicts: &[Verdict]) {
    let deviations: Vec<_> = Known::read().unwrap().deviations(verdicts).iter().map(ToString::to_string).collect();
    assert!(deviations.is_empty(), "of {} verdicts:\n  {}", verdicts.len(), deviations.join("\n  "));
}

/// `stockade doctor --attack`, and its JSON.
fn doctor(scratch: &Scratch, binaries: &Path) -> (Output, Value) {
    let mut command = Command::new(program("stockade"));
    command.args(["doctor", "--attack", "--json", "--name", &scratch.vm_name(), "--binaries"]).arg(binaries);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output, json)
}

#[test]
fn nothing_succeeds_with_every_layer_on() {
    test(NEEDS, |scratch| {
        let (output, json) = doctor(scratch, &distribution());
        let verdicts: Vec<Verdict> =
            serde_json::from_value(json["verdicts"].clone()).unwrap_or_else(|_| panic!("{output:?}"));
        let suite = Suite::open(&Installation::at(distribution()), &scratch.vm_name()).unwrap();
        let attempts = suite.attempts().len();
        assert!(attempts >= 120, "{attempts}");
        // In both modes, in each phase, and where there is KVM in each thread of a real vmm.
        let conditions = Mode::ALL.map(|mode| suite.conditions(mode));
        assert!(conditions.iter().all(|of_mode| of_mode.len() >= 5));
        assert_eq!(verdicts.len(), attempts * conditions.concat().len());
        expect_known(&verdicts);
        let roles: Vec<Compromise> = serde_json::from_value(json["roles"].clone()).unwrap();
        assert_eq!(roles.len(), attempts);
        expect_fair(&json);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    });
}

/// Every storm was stopped by a limit, and host and neighbour went on beside it.
fn expect_fair(json: &Value) {
    let storms = json["storms"].as_array().unwrap();
    assert_eq!(storms.len(), Storm::ALL.len());
    for storm in storms {
        assert!(storm["stopped_by"].is_string(), "nothing stops it: {storm}");
        assert_eq!(storm["pieces"], PIECES, "a neighbour does not get done: {storm}");
        let [answered, asked] = [0, 1].map(|at| storm["requests"][at].as_u64().unwrap());
        assert!(
            answered == asked && (asked > 0) == Need::Kvm.missing().is_none(),
            "a neighbour does not answer: {storm}"
        );
        assert_eq!(storm["programs"][0], storm["programs"][1], "the host can't start programs: {storm}");
    }
}

/// The daemon's process that parses what clients write, taken over by one of them.
#[test]
fn nothing_succeeds_from_a_control_that_was_taken_over() {
    test(NEEDS, |scratch| {
        let installation = Installation::at(distribution());
        let suite = Suite::open(&installation, &scratch.vm_name()).unwrap();
        let found = suite.compromise(&installation, "control", &|_, _| ()).unwrap();
        assert_eq!(found.len(), suite.attempts().len());
        let surprises: Vec<_> = Known::read().unwrap().surprises(&found).into_iter().map(ToString::to_string).collect();
        assert!(surprises.is_empty(), "of {} attempts:\n  {}", found.len(), surprises.join("\n  "));
    });
}

#[test]
fn a_doctor_without_instruments_says_so() {
    test(NEEDS, |scratch| {
        let (output, _) = doctor(scratch, scratch.path());
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), error.lines().count()), (Some(125), 1), "{error}");
        assert!(error.contains("stockade-jailer"), "{error}");
    });
}

/// Segments of shared memory (System V) whose keys are those of this process's victims.
fn shared_memory() -> Vec<String> {
    let keys = i64::from(0x5700 | (std::process::id() & 0xffff) >> 8);
    let text = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
    let key = |line: &str| line.split_whitespace().next().and_then(|word| word.parse::<i64>().ok());
    text.lines().filter(|line| key(line).is_some_and(|key| key >> 16 == keys)).map(String::from).collect()
}

#[test]
fn what_only_one_layer_stops_is_known() {
    test(NEEDS, |scratch| {
        let suite = Suite::open(&Installation::at(distribution()), &scratch.vm_name()).unwrap();
        let known = Known::read().unwrap();
        assert_eq!(known.strangers(suite.attempts()), [""; 0]);
        let before = shared_memory();
        let mut conditions = Condition::every_part(Mode::Sealed);
        conditions.push(Condition::bare(Mode::Sealed));
        let verdicts = suite.run(&conditions, &|_, _| ()).unwrap();
        println!("{}", Matrix::new(Mode::Sealed, suite.attempts(), &verdicts, &known));
        expect_known(&verdicts);
        // Also by victims that an attempt has ended.
        assert_eq!(shared_memory(), before);
    });
}

/// Those on the list, which shows that a jail without that part is one: `stockade doctor --attack --matrix` makes all others.
#[test]
fn what_only_one_layer_of_compatible_mode_stops_succeeds_without_it() {
    test(NEEDS, |scratch| {
        let suite = Suite::open(&Installation::at(distribution()), &scratch.vm_name()).unwrap();
        let known = Known::read().unwrap();
        let selection = known.single(Mode::Compatible);
        let verdicts = suite.run_selected(&selection, &|_, _| ()).unwrap();
        assert!(!selection.is_empty() && verdicts.len() == selection.len());
        expect_known(&verdicts);
    });
}

#[test]
fn each_layer_stops_attempts_by_itself() {
    test(NEEDS, |scratch| {
        let suite = Suite::open(&Installation::at(distribution()), &scratch.vm_name()).unwrap();
        let known = Known::read().unwrap();
        let selection = known.alone();
        let verdicts = suite.run_selected(&selection, &|_, _| ()).unwrap();
        assert_eq!(verdicts.len(), selection.len());
        expect_known(&verdicts);
    });
}
