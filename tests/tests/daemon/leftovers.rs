//! Tests that are killed: what they started goes with the next test.

use std::process::{Command, Stdio};

use stockade_tests::output::Output;
use stockade_tests::{guest, leftovers, process, test, wait_for};

use crate::daemon::{Daemon, NEEDS, configuration};

/// What is said to whoever kills this test.
const READY: &str = "ready to be killed:";

/// Makes the test the one that is killed.
const VICTIM: &str = "STOCKADE_VICTIM";

fn be_killed() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let daemon = Daemon::start(scratch, &configuration(scratch, &[(&name, guest::IDLE, "")]));
        let vm = daemon.wait_for_state(&name, "running");
        println!("{READY} {} {} {}", daemon.pid(), vm["pid"], scratch.path().display());
        loop {
            std::thread::park();
        }
    });
}

#[test]
fn a_test_that_was_killed_leaves_nothing_to_the_next() {
    if std::env::var_os(VICTIM).is_some() {
        return be_killed();
    }
    test(NEEDS, |_| {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "leftovers::a_test_that_was_killed_leaves_nothing_to_the_next"])
            .env(VICTIM, "")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Output::collect(victim.stdout.take().unwrap());
        let line = wait_for("the other test", || {
            said.text()
                .lines()
                .find_map(|line| Some(line.split_once(READY)?.1.to_owned()))
                .filter(|_| said.text().ends_with('\n'))
        });
        let words: Vec<&str> = line.split_whitespace().collect();
        let [daemon, vmm, folder] = words.as_slice() else { panic!("{line:?}") };
        let is_there = |pid: &str| {
            process::status_field(pid.parse().unwrap(), "State").is_some_and(|state| !state.starts_with('Z'))
        };
        leftovers::sweep();
        assert!(is_there(daemon) && is_there(vmm), "it lives, and so does what it has started");
        victim.kill().unwrap();
        victim.wait().unwrap();
        assert!(is_there(daemon) && is_there(vmm));
        leftovers::sweep();
        assert!(!is_there(daemon) && !is_there(vmm));
        assert!(!std::path::Path::new(folder).exists());
    });
}
