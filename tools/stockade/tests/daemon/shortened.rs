//! Verbs and words that are not written in full.

use crate::harness::{Daemon, Finished, stockade};

#[test]
fn verbs_and_words_may_be_shortened() {
    let daemon = Daemon::start();
    assert!(daemon.run(["stat"]).done().contains("web"));
    assert!(daemon.run(["sho"]).done().contains("web"));
    daemon.run(["sta"]).failed(125, &["sta: ambiguous", "start or status"]);
    daemon.run(["rel"]).done();
    daemon.run(["log", "v"]).done();
    daemon.run(["res", "sw"]).done();
}

#[test]
fn ambiguous_ones_are_listed() {
    for (verb, meant) in [
        ("c", "console or create"),
        ("p", "pause or ps"),
        ("s", "show, start, status, stop or switches"),
        ("lo", "load, log or logs"),
        ("r", "reload, reset or run"),
    ] {
        Finished::of(&mut stockade([verb])).failed(125, &[&format!("{verb}: ambiguous"), meant]);
    }
}

#[test]
fn help_and_pages_are_there_for_every_verb() {
    let folder = tempfile::tempdir().unwrap();
    Finished::of(stockade(["generate"]).arg(folder.path())).done();
    let help = Finished::of(&mut stockade(["--help"])).done();
    for verb in [
        "run", "inspect", "doctor", "status", "ps", "start", "stop", "wait", "pause", "unpause", "reload", "load",
        "reset", "log", "logs", "events", "create", "console",
    ] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(verb)), "{verb} is not in {help}");
        assert!(folder.path().join(format!("man/man1/stockade-{verb}.1")).is_file(), "{verb}");
        let text = Finished::of(&mut stockade([verb, "--help"])).done();
        assert!(text.contains("Examples:") && text.contains("Exit code:"), "{verb}");
    }
    assert!(!help.contains("generate"), "{help}");
}
