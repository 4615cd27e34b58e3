//! Two tenants of one host: neither can do anything to, or see anything of, the other.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Command;

use serde_json::Value;
use stockade_tests::{guest, test};

use crate::daemon::{Daemon, NEEDS, configuration};

const ANNA: u32 = 61_001;
const BERT: u32 = 61_002;

/// A request by a user, made with curl.
fn request(daemon: &Daemon, user: u32, method: &str, path: &str, body: &str) -> (u16, Value) {
    let output = Command::new("curl")
        .args(["--silent", "--unix-socket"])
        .arg(daemon.socket())
        .args(["--request", method, "--write-out", "\n%{http_code}"])
        .args((!body.is_empty()).then_some(["--json", body]).into_iter().flatten())
        .arg(format!("http://localhost/v1/{path}"))
        .uid(user)
        .gid(user)
        .output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null))
}

/// What comes of a request for a console by a user: the status.
fn console_status(daemon: &Daemon, user: u32, vm: &str) -> u16 {
    let output = Command::new("curl")
        .args(["--silent", "--include", "--no-buffer", "--max-time", "1", "--unix-socket"])
        .arg(daemon.socket())
        .args(["--header", "Connection: Upgrade", "--header", "Upgrade: stockade-console"])
        .arg(format!("http://localhost/v1/vms/{vm}/console?access=read"))
        .uid(user)
        .gid(user)
        .output();
    let head = String::from_utf8_lossy(&output.unwrap().stdout).into_owned();
    head.split(' ').nth(1).unwrap_or_else(|| panic!("{head:?}")).parse().unwrap()
}

#[test]
fn tenants_are_apart() {
    test(NEEDS, |scratch| {
        std::fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let (template, of_anna, of_bert) = (scratch.vm_name(), scratch.vm_name(), scratch.vm_name());
        let rules = format!("disable\n    allow instance {{ owner {ANNA}, disk }}");
        let text = configuration(
            scratch,
            &[(&template, guest::IDLE, &rules), (&of_bert, guest::IDLE, &format!("owner {BERT}"))],
        );
        let daemon = Daemon::start(scratch, &text);
        // As `socket owner` would do for a group that both are in.
        std::fs::set_permissions(daemon.socket(), PermissionsExt::from_mode(0o666)).unwrap();
        let disk = |name: &str, owner: u32| {
            let path = scratch.file(name, vec![0; 4096]);
            chown(&path, Some(owner), Some(owner)).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
            path.display().to_string()
        };
        let (hers, his) = (disk("hers", ANNA), disk("his", BERT));
        let new =
            |disk: &str| format!(r#"{{"name":"{of_anna}","template":"{template}","disks":[{{"path":"{disk}"}}]}}"#);
        daemon.wait_for_state(&of_bert, "running");

        // Her instance has her disk, and can't have his.
        let (status, answer) = request(&daemon, ANNA, "POST", "vms", &new(&his));
        assert_eq!((status, answer["code"].as_str()), (403, Some("file_not_usable")), "{answer}");
        let (status, answer) = request(&daemon, BERT, "POST", "vms", &new(&his));
        assert_eq!((status, answer["code"].as_str()), (404, Some("template_not_found")), "{answer}");
        let (status, answer) = request(&daemon, ANNA, "POST", "vms", &new(&hers));
        assert_eq!((status, answer["state"].as_str()), (201, Some("running")), "{answer}");

        for (user, own, other) in [(ANNA, &of_anna, &of_bert), (BERT, &of_bert, &of_anna)] {
            let (_, listed) = request(&daemon, user, "GET", "vms", "");
            let names: Vec<_> =
                listed["vms"].as_array().unwrap().iter().map(|vm| vm["name"].as_str().unwrap()).collect();
            assert_eq!(names, [own.as_str()]);
            let (_, seen) = request(&daemon, user, "GET", &format!("vms/{own}"), "");
            assert_eq!(seen["owner"]["uid"], user);
            for (method, what) in
                [("GET", ""), ("POST", "/stop"), ("POST", "/start"), ("POST", "/pause"), ("POST", "/wait")]
            {
                let (status, _) = request(&daemon, user, method, &format!("vms/{other}{what}"), "");
                assert_eq!(status, 404, "{user} {method} {what}");
            }
            // Whose console it is, is seen by the same rules.
            for (vm, log, console) in [(own, 200, 101), (other, 404, 404)] {
                assert_eq!(request(&daemon, user, "GET", &format!("vms/{vm}/log"), "").0, log, "{user} {vm}");
                assert_eq!(console_status(&daemon, user, vm), console, "{user} {vm}");
            }
            for path in ["reload", "reset"] {
                assert_eq!(request(&daemon, user, "POST", path, "").0, 403, "{path}");
            }
            // Nor by way of files.
            for folder in ["daemon/consoles", "daemon/vms", "vms"] {
                let folder = daemon.run_directory().join(folder);
                let listed = Command::new("ls").arg(&folder).uid(user).gid(user).output().unwrap();
                assert!(!listed.status.success(), "{}", folder.display());
            }
        }
        let (status, answer) = request(&daemon, ANNA, "POST", &format!("vms/{of_anna}/stop"), r#"{"mode":"force"}"#);
        assert_eq!((status, answer["exit"]["cause"].as_str()), (200, Some("killed")), "{answer}");
        assert_eq!(daemon.state(&of_bert), "running");
    });
}
