//! Each verb, with a daemon that behaves.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use stockade_control::fake::Settings;

use crate::harness::{Asked, Daemon, Script, http, vm};

fn states(daemon: &Daemon) -> Vec<(String, String)> {
    let document = daemon.run(["status", "--json"]).document();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    document.as_array().unwrap().iter().map(|vm| (text(&vm["name"]), text(&vm["state"]))).collect()
}

#[test]
fn a_virtual_machine_is_started_paused_and_stopped() {
    let daemon = Daemon::start();
    let started = daemon.run(["start", "web"]);
    assert!(started.error.contains("started vm 1 (web) successfully"), "{started:?}");
    assert_eq!((started.code, started.output.as_str()), (0, ""));
    daemon.run(["start", "web"]).failed(6, &["web"]);
    let paused = daemon.run(["pause", "1", "--json"]).document();
    assert_eq!((&paused["name"], &paused["state"]), (&json!("web"), &json!("paused")));
    daemon.run(["pause", "web"]).failed(6, &["web"]);
    assert!(daemon.run(["unpause", "web"]).error.contains("unpaused vm 1 successfully"));
    daemon.run(["unpause", "web"]).failed(6, &["web"]);
    assert_eq!(states(&daemon)[0], ("web".into(), "running".into()));
    assert!(daemon.run(["stop", "-w", "web"]).error.contains("stopping vm web: terminated: "));
    daemon.run(["stop", "web"]).failed(6, &["web"]);
    daemon.run(["pause", "web"]).failed(7, &["web"]);
    daemon.run(["status", "-r", "web"]).failed(7, &["web is stopped", "--running"]);
    assert!(daemon.run(["status", "web"]).done().contains("last end, 0s ago: "));
    daemon.run(["stop", "nobody"]).failed(4, &["nobody"]);
}

#[test]
fn switches_are_shown_with_what_the_host_has_in_their_place() {
    let daemon = Daemon::start();
    let table = daemon.run(["switches"]).done();
    let rows: Vec<_> = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(rows[0], "NAME INTERFACE MTU STATE");
    assert_eq!(rows[1..], ["uplink br-uplink 1500 up", "lan br-lan 9000 no bridge", "old br-old - disabled"]);
    let document = daemon.run(["sw", "--json"]).document();
    assert_eq!(document[0]["link"], json!({ "bridge": true, "up": true, "mtu": 1500 }));
}

#[test]
fn a_stop_by_force_and_one_that_is_waited_for() {
    let daemon = Daemon::start();
    daemon.run(["start", "web"]).done();
    let stopped = daemon.run(["stop", "web", "-f", "--json"]).document();
    assert_eq!(stopped["exit"]["cause"], "killed");
    let waited = daemon.run(["wait", "web", "--json"]).document();
    assert_eq!(waited["exit"]["cause"], "killed");
    assert!(daemon.run(["wait", "web"]).error.contains("waiting for vm web: terminated: "));
    assert!(daemon.run(["wait", "db"]).error.contains("never ran"));
    assert_eq!(daemon.run(["wait", "db", "--json"]).document(), json!({ "exit": null }));
}

#[test]
fn a_wait_lasts_until_the_guest_is_gone() {
    let settings = Settings {
        guest_life: Some(Duration::from_millis(20)),
        configured: vec![("web".into(), 0)],
        ..Settings::default()
    };
    let daemon = Daemon::with(settings);
    daemon.run(["start", "web"]).done();
    assert_eq!(daemon.run(["wait", "web", "--json"]).document()["exit"]["cause"], "power_off");
}

#[test]
fn without_w_a_stop_returns_once_the_guest_was_asked() {
    // The answer to the stop itself never comes.
    let script = Script::start(|asked: &Asked| match asked.line.as_str() {
        "GET /v1/vms/web" => {
            let mut vm = vm("web");
            vm["state"] = json!("stopping");
            http(200, &vm.to_string())
        }
        _ => {
            std::thread::park_timeout(Duration::from_secs(60));
            Vec::new()
        }
    });
    let stopped = script.run(["stop", "web"]);
    assert_eq!((stopped.code, stopped.error.as_str()), (0, "stockade: stopping vm web: requested to shut down\n"));
    assert_eq!(script.run(["stop", "web", "--json"]).document()["state"], "stopping");
}

#[test]
fn all_that_run_are_stopped() {
    let daemon = Daemon::start();
    assert_eq!(daemon.run(["stop", "-a", "--json"]).document(), json!([]));
    for name in ["web", "db"] {
        daemon.run(["start", name]).done();
    }
    let stopped = daemon.run(["stop", "-af", "--json"]).document();
    let names: Vec<_> = stopped.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["web", "db"]);
    assert_eq!(stopped[0]["stopped"]["exit"]["cause"], "killed");
    assert!(states(&daemon).iter().all(|(_, state)| state == "stopped"));
}

#[test]
fn one_that_can_not_be_stopped_keeps_none_of_the_others() {
    let script = Script::start(|asked: &Asked| {
        let [mut one, mut other] = [vm("one"), vm("other")];
        (one["id"], other["id"]) = (json!(1), json!(2));
        match asked.line.as_str() {
            "POST /v1/vms/1/stop" => {
                http(403, r#"{"code":"not_permitted","message":"one: not yours","remedy":"ask its owner"}"#)
            }
            "POST /v1/vms/2/stop" => http(200, r#"{"exit":null}"#),
            _ => http(200, &json!({ "vms": [one, other], "more": false }).to_string()),
        }
    });
    let stopped = script.run(["stop", "-aw"]);
    assert_eq!(stopped.code, 5, "{stopped:?}");
    let mut lines: Vec<_> = stopped.error.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "stockade: 1 could not be stopped",
            "stockade: stopping vm one: one: not yours; ask its owner",
            "stockade: stopping vm other: terminated",
        ]
    );
}

#[test]
fn options_describe_a_virtual_machine_of_its_own() {
    let script = Script::saying(&vm("try"));
    let line = "start -d disk.img -m 1G try -t base -b /k --initramfs /i -B cdrom --cpus 2 -r /c -L -n lan -i 3 --ends-on-reset \
                --command-line quiet -d /data:ro";
    script.run(line.split_whitespace()).done();
    let [asked] = &script.asked()[..] else { panic!("{:?}", script.asked()) };
    assert_eq!(asked.line, "POST /v1/vms");
    let here = std::env::current_dir().unwrap();
    let expected = json!({
        "name": "try", "template": "base", "cpus": 2, "memory_mib": 1024, "kernel": "/k", "initramfs": "/i",
        "command_line": "quiet", "boot_device": "cdrom", "cdrom": "/c", "owner": null, "ends_on_reset": true,
        "disks": [
            { "path": here.join("disk.img"), "read_only": false },
            { "path": "/data", "read_only": true },
        ],
        "interfaces": [
            { "switch": null, "local": true },
            { "switch": "lan", "local": false },
            { "switch": null, "local": false },
        ],
    });
    assert_eq!(serde_json::from_str::<Value>(&asked.body).unwrap(), expected);

    let daemon = Daemon::start();
    let made = daemon.run(["start", "try", "--kernel", "k", "--json"]).document();
    assert_eq!((&made["name"], &made["state"]), (&json!("try"), &json!("running")));
    daemon.run(["start", "try", "-m", "64M"]).failed(7, &["try"]);
    daemon.run(["start", "new", "-t", "nothing"]).failed(4, &["nothing"]);
}

#[test]
fn roots_verbs() {
    let daemon = Daemon::start();
    for verb in [&["reload"][..], &["load", "more.conf"], &["log", "verbose"], &["reset", "switches"], &["reset"]] {
        let document = daemon.run(verb.iter().chain(&["--json"])).document();
        assert_eq!(document, json!({}), "{verb:?}");
    }
    assert_eq!(states(&daemon), []);
    let stranger = Daemon::with(Settings { uid: Some(4242), ..Settings::default() });
    for verb in [&["reload"][..], &["load", "more.conf"], &["log", "verbose"], &["reset"]] {
        stranger.run(verb).failed(5, &["root"]);
    }
    let script = Script::saying(&json!({}));
    for verb in [&["load", "more.conf"][..], &["log", "b"], &["reset"], &["reset", "v"]] {
        script.run(verb).done();
    }
    let here = std::env::current_dir().unwrap().join("more.conf");
    let bodies: Vec<Value> = script.asked().iter().map(|asked| serde_json::from_str(&asked.body).unwrap()).collect();
    let expected =
        [json!({ "path": here }), json!({ "verbosity": "brief" }), json!({ "what": "all" }), json!({ "what": "vms" })];
    assert_eq!(bodies, expected);
}

#[test]
fn events_are_shown_and_can_be_resumed() {
    let daemon = Daemon::start();
    assert_eq!(daemon.run(["events"]).done(), "");
    daemon.run(["start", "web"]).done();
    daemon.run(["stop", "-f", "web"]).done();
    let all = daemon.run(["events"]).done();
    assert!(all.contains(" 1 web running\n") && all.contains(" 1 web stopped: "), "{all}");
    let first = all.split_whitespace().next().unwrap();
    let rest = daemon.run(["events", "--after", first, "--json"]).done();
    assert_eq!(rest.lines().count() + 1, all.lines().count());
    let last: Value = serde_json::from_str(rest.lines().last().unwrap()).unwrap();
    assert_eq!(last["change"]["state"]["exit"]["cause"], "killed");
    let cursor = last["cursor"].to_string();
    assert_eq!(daemon.run(["events", "--after", &cursor]).done(), "");
}

#[test]
fn a_follower_whose_daemon_is_lost_says_where_to_go_on() {
    let script = Script::start(|asked: &Asked| match asked.line.as_str() {
        "GET /v1/events" => http(200, r#"{"events":[],"next":5}"#),
        "GET /v1/events?after=5&wait=60" => {
            let event =
                json!({ "cursor": 6, "at_ms": 1, "vm": 7, "name": "web", "generation": 1, "change": "rebooted" });
            http(200, &json!({ "events": [event], "next": 6 }).to_string())
        }
        "GET /v1/events?after=4&wait=1" => {
            http(410, r#"{"code":"cursor_too_old","message":"4: too old","remedy":"list them again"}"#)
        }
        _ => Vec::new(),
    });
    let followed = script.run(["events", "-f"]);
    assert_eq!((followed.code, followed.output.as_str()), (12, "6 1970-01-01T00:00:00Z 7 web rebooted\n"));
    assert!(followed.error.contains("; go on with --after 6"), "{followed:?}");
    script.run(["events", "--after", "4"]).failed(10, &["4: too old; list them again"]);
}

#[test]
fn events_are_followed_as_they_happen() {
    let daemon = Daemon::start();
    daemon.run(["start", "web"]).done();
    let mut follower = daemon.command(["events", "-f", "--after", "0"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.ends_with("web running")));
    daemon.run(["pause", "web"]).done();
    assert!(lines.any(|line| line.ends_with("web paused")));
    follower.kill().unwrap();
    follower.wait().unwrap();
}
