//! `stockade inspect`: what is in force is found, and what isn't is missed.

use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;
use stockade_tests::guest::{self, Protocol};
use stockade_tests::output::Output;
use stockade_tests::{Scratch, program, test, wait_for};

use crate::stockade::{Finished, NEEDS, descendant, finish, finished, pid, run_as, signal};

const LAYERS: [&str; 8] =
    ["cgroup", "namespaces", "root", "resource-limits", "capabilities", "uid", "landlock", "seccomp"];

fn inspect(arguments: &[&str]) -> Finished {
    let mut command = Command::new(program("stockade"));
    command.arg("inspect").args(arguments);
    finish(command)
}

/// What was found, with the exit code.
fn found(subject: &str) -> (i32, Value) {
    let finished = inspect(&["--json", subject]);
    assert_eq!(finished.error, "", "{finished:?}");
    (finished.code, serde_json::from_slice(&finished.output).unwrap())
}

/// The state of each layer.
fn states(found: &Value) -> Vec<(&str, &str)> {
    let layers = found["verdict"]["layers"].as_array().unwrap();
    layers.iter().map(|layer| (layer["layer"].as_str().unwrap(), layer["state"].as_str().unwrap())).collect()
}

#[test]
fn a_machine_that_runs_a_command_is_confined_and_this_test_is_not() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let script = ["--", "sh", "-c", "echo ready; exec sleep 1000"];
        let mut child = run_as(&name, script).stdin(Stdio::piped()).spawn().unwrap();
        Output::collect(child.stdout.take().unwrap()).wait_for("ready");
        let vmm = descendant(pid(&child), "stockade-vmm");

        let (code, by_name) = found(&name);
        assert_eq!(states(&by_name), LAYERS.map(|layer| (layer, "on")), "{by_name:#}");
        assert_eq!((code, &by_name["verdict"]["state"]), (0, &Value::from("on")));
        assert_eq!(by_name["process"]["pid"], vmm);
        assert_eq!(by_name["process"]["dumpable"], false);
        let kinds = by_name["process"]["descriptors"].as_array().unwrap().iter();
        let kvm = kinds.filter(|descriptor| descriptor["target"].as_str().unwrap().starts_with("kvm-v"));
        assert_eq!(kvm.count(), 2, "a VM and its vCPU: {by_name:#}");
        let (code, by_number) = found(&vmm.to_string());
        assert_eq!((code, &by_number["vm"]), (0, &Value::from(name.clone())));

        let table = inspect(&[&name]);
        assert_eq!(table.code, 0);
        assert!(table.text().contains("confined: every layer is on"), "{}", table.text());
        assert!(table.text().lines().skip(1).all(|line| line.chars().count() <= 100), "{}", table.text());
        inspect(&["nobody"]).expect_line(125, &["nobody", "no virtual machine", &name]);

        signal(pid(&child), Signal::SIGTERM);
        finished(child.wait_with_output().unwrap());
        inspect(&[&name]).expect_line(125, &[&name, "no virtual machine"]);

        let (code, own) = found(&std::process::id().to_string());
        assert_eq!((code, &own["vm"]), (3, &Value::Null));
        let mut on = states(&own).into_iter().filter(|(_, state)| *state == "on").map(|(layer, _)| layer);
        // Some of them a container may have.
        assert!(on.all(|layer| ["cgroup", "resource-limits", "seccomp"].contains(&layer)), "{own:#}");
    });
}

/// By its number and by its folder.
#[test]
fn a_vmm_in_the_place_of_firecrackers_jailer_is_confined_and_says_what_is_not() {
    test(NEEDS, |scratch| {
        let (name, base) = (scratch.vm_name(), scratch.join("base"));
        std::fs::create_dir(&base).unwrap();
        let vmm = scratch.join("stockade-vmm");
        std::fs::copy(program("stockade-vmm"), &vmm).unwrap();
        let folder = base.join("stockade-vmm").join(&name);
        std::fs::create_dir_all(folder.join("root")).unwrap();
        let kernel = folder.join("root/kernel");
        std::fs::write(&kernel, guest::SPIN.image(Protocol::Linux64)).unwrap();
        let config =
            serde_json::json!({ "boot-source": { "kernel_image_path": "/kernel", "boot_args": "" }, "drives": [] });
        std::fs::write(folder.join("root/config"), config.to_string()).unwrap();
        let mut jailer = Command::new(program("stockade-jailer"));
        jailer.args(["--id", &name, "--uid", "1912000321", "--gid", "1912000322", "--new-pid-ns", "--exec-file"]);
        jailer.arg(&vmm).arg("--chroot-base-dir").arg(&base).args(["--resource-limit", "fsize=0"]);
        let root = std::os::unix::fs::lchown(&kernel, Some(1912000321), Some(1912000322))
            .and_then(|()| std::os::unix::fs::lchown(folder.join("root/config"), Some(1912000321), Some(1912000322)));
        root.unwrap();
        jailer.args(["--", "--no-api", "--config-file", "/config"]).stdin(Stdio::null()).stdout(Stdio::null());
        assert!(jailer.status().unwrap().success());
        let path = folder.join("root/stockade-vmm.pid");
        let pid = wait_for("the pid file", || std::fs::read_to_string(&path).ok().filter(|text| !text.is_empty()));
        let (code, by_number) = wait_for("a vCPU", || {
            let (code, found) = found(&pid);
            found.to_string().contains("kvm-vcpu").then_some((code, found))
        });
        let expected = |layer| match layer {
            // Its network is the host's, and nobody has asked for limits.
            "namespaces" => "weak",
            "cgroup" => states(&by_number)[0].1,
            _ => "on",
        };
        assert_eq!(states(&by_number), LAYERS.map(|layer| (layer, expected(layer))), "{by_number:#}");
        assert_eq!(
            (code, &by_number["vm"], &by_number["process"]["dumpable"]),
            (3, &name.clone().into(), &false.into())
        );
        assert!(by_number["verdict"]["layers"].to_string().contains("--netns"), "{by_number:#}");
        let (_, by_folder) = found(folder.to_str().unwrap());
        assert_eq!(by_folder["process"]["pid"], by_number["process"]["pid"]);
        signal(pid.parse().unwrap(), Signal::SIGKILL);
        wait_for("its end", || (inspect(&[folder.to_str().unwrap()]).code == 125).then_some(()));
        inspect(&[scratch.path().to_str().unwrap()]).expect_line(125, &["the jailer's record"]);
    });
}

/// Starts a guest that never says a word, inspects it once it runs, and ends it.
fn inspect_spinning(scratch: &Scratch, options: &[&str]) -> (i32, Value) {
    let name = scratch.vm_name();
    let kernel = scratch.file("kernel", guest::SPIN.image(Protocol::Linux64));
    let kernel = ["--kernel", kernel.to_str().unwrap(), "--", "true"];
    let child = run_as(&name, options.iter().chain(&kernel)).spawn().unwrap();
    // Before that, its threads have not been given their filters yet.
    let inspected = wait_for("a vCPU", || {
        let finished = inspect(&["--json", &name]);
        let found: Value = serde_json::from_slice(&finished.output).ok()?;
        found.to_string().contains("kvm-vcpu").then_some((finished.code, found))
    });
    signal(pid(&child), Signal::SIGTERM);
    finished(child.wait_with_output().unwrap());
    inspected
}

#[test]
fn a_layer_that_was_given_up_is_missed() {
    test(NEEDS, |scratch| {
        for layer in ["landlock", "namespaces", "uid"] {
            let (code, found) = inspect_spinning(scratch, &["--without", layer]);
            assert_eq!(code, 3, "{found:#}");
            let state = states(&found).into_iter().find(|(name, _)| *name == layer).unwrap().1;
            assert!(["off", "weak"].contains(&state), "{layer}: {state}");
            let text = found["verdict"]["layers"].to_string();
            assert!(text.contains("given up; "), "{text}");
        }
    });
}
