//! What can go wrong: each has its exit code, and is said once.

use std::os::unix::net::UnixListener;

use serde_json::{Value, json};
use stockade_api::ErrorCode;

use crate::harness::{Daemon, Finished, Script, as_nobody, at, empty_folder, http, stockade, vm};

/// Exit codes that belong to the daemon's codes, as `--help` explains them.
fn expected(code: ErrorCode) -> i32 {
    use ErrorCode as Code;
    match code {
        Code::NotFound | Code::TemplateNotFound => 4,
        Code::NotPermitted => 5,
        // Of start, which is what is asked for here.
        Code::AlreadyRunning => 6,
        Code::NotRunning | Code::AlreadyPaused | Code::NotPaused | Code::Stopping | Code::Ended => 7,
        Code::NoAgent | Code::AgentNotReady => 7,
        Code::Exists | Code::FileInUse | Code::ResourceInUse | Code::ConsoleInUse => 7,
        Code::RestartedTooQuickly | Code::QuotaExceeded | Code::NotEnoughMemory | Code::NotEnoughCpus => 8,
        Code::IdsExhausted | Code::TooManyRequests => 8,
        Code::Unsupported => 9,
        Code::InvalidName | Code::InvalidValue | Code::InvalidRequest | Code::NothingToBoot => 10,
        Code::FileNotUsable | Code::InvalidConfiguration | Code::CursorTooOld => 10,
        Code::BodyTooLarge | Code::HeadTooLarge => 10,
        Code::ShuttingDown => 11,
        Code::Interrupted => 12,
        Code::StartFailed | Code::VmmFailed | Code::Internal | Code::UpgradeRequired => 1,
        Code::UnknownPath | Code::MethodNotAllowed | Code::UnsupportedMediaType | Code::RequestTimeout => 1,
    }
}

#[test]
fn each_code_of_the_daemon_is_an_exit_code_and_a_document() {
    let daemon = Daemon::start();
    for code in ErrorCode::ALL {
        let name = format!("fail.{code}");
        let failed = daemon.run(["start", &name, "--cpus", "1", "--json"]);
        assert_eq!((failed.code, failed.output.as_str()), (expected(*code), ""), "{code}");
        let document: Value = serde_json::from_str(&failed.error).unwrap();
        assert_eq!(document["code"], code.name());
        assert!(document["message"].as_str().unwrap().contains("as the name asks for"));
        assert_eq!(document["remedy"], "choose another name");
    }
    let failed = daemon.run(["start", "fail.quota_exceeded", "-m", "1G"]);
    failed.failed(8, &["quota_exceeded, as the name asks for; choose another name"]);
}

#[test]
fn without_a_daemon_every_verb_says_so() {
    let folder = empty_folder();
    let verbs: &[&[&str]] = &[
        &["status"],
        &["status", "web"],
        &["ps"],
        &["start", "web"],
        &["start", "web", "-m", "1G"],
        &["stop", "web"],
        &["stop", "-a"],
        &["wait", "web"],
        &["pause", "web"],
        &["unpause", "web"],
        &["reload"],
        &["load", "file"],
        &["reset"],
        &["log", "brief"],
        &["events"],
        &["events", "-f"],
        &["console", "web"],
        &["start", "web", "-c"],
        &["start", "web", "-c", "-m", "1G"],
    ];
    for verb in verbs {
        at(folder.path(), verb).failed(11, &["stockaded is not running", "No such file", "--socket"]);
    }
    // A daemon that was killed leaves its socket.
    drop(UnixListener::bind(folder.path().join("socket")).unwrap());
    at(folder.path(), &["status"]).failed(11, &["stockaded is not running", "Connection refused"]);
    let document = at(folder.path(), &["status", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&document.error).unwrap()["code"], "daemon_not_running");
    assert_eq!((document.code, document.output.as_str()), (11, ""));
}

#[test]
fn a_socket_of_somebody_else_is_not_permitted() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("skipped: needs root");
    }
    let folder = empty_folder();
    let socket = folder.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    let finished = as_nobody(folder.path(), ["status"], &socket);
    finished.failed(5, &["no permission to talk to stockaded", "Permission denied"]);
}

#[test]
fn what_is_no_answer_is_not_taken_for_one() {
    let long = format!("HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n{}", "x".repeat(17 << 20));
    let whole = http(200, &json!({ "vms": [vm("web")], "more": false }).to_string());
    let half = whole[..whole.len() / 2].to_vec();
    let answers: Vec<(Vec<u8>, &str)> = vec![
        (Vec::new(), "the connection ended"),
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "not an answer"),
        (b"\0\xff\xfe\r\n\r\n".to_vec(), "not an answer"),
        (b"HTTP/1.1 200 OK\r\ncontent-le".to_vec(), "the connection ended"),
        (half, "the connection ended"),
        (http(200, ""), "not an answer"),
        (http(200, "{\"vms\": 7}"), "not an answer"),
        (http(200, "\x1b[2J"), "not an answer"),
        (http(200, &"[".repeat(100_000)), "not an answer"),
        (http(200, &json!({ "vms": [], "more": true }).to_string()), "does not go on"),
        (http(200, &json!({ "vms": [vm("web")], "more": true }).to_string()), "does not go on"),
        (http(500, "oops"), "HTTP status 500"),
        (http(302, ""), "HTTP status 302"),
        (http(404, "{\"code\":\"brand_new\",\"message\":\"m\",\"remedy\":\"\"}"), "HTTP status 404"),
        (long.into_bytes(), "more than 16777216 bytes"),
    ];
    for (answer, said) in answers {
        let script = Script::start(move |_| answer.clone());
        script.run(["status"]).failed(12, &[said, "ask with `stockade status`"]);
    }
}

#[test]
fn wrong_arguments_are_stockades_own_failure() {
    for arguments in [
        &["status", "--frobnicate"][..],
        &["start"],
        &["start", ""],
        &["stop"],
        &["stop", "web", "-a"],
        &["log", "loud"],
        &["reset", "everything"],
        &["start", "x", "-m", "1.5G"],
        &["start", "x", "-B", "floppy"],
        &["events", "--after", "-1"],
        &["create", "disk.img"],
        &["frobnicate"],
    ] {
        let failed = Finished::of(&mut stockade(arguments));
        assert_eq!((failed.code, failed.output.as_str()), (125, ""), "{arguments:?}: {failed:?}");
        assert!(failed.error.starts_with("error: "), "{failed:?}");
    }
}

#[test]
fn output_that_nobody_takes_is_an_error() {
    let daemon = Daemon::start();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = daemon.command(["status"]).stdout(full).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let output = output.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left"));
}
