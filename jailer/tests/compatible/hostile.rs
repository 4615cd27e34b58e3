//! Jails that are made again where somebody hostile is at work.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use stockade_tests::{Need, Scratch, test, wait_for};

use crate::harness::{Jail, Running, tree};

/// How often the jailer runs against somebody who plants links all the time.
const RUNS: usize = 100;

/// A folder that no jailer may touch, on the same file system.
fn victim(scratch: &Scratch) -> PathBuf {
    let folder = scratch.join("victim");
    std::fs::create_dir(&folder).unwrap();
    for name in ["file", "kvm", "tun", "urandom", "userfaultfd", "tenant", "tenant.pid"] {
        std::fs::write(folder.join(name), name).unwrap();
    }
    std::fs::create_dir(folder.join("net")).unwrap();
    folder
}

/// What there is in it, with times and contents.
fn state(folder: &Path) -> Vec<String> {
    let times = |entry: &std::fs::DirEntry| {
        let metadata = entry.metadata().unwrap();
        let content = std::fs::read(entry.path()).unwrap_or_default();
        format!("{} {} {content:?}", entry.path().display(), metadata.mtime_nsec())
    };
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| times(&entry.unwrap())).collect();
    entries.sort();
    entries.extend(tree(folder));
    let folder = folder.metadata().unwrap();
    entries.push(format!("{}:{} {:o}", folder.uid(), folder.gid(), folder.mode()));
    entries
}

#[test]
fn a_jail_can_be_made_again() {
    test(&[Need::Root], |scratch| {
        let jail = Jail::of_tenant(scratch, "exit 0").with("--private-copy");
        let root = jail.prefill();
        std::fs::write(root.join("image"), "kept").unwrap();
        assert!(jail.run().status.success());
        let first = std::fs::read_to_string(root.join("tenant.pid")).unwrap();
        // Longer than the program, of which nothing may be left.
        let longer = vec![0; jail.program.metadata().unwrap().len() as usize + 100];
        std::fs::remove_file(root.join("tenant")).unwrap();
        std::fs::write(root.join("tenant"), longer).unwrap();
        std::fs::remove_file(root.join("dev/kvm")).unwrap();
        std::fs::write(root.join("dev/kvm"), "no device").unwrap();
        let before = tree(&jail.base).len();
        assert!(jail.run().status.success());
        assert_eq!(tree(&jail.base).len(), before);
        assert_ne!(std::fs::read_to_string(root.join("tenant.pid")).unwrap(), first);
        assert_eq!(std::fs::read(root.join("tenant")).unwrap(), std::fs::read(&jail.program).unwrap());
        assert_eq!(std::fs::read(root.join("image")).unwrap(), b"kept");
    });
}

#[test]
fn links_to_files_are_replaced() {
    test(&[Need::Root], |scratch| {
        let victim = victim(scratch);
        let jail = Jail::of_tenant(scratch, "exit 0").with("--private-copy");
        assert!(jail.run().status.success());
        for (number, name) in ["tenant", "tenant.pid", "dev/kvm", "dev/net/tun", "dev/urandom"].iter().enumerate() {
            let path = jail.root().join(name);
            std::fs::remove_file(&path).unwrap();
            match number % 2 {
                0 => symlink(victim.join("file"), &path).unwrap(),
                _ => std::fs::hard_link(victim.join("file"), &path).unwrap(),
            }
        }
        // The second name of the file is gone afterwards, and nothing else has changed.
        let output = jail.run();
        assert!(output.status.success(), "{output:?}");
        assert_eq!(std::fs::read(victim.join("file")).unwrap(), b"file");
        let metadata = victim.join("file").metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.nlink()), (0, 1));
        assert!(!jail.root().join("tenant").is_symlink());
    });
}

#[test]
fn links_to_folders_are_refused() {
    test(&[Need::Root], |scratch| {
        let victim = victim(scratch);
        let before = state(&victim);
        for name in ["dev", "dev/net", "run", ""] {
            let jail = Jail::of_tenant(scratch, "exit 0");
            // Without a slash at the end, if it is the folder itself.
            let path = jail.prefill().join(name).components().collect::<PathBuf>();
            if name == "dev/net" {
                std::fs::create_dir(path.parent().unwrap()).unwrap();
            }
            let _ = std::fs::remove_dir(&path);
            symlink(&victim, &path).unwrap();
            let message = jail.refused();
            assert!(message.contains(&format!("{}: is a link, or no folder; remove it", path.display())), "{message}");
            assert_eq!(state(&victim), before, "{name}");
        }
    });
}

/// Runs the jailer again and again while somebody plants links. Returns how often there was a vmm.
fn race(scratch: &Scratch, what: &str) -> usize {
    let victim = victim(scratch);
    let jail = Jail::of_tenant(scratch, "exit 0").with("--private-copy");
    assert!(jail.run().status.success());
    // The way to the victim is open to the one who plants: what stops the jailer is not a lack of rights.
    std::fs::set_permissions(scratch.path(), PermissionsExt::from_mode(0o755)).unwrap();
    // Even the folder around belongs to it, as some clients have it.
    jail.give(jail.root().parent().unwrap());
    let before = state(&victim);
    let mut planter = Command::new(&jail.program);
    planter.args(["plant", what]).arg(&victim).current_dir(jail.root()).uid(jail.uid).gid(jail.gid);
    let mut planter = Running(planter.spawn().unwrap());
    let rounds = jail.root().join("rounds");
    wait_for("the first round", || rounds.exists().then_some(()));
    let mut made = 0;
    for run in 0..RUNS {
        let output = jail.run();
        match output.status.code() {
            Some(0) => made += 1,
            Some(1) => {}
            _ => panic!("run {run}: {output:?}"),
        }
        assert_eq!(state(&victim), before, "run {run}: {output:?}");
    }
    assert!(planter.0.try_wait().unwrap().is_none(), "the planter has ended early");
    made
}

#[test]
fn nothing_is_reached_through_links_that_are_planted_meanwhile() {
    test(&[Need::Root], |scratch| assert_ne!(race(scratch, "folders"), 0));
}

/// Because root holds the folders before it looks at what is in them.
#[test]
fn nobody_who_plants_files_stops_the_jailer() {
    test(&[Need::Root], |scratch| assert_eq!(race(scratch, "files"), RUNS));
}
