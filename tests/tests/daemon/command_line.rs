//! The verbs of `stockade`, with a daemon that runs guests.

use std::process::{Command, Output};

use serde_json::Value;
use stockade_tests::{guest, program, test, wait_for};

use crate::daemon::{Daemon, NEEDS, configuration};

/// Runs a command line.
fn stockade(daemon: &Daemon<'_>, arguments: &[&str]) -> Output {
    Command::new(program("stockade")).args(arguments).arg("--socket").arg(daemon.socket()).output().unwrap()
}

/// What it printed, if it ended with `code`.
#[track_caller]
fn text(daemon: &Daemon<'_>, code: i32, arguments: &[&str]) -> String {
    let output = stockade(daemon, arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

#[track_caller]
fn document(daemon: &Daemon<'_>, arguments: &[&str]) -> Value {
    serde_json::from_str(&text(daemon, 0, arguments)).unwrap()
}

#[test]
fn each_verb_does_what_it_says() {
    test(NEEDS, |scratch| {
        let (name, other) = (scratch.vm_name(), scratch.vm_name());
        let (name, other) = (name.as_str(), other.as_str());
        let vms = [(name, guest::IDLE, "disable"), (other, guest::IDLE, "disable")];
        let daemon = Daemon::start(scratch, &configuration(scratch, &vms));
        assert_eq!(document(&daemon, &["status", "--json"]).as_array().unwrap().len(), 2);
        assert!(text(&daemon, 7, &["logs", name]).contains("not run yet"));

        assert!(text(&daemon, 0, &["start", name]).contains("successfully"));
        text(&daemon, 6, &["start", name]);
        let vm = document(&daemon, &["status", name, "--json"]);
        let row = text(&daemon, 0, &["ps"]);
        let row: Vec<&str> = row.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!((row[0], row[1]), (&*vm[0]["id"].to_string(), &*vm[0]["pid"].to_string()));
        assert_eq!((row[3], &row[6..]), ("64M", &["root", "running", name][..]));
        wait_for("the console", || text(&daemon, 0, &["logs", name]).contains("idle").then_some(()));

        assert_eq!(document(&daemon, &["pause", name, "--json"])["state"], "paused");
        text(&daemon, 6, &["pause", name]);
        assert_eq!(document(&daemon, &["unpause", name, "--json"])["state"], "running");

        let kernel = scratch.join(&format!("{name}.kernel"));
        let own = scratch.vm_name();
        let start = ["start", &own, "-m", "64M", "-b", kernel.to_str().unwrap()];
        assert!(text(&daemon, 0, &start).contains("successfully"));
        text(&daemon, 7, &start);
        text(&daemon, 9, &["start", "new", "-i", "1", "-b", kernel.to_str().unwrap()]);
        text(&daemon, 4, &["stop", "nobody"]);

        assert_eq!(document(&daemon, &["stop", "-f", name, "--json"])["exit"]["cause"], "killed");
        text(&daemon, 6, &["stop", name]);
        assert_eq!(document(&daemon, &["wait", name, "--json"])["exit"]["cause"], "killed");
        assert_eq!(document(&daemon, &["stop", "-af", "--json"]).as_array().unwrap().len(), 1);
        assert_eq!(text(&daemon, 0, &["ps"]).lines().count(), 1);

        let events = text(&daemon, 0, &["events"]);
        for change in ["running", "paused", "stopped: "] {
            assert!(events.contains(&format!(" {name} {change}")), "{change} is not in {events}");
        }
        text(&daemon, 0, &["log", "verbose"]);
        text(&daemon, 0, &["reload"]);
        text(&daemon, 10, &["load", "/nonexistent"]);
        text(&daemon, 0, &["reset"]);
        assert_eq!(text(&daemon, 0, &["status"]).lines().count(), 1);
    });
}
