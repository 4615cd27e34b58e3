//! Stockade's vmm with a guest, and files that appear later.

use std::path::Path;

use nix::mount::{MsFlags, mount};
use serde_json::json;
use stockade_tests::api::Connection;
use stockade_tests::guest::{self, Protocol};
use stockade_tests::process::thread_status;
use stockade_tests::{Need, Scratch, program, test, wait_for};

use crate::harness::{Jail, Mounted};

fn jail_of_vmm(scratch: &Scratch, words: &str) -> Jail {
    Jail::new(scratch, &program("stockade-vmm"), words)
}

#[test]
fn a_guest_runs_in_a_jail_that_was_filled_before() {
    test(&[Need::Root, Need::Kvm], |scratch| {
        let jail = jail_of_vmm(scratch, "--no-api --config-file /config");
        let root = jail.prefill();
        std::fs::write(root.join("kernel"), guest::HELLO.image(Protocol::Linux64)).unwrap();
        let config = json!({"boot-source": {"kernel_image_path": "/kernel", "boot_args": ""}, "drives": []});
        std::fs::write(root.join("config"), config.to_string()).unwrap();
        let output = jail.run();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("hello from the guest"), "{output:?}");
    });
}

#[test]
fn files_appear_in_a_jail_that_runs() {
    test(&[Need::Root, Need::Kvm], |scratch| {
        // What the host mounts goes on to others only where it is shared, as most hosts have it.
        let shared = scratch.join("shared");
        std::fs::create_dir(&shared).unwrap();
        let _shared = Mounted::new(Path::new("test"), Some("tmpfs"), MsFlags::empty(), &shared);
        mount(None::<&str>, &shared, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
        let mut jail = jail_of_vmm(scratch, "--api-sock /run/api");
        jail.base = shared.clone();
        let mut running = jail.start();
        let socket = jail.root().join("run/api");
        let mut api = wait_for("the API", || Connection::open(&socket).ok());
        let pid = jail.confined();
        // The launch filter, and each thread's own.
        wait_for("the filters", || {
            let filters = thread_status(pid, "Seccomp_filters");
            filters.iter().all(|(_, number)| number.parse::<u32>().unwrap() >= 2).then_some(())
        });

        // A kernel on another file system, by a mount; and a disk by a link.
        let kernel = scratch.file("kernel", guest::HELLO.image(Protocol::Linux64));
        let place = jail.root().join("kernel");
        std::fs::write(&place, "").unwrap();
        let _kernel = Mounted::new(&kernel, None, MsFlags::MS_BIND, &place);
        std::fs::write(shared.join("disk"), vec![0; 4096]).unwrap();
        jail.give(&shared.join("disk"));
        std::fs::hard_link(shared.join("disk"), jail.root().join("disk")).unwrap();
        let source = json!({"kernel_image_path": "kernel", "boot_args": ""}).to_string();
        let drive = json!({"drive_id": "d", "path_on_host": "disk", "is_root_device": false}).to_string();
        for (path, body) in [
            ("/boot-source", source.as_str()),
            ("/drives/d", drive.as_str()),
            ("/actions", r#"{"action_type": "InstanceStart"}"#),
        ] {
            let response = api.request("PUT", path, body);
            assert_eq!(response.status, 204, "{path}: {}", response.body);
        }
        assert_eq!(running.0.wait().unwrap().code(), Some(0));
    });
}
