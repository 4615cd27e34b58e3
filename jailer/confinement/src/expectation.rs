//! What a process in a jail is told of its confinement, and what it sees of that itself: without `/proc`, which a jail has not, by
//! asking the kernel about the calling thread.
//!
//! | layer | what is asked |
//! |---|---|
//! | namespaces | that it is process 1, without a parent |
//! | root | that it is mounted read-only, nosuid, nodev and noexec; in compatible mode nosuid and noexec, and that it is the jail's folder |
//! | resource-limits | each of them |
//! | capabilities | four sets and the securebits; what is ambient would be permitted |
//! | uid | real, effective and saved user and group, and the other groups |
//! | landlock | that the root, which everybody may read, can't be opened |
//! | seccomp | that there is a filter |
//!
//! A control group can't be seen from inside, nor can namespaces by who is not the first process of its own. No layer is put on without no_new_privs, so that is asked always.

use std::fmt;
use std::fs::File;
use std::io;
use std::str::FromStr;

use nix::unistd::{getgroups, getresgid, getresuid};
use rustix::fs::{StatVfsMountFlags, stat, statvfs};
use rustix::process::{Resource, getpid, getppid, getrlimit};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, SecureComputingMode, capabilities, capabilities_secure_bits,
    capability_is_in_bounding_set, no_new_privs, secure_computing_mode,
};

use crate::layer::Layer;
use crate::limits::Ceilings;

/// What a process in a jail is to find. As text: names of layers with commas between them, some of them with numbers:
///
/// | word | numbers |
/// |---|---|
/// | `root=DEVICE:INODE` | those of the root directory; without, it is an empty one |
/// | `resource-limits=PROCESSES:DESCRIPTORS:BYTES` | most processes, descriptors, and bytes of locked memory |
/// | `uid=USER:GROUP` | what it is |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    layers: Vec<Expected>,
}

/// A layer, and what exactly is expected of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Root(JailRoot),
    ResourceLimits(Ceilings),
    Uid { uid: u32, gid: u32 },
    Other(Layer),
}

/// The root directory of a jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JailRoot {
    /// An empty one, that can't be written.
    Empty,
    /// A folder of the host, by its device (`st_dev`) and its number there (`st_ino`).
    Folder(u64, u64),
}

/// What is in force is not what was reported.
#[derive(Debug, thiserror::Error)]
#[error("the jail is not what the jailer reported: {layer}: {found}")]
pub struct Mismatch {
    /// Which layer.
    layer: &'static str,
    /// What was found instead.
    found: String,
}

/// A text that is no expectation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no layer of a jail")]
pub struct ExpectationError(String);

impl Expectation {
    /// The variable of its environment by which a vmm is told what to find if its command line is another's.
    pub const VARIABLE: &str = "STOCKADE_CONFINED";

    /// Expects `layers`, of a process with this root, user, group and these limits.
    pub fn new(
        layers: impl IntoIterator<Item = Layer>,
        root: JailRoot,
        (uid, gid): (u32, u32),
        ceilings: Ceilings,
    ) -> Self {
        let expected = |layer| match layer {
            Layer::Root => Expected::Root(root),
            Layer::ResourceLimits => Expected::ResourceLimits(ceilings),
            Layer::Uid => Expected::Uid { uid, gid },
            other => Expected::Other(other),
        };
        Self { layers: layers.into_iter().map(expected).collect() }
    }

    /// Compares that with what the kernel says of the calling thread.
    ///
    /// # Errors
    /// A layer is not there.
    pub fn confirm(&self) -> Result<(), Mismatch> {
        let mismatch = |layer| move |found| Mismatch { layer, found };
        expect("it", no_new_privs(), true).map_err(mismatch("no_new_privs"))?;
        self.layers.iter().try_for_each(|expected| expected.confirm().map_err(mismatch(expected.layer().name())))
    }
}

impl Expected {
    fn layer(self) -> Layer {
        match self {
            Self::Root(_) => Layer::Root,
            Self::ResourceLimits(_) => Layer::ResourceLimits,
            Self::Uid { .. } => Layer::Uid,
            Self::Other(layer) => layer,
        }
    }

    fn confirm(self) -> Result<(), String> {
        match self {
            Self::Root(root) => confirm_root(root),
            Self::ResourceLimits(ceilings) => confirm_limits(ceilings),
            Self::Uid { uid, gid } => confirm_user(uid, gid),
            Self::Other(Layer::Capabilities) => confirm_capabilities(),
            Self::Other(Layer::Namespaces) => {
                expect("its process id", Ok::<_, io::Error>(getpid().as_raw_pid()), 1)?;
                expect("its parent", Ok::<_, io::Error>(getppid()), None)
            }
            Self::Other(Layer::Landlock) => match File::open("/").map_err(|error| error.kind()) {
                Err(io::ErrorKind::PermissionDenied) => Ok(()),
                other => Err(format!("opening the root gave {other:?}, not that it is forbidden")),
            },
            Self::Other(Layer::Seccomp) => {
                expect("the mode of seccomp", secure_computing_mode(), SecureComputingMode::Filter)
            }
            // Nothing to be seen from inside.
            Self::Other(Layer::Cgroup | Layer::Root | Layer::ResourceLimits | Layer::Uid) => Ok(()),
        }
    }
}

fn expect<T: fmt::Debug + PartialEq>(
    what: &str,
    found: Result<T, impl fmt::Display>,
    expected: T,
) -> Result<(), String> {
    match found {
        Ok(found) if found == expected => Ok(()),
        Ok(found) => Err(format!("{what} is {found:?}, not {expected:?}")),
        Err(error) => Err(format!("{what}: {error}")),
    }
}

fn confirm_user(uid: u32, gid: u32) -> Result<(), String> {
    let users = getresuid().map(|ids| [ids.real.as_raw(), ids.effective.as_raw(), ids.saved.as_raw()]);
    expect("the user", users, [uid; 3])?;
    let groups = getresgid().map(|ids| [ids.real.as_raw(), ids.effective.as_raw(), ids.saved.as_raw()]);
    expect("the group", groups, [gid; 3])?;
    expect("the number of other groups", getgroups().map(|groups| groups.len()), 0)
}

fn confirm_capabilities() -> Result<(), String> {
    let sets = capabilities(None).map_err(|error| format!("its capabilities: {error}"))?;
    let held = sets.effective | sets.permitted | sets.inheritable;
    expect("the union of its capabilities", Ok::<_, io::Error>(held.bits()), 0)?;
    // Up to the last one that the kernel has.
    let in_bounding_set = (0..u64::BITS)
        .map_while(|number| capability_is_in_bounding_set(CapabilitySet::from_bits_retain(1 << number)).ok())
        .filter(|is_in_it| *is_in_it);
    expect("the size of its bounding set", Ok::<_, io::Error>(in_bounding_set.count()), 0)?;
    let locked = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    expect("securebits", capabilities_secure_bits(), locked)
}

fn confirm_limits(ceilings: Ceilings) -> Result<(), String> {
    let limits = [
        ("core file size", Resource::Core, 0),
        ("open files", Resource::Nofile, ceilings.descriptors),
        ("processes", Resource::Nproc, ceilings.processes),
        ("locked memory", Resource::Memlock, ceilings.locked_bytes),
        ("message queues", Resource::Msgqueue, 0),
    ];
    limits.into_iter().try_for_each(|(name, resource, limit)| {
        let found = getrlimit(resource);
        expect(name, Ok::<_, io::Error>([found.current, found.maximum]), [Some(limit); 2])
    })
}

fn confirm_root(root: JailRoot) -> Result<(), String> {
    let mut flags = StatVfsMountFlags::NOSUID | StatVfsMountFlags::NOEXEC;
    match root {
        JailRoot::Empty => flags |= StatVfsMountFlags::RDONLY | StatVfsMountFlags::NODEV,
        JailRoot::Folder(device, inode) => {
            expect("the root", stat("/").map(|found| (found.st_dev, found.st_ino)), (device, inode))?;
        }
    }
    expect("the root's mount", statvfs("/").map(|found| found.f_flag & flags), flags)
}

impl fmt::Display for Expectation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, expected) in self.layers.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(formatter, "{comma}{}", expected.layer().name())?;
            match expected {
                Expected::Root(JailRoot::Folder(device, inode)) => write!(formatter, "={device}:{inode}")?,
                Expected::ResourceLimits(Ceilings { descriptors, processes, locked_bytes }) => {
                    write!(formatter, "={processes}:{descriptors}:{locked_bytes}")?;
                }
                Expected::Uid { uid, gid } => write!(formatter, "={uid}:{gid}")?,
                Expected::Root(JailRoot::Empty) | Expected::Other(_) => {}
            }
        }
        Ok(())
    }
}

impl FromStr for Expectation {
    type Err = ExpectationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let layers = text.split(',').filter(|word| !word.is_empty()).map(str::parse).collect::<Result<_, _>>()?;
        Ok(Self { layers })
    }
}

impl FromStr for Expected {
    type Err = ExpectationError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let bad = || ExpectationError(word.to_owned());
        let (name, numbers) = word.split_once('=').unwrap_or((word, ""));
        let numbers: Result<Vec<u64>, _> =
            numbers.split(':').filter(|_| word.contains('=')).map(|number| number.parse().map_err(|_| bad())).collect();
        let id = |number: &u64| u32::try_from(*number).map_err(|_| bad());
        let layer = Layer::ALL.into_iter().find(|layer| layer.name() == name).ok_or_else(bad)?;
        match (layer, numbers?.as_slice()) {
            (Layer::Root, []) => Ok(Self::Root(JailRoot::Empty)),
            (Layer::Root, [device, inode]) => Ok(Self::Root(JailRoot::Folder(*device, *inode))),
            (Layer::ResourceLimits, &[processes, descriptors, locked_bytes]) => {
                Ok(Self::ResourceLimits(Ceilings { descriptors, processes, locked_bytes }))
            }
            (Layer::Uid, [uid, gid]) => Ok(Self::Uid { uid: id(uid)?, gid: id(gid)? }),
            (Layer::Root | Layer::ResourceLimits | Layer::Uid, _) | (_, [_, ..]) => Err(bad()),
            (other, []) => Ok(Self::Other(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_that_are_none_are_named() {
        for word in [
            "x",
            "uid",
            "uid=",
            "uid=x:1",
            "uid=-1:1",
            "uid=4294967296:1",
            "uid=1",
            "root=1",
            "resource-limits=1:2",
            " root",
            "seccomp=",
        ] {
            let text = format!("landlock,{word},seccomp");
            assert_eq!(text.parse::<Expectation>(), Err(ExpectationError(word.to_owned())));
        }
    }

    /// This test is in no jail.
    #[test]
    fn what_is_not_there_is_named() {
        let is_filtered = secure_computing_mode().unwrap() != SecureComputingMode::Disabled;
        let can_miss = |layer: &Layer| *layer != Layer::Cgroup && !(*layer == Layer::Seccomp && is_filtered);
        for layer in Layer::ALL.into_iter().filter(can_miss) {
            let (expected, error) = std::thread::spawn(move || {
                // So that the next thing is looked at; for this thread alone.
                rustix::thread::set_no_new_privs(true).unwrap();
                let expected =
                    Expectation::new([layer], JailRoot::Folder(1, 2), (0x7abc_def0, 0x7abc_def0), Ceilings::sealed(3));
                let error = expected.confirm().unwrap_err();
                (expected, error)
            })
            .join()
            .unwrap();
            let start = format!("the jail is not what the jailer reported: {}: ", layer.name());
            assert!(error.to_string().starts_with(&start), "{expected}: {error}");
        }
        let error = std::thread::spawn(|| Expectation::new([], JailRoot::Empty, (0, 0), Ceilings::sealed(0)).confirm())
            .join()
            .unwrap();
        // It may run in something else's jail.
        assert_eq!(error.is_err(), !no_new_privs().unwrap());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(mask in any::<u8>(), ids: (u32, u32), limits: (u64, u64, u64), root: Option<(u64, u64)>) {
            let layers = Layer::ALL.into_iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1).map(|(_, layer)| layer);
            let root = root.map_or(JailRoot::Empty, |(device, inode)| JailRoot::Folder(device, inode));
            let (descriptors, processes, locked_bytes) = limits;
            let expectation = Expectation::new(layers, root, ids, Ceilings { descriptors, processes, locked_bytes });
            prop_assert_eq!(expectation.to_string().parse::<Expectation>().unwrap(), expectation);
        }

        #[test]
        fn no_text_is_a_surprise(text in "[a-z,=:0-9-]{0,40}") {
            let _ = text.parse::<Expectation>();
        }
    }
}
