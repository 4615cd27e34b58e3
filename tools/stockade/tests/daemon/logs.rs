//! `stockade logs`, with a daemon that keeps a console.

use std::sync::{Arc, Mutex};

use serde_json::json;
use stockade_tests::terminal::Terminal;
use stockade_tests::vmm::Exit;

use crate::harness::{Asked, Script, at, empty_folder, http, stockade, vm};

/// What a daemon keeps of the console of `web`.
#[derive(Default)]
struct Console {
    /// How much was written before that.
    cursor: usize,
    bytes: Vec<u8>,
    generation: u32,
    over: bool,
}

impl Console {
    fn log(&self, after: usize) -> Vec<u8> {
        let cursor = after.max(self.cursor);
        let rest = self.bytes.get(cursor - self.cursor..).unwrap_or_default();
        let head = format!("HTTP/1.1 200 OK\r\nstockade-cursor: {cursor}\r\ncontent-length: {}\r\n\r\n", rest.len());
        [head.as_bytes(), rest].concat()
    }
}

/// A daemon that knows `web`, which runs until it is told otherwise.
fn daemon() -> (Script, Arc<Mutex<Console>>) {
    let console = Arc::new(Mutex::new(Console::default()));
    let kept = Arc::clone(&console);
    let script = Script::start(move |asked: &Asked| {
        let kept = kept.lock().unwrap();
        let mut web = vm("web");
        web["generation"] = json!(kept.generation);
        if kept.over {
            web["state"] = json!("stopped");
        }
        if asked.line == "GET /v1/vms/web" || asked.line == "GET /v1/vms/7" {
            return http(200, &web.to_string());
        }
        let Some(query) = asked.line.strip_prefix("GET /v1/vms/7/log?after=") else {
            return http(404, r#"{"code":"not_found","message":"there is none","remedy":""}"#);
        };
        kept.log(query.split('&').next().unwrap().parse().unwrap())
    });
    (script, console)
}

#[test]
fn what_is_kept_is_shown_as_it_is() {
    let (script, console) = daemon();
    script.run(["logs", "web"]).failed(7, &["has not run yet"]);
    script.run(["logs", "no-such-vm"]).failed(4, &["there is none"]);
    console.lock().unwrap().generation = 1;
    assert_eq!(script.run(["logs", "web"]).done(), "");
    let kept = "ost lost\none\r\n\x1b[31mtwo\x1b[0m\nthree";
    *console.lock().unwrap() = Console { cursor: 1000, bytes: kept.into(), generation: 1, over: false };
    assert_eq!(script.run(["logs", "web"]).done(), kept);
    for (lines, expected) in [("0", ""), ("1", "three"), ("2", "\x1b[31mtwo\x1b[0m\nthree"), ("9", kept)] {
        assert_eq!(script.run(["logs", "-n", lines, "web"]).done(), expected);
    }
}

#[test]
fn a_terminal_gets_no_more_than_text() {
    let (script, console) = daemon();
    let bytes = b"\x1b[2J\x1b]0;title\x07red\r\n\x9b31m done\n".to_vec();
    *console.lock().unwrap() = Console { bytes, generation: 1, ..Console::default() };
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
fn a_console_is_followed_over_broken_connections_until_the_guest_is_gone() {
    let (script, console) = daemon();
    *console.lock().unwrap() = Console { bytes: b"first\n".to_vec(), generation: 1, ..Console::default() };
    let terminal = Terminal::open((24, 80));
    let mut session = terminal.start(stockade(["logs", "-f", "web"]).env("STOCKADE_SOCKET", script.socket()));
    terminal.screen().wait_for("first");
    console.lock().unwrap().bytes.extend_from_slice(b"second\n");
    terminal.screen().wait_for("second");
    // What it was too slow for is said.
    *console.lock().unwrap() = Console { cursor: 1000, bytes: b"later\n".to_vec(), generation: 1, over: false };
    terminal.screen().wait_for("987 bytes are lost");
    terminal.screen().wait_for("later");
    console.lock().unwrap().over = true;
    assert_eq!(session.wait(), Exit::Code(0));
    assert_eq!(terminal.screen().text().matches("first").count(), 1);
}

#[test]
fn without_a_daemon_there_are_those_of_stockade_run_alone() {
    let folder = empty_folder();
    at(folder.path(), &["logs", "no-such-vm"]).failed(11, &["stockaded is not running"]);
}
