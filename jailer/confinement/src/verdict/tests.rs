//! Verdicts on confinements that were made up: a jail as it should be, with one thing changed.

use super::*;
use crate::cgroups::{Cgroups, Usage};
use crate::descriptors::{Access, Descriptor, DescriptorKind};
use crate::layer::LayerReport;
use crate::limits::ResourceLimits;
use crate::mounts::{Mount, Root};
use crate::namespaces::{Host, Namespace, Namespaces};
use crate::record::tests::record;
use crate::status::{Ids, Seccomp, Status, tests::CONFINED};
use crate::threads::Thread;
use crate::{CapabilitySet, Record};

/// A vmm in its jail.
fn confinement() -> Confinement {
    let status = Status::parse(CONFINED).unwrap();
    let thread = |id| Thread { id, kernel_worker: false, status: status.clone() };
    let usage = |limit| Usage { limit: Some(limit), used: Some(1), folder: Some("/sys/fs/cgroup/x".into()) };
    let limits = "L\nMax core file size  0  0  bytes\nMax open files  4096  4096  files\nMax processes  18  18  processes\n\
        Max locked memory  0  0  bytes\nMax msgqueue size  0  0  bytes\nMax file size  512  512  bytes\n";
    let mount = "58 57 0:40 / / ro,nosuid,nodev,noexec,relatime - tmpfs stockade ro,size=4k\n";
    let all = NamespaceKind::ALL.map(|kind| Namespace { kind, id: 1, own: kind.is_expected() });
    Confinement {
        pid: 3171,
        program: Some("/usr/lib/stockade/stockade-vmm".into()),
        dumpable: Some(false),
        threads: vec![thread(3171), thread(3172)],
        same_user: vec![3170],
        namespaces: Namespaces { host: Host::FirstProcess, all: all.into() },
        root: Root { path: "/".into(), mounts: Mount::parse_all(mount).unwrap(), identity: (40, 1), names: Some(0) },
        cgroups: Cgroups { memberships: Vec::new(), memory: usage(1 << 28), processes: usage(17), cpu: usage(150) },
        limits: ResourceLimits::parse(limits).unwrap(),
        descriptors: Vec::new(),
    }
}

/// What is said of `layer` once `change` was made.
fn judged(layer: Layer, record: Option<&Record>, change: impl FnOnce(&mut Confinement)) -> (State, String) {
    let mut confinement = confinement();
    change(&mut confinement);
    let verdict = Verdict::on(&confinement, record);
    let found = verdict.layers.into_iter().find(|found| found.layer == layer).unwrap();
    (found.state, found.text)
}

#[test]
fn a_jail_as_it_should_be() {
    let verdict = Verdict::on(&confinement(), Some(&record()));
    assert!(verdict.is_confined(), "{verdict:#?}");
    assert_eq!(verdict.summary, "confined: every layer is on");
    // Nobody knows about Landlock without a record, and whose the other process of the user is.
    let verdict = Verdict::on(&confinement(), None);
    assert_eq!(verdict.summary, "not confined in full: look at uid, landlock");
    let verdict = Verdict::on(&Confinement { same_user: Vec::new(), ..confinement() }, None);
    assert_eq!((verdict.state, verdict.is_confined()), (State::Unknown, false));
}

#[test]
fn each_thing_that_is_missing_is_said() {
    type Change = fn(&mut Confinement);
    let open = |target: &str| Descriptor {
        number: 7,
        kind: DescriptorKind::Folder,
        target: target.into(),
        access: Access::Path,
        socket: None,
    };
    let folder = open("/etc");
    let table: [(Layer, State, &str, Change); 30] = [
        (Layer::Cgroup, State::Weak, "no limit on memory", |c| c.cgroups.memory.limit = None),
        (Layer::Cgroup, State::Weak, "more than the 17", |c| c.cgroups.processes.limit = Some(18)),
        (Layer::Cgroup, State::Weak, "processor time is limited to 151", |c| c.cgroups.cpu.limit = Some(151)),
        (Layer::Cgroup, State::Off, "no limit", |c| {
            c.cgroups.memory.limit = None;
            c.cgroups.processes.limit = None;
            c.cgroups.cpu.limit = None;
        }),
        (Layer::Cgroup, State::Unknown, "not visible", |c| {
            c.cgroups = Cgroups {
                memberships: Vec::new(),
                memory: Usage::default(),
                processes: Usage::default(),
                cpu: Usage::default(),
            };
        }),
        (Layer::Namespaces, State::Weak, "shares the host's network", |c| c.namespaces.all[2].own = false),
        (Layer::Namespaces, State::Off, "every namespace", |c| {
            c.namespaces.all.iter_mut().for_each(|namespace| namespace.own = false);
        }),
        (Layer::Root, State::Weak, "can be written", |c| {
            c.root.mounts[0].options.retain(|option| option != "ro");
            c.root.mounts[0].super_options.clear();
        }),
        (Layer::Root, State::Weak, "lacks noexec", |c| c.root.mounts[0].options.retain(|option| option != "noexec")),
        (Layer::Root, State::Weak, "2 mounts", |c| c.root.mounts.push(c.root.mounts[0].clone())),
        (Layer::Root, State::Weak, "3 names", |c| c.root.names = Some(3)),
        (Layer::Root, State::Weak, "no empty tmpfs", |c| c.root.names = None),
        (Layer::Root, State::Weak, "no mount of its own", |c| c.root.mounts[0].point = "/x".into()),
        (Layer::Root, State::Off, "the host's files", |c| c.namespaces.all[0].own = false),
        (Layer::Root, State::Weak, "only in /srv of the host's mounts", |c| {
            c.namespaces.all[0].own = false;
            c.root.path = "/srv".into();
        }),
        (Layer::ResourceLimits, State::Weak, "core file size is unlimited", |c| {
            c.limits.0[0].hard = crate::Limit(None)
        }),
        (Layer::ResourceLimits, State::Weak, "processes is 19, not 18", |c| {
            c.limits.0[2].hard = crate::Limit(Some(19))
        }),
        (Layer::ResourceLimits, State::Weak, "can fill a disk", |c| c.limits.0[5].hard = crate::Limit(None)),
        (Layer::ResourceLimits, State::Off, "open files is unlimited", |c| c.limits.0.clear()),
        (Layer::Capabilities, State::Weak, "bounding set: CAP_CHOWN", |c| {
            c.threads[1].status.capabilities.bounding = CapabilitySet(1);
        }),
        (Layer::Capabilities, State::Weak, "no_new_privs is off", |c| c.threads[1].status.no_new_privs = false),
        (Layer::Capabilities, State::Off, "effective set: 41", |c| {
            let all = CapabilitySet((1 << 41) - 1);
            let status = &mut c.threads[0].status;
            (status.no_new_privs, status.capabilities.effective) = (false, all);
            (status.capabilities.permitted, status.capabilities.bounding) = (all, all);
        }),
        (Layer::Uid, State::Off, "root", |c| c.threads[1].status.uid.saved = 0),
        (Layer::Uid, State::Weak, "root's", |c| c.threads[0].status.gid = Ids::all(0)),
        (Layer::Uid, State::Weak, "several", |c| c.threads[0].status.uid.saved = 1000),
        (Layer::Uid, State::Weak, "groups 4, 27", |c| c.threads[0].status.groups = vec![27, 4, 27]),
        (Layer::Uid, State::Weak, "not 1879048193", |c| {
            c.threads.iter_mut().for_each(|thread| thread.status.uid = Ids::all(1000));
        }),
        (Layer::Uid, State::Weak, "2 other processes", |c| c.same_user.extend([4, 5])),
        (Layer::Seccomp, State::Weak, "thread 3172 (stockade-vmm) has no filter", |c| {
            c.threads[1].status.seccomp = Seccomp::Off;
        }),
        (Layer::Seccomp, State::Off, "no thread", |c| {
            c.threads.iter_mut().for_each(|thread| thread.status.seccomp = Seccomp::Off);
        }),
    ];
    for (layer, state, part, change) in table {
        let (found, text) = judged(layer, Some(&record()), change);
        assert_eq!(found, state, "{part}: {text}");
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let (found, text) = judged(Layer::Root, Some(&record()), |c| c.descriptors.push(folder));
    assert_eq!((found, text.as_str()), (State::Weak, "descriptor 7 is an open folder, /etc"));
}

#[test]
fn a_worker_of_the_kernels_needs_no_filter_of_its_own() {
    let launch_filter_alone = |kernel_worker| {
        judged(Layer::Seccomp, Some(&record()), |c| {
            c.threads[1].status.seccomp_filters = Some(1);
            c.threads[1].kernel_worker = kernel_worker;
        })
    };
    assert_eq!(launch_filter_alone(true).0, State::On);
    let (state, text) = launch_filter_alone(false);
    assert_eq!(
        (state, text.as_str()),
        (State::Weak, "thread 3172 (stockade-vmm) has the filters alone that it inherited")
    );
    // A stranger's filters are its own affair.
    let (state, _) = judged(Layer::Seccomp, None, |c| c.threads[1].status.seccomp_filters = Some(1));
    assert_eq!(state, State::On);
}

#[test]
fn a_record_does_not_make_good_what_the_kernel_says_is_not_there() {
    let mut given_up = record();
    given_up.layers = Layer::ALL.map(|layer| LayerReport { layer, enforced: false, detail: "given up".into() }).into();
    let (state, text) = judged(Layer::Landlock, Some(&given_up), |_| {});
    assert_eq!((state, text.as_str()), (State::Off, "given up; nothing is hidden by Landlock"));
    // What is there all the same is there.
    assert_eq!(judged(Layer::Namespaces, Some(&given_up), |_| {}).0, State::On);
    let bare = |c: &mut Confinement| c.threads.iter_mut().for_each(|thread| thread.status.seccomp = Seccomp::Off);
    assert_eq!(judged(Layer::Seccomp, Some(&record()), bare).0, State::Off);
}

#[test]
fn nothing_at_all_is_no_confinement() {
    let mut free = confinement();
    free.namespaces.all.iter_mut().for_each(|namespace| namespace.own = false);
    free.limits.0.clear();
    for usage in [&mut free.cgroups.memory, &mut free.cgroups.processes, &mut free.cgroups.cpu] {
        usage.limit = None;
    }
    for thread in &mut free.threads {
        thread.status.uid = Ids::all(0);
        thread.status.seccomp = Seccomp::Off;
        thread.status.no_new_privs = false;
    }
    let verdict = Verdict::on(&free, None);
    assert_eq!((verdict.state, verdict.summary.as_str()), (State::Off, "not confined: no layer is on"));
}

/// The same in a jail of compatible mode with every option that adds to it.
fn compatible() -> (Confinement, Record) {
    let mut confinement = confinement();
    let mount = "58 57 254:0 /srv/jailer/vmm/x/root / rw,nosuid,noexec,relatime - ext4 /dev/vda rw\n";
    confinement.root.mounts = Mount::parse_all(mount).unwrap();
    confinement.root.names = None;
    confinement.same_user = Vec::new();
    let ceilings = Ceilings { descriptors: 4096, processes: 18, locked_bytes: 8 << 20 };
    let record = Record { jail: JailKind::Compatible { root: (40, 1), ceilings }, gid: 0x7000_0002, ..record() };
    confinement.threads.iter_mut().for_each(|thread| thread.status.gid = Ids::all(record.gid));
    (confinement, record)
}

#[test]
fn a_compatible_jail_is_judged_as_one() {
    let (whole, record) = compatible();
    let verdict = Verdict::on(&whole, Some(&record));
    assert!(verdict.is_confined(), "{verdict:#?}");
    // Nobody would take a sealed jail that looks like this for one.
    assert!(!Verdict::on(&whole, Some(&super::tests::record())).is_confined());
    type Change = fn(&mut Confinement);
    let table: [(Layer, &str, Change); 5] = [
        (Layer::Root, "another folder", |c| c.root.identity = (40, 2)),
        (Layer::Root, "the mount on / lacks noexec", |c| c.root.mounts[0].options.retain(|option| option != "noexec")),
        (Layer::Namespaces, "with --netns", |c| {
            c.namespaces.all.iter_mut().for_each(|one| one.own &= one.kind != NamespaceKind::Network)
        }),
        (Layer::ResourceLimits, "open files is 5000, not 4096", |c| c.limits.0[1].hard = crate::Limit(Some(5000))),
        (Layer::Uid, "not 1879048193 and 1879048194", |c| c.threads[0].status.gid = Ids::all(5)),
    ];
    for (layer, part, change) in table {
        let (mut changed, _) = compatible();
        change(&mut changed);
        let verdict = Verdict::on(&changed, Some(&record));
        let found = verdict.layers.iter().find(|found| found.layer == layer).unwrap();
        assert!(found.state == State::Weak && found.text.contains(part), "{part} is not in {found:?}");
    }
}

#[test]
fn a_process_of_the_daemon_is_judged_by_what_is_meant_for_it() {
    let kept = CapabilitySet(1 << 12);
    let mut process = confinement();
    process.namespaces.all.iter_mut().for_each(|one| one.own &= one.kind != NamespaceKind::Pid);
    process.threads.iter_mut().for_each(|thread| {
        thread.status.capabilities.permitted = kept;
        thread.status.seccomp_filters = Some(1);
    });
    let namespaces = vec![NamespaceKind::Mount, NamespaceKind::Network];
    let jail = JailKind::Daemon { ceilings: Ceilings::sealed(18), namespaces, capabilities: kept, filters: 1 };
    let mut role = Record { jail, ..record() };
    role.layers.retain(|report| report.layer != Layer::Cgroup);
    role.layers.push(LayerReport { layer: Layer::Cgroup, enforced: false, detail: "the daemon's".into() });
    let verdict = Verdict::on(&process, Some(&role));
    assert_eq!(verdict.summary, "confined: every layer that is meant for it is on", "{verdict:#?}");
    assert_eq!(verdict.layers[0].state, State::NotMeant);
    process.threads[1].status.capabilities.bounding = CapabilitySet(1 << 21);
    let verdict = Verdict::on(&process, Some(&role));
    assert_eq!(verdict.summary, "not confined in full: look at capabilities");
}
