//! What there is no vmm for: each names the flag, the value and the remedy, and leaves nothing.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use nix::mount::MsFlags;
use stockade_tests::{Need, Scratch, test};

use crate::harness::{Jail, Mounted, jailer};

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A copy of the tenant in a folder of its own, and a jail for it.
fn installed(scratch: &Scratch, name: &str) -> Jail {
    let folder = scratch.join(name);
    fs::create_dir(&folder).unwrap();
    mode(&folder, 0o755);
    let mut jail = Jail::of_tenant(scratch, "exit 0");
    let program = folder.join("tenant");
    fs::copy(&jail.program, &program).unwrap();
    (jail.program, jail.exec_file) = (program.clone(), program);
    jail
}

fn expect(message: &str, parts: &[&str]) {
    assert!(parts.iter().all(|part| message.contains(part)), "{parts:?}: {message}");
}

#[test]
fn programs_that_others_can_replace() {
    test(&[Need::Root], |scratch| {
        let jail = installed(scratch, "writable-folder");
        let folder = jail.program.parent().unwrap();
        for bits in [0o757, 0o777] {
            mode(folder, bits);
            let parts = [folder.to_str().unwrap(), "--exec-file", "can be written to", "chmod go-w"];
            expect(&jail.refused(), &parts);
        }
        mode(folder, 0o775);
        chown(folder, Some(0), Some(jail.gid)).unwrap();
        expect(&jail.refused(), &["can be written to by its group"]);
        mode(folder, 0o755);
        chown(folder, Some(jail.uid), Some(0)).unwrap();
        expect(&jail.refused(), &["belongs to user", "install it where only root writes"]);
        chown(folder, Some(0), Some(0)).unwrap();
        // A sticky folder, as /tmp.
        mode(folder, 0o1777);
        assert!(jail.run().status.success());

        let jail = installed(scratch, "writable-file");
        mode(&jail.program, 0o757);
        expect(&jail.refused(), &["--exec-file", "tenant can be written to", "chmod go-w"]);
        mode(&jail.program, 0o755);
        chown(&jail.program, Some(jail.uid), None).unwrap();
        expect(&jail.refused(), &["tenant belongs to user"]);

        let jail = installed(scratch, "hard-linked");
        fs::hard_link(&jail.program, scratch.join("other-name")).unwrap();
        expect(&jail.refused(), &["--exec-file", "has 2 hard links", "cp "]);
    });
}

#[test]
fn programs_that_are_none() {
    test(&[Need::Root], |scratch| {
        let mut jail = installed(scratch, "none");
        mode(&jail.program, 0o644);
        expect(&jail.refused(), &["--exec-file", "is not executable", "chmod +x"]);
        for (name, content, part) in [
            ("empty", Vec::new(), "is no ELF program"),
            ("script", b"#!/bin/sh\n".repeat(100), "is no ELF program"),
            ("cut", fs::read(&jail.program).unwrap()[..100].to_vec(), "is no ELF program"),
            ("foreign", foreign(&fs::read(&jail.program).unwrap()), "is no ELF program for this machine"),
        ] {
            let path = scratch.join(name);
            fs::write(&path, content).unwrap();
            mode(&path, 0o755);
            (jail.program, jail.exec_file) = (path.clone(), path);
            expect(&jail.refused(), &["--exec-file", part, "give the path of a vmm"]);
        }
        // Every shell here is dynamic.
        let dynamic = fs::canonicalize("/bin/sh").unwrap();
        let copy = scratch.join("shell");
        fs::copy(dynamic, &copy).unwrap();
        (jail.program, jail.exec_file) = (copy.clone(), copy);
        expect(&jail.refused(), &["--exec-file", "is not static", "give a vmm that is built static"]);
        jail.exec_file = scratch.join("missing");
        expect(&jail.refused(), &["--exec-file", "missing", "No such file", "give the path of a vmm"]);
        jail.exec_file = scratch.path().to_owned();
        expect(&jail.refused(), &["--exec-file", "is no regular file"]);
    });
}

/// The same program for a machine of the other kind.
fn foreign(program: &[u8]) -> Vec<u8> {
    let mut program = program.to_vec();
    let machine: u16 = if cfg!(target_arch = "aarch64") { 62 } else { 183 };
    program[18..20].copy_from_slice(&machine.to_le_bytes());
    program
}

#[test]
fn places_where_no_jail_can_be() {
    test(&[Need::Root], |scratch| {
        let mut jail = Jail::of_tenant(scratch, "exit 0");
        let base = jail.base.clone();
        jail.base = scratch.join("missing");
        let output = jail.run();
        assert_eq!(output.status.code(), Some(1));
        expect(&String::from_utf8(output.stderr).unwrap(), &["--chroot-base-dir", "missing", "No such file"]);
        jail.base = base.clone();
        for (flags, name) in [(MsFlags::MS_NODEV, "nodev"), (MsFlags::MS_NOEXEC, "noexec")] {
            let _mounted = Mounted::new(Path::new("test"), Some("tmpfs"), flags, &base);
            let message = jail.clone().with("--private-copy").refused();
            expect(&message, &["--chroot-base-dir", &format!("is mounted {name}"), "remount it"]);
        }
        let mounted = Mounted::new(Path::new("test"), Some("tmpfs"), MsFlags::MS_NOEXEC, &base);
        assert!(jail.run().status.success());
        drop(mounted);
        // Where a file has to be is a folder that is not empty.
        for name in ["tenant", "tenant.pid", "dev/kvm"] {
            let jail = Jail::of_tenant(scratch, "exit 0").with("--private-copy");
            fs::create_dir_all(jail.prefill().join(name).join("x")).unwrap();
            expect(&jail.refused(), &[name, "is a folder where a file has to be; remove it"]);
        }
        let jail = Jail::of_tenant(scratch, "exit 0").with("--netns /proc/self/status");
        expect(&jail.refused(), &["--netns /proc/self/status", "give a network namespace"]);
        let jail = Jail::of_tenant(scratch, "exit 0").with("--netns /run/netns/missing-one");
        expect(&jail.refused(), &["--netns /run/netns/missing-one", "No such file"]);
    });
}

#[test]
fn command_lines_that_make_no_sense() {
    test(&[], |_| {
        for (line, parts) in [
            ("--id a", ["--exec-file is missing", "see --help"]),
            ("--id a_b", ["--id \"a_b\"", "give 1 to 64"]),
            ("--frobnicate", ["--frobnicate", "see --help"]),
            ("sealed --plan-fd x", ["usage:", "sealed"]),
        ] {
            let output = Command::new(jailer()).args(line.split(' ')).output().unwrap();
            assert_eq!(output.status.code(), Some(1));
            expect(&String::from_utf8(output.stderr).unwrap(), &parts);
        }
    });
}

#[test]
fn somebody_who_is_not_root() {
    test(&[Need::Root], |scratch| {
        let jail = Jail::of_tenant(scratch, "exit 0");
        mode(scratch.path(), 0o755);
        let mut command = jail.command();
        let program = scratch.join("stockade-jailer");
        fs::copy(jailer(), &program).unwrap();
        let mut other = Command::new(program);
        other.args(command.get_args());
        command = other;
        let output = std::os::unix::process::CommandExt::uid(&mut command, jail.uid).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        expect(&String::from_utf8(output.stderr).unwrap(), &["root", "sudo"]);
    });
}
