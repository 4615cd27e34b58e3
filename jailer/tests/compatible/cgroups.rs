//! Control groups. Which version a host has is not up to these tests: those of the other one are skipped.

use std::path::{Path, PathBuf};

use stockade_tests::process::cgroup2;
use stockade_tests::{Need, test, wait_for};

use crate::harness::{Jail, too_many_processes};

/// A parent of the test's own, which is removed with what is in it.
struct Parent {
    name: String,
    roots: Vec<PathBuf>,
}

impl Parent {
    fn new(roots: Vec<PathBuf>) -> Self {
        Self { name: format!("{}-parent", stockade_tests::leak::own_tag()), roots }
    }

    fn folders(&self) -> Vec<PathBuf> {
        self.roots.iter().map(|root| root.join(&self.name)).filter(|folder| folder.exists()).collect()
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        for folder in self.folders() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                remove(&entry.path());
            }
            remove(&folder);
        }
    }
}

/// The kernel ends a process before its control group hears of it.
fn remove(folder: &Path) {
    if folder.is_dir() {
        wait_for("an empty control group", || std::fs::remove_dir(folder).ok());
    }
}

/// Where a controller of version 1 is mounted.
fn mounted(controller: &str) -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
    mounts.lines().find_map(|line| {
        let words: Vec<_> = line.split(' ').collect();
        let found = words[2] == "cgroup" && words[3].split(',').any(|option| option == controller);
        found.then(|| words[1].into())
    })
}

fn read(path: PathBuf) -> String {
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
}

#[test]
fn values_of_version_1_are_in_force() {
    test(&[Need::Root], |scratch| {
        let (Some(cpu), Some(cpuset), Some(pids)) = (mounted("cpu"), mounted("cpuset"), mounted("pids")) else {
            return;
        };
        let parent = Parent::new(vec![cpu.clone(), cpuset.clone(), pids.clone()]);
        let name = &parent.name;
        let options = format!(
            "--parent-cgroup {name} --cgroup cpu.shares=77 --cgroup cpuset.cpus=0 --cgroup pids.max=9 --cgroup-version 1"
        );
        let jail = Jail::of_tenant(scratch, "sleep").with(&options);
        let running = jail.start();
        let pid = jail.confined();
        let path = format!("/{name}/{}", jail.id);
        let folder = |root: &Path| root.join(&path[1..]);
        assert_eq!(read(folder(&cpu).join("cpu.shares")), "77");
        assert_eq!(read(folder(&pids).join("pids.max")), "9");
        assert_eq!(read(folder(&cpuset).join("cpuset.cpus")), "0");
        // Nobody asked for it, and without it nothing could be in the group.
        assert_eq!(read(folder(&cpuset).join("cpuset.mems")), read(cpuset.join("cpuset.mems")));
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert_eq!(groups.lines().filter(|line| line.ends_with(&path)).count(), 3, "{groups}");
        drop(running);
        // Once more, with everything there.
        let running = jail.start();
        wait_for("the vmm", || (read(folder(&pids).join("cgroup.procs")) == running.0.id().to_string()).then_some(()));
    });
}

#[test]
fn a_group_of_version_2_is_made_or_joined() {
    test(&[Need::Root, Need::Cgroup2], |scratch| {
        let root = cgroup2().unwrap();
        let parent = Parent::new(vec![root.clone()]);
        let version = format!("--cgroup-version 2 --parent-cgroup {}", parent.name);
        let group = |pid: i32| {
            let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
            groups.lines().find_map(|line| line.strip_prefix("0::").map(String::from)).unwrap()
        };
        // Without a value and a parent, the vmm stays where it is.
        let jail = Jail::of_tenant(scratch, "sleep").with(&version);
        let running = jail.start();
        assert_eq!(group(jail.confined()), group(std::process::id().try_into().unwrap()));
        drop(running);
        // With a value it has a group.
        let jail = Jail::of_tenant(scratch, "sleep").with(&version).with("--cgroup cgroup.max.depth=3");
        let running = jail.start();
        let path = format!("/{}/{}", parent.name, jail.id);
        assert_eq!(group(jail.confined()), path);
        assert_eq!(read(root.join(&path[1..]).join("cgroup.max.depth")), "3");
        drop(running);
        // Without a value, but with a parent, it is one of those there.
        let jail = Jail::of_tenant(scratch, "sleep").with(&version);
        let running = jail.start();
        assert_eq!(group(jail.confined()), format!("/{}", parent.name));
        drop(running);
    });
}

#[test]
fn what_no_control_group_has_is_refused_and_undone() {
    test(&[Need::Root], |scratch| {
        let roots = ["cpu", "pids"].into_iter().filter_map(mounted).collect::<Vec<_>>();
        if roots.len() < 2 {
            return;
        }
        let parent = Parent::new(roots);
        for (options, parts) in [
            ("--cgroup no.such=1", ["--cgroup no.such=1", "the controller no is in no mounted hierarchy"]),
            ("--cgroup pids.max=9 --cgroup cpu.shares=x", ["--cgroup cpu.shares=x", "give a file and a value"]),
            ("--cgroup pids.max=9 --cgroup cpu.nothing=1", ["--cgroup cpu.nothing=1", "give a file and a value"]),
        ] {
            let jail = Jail::of_tenant(scratch, "exit 0").with(&format!("--parent-cgroup {} {options}", parent.name));
            let message = jail.refused();
            assert!(parts.iter().all(|part| message.contains(part)), "{options}: {message}");
            assert_eq!(parent.folders(), [] as [PathBuf; 0], "{options}");
        }
        // What fails when the process is in its groups already.
        let (_other, jail) = too_many_processes(scratch);
        let message = jail.with(&format!("--parent-cgroup {} --cgroup pids.max=9", parent.name)).refused();
        assert!(message.contains("execute --exec-file"), "{message}");
        assert_eq!(parent.folders(), [] as [PathBuf; 0]);
    });
}
