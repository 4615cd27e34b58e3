//! The examples of the README, with curl.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::process::Command;

use support::Daemon;

/// The commands in the section about the control API.
fn examples() -> Vec<String> {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md")).unwrap();
    let (_, section) = readme.split_once("## The control API\n").expect("a section about the control API");
    let section = section.split("\n## ").next().unwrap();
    section.lines().filter_map(|line| line.strip_prefix("# ")).map(str::to_owned).collect()
}

#[test]
fn the_examples_of_the_readme_work() {
    let daemon = Daemon::new();
    let commands = examples();
    let (api, commands) = commands.split_first().unwrap();
    let api = api.replace("/run/stockade/control.sock", daemon.socket.to_str().unwrap());
    assert!(api.starts_with("api() {") && api.contains("--unix-socket"), "{api}");
    assert_eq!(commands.len(), 10);
    for command in commands {
        // What follows more than one space says what the command is for.
        let command = command.split("   ").next().unwrap().replace("--max-time 60", "--max-time 1");
        let script = format!("{}\n{command}", api.replace("curl ", "curl --fail-with-body "));
        let output = Command::new("bash").args(["-c", &script]).output().unwrap();
        let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        // 28 is what curl exits with when the time is over.
        let expected = if command.contains("--max-time") { 28 } else { 0 };
        assert_eq!(output.status.code(), Some(expected), "{command}: {said}{complaint}");
        // A guest says what it likes.
        let documents = said.lines().filter(|_| !command.contains("/log"));
        documents.for_each(|line| drop(serde_json::from_str::<serde_json::Value>(line).expect(line)));
        assert!(!said.is_empty(), "{command}");
    }
    daemon.get("/v1/vms/build").expect_failure("not_found");
}
