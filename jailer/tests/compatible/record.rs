//! What the jailer writes down, and what comes of it: a verdict for whoever inspects, and a vmm that looks at itself.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stockade_confinement::{
    Confinement, JailKind, Layer, Process, Record, RecordError, Root, State, Verdict, identity,
};
use stockade_tests::{Need, test};

use crate::harness::{Jail, Running};

fn folder(jail: &Jail) -> PathBuf {
    jail.root().parent().unwrap().to_owned()
}

/// The record of a jail whose tenant sleeps, and the process that it is about.
fn recorded(jail: &Jail) -> (Running, Record, Process) {
    let running = jail.start();
    let pid = jail.confined();
    let record = Record::read(&folder(jail)).unwrap();
    let process = Process::open(pid).unwrap();
    assert_eq!((record.pid, record.id.as_str()), (pid, jail.id.as_str()));
    assert_eq!(record.identity, identity(process.descriptor().unwrap()).unwrap());
    (running, record, process)
}

fn state(verdict: &Verdict, layer: Layer) -> State {
    verdict.layers.iter().find(|found| found.layer == layer).unwrap().state
}

#[test]
fn a_jail_with_everything_has_every_layer_but_the_filters_that_a_vmm_adds() {
    test(&[Need::Root], |scratch| {
        let jail = Jail::of_tenant(scratch, "sleep").with("--new-pid-ns --resource-limit fsize=100");
        let (_running, record, process) = recorded(&jail);
        let confinement = Confinement::read(&process).unwrap();
        let verdict = Verdict::on(&confinement, Some(&record));
        for layer in Layer::ALL {
            let expected = match layer {
                // The tenant never asks for more filters than the first.
                Layer::Seccomp => State::Weak,
                // Not asked for.
                Layer::Namespaces => State::Weak,
                Layer::Cgroup => continue,
                _ => State::On,
            };
            assert_eq!(state(&verdict, layer), expected, "{layer:?}: {verdict:#?}");
        }
        assert_eq!((record.uid, record.gid), (jail.uid, jail.gid));
        assert_eq!(record.jail, JailKind::Compatible { root: confinement.root.identity, ceilings: record.ceilings() });
        // That is how it is found.
        assert_eq!(Root::read(&process).unwrap().place().unwrap(), Some(jail.root().canonicalize().unwrap()));
        let metadata = folder(&jail).join(Record::FILE).metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (0, 0o400));
        // Longer than any file that the vmm may write.
        assert!(metadata.len() > 1000);
        // It is no child of what was started.
        kill(Pid::from_raw(record.pid), Signal::SIGKILL).unwrap();
    });
}

#[test]
fn what_was_given_up_is_on_record() {
    test(&[Need::Root], |scratch| {
        for layer in [Layer::Landlock, Layer::Uid, Layer::Namespaces] {
            let jail = Jail::of_tenant(scratch, "sleep").with(&format!("--without {}", layer.name()));
            let (_running, record, process) = recorded(&jail);
            let given_up: Vec<_> = record.layers.iter().filter(|report| report.detail == "given up").collect();
            assert!(given_up.len() == 1 && given_up[0].layer == layer && !given_up[0].enforced, "{record:#?}");
            let verdict = Verdict::on(&Confinement::read(&process).unwrap(), Some(&record));
            assert!(matches!(state(&verdict, layer), State::Off | State::Weak), "{verdict:#?}");
        }
    });
}

#[test]
fn nobody_can_plant_a_record() {
    test(&[Need::Root], |scratch| {
        let victim = scratch.file("victim", "kept");
        let jail = Jail::of_tenant(scratch, "exit 0");
        jail.prefill();
        jail.give(&folder(&jail));
        let place = folder(&jail).join(Record::FILE);
        for is_symbolic in [true, false] {
            let planted = if is_symbolic { symlink(&victim, &place) } else { std::fs::hard_link(&victim, &place) };
            planted.unwrap();
            assert!(jail.run().status.success());
            assert_eq!(Record::read(&folder(&jail)).unwrap().id, jail.id);
            assert_eq!(std::fs::read(&victim).unwrap(), b"kept");
            assert!(!place.is_symlink());
            std::fs::remove_file(&place).unwrap();
        }
        // Nor can the owner of the folder write one that is believed.
        std::fs::write(&place, "{}").unwrap();
        jail.give(&place);
        std::fs::set_permissions(&place, PermissionsExt::from_mode(0o400)).unwrap();
        assert!(matches!(Record::read(&folder(&jail)), Err(RecordError::Untrusted { .. })));
        let jail = Jail::of_tenant(scratch, "exit 0");
        jail.prefill();
        std::fs::create_dir(folder(&jail).join(Record::FILE)).unwrap();
        assert!(jail.refused().contains("confinement.json: is a folder where a file has to be; remove it"));
    });
}
