//! Every way of dying: what is said, and that nothing is left, which the harness checks around each test.

use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use stockade_tests::guest::{self, Guest, Protocol};
use stockade_tests::output::Output;
use stockade_tests::{Scratch, process, program, test, wait_for};

use crate::stockade::{Finished, NEEDS, descendant, finish, finished, pid, run, shell, signal};

/// Runs a flat guest in the place of the kernel.
fn flat(scratch: &Scratch, guest: Guest) -> Finished {
    let kernel = scratch.file("kernel", guest.image(Protocol::Linux64));
    finish(run(scratch, ["--kernel", kernel.to_str().unwrap(), "--", "true"]))
}

/// Starts a script that says when it is ready, and waits for that.
fn start(scratch: &Scratch, script: &str) -> (Child, Output) {
    let mut child = run(scratch, ["--", "sh", "-c", script]).stdin(Stdio::piped()).spawn().unwrap();
    let output = Output::collect(child.stdout.take().unwrap());
    output.wait_for("ready");
    (child, output)
}

fn end(child: Child) -> Finished {
    finished(child.wait_with_output().unwrap())
}

#[test]
fn a_guest_says_how_it_died() {
    test(NEEDS, |scratch| {
        for (guest, said, console) in [
            (guest::HELLO, "the guest reset itself", "hello from the guest"),
            (guest::POWER_OFF, "the guest powered itself off", "powering off"),
            (guest::HALT, "the guest halted", "halting"),
            (guest::TRIPLE_FAULT, "the guest crashed with a triple fault", "faulting"),
            (guest::PANIC, "the guest's kernel panicked", ""),
        ] {
            let finished = flat(scratch, guest);
            finished.expect_error(125, &[said]);
            assert!(finished.error.contains(console), "{}", finished.error);
        }
    });
}

#[test]
fn a_linux_guest_says_how_it_died() {
    test(NEEDS, |scratch| {
        shell(scratch, "reboot -f").expect_error(125, &["the guest reset itself"]);
        shell(scratch, "poweroff -f").expect_error(125, &["the guest powered itself off"]);
        shell(scratch, "halt -f").expect_error(125, &["the guest halted"]);
    });
}

#[test]
fn a_kernel_that_panics_says_why() {
    test(NEEDS, |scratch| {
        // An initramfs without an init.
        let root = scratch.join("root");
        std::fs::create_dir_all(root.join("empty")).unwrap();
        let script = "cd \"$1\" && find . | cpio --quiet --create --format=newc >\"$2\"";
        let archive = scratch.join("initramfs");
        let packed = Command::new("sh").args(["-c", script, "sh"]).arg(&root).arg(&archive).status().unwrap();
        assert!(packed.success());
        let finished = finish(run(scratch, ["--initramfs", archive.to_str().unwrap(), "--", "true"]));
        finished.expect_error(125, &["the guest's kernel panicked"]);
        assert!(finished.error.contains("Kernel panic - not syncing: "), "{}", finished.error);
    });
}

#[test]
fn an_interrupt_reaches_the_command_first() {
    test(NEEDS, |scratch| {
        let (child, _) = start(scratch, "trap 'exit 3' INT; echo ready; while :; do sleep 0.1; done");
        signal(pid(&child), Signal::SIGINT);
        let finished = end(child);
        assert_eq!((finished.code, finished.error.as_str()), (3, ""));

        let (child, _) = start(scratch, "echo ready; exec sleep 1000");
        signal(pid(&child), Signal::SIGTERM);
        end(child).expect_line(143, &["SIGTERM"]);
    });
}

#[test]
fn a_second_interrupt_kills() {
    test(NEEDS, |scratch| {
        let (child, output) = start(scratch, "trap 'echo once' INT; echo ready; while :; do sleep 0.1; done");
        signal(pid(&child), Signal::SIGINT);
        output.wait_for("once");
        signal(pid(&child), Signal::SIGINT);
        end(child).expect_line(130, &["SIGINT"]);
    });
}

#[test]
fn an_interrupt_while_the_guest_boots_ends_the_run() {
    test(NEEDS, |scratch| {
        let kernel = scratch.file("kernel", guest::SPIN.image(Protocol::Linux64));
        let child = run(scratch, ["--kernel", kernel.to_str().unwrap(), "--", "true"]).spawn().unwrap();
        descendant(pid(&child), "stockade-vmm");
        signal(pid(&child), Signal::SIGTERM);
        end(child).expect_line(143, &["SIGTERM"]);
    });
}

#[test]
fn nothing_is_left_when_the_command_line_is_killed() {
    test(NEEDS, |scratch| {
        let (mut child, _) = start(scratch, "echo ready; exec sleep 1000");
        let vmm = descendant(pid(&child), "stockade-vmm");
        signal(pid(&child), Signal::SIGKILL);
        child.wait().unwrap();
        wait_for("the vmm to be gone", || process::status_field(vmm, "Pid").is_none().then_some(()));
    });
}

#[test]
fn nothing_is_left_when_the_command_line_is_killed_while_the_guest_boots() {
    test(NEEDS, |scratch| {
        for _ in 0..5 {
            let mut child = run(scratch, ["--", "true"]).spawn().unwrap();
            descendant(pid(&child), "stockade-jailer");
            signal(pid(&child), Signal::SIGKILL);
            child.wait().unwrap();
        }
    });
}

#[test]
fn a_vmm_that_is_killed_is_reported() {
    test(NEEDS, |scratch| {
        let (child, _) = start(scratch, "echo ready; exec sleep 1000");
        signal(descendant(pid(&child), "stockade-vmm"), Signal::SIGKILL);
        end(child).expect_error(125, &["the vmm died", "SIGKILL"]);
    });
}

/// A static program for x86_64 that makes one system call, mount(2), with the number 7 as its second argument.
fn forbidden_call() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    const CODE: [u8; 12] = [0xb8, 165, 0, 0, 0, 0xbe, 7, 0, 0, 0, 0x0f, 0x05];
    let size = HEADERS + CODE.len() as u64;
    let mut program = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    // Entry, program headers, section headers; sizes and counts of the headers; then one segment, to read and execute.
    program.extend([BASE + HEADERS, 64, 0].iter().flat_map(|word| word.to_le_bytes()));
    program.extend(b"\0\0\0\0\x40\0\x38\0\x01\0\0\0\0\0\0\0");
    program.extend(b"\x01\0\0\0\x05\0\0\0");
    program.extend([0, BASE, BASE, size, size, 0x1000].iter().flat_map(|word: &u64| word.to_le_bytes()));
    program.extend(CODE);
    program
}

#[test]
fn a_violated_filter_has_its_own_exit_code_and_names_the_call() {
    test(NEEDS, |scratch| {
        let programs = scratch.join("programs");
        std::fs::create_dir(&programs).unwrap();
        std::fs::copy(program("stockade-jailer"), programs.join("stockade-jailer")).unwrap();
        std::os::unix::fs::symlink(stockade_tests::distribution().join("guest"), programs.join("guest")).unwrap();
        std::fs::write(programs.join("stockade-vmm"), forbidden_call()).unwrap();
        std::fs::set_permissions(programs.join("stockade-vmm"), PermissionsExt::from_mode(0o755)).unwrap();
        let report = scratch.join("report.json");
        let options = ["--binaries", programs.to_str().unwrap(), "--report", report.to_str().unwrap(), "--", "true"];
        finish(run(scratch, options)).expect_line(
            123,
            &[
                "that its filter forbids",
                "in the role launch, phase launch, called mount (number 165) with 0x0, 0x7, ",
                "report",
            ],
        );
        let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
        assert_eq!(report["exit_code"], 123);
        let call = &report["violation"]["call"];
        assert_eq!((&call["name"], &call["role"]), (&"mount".into(), &"launch".into()), "{report}");
        assert_eq!((&call["arguments"][1], &call["instruction_pointer"]), (&"0x7".into(), &"0x400084".into()));
    });
}

#[test]
fn a_warden_that_is_killed_takes_its_machine_with_it() {
    test(NEEDS, |scratch| {
        let (child, _) = start(scratch, "echo ready; exec sleep 1000");
        signal(descendant(pid(&child), "stockade-jailer"), Signal::SIGKILL);
        end(child).expect_error(125, &["warden died"]);
    });
}

#[test]
fn a_console_on_a_full_disk_disturbs_nobody() {
    test(NEEDS, |scratch| {
        // A file system of its own for the run alone, which is gone with it.
        let script = r#"mount -t tmpfs -o size=64k none /run && "$1" run --name "$2" \
            -- sh -c 'i=0; while [ $i -lt 5000 ]; do echo "<1>a line for the console $i"; i=$((i+1)); done >/dev/kmsg; echo done'"#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(program("stockade")).arg(scratch.vm_name());
        let finished = finish(command);
        assert_eq!((finished.code, finished.text(), finished.error.as_str()), (0, "done\n", ""));
    });
}
