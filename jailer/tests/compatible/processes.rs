//! Which process is the vmm, and how it ends.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stockade_tests::process::{children, descriptors, link, status_field};
use stockade_tests::{Need, Scratch, test, wait_for};

use crate::harness::{Jail, Running, jailer, too_many_processes};

/// Ends a process that the jailer left to the reaper of orphans, which is this one.
fn end(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

/// Runs the jailer, which does not wait for the vmm; none of its streams may be left to that.
fn launch(jail: &Jail, scratch: &Scratch) -> (Option<i32>, String, i32) {
    let log = scratch.join("log");
    let mut command = jail.command();
    let output = File::create(&log).unwrap();
    let status = command.stdout(output.try_clone().unwrap()).stderr(output).status().unwrap();
    // Whoever starts the jailer reads the pid file at once.
    let name = format!("{}.pid", jail.program.file_name().unwrap().to_str().unwrap());
    let pid = std::fs::read_to_string(jail.root().join(name)).map_or(0, |text| text.parse().unwrap());
    (status.code(), std::fs::read_to_string(log).unwrap(), pid)
}

#[test]
fn the_jailer_becomes_the_vmm() {
    test(&[Need::Root], |scratch| {
        let jail = Jail::of_tenant(scratch, "sleep");
        let mut running = jail.start();
        let pid = jail.confined();
        assert_eq!(u32::try_from(pid).unwrap(), running.0.id());
        assert_eq!(children(pid), [] as [i32; 0]);
        assert_eq!(status_field(pid, "Threads").as_deref(), Some("1"));
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        let status = running.0.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15));
        let jail = Jail::of_tenant(scratch, "exit 37");
        assert_eq!(jail.run().status.code(), Some(37));
    });
}

#[test]
fn the_vmm_has_the_name_of_its_program() {
    test(&[Need::Root], |scratch| {
        let mut jail = Jail::of_tenant(scratch, "sleep");
        let named = scratch.join("firecracker-v1.16.1-x86_64");
        std::fs::rename(&jail.program, &named).unwrap();
        jail.program = named;
        // A link is followed, and does not give its name.
        jail.exec_file = scratch.join("firecracker");
        std::os::unix::fs::symlink(&jail.program, &jail.exec_file).unwrap();
        let _running = jail.start();
        let pid = jail.confined();
        assert_eq!(status_field(pid, "Name").as_deref(), Some("firecracker-v1."));
        assert_eq!(link(pid, "exe"), jail.program);
    });
}

#[test]
fn a_daemon_has_its_own_session_and_no_streams() {
    test(&[Need::Root], |scratch| {
        let jail = Jail::of_tenant(scratch, "sleep").with("--daemonize");
        let (code, said, pid) = launch(&jail, scratch);
        assert_eq!((code, said.as_str()), (Some(0), ""));
        assert_eq!(status_field(pid, "Uid").unwrap().split_whitespace().next(), Some(jail.uid.to_string().as_str()));
        // Not its leader, so that it gets no terminal.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let session: i32 = stat.rsplit(')').next().unwrap().split_whitespace().nth(3).unwrap().parse().unwrap();
        assert!(session != pid && session != nix::unistd::getsid(None).unwrap().as_raw());
        let mut open = descriptors(pid);
        open.sort();
        assert_eq!(open, [0, 1, 2].map(|number| (number, "/dev/null".to_owned())));
        end(pid);
    });
}

/// What the jailer opens is not to be taken for them.
#[test]
fn streams_that_are_closed_lead_nowhere() {
    test(&[Need::Root], |scratch| {
        let jail = Jail::of_tenant(scratch, "sleep");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "exec \"$@\" <&- >&- 2>&-", "sh"]).arg(jailer()).args(jail.command().get_args());
        let _running = Running(command.spawn().unwrap());
        let mut open = descriptors(jail.confined());
        open.sort();
        assert_eq!(open, [0, 1, 2].map(|number| (number, "/dev/null".to_owned())));
    });
}

#[test]
fn a_vmm_can_be_alone_in_its_pid_namespace() {
    test(&[Need::Root], |scratch| {
        for more in ["", "--daemonize"] {
            let jail = Jail::of_tenant(scratch, "report sleep").with("--new-pid-ns --without seccomp").with(more);
            let (code, said, pid) = launch(&jail, scratch);
            assert_eq!(code, Some(0), "{said}");
            assert!(status_field(pid, "NSpid").unwrap().ends_with("\t1"), "{more}");
            assert_ne!(link(pid, "ns/pid"), link(std::process::id().try_into().unwrap(), "ns/pid"));
            if more.is_empty() {
                let report = wait_for("the report", || {
                    let text = std::fs::read_to_string(scratch.join("log")).unwrap();
                    serde_json::from_str::<serde_json::Value>(&text).ok()
                });
                assert_eq!((&report["process"], &report["parent"]), (&1.into(), &0.into()));
            }
            end(pid);
        }
    });
}

#[test]
fn the_end_of_a_session_leader_is_no_hangup_for_the_vmm() {
    test(&[Need::Root], |scratch| {
        let jail = Jail::of_tenant(scratch, "sleep").with("--new-pid-ns");
        let mut command = Command::new("setsid");
        command.arg("--wait").arg(jailer()).args(jail.command().get_args());
        assert!(command.stdin(std::process::Stdio::null()).status().unwrap().success());
        let pid = jail.pid();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let session: i32 = stat.rsplit(')').next().unwrap().split_whitespace().nth(3).unwrap().parse().unwrap();
        assert_eq!(session, pid);
        end(pid);
    });
}

#[test]
fn whoever_starts_a_daemon_hears_why_there_is_none() {
    test(&[Need::Root], |scratch| {
        let (_other, jail) = too_many_processes(scratch);
        for way in ["--daemonize", "--new-pid-ns", "--daemonize --new-pid-ns"] {
            let message = jail.clone().with(way).refused();
            assert!(message.contains("execute --exec-file"), "{way}: {message}");
        }
    });
}

#[test]
fn what_fails_last_is_undone_too() {
    test(&[Need::Root], |scratch| {
        let (_other, jail) = too_many_processes(scratch);
        let message = jail.refused();
        assert!(message.contains("execute --exec-file"), "{message}");
        jail.prefill();
        assert!(jail.refused().contains("execute --exec-file"));
    });
}

#[test]
fn the_vmm_joins_a_network_namespace() {
    test(&[Need::Root], |scratch| {
        let mut other = Command::new("unshare");
        let mut other = other.args(["--net", "sleep", "1000"]).process_group(0).spawn().unwrap();
        let pid: i32 = other.id().try_into().unwrap();
        let own = link(std::process::id().try_into().unwrap(), "ns/net");
        wait_for("the namespace", || (link(pid, "ns/net") != own).then_some(()));
        let jail = Jail::of_tenant(scratch, "sleep").with(&format!("--netns /proc/{pid}/ns/net"));
        let running = jail.start();
        let vmm = jail.confined();
        assert_eq!(link(vmm, "ns/net"), link(pid, "ns/net"));
        drop(running);
        other.kill().unwrap();
        other.wait().unwrap();
    });
}

#[test]
fn the_version_is_a_banner_by_the_name_of_jailer() {
    test(&[], |scratch| {
        let named = scratch.join("jailer");
        std::os::unix::fs::symlink(jailer(), &named).unwrap();
        let say = |program: &std::path::Path, flag| {
            String::from_utf8(Command::new(program).arg(flag).output().unwrap().stdout).unwrap()
        };
        let version = stockade_vmm_api::FIRECRACKER_VERSION;
        assert_eq!(say(&named, "--version"), format!("Jailer v{version}\n\n"));
        assert!(say(jailer(), "--version").contains(&format!("(compatible with Firecracker v{version})")));
        assert!(say(jailer(), "--help").contains("--exec-file"));
    });
}
