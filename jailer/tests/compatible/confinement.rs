//! The folder, and what the vmm is and can do in it.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use nix::mount::MsFlags;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::json;
use stockade_tests::process::{link, status_field};
use stockade_tests::{Need, Scratch, test};

use crate::harness::{Jail, Mounted};

/// What a vmm does with files; everything else that a tenant attempts fails.
const ALLOWED: [&str; 9] = [
    "read a file",
    "write to a file",
    "create a file",
    "remove a file",
    "listen at a socket",
    "connect to a socket",
    "open KVM",
    "open a network device",
    "read random bytes",
];

/// A jail with all layers but the one that would end a tenant that asks what it is.
fn reporter(scratch: &Scratch) -> Jail {
    Jail::of_tenant(scratch, "report").with("--without seccomp")
}

#[test]
fn the_folder_is_that_of_firecrackers_jailer() {
    test(&[Need::Root], |scratch| {
        let jail = Jail::of_tenant(scratch, "exit 0");
        assert!(jail.run().status.success());
        let root = jail.root();
        assert_eq!(root, jail.base.join("tenant").join(&jail.id).join("root"));
        for folder in ["", "dev", "dev/net", "run"] {
            let metadata = root.join(folder).metadata().unwrap();
            assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (jail.uid, jail.gid, 0o700));
        }
        for (device, major, minor) in [("dev/kvm", 10, 232), ("dev/net/tun", 10, 200), ("dev/urandom", 1, 9)] {
            let metadata = root.join(device).metadata().unwrap();
            assert!(metadata.file_type().is_char_device());
            assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (jail.uid, jail.gid, 0o600));
            assert_eq!(metadata.rdev(), makedev(major, minor), "{device}");
        }
        let has_page_faults = std::fs::read_to_string("/proc/misc").unwrap().contains("userfaultfd");
        assert_eq!(root.join("dev/userfaultfd").exists(), has_page_faults);
        assert!(!root.join("tenant").exists());
    });
}

#[test]
fn the_program_is_executed_where_it_is_or_from_a_copy() {
    test(&[Need::Root], |scratch| {
        let jail = Jail::of_tenant(scratch, "sleep");
        let copied = |jail: &Jail| {
            let _running = jail.start();
            let vmm = jail.confined();
            let program = std::fs::metadata(format!("/proc/{vmm}/exe")).unwrap();
            let (original, copy) = (jail.program.metadata().unwrap(), jail.root().join("tenant").metadata().ok());
            let inode = |file: &std::fs::Metadata| (file.dev(), file.ino());
            let Some(copy) = copy else {
                assert_eq!(inode(&program), inode(&original));
                assert_eq!(link(vmm, "exe"), jail.program);
                return false;
            };
            assert_eq!(inode(&program), inode(&copy));
            assert_eq!((copy.uid(), copy.mode() & 0o7777, copy.nlink()), (0, 0o555, 1));
            assert_eq!(std::fs::read(jail.root().join("tenant")).unwrap(), std::fs::read(&jail.program).unwrap());
            assert_eq!(link(vmm, "exe"), Path::new("/tenant"));
            true
        };
        assert!(!copied(&jail));
        assert!(copied(&Jail::of_tenant(scratch, "sleep").with("--private-copy")));
        // One that nobody but root can execute, or its group.
        std::fs::set_permissions(&jail.program, PermissionsExt::from_mode(0o710)).unwrap();
        assert!(copied(&Jail::of_tenant(scratch, "sleep")));
        let jail = Jail::of_tenant(scratch, "sleep");
        std::os::unix::fs::chown(&jail.program, None, Some(jail.gid)).unwrap();
        assert!(!copied(&jail));
        // One that nobody can.
        let place = scratch.join("noexec");
        std::fs::create_dir(&place).unwrap();
        let _mounted = Mounted::new(Path::new("test"), Some("tmpfs"), MsFlags::MS_NOEXEC, &place);
        let mut jail = Jail::of_tenant(scratch, "sleep");
        let program = place.join("tenant");
        std::fs::copy(&jail.program, &program).unwrap();
        (jail.program, jail.exec_file) = (program.clone(), program);
        assert!(copied(&jail));
    });
}

#[test]
fn the_vmm_finds_itself_with_little() {
    test(&[Need::Root], |scratch| {
        let jail = reporter(scratch).with("--resource-limit fsize=1000000");
        let mut report = jail.report();
        let words = report["arguments"].as_array().unwrap().clone();
        let flags: Vec<_> = words.iter().map(|word| word.as_str().unwrap()).collect();
        assert_eq!(flags[..4], ["/tenant", "--id", &jail.id, "--start-time-us"]);
        assert_eq!((flags[5], flags[7], flags[9]), ("--start-time-cpu-us", "--parent-cpu-time-us", "report"));
        assert!([4, 6, 8].iter().all(|at| flags[*at].parse::<u64>().is_ok()), "{flags:?}");
        let process = report["process"].clone();
        for field in ["arguments", "process", "parent", "leads_session"] {
            report.as_object_mut().unwrap().remove(field);
        }
        assert_eq!(process, jail.pid());
        assert_eq!(
            report,
            json!({
                "user": [jail.uid, jail.uid, jail.uid],
                "group": [jail.gid, jail.gid, jail.gid],
                "groups": 0,
                "capabilities": [0, 0, 0, 0, 0],
                "no_new_privs": true,
                "securebits": 0b1110_1011,
                "host_name": jail.id,
                "environment": 1,
                "descriptors": 0,
                "folder": "/",
                "core": [0, 0],
                "locked": [8 << 20, 8 << 20],
                "open": [2048, 2048],
                "processes": [4096, 4096],
                "file": [1_000_000, 1_000_000],
            })
        );
        let jail = reporter(scratch).with("--resource-limit no-file=77 --resource-limit processes=50");
        let report = jail.report();
        assert_eq!((&report["open"], &report["processes"]), (&json!([77, 77]), &json!([50, 50])));
    });
}

#[test]
fn the_kernel_confirms_what_is_in_force() {
    test(&[Need::Root], |scratch| {
        let jail = Jail::of_tenant(scratch, "sleep");
        let _running = jail.start();
        let vmm = jail.confined();
        let own = std::process::id().try_into().unwrap();
        for kind in ["ns/mnt", "ns/ipc", "ns/uts", "ns/cgroup"] {
            assert_ne!(link(vmm, kind), link(own, kind), "{kind}");
        }
        for kind in ["ns/net", "ns/pid"] {
            assert_eq!(link(vmm, kind), link(own, kind), "{kind}");
        }
        let mounts = std::fs::read_to_string(format!("/proc/{vmm}/mountinfo")).unwrap();
        assert_eq!(mounts.lines().count(), 1, "{mounts}");
        assert!(mounts.contains(" / rw,nosuid,noexec"), "{mounts}");
        assert_eq!(status_field(vmm, "Seccomp").as_deref(), Some("2"));
        assert_eq!(status_field(vmm, "NoNewPrivs").as_deref(), Some("1"));
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status_field(vmm, set).as_deref(), Some("0000000000000000"), "{set}");
        }
    });
}

/// Once as its user, and once as root, whom nothing but Landlock and the mount stops.
#[test]
fn a_vmm_uses_files_as_a_vmm_and_no_other_way() {
    test(&[Need::Root], |scratch| {
        for without in ["--without seccomp", "--without seccomp --without uid"] {
            let jail = Jail::of_tenant(scratch, "attempt").with(without);
            let root = jail.prefill();
            std::fs::write(root.join("file"), "x").unwrap();
            let device = root.join("terminal");
            mknod(&device, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(1, 3)).unwrap();
            std::fs::set_permissions(&device, PermissionsExt::from_mode(0o666)).unwrap();
            if !without.contains("uid") {
                jail.give(&root.join("file"));
            }
            let report = jail.report();
            let attempts = report.as_object().unwrap();
            assert_eq!(attempts.len(), 22);
            for (attempt, errno) in attempts {
                assert_eq!(errno.is_null(), ALLOWED.contains(&attempt.as_str()), "{attempt}, {without}: {report}");
            }
        }
    });
}

#[test]
fn a_call_that_no_vmm_makes_kills_it() {
    test(&[Need::Root], |scratch| {
        let output = Jail::of_tenant(scratch, "mount").run();
        let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
        assert_eq!(signal, Some(31), "{output:?}");
    });
}

#[test]
fn each_layer_can_be_given_up_by_name() {
    test(&[Need::Root], |scratch| {
        for layer in ["cgroup", "namespaces", "root", "resource-limits", "capabilities", "uid", "landlock", "seccomp"] {
            let jail = Jail::of_tenant(scratch, "exit 7").with(&format!("--without {layer}"));
            let output = jail.run();
            assert_eq!(output.status.code(), Some(7), "{layer}: {output:?}");
        }
        let report = reporter(scratch).with("--without uid").report();
        assert_eq!(report["user"], json!([0, 0, 0]));
        let report = reporter(scratch).with("--without namespaces").report();
        assert_ne!(report["host_name"], json!(""));
    });
}
