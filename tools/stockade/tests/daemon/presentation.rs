//! What people see: tables that fit, and nothing that does something to their terminal.

use serde_json::{Value, json};
use stockade_tests::terminal::Terminal;
use stockade_tests::vmm::Exit;

use crate::harness::{Asked, Daemon, Script, http, stockade, vm};

fn list(vms: &[Value]) -> Value {
    json!({ "vms": vms, "more": false })
}

#[test]
fn a_table_has_the_columns_of_vmctl() {
    let daemon = Daemon::start();
    daemon.run(["start", "db"]).done();
    let text = daemon.run(["status"]).done();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["ID", "PID", "VCPUS", "MAXMEM", "CURMEM", "UP", "OWNER", "STATE", "NAME"]);
    // What runs comes first.
    assert_eq!((rows[1][0], rows[1][7], rows[1][8]), ("2", "running", "db"));
    assert_eq!(rows[2], ["1", "-", "1", rows[2][3], "-", "-", "root", "defined", "web"]);
    assert_eq!(daemon.run(["ps"]).done().lines().count(), 2);
    assert_eq!(daemon.run(["ps", "-a"]).done(), daemon.run(["show"]).done());
    assert_eq!(daemon.run(["status", "-r"]).done(), daemon.run(["ps"]).done());
}

#[test]
fn documents_are_those_of_the_api() {
    let script = Script::start(|asked: &Asked| match asked.line.as_str() {
        "GET /v1/vms/web" => http(200, &vm("web").to_string()),
        _ => http(200, &list(&[vm("web")]).to_string()),
    });
    assert_eq!(script.run(["status", "--json"]).document(), json!([vm("web")]));
    assert_eq!(script.run(["status", "web", "--json"]).document(), json!([vm("web")]));
}

#[test]
fn memory_in_hand_is_that_of_the_process() {
    let text = Script::saying(&list(&[vm("web")])).run(["status"]).done();
    let row: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[1], std::process::id().to_string());
    assert!(row[4].strip_suffix('M').unwrap().parse::<u64>().unwrap() > 0, "{text}");
}

#[test]
fn a_table_fits_the_terminal() {
    let name = "a-name-of-more-than-thirty-characters-in-all";
    let script = Script::saying(&list(&[vm("web"), vm(name)]));
    for columns in [24, 40, 60, 80, 120] {
        let terminal = Terminal::open((24, columns));
        let mut command = stockade(["status"]);
        let mut session = terminal.start(command.env("STOCKADE_SOCKET", script.socket()));
        assert_eq!(session.wait(), Exit::Code(0));
        terminal.screen().wait_for("web");
        let screen = terminal.screen().text();
        assert!(screen.lines().all(|line| line.trim_end().chars().count() <= columns.into()), "{columns}:\n{screen}");
        assert!(screen.contains("STATE") && screen.contains("NAME"), "{columns}:\n{screen}");
        assert_eq!(screen.contains("CURMEM"), columns >= 80, "{columns}:\n{screen}");
    }
    // What is no terminal gets everything.
    assert!(script.run(["status"]).done().contains(&format!("running {name}\n")));
}

#[test]
fn nothing_of_others_does_anything_to_a_terminal() {
    let evil = "a\u{1b}[2J\u{1b}]0;b\u{7}\r\nstockade: c\u{202e}";
    let mut dead = vm(evil);
    dead["state"] = json!("stopped");
    dead["last_exit"] = json!({ "cause": "crashed", "message": evil, "at_ms": 1 });
    dead["last_error"] = json!(evil);
    let event = json!({ "cursor": 1, "at_ms": 1, "vm": 7, "name": evil, "generation": 1,
                        "change": { "start_failed": { "message": evil } } });
    let refusal = json!({ "code": "not_permitted", "message": evil, "remedy": evil });
    let script = Script::start(move |asked: &Asked| match asked.line.as_str() {
        "GET /v1/vms" | "GET /v1/vms?after=0" => http(200, &list(std::slice::from_ref(&dead)).to_string()),
        "GET /v1/events" => http(200, &json!({ "events": [], "next": 1 }).to_string()),
        line if line.starts_with("GET /v1/events") => http(200, &json!({ "events": [event], "next": 1 }).to_string()),
        "POST /v1/reload" => http(403, &refusal.to_string()),
        "POST /v1/vms/x/wait" => http(200, &json!({ "exit": dead["last_exit"] }).to_string()),
        _ => http(200, &dead.to_string()),
    });
    let verbs: &[(&[&str], usize)] = &[
        (&["status"], 2),
        (&["status", "x"], 4),
        (&["events"], 1),
        (&["reload"], 1),
        (&["wait", "x"], 1),
        (&["start", evil], 1),
        (&["pause", "x"], 1),
        (&["stop", "-f", "--socket", "/nonexistent/\u{1b}[2J", "x"], 1),
    ];
    for (verb, lines) in verbs {
        let shown = script.run(*verb);
        let text = format!("{}{}", shown.output, shown.error);
        assert!(!text.contains(['\u{1b}', '\u{7}', '\r', '\u{202e}']), "{verb:?}: {text:?}");
        assert_eq!(text.lines().count(), *lines, "{verb:?}: {text:?}");
    }
    // In documents they are escaped.
    let document = script.run(["status", "--json"]);
    assert!(!document.output.contains('\u{1b}'));
    assert_eq!(document.document()[0]["name"], evil);
}
