//! Arguments, configuration files, descriptors, and the exit codes of what goes wrong before a guest runs.

use std::fs::File;
use std::io::Read;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};

use serde_json::{Value, json};
use stockade_tests::api::Connection;
use stockade_tests::guest::{self, Protocol};
use stockade_tests::puppet::Puppet;
use stockade_tests::vmm::{Builder, Exit, boot_source};
use stockade_tests::{Need, Scratch, program, test};

const BAD_CONFIGURATION: i32 = 152;
const BAD_ARGUMENTS: i32 = 153;

fn run(arguments: &[&str]) -> Output {
    Command::new(program("stockade-vmm")).args(arguments).output().unwrap()
}

fn config(scratch: &Scratch, guest: guest::Guest) -> Value {
    json!({
        "boot-source": boot_source(scratch, guest, Protocol::Pvh),
        "machine-config": { "vcpu_count": 1, "mem_size_mib": 64 },
        "drives": [],
    })
}

#[test]
fn version_and_help() {
    test(&[], |scratch| {
        let version = run(&["--version"]);
        assert_eq!(version.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&version.stdout).contains(env!("CARGO_PKG_VERSION")), "{version:?}");
        let help = run(&["--help"]);
        assert_eq!(help.status.code(), Some(0));
        let text = String::from_utf8_lossy(&help.stdout).into_owned();
        for argument in ["--api-sock", "--id", "--config-file", "--no-api", "--boot-timer", "--fd", "--version"] {
            assert!(text.contains(argument), "{argument} is not in: {text}");
        }
        // The name by which its clients call the program.
        let link = scratch.join("firecracker");
        std::os::unix::fs::symlink(program("stockade-vmm"), &link).unwrap();
        let version = Command::new(link).arg("--version").output().unwrap();
        let text = String::from_utf8_lossy(&version.stdout).into_owned();
        let number = text.strip_prefix("Firecracker v").unwrap_or_else(|| panic!("{text}"));
        assert!(number.starts_with("1."), "{text}");
        assert_eq!(version.status.code(), Some(0));
    });
}

#[test]
fn wrong_arguments_are_named() {
    test(&[], |_| {
        let long = "x".repeat(65);
        for (arguments, named) in [
            (&["--no-such-thing"][..], "--no-such-thing"),
            (&["--api-sock"], "--api-sock"),
            (&["--id", "a", "--id", "b"], "--id"),
            (&["--id", "with space"], "--id"),
            (&["--id", ""], "--id"),
            (&["--id", &long], "--id"),
            (&["--no-api"], "--config-file"),
            (&["--http-api-max-payload-size", "many"], "--http-api-max-payload-size"),
            (&["--fd", "kernel"], "--fd"),
            (&["--fd", "kernel=x"], "--fd"),
            (&["--fd", "kernel=-1"], "--fd"),
            (&["--fd", "kernel=1000"], "--fd"),
            (&["surprise"], "surprise"),
        ] {
            let output = run(arguments);
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(BAD_ARGUMENTS), "{arguments:?}: {text}");
            assert!(text.contains(named), "{arguments:?}: the message names {named}: {text}");
            assert!(output.stdout.is_empty(), "{arguments:?}");
        }
    });
}

#[test]
fn arguments_of_existing_clients_are_accepted() {
    test(&[Need::Kvm], |scratch| {
        let log = scratch.join("log");
        let vmm = Builder::new(scratch)
            .arguments([
                "--no-seccomp",
                "--start-time-us",
                "1",
                "--start-time-cpu-us",
                "2",
                "--parent-cpu-time-us",
                "3",
            ])
            .argument("--log-path")
            .argument(&log)
            .arguments(["--level", "Debug", "--show-level", "--show-log-origin"])
            .start();
        assert_eq!(vmm.request("GET", "/", "").status, 200);
        assert!(!std::fs::read_to_string(log).unwrap().is_empty());
    });
}

#[test]
fn a_configuration_file_starts_the_guest() {
    test(&[Need::Kvm], |scratch| {
        let file = scratch.file("config", config(scratch, guest::HELLO).to_string());
        let vmm = Builder::bare().argument("--no-api").argument("--config-file").argument(&file).start();
        let (exit, console, log, _) = vmm.finish();
        assert_eq!((exit, console.as_str()), (Exit::Code(0), "hello from the guest\r\n"), "{log}");
    });
}

#[test]
fn a_configuration_file_and_the_api_go_together() {
    test(&[Need::Kvm], |scratch| {
        let mut config = config(scratch, guest::IDLE);
        config["entropy"] = json!({});
        config["something-else"] = json!({ "ignored": true });
        let file = scratch.file("config", config.to_string());
        let vmm = Builder::new(scratch).argument("--config-file").argument(&file).start();
        vmm.console().wait_for("idle");
        assert_eq!(vmm.request("GET", "/", "").json()["state"], "Running");
        assert_eq!(vmm.request("GET", "/machine-config", "").json()["mem_size_mib"], 64);
    });
}

#[test]
fn wrong_configuration_files_are_explained() {
    test(&[Need::Kvm], |scratch| {
        let mut unknown_field = config(scratch, guest::HELLO);
        unknown_field["boot-source"]["kernel"] = json!("x");
        let mut no_vcpus = config(scratch, guest::HELLO);
        no_vcpus["machine-config"]["vcpu_count"] = json!(0);
        let mut no_kernel = config(scratch, guest::HELLO);
        no_kernel["boot-source"]["kernel_image_path"] = json!(scratch.join("missing-kernel"));
        for (content, named) in [
            (unknown_field.to_string(), "kernel"),
            (no_vcpus.to_string(), "vcpu_count"),
            (no_kernel.to_string(), "missing-kernel"),
            ("{".into(), ""),
            ("[]".into(), ""),
        ] {
            let file = scratch.file("config", &content);
            let vmm = Builder::bare().argument("--no-api").argument("--config-file").argument(&file).start();
            let (exit, console, log, _) = vmm.finish();
            assert_eq!(exit, Exit::Code(BAD_CONFIGURATION), "{content}: {log}");
            assert!(log.contains(named), "the message names {named}: {log}");
            assert_eq!(console, "");
        }
        let vmm =
            Builder::bare().argument("--no-api").argument("--config-file").argument(scratch.join("nothing")).start();
        let (exit, _, log, _) = vmm.finish();
        assert!(matches!(exit, Exit::Code(1 | BAD_CONFIGURATION)), "{exit:?}");
        assert!(log.contains("nothing"), "{log}");
    });
}

#[test]
fn everything_can_be_handed_over_as_descriptors() {
    test(&[Need::Kvm], |scratch| {
        let kernel = scratch.file("kernel", guest::HELLO.image(Protocol::Pvh));
        let disk = scratch.file("disk", [0; 4096]);
        let config = json!({
            "boot-source": { "kernel_image_path": "fd:kernel", "initrd_path": "fd:initramfs", "boot_args": "quiet" },
            "machine-config": { "vcpu_count": 1, "mem_size_mib": 64 },
            "drives": [{ "drive_id": "root", "path_on_host": "fd:root", "is_root_device": true, "is_read_only": true }],
            "serial": { "serial_out_path": "fd:console" },
        });
        let config = scratch.file("config", config.to_string());
        let (mut console, console_writer) = std::io::pipe().unwrap();
        let socket = scratch.join("api");
        let api = UnixListener::bind(&socket).unwrap();
        let kvm = File::options().read(true).write(true).open("/dev/kvm").unwrap();
        let vmm = Builder::bare()
            .arguments(["--id", "sealed", "--api-sock", "fd:api", "--config-file", "fd:config"])
            .descriptor("kvm", kvm)
            .descriptor("kernel", File::open(kernel).unwrap())
            .descriptor("initramfs", File::open(&disk).unwrap())
            .descriptor("root", File::open(&disk).unwrap())
            .descriptor("config", File::open(config).unwrap())
            .descriptor("console", console_writer)
            .descriptor("api", api)
            .start();
        let (exit, output, log, _) = vmm.finish();
        assert_eq!((exit, output.as_str()), (Exit::Code(0), ""), "{log}");
        let mut text = String::new();
        console.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello from the guest\r\n");
    });
}

#[test]
fn a_listener_that_was_handed_over_serves_the_api() {
    test(&[Need::Kvm], |scratch| {
        let socket = scratch.join("api");
        let api = UnixListener::bind(&socket).unwrap();
        let vmm = Builder::bare().arguments(["--api-sock", "fd:api"]).descriptor("api", api).start();
        let mut client = Connection::open(&socket).unwrap();
        assert_eq!(client.request("GET", "/", "").json()["state"], "Not started");
        // A descriptor that was not handed over.
        let response = client.request("PUT", "/boot-source", r#"{"kernel_image_path":"fd:kernel"}"#);
        assert_eq!(response.status, 400);
        assert!(response.fault_message().contains("kernel"));
        drop(vmm);
    });
}

#[test]
fn the_boot_timer_is_there_when_it_is_asked_for() {
    const BOOT_TIMER: u64 = 0xc000_0000;
    test(&[Need::Kvm], |scratch| {
        let vmm = Builder::new(scratch).argument("--boot-timer").start();
        let puppet = Puppet::start_in(scratch, vmm, Protocol::Pvh, |_| {});
        puppet.write_8(BOOT_TIMER, 123);
        let mut vmm = puppet.into_vmm();
        vmm.log().wait_for("Guest-boot-time");
        assert!(vmm.is_running());
    });
}

#[test]
fn control_alt_delete_reaches_the_keyboard_controller() {
    const STATUS: u16 = 0x64;
    const DATA: u16 = 0x60;
    test(&[Need::Kvm], |scratch| {
        let mut puppet = Puppet::start(scratch);
        puppet.vmm().put("/actions", &json!({ "action_type": "SendCtrlAltDel" }));
        let mut codes = Vec::new();
        while puppet.in_8(STATUS) & 1 != 0 {
            codes.push(puppet.in_8(DATA));
        }
        assert!(!codes.is_empty(), "a key was pressed");
        assert_eq!(puppet.vmm().request("PUT", "/actions", r#"{"action_type":"FlushMetrics"}"#).status / 100, 2);
    });
}
