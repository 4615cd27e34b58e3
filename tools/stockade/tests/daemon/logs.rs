//! `stockade logs`, with the ring of a console where the daemon keeps it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use stockade_jailer::console::Ring;
use stockade_tests::terminal::Terminal;
use stockade_tests::vmm::Exit;

use crate::harness::{Asked, Script, at, empty_folder, http, stockade, vm};

/// A daemon that knows `web`, which runs until it is told otherwise, and the place of its console.
fn daemon() -> (Script, Arc<AtomicBool>, PathBuf) {
    let over = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&over);
    let script = Script::start(move |asked: &Asked| {
        let mut web = vm("web");
        if ended.load(Ordering::SeqCst) {
            web["state"] = json!("stopped");
        }
        match asked.line.as_str() {
            "GET /v1/vms/web" => http(200, &web.to_string()),
            _ => http(404, r#"{"code":"not_found","message":"there is none","remedy":""}"#),
        }
    });
    let folder = script.socket().with_file_name("daemon").join("consoles");
    fs::create_dir_all(&folder).unwrap();
    (script, over, folder.join("7"))
}

#[test]
fn what_is_kept_is_shown_as_it_is() {
    let (script, _, console) = daemon();
    script.run(["logs", "web"]).failed(7, &["has not run yet"]);
    script.run(["logs", "no-such-vm"]).failed(4, &["there is none"]);
    let mut ring = Ring::create(&console, 32).unwrap();
    assert_eq!(script.run(["logs", "web"]).done(), "");
    ring.append(b"lost lost lost lost\none\r\n\x1b[31mtwo\x1b[0m\nthree");
    let kept = "ost lost\none\r\n\x1b[31mtwo\x1b[0m\nthree";
    assert_eq!(script.run(["logs", "web"]).done(), kept[kept.len() - 32..]);
    for (lines, expected) in [("0", ""), ("1", "three"), ("2", "\x1b[31mtwo\x1b[0m\nthree")] {
        assert_eq!(script.run(["logs", "-n", lines, "web"]).done(), expected);
    }
}

#[test]
fn a_terminal_gets_no_more_than_text() {
    let (script, _, console) = daemon();
    Ring::create(&console, 4096).unwrap().append(b"\x1b[2J\x1b]0;title\x07red\r\n\x9b31m done\n");
    let terminal = Terminal::open((24, 80));
    let mut session = terminal.start(stockade(["logs", "web"]).env("STOCKADE_SOCKET", script.socket()));
    assert_eq!(session.wait(), Exit::Code(0));
    terminal.screen().wait_for("done");
    let screen = terminal.screen().text();
    assert!(
        screen.contains("red") && !screen.contains(['\u{1b}', '\u{7}', '\u{9b}']) && !screen.contains("title"),
        "{screen:?}"
    );
}

#[test]
fn a_console_is_followed_until_the_guest_is_gone() {
    let (script, over, console) = daemon();
    let mut ring = Ring::create(&console, 64).unwrap();
    ring.append(b"first\n");
    let terminal = Terminal::open((24, 80));
    let mut session = terminal.start(stockade(["logs", "-f", "web"]).env("STOCKADE_SOCKET", script.socket()));
    terminal.screen().wait_for("first");
    ring.append(b"second\n");
    terminal.screen().wait_for("second");
    over.store(true, Ordering::SeqCst);
    assert_eq!(session.wait(), Exit::Code(0));
}

#[test]
fn without_a_daemon_there_are_those_of_stockade_run_alone() {
    let folder = empty_folder();
    at(folder.path(), &["logs", "no-such-vm"]).failed(11, &["stockaded is not running"]);
}

#[test]
fn consoles_are_kept_from_others() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: needs root");
    }
    let (script, _, console) = daemon();
    drop(Ring::create(&console, 64).unwrap());
    fs::set_permissions(script.socket().parent().unwrap(), PermissionsExt::from_mode(0o755)).unwrap();
    fs::set_permissions(script.socket(), PermissionsExt::from_mode(0o666)).unwrap();
    let folder = empty_folder();
    script.run_as_nobody(folder.path(), ["logs", "web"]).failed(5, &["consoles are kept for root"]);
}
