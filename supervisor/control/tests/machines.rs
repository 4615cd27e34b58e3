//! Every request, as a client uses it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use serde_json::json;
use stockade_control::fake::Settings;
use support::Daemon;

#[test]
fn a_machine_lives_and_ends() {
    let daemon = Daemon::new();
    assert_eq!(daemon.get("/v1/version").json()["api"], "v1");
    assert_eq!(daemon.post("/v1/vms/web/start", "").json()["state"], "running");
    daemon.post("/v1/vms/1/start", "").expect_failure("already_running");
    assert_eq!(daemon.post("/v1/vms/web/pause", "").json()["state"], "paused");
    daemon.post("/v1/vms/web/pause", "").expect_failure("already_paused");
    assert_eq!(daemon.post("/v1/vms/web/unpause", "").json()["state"], "running");
    daemon.post("/v1/vms/web/unpause", "").expect_failure("not_paused");
    assert_eq!(daemon.post("/v1/vms/web/stop", r#"{"mode":"force"}"#).json()["exit"]["cause"], "killed");
    assert_eq!(daemon.get("/v1/vms/web").json()["last_exit"]["cause"], "killed");
    assert_eq!(daemon.post("/v1/vms/web/wait", "").json()["exit"]["cause"], "killed");
    assert_eq!(daemon.post("/v1/vms/db/wait", "").json(), json!({ "exit": null }));
    daemon.post("/v1/vms/web/stop", "").expect_failure("not_running");
}

#[test]
fn a_machine_is_made_and_gone() {
    let daemon = Daemon::with(Settings { guest_life: Some(std::time::Duration::ZERO), ..Settings::default() });
    let made = daemon.post("/v1/vms", r#"{"name":"a/b"}"#);
    made.expect_failure("invalid_name");
    let made = daemon.post("/v1/vms", r#"{"name":"build","cpus":2,"disks":[{"path":"/d","read_only":true}]}"#);
    assert_eq!((made.status, made.header("location")), (201, Some("/v1/vms/1")));
    assert_eq!(made.json()["disks"], 1);
    daemon.post("/v1/vms", r#"{"name":"build"}"#).expect_failure("exists");
    assert_eq!(daemon.post("/v1/vms/build/wait", "").json()["exit"]["cause"], "power_off");
    daemon.get("/v1/vms/build").expect_failure("not_found");
    daemon.post("/v1/vms", r#"{"name":"b","template":"none"}"#).expect_failure("template_not_found");
}

#[test]
fn roots_requests_are_done_without_content() {
    let requests = [
        ("/v1/reload", ""),
        ("/v1/load", r#"{"path":"/etc/vm.conf"}"#),
        ("/v1/reset", ""),
        ("/v1/reset", r#"{"what":"switches"}"#),
        ("/v1/log", r#"{"verbosity":"verbose"}"#),
    ];
    let (root, user) = (Daemon::new(), Daemon::with(Settings { uid: Some(7), ..Settings::default() }));
    for (path, body) in requests {
        let reply = root.post(path, body);
        assert_eq!((reply.status, reply.body.len()), (204, 0), "{path}");
        user.post(path, body).expect_failure("not_permitted");
    }
}

#[test]
fn lists_come_in_pages() {
    let configured = (0..120).map(|number| (format!("vm{number}"), 0)).collect();
    let daemon = Daemon::with(Settings { configured, ..Settings::default() });
    let (mut after, mut seen) = (0, 0);
    loop {
        let page = daemon.get(&format!("/v1/vms?after={after}")).json();
        let vms = page["vms"].as_array().unwrap();
        seen += vms.len();
        after = vms.last().unwrap()["id"].as_u64().unwrap();
        if page["more"] == false {
            break;
        }
    }
    assert_eq!((seen, after), (120, 120));
}

#[test]
fn a_connection_is_good_for_many_requests() {
    let daemon = Daemon::new();
    let request = "GET /v1/version HTTP/1.1\r\n\r\n";
    let last = "GET /v1/version HTTP/1.1\r\nConnection: close\r\n\r\n";
    let answers = daemon.exchange(format!("{}{last}", request.repeat(20)).as_bytes());
    assert_eq!(String::from_utf8(answers).unwrap().matches("HTTP/1.1 200 OK").count(), 21);
}
