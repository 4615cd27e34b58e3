//! How the parent is confined: before it has read a byte of anybody's but root's.
//!
//! It is root, because it makes jails: a jailer mounts, makes namespaces and control groups, becomes other users, and traces; and it
//! opens files with the rights of tenants. What it gives up is what neither it nor anything below it needs, for all that is given up
//! is inherited, by jailers and roles, wardens and vmms:
//!
//! - every capability but [`KEPT`], and those of the bounding set as well, so that no program has more;
//! - no_new_privs, core dumps, and being looked into by others than root;
//! - parts of the kernel that none of them uses: [`seccomp_filters::refuse`].
//!
//! The filter names what is refused, and not what is promised: a list of all that the parent, jailers, roles, wardens and vmms
//! do would be as wide as what the widest of them does, which is a jailer's `mount` and `ptrace`, and each of them has a
//! narrower one of its own as soon as it reads what a stranger wrote. The other cut, a second process that starts jailers for a
//! parent which can't, gains nothing as long as it obeys: whoever has the parent would have it start what he likes.
//! A parent under Landlock could not have jailers that mount.

use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};
use stockade_confinement::{Ceilings, JailKind, Layer, LayerReport, Record, identity};

/// Capabilities that the parent keeps, for itself or for what it starts.
///
/// | capability | for |
/// |---|---|
/// | `CHOWN`, `FOWNER`, `FSETID`, `DAC_OVERRIDE`, `DAC_READ_SEARCH` | folders and files that are a VM's user's |
/// | `SETUID`, `SETGID`, `SETPCAP` | a jailer that becomes that user, and gives up the rest; files that are opened as a tenant |
/// | `KILL`, `SYS_PTRACE` | the end of a vmm; a warden that traces one |
/// | `SYS_ADMIN`, `SYS_CHROOT`, `SYS_RESOURCE` | namespaces, mounts, control groups and limits |
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::SYS_RESOURCE);
/// Its name beside those of roles.
const NAME: &str = "parent";

/// Gives all of that up, and writes down in this folder for roles what is in force. To be called while there is one thread.
///
/// # Errors
/// The step that failed, in words.
pub fn enter(roles: &Path) -> Result<(), String> {
    let step = |what: &'static str| move |error: &dyn std::fmt::Display| format!("{what}: {error}");
    give_up_capabilities().map_err(|error| step("give up capabilities")(&error))?;
    prctl::set_no_new_privs().map_err(|error| step("set no_new_privs")(&error))?;
    prctl::set_dumpable(false).map_err(|error| step("forbid to look into this process")(&error))?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(|error| step("forbid core dumps")(&error))?;
    seccomp_filters::refuse().map_err(|error| error.to_string())?;
    record(&roles.join(NAME)).map_err(|error| step("record what confines this process")(&error))
}

fn give_up_capabilities() -> io::Result<()> {
    for number in 0..u64::BITS {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        // Up to the last one that the kernel has.
        let Ok(is_there) = capability_is_in_bounding_set(capability) else { break };
        if is_there && !KEPT.contains(capability) {
            remove_capability_from_bounding_set(capability)?;
        }
    }
    clear_ambient_capability_set()?;
    let held = rustix::thread::capabilities(None)?.permitted & KEPT;
    let sets = CapabilitySets { effective: held, permitted: held, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}

fn record(folder: &Path) -> io::Result<()> {
    let own = getpid();
    let ids = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let record = Record {
        id: NAME.to_owned(),
        pid: own.as_raw_pid(),
        identity: identity(pidfd_open(own, PidfdFlags::empty())?)?,
        uid: ids.0,
        gid: ids.1,
        jail: JailKind::Daemon {
            ceilings: Ceilings::sealed(0),
            namespaces: Vec::new(),
            capabilities: stockade_confinement::CapabilitySet(KEPT.bits()),
            filters: 1,
        },
        layers: Layer::ALL.map(report).into(),
    };
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let (new, path) = (folder.join("new"), folder.join(Record::FILE));
    let _ = fs::remove_file(&new);
    let mut file = fs::File::options().write(true).create_new(true).mode(Record::MODE).open(&new)?;
    file.write_all(&serde_json::to_vec(&record)?)?;
    fs::rename(new, path)
}

fn report(layer: Layer) -> LayerReport {
    let (enforced, detail) = match layer {
        Layer::Cgroup => (false, "its share of the host is for its service to limit"),
        Layer::Namespaces => (false, "it makes jails of what is the host's"),
        Layer::Root => (false, "it opens what vm.conf names, and what tenants name with their rights"),
        Layer::ResourceLimits => (false, "no core dump; descriptors are for its service to limit"),
        Layer::Capabilities => (true, "what jailers and roles need, and no more to be had"),
        Layer::Uid => (false, "root, who makes jails"),
        Layer::Landlock => (false, "who is under Landlock mounts nothing, and jailers inherit it"),
        Layer::Seccomp => (true, "nothing that neither it nor anything below it needs"),
    };
    LayerReport { layer, enforced, detail: detail.to_owned() }
}
