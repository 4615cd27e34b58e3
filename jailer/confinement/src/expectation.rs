//! What a process in a jail is told of its confinement, and what it sees of that itself: without `/proc`, which a jail has not, by
//! asking the kernel about the calling thread.
//!
//! | layer | what is asked |
//! |---|---|
//! | namespaces | that it is process 1, without a parent |
//! | root | that the root is mounted read-only, nosuid, nodev and noexec |
//! | resource-limits | each of them |
//! | capabilities | four sets and the securebits; what is ambient would be permitted |
//! | uid | real, effective and saved user and group, and the other groups |
//! | landlock | that the root, which everybody may read, can't be opened |
//! | seccomp | that there is a filter |
//!
//! A control group can't be seen from inside. No layer is put on without no_new_privs, so that is asked always.

use std::fmt;
use std::fs::File;
use std::io;
use std::str::FromStr;

use nix::unistd::{getgroups, getresgid, getresuid};
use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::process::{Resource, getpid, getppid, getrlimit};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, SecureComputingMode, capabilities, capabilities_secure_bits,
    capability_is_in_bounding_set, no_new_privs, secure_computing_mode,
};

use crate::layer::Layer;
use crate::limits::MOST_DESCRIPTORS;

/// What a process in a jail is to find. As text: names of layers with commas between them, two of them with a number:
/// `namespaces,resource-limits=18,uid=1879048193`, where 18 is for processes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expectation {
    layers: Vec<Expected>,
}

/// A layer, and what exactly is expected of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    ResourceLimits { processes: u32 },
    Uid(u32),
    Other(Layer),
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
    /// Expects `layers`, of a process that is user and group `uid` and whose user may have that many processes.
    pub fn new(layers: impl IntoIterator<Item = Layer>, uid: u32, processes: u32) -> Self {
        let expected = |layer| match layer {
            Layer::ResourceLimits => Expected::ResourceLimits { processes },
            Layer::Uid => Expected::Uid(uid),
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
            Self::ResourceLimits { .. } => Layer::ResourceLimits,
            Self::Uid(_) => Layer::Uid,
            Self::Other(layer) => layer,
        }
    }

    fn confirm(self) -> Result<(), String> {
        match self {
            Self::ResourceLimits { processes } => confirm_limits(processes.into()),
            Self::Uid(uid) => confirm_user(uid),
            Self::Other(Layer::Capabilities) => confirm_capabilities(),
            Self::Other(Layer::Namespaces) => {
                expect("its process id", Ok::<_, io::Error>(getpid().as_raw_pid()), 1)?;
                expect("its parent", Ok::<_, io::Error>(getppid()), None)
            }
            Self::Other(Layer::Root) => confirm_root(),
            Self::Other(Layer::Landlock) => match File::open("/").map_err(|error| error.kind()) {
                Err(io::ErrorKind::PermissionDenied) => Ok(()),
                other => Err(format!("opening the root gave {other:?}, not that it is forbidden")),
            },
            Self::Other(Layer::Seccomp) => {
                expect("the mode of seccomp", secure_computing_mode(), SecureComputingMode::Filter)
            }
            // Nothing to be seen from inside.
            Self::Other(Layer::Cgroup | Layer::ResourceLimits | Layer::Uid) => Ok(()),
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

fn confirm_user(uid: u32) -> Result<(), String> {
    let users = getresuid().map(|ids| [ids.real.as_raw(), ids.effective.as_raw(), ids.saved.as_raw()]);
    expect("the user", users, [uid; 3])?;
    let groups = getresgid().map(|ids| [ids.real.as_raw(), ids.effective.as_raw(), ids.saved.as_raw()]);
    expect("the group", groups, [uid; 3])?;
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

fn confirm_limits(processes: u64) -> Result<(), String> {
    let limits = [
        ("core file size", Resource::Core, 0),
        ("open files", Resource::Nofile, MOST_DESCRIPTORS),
        ("processes", Resource::Nproc, processes),
        ("locked memory", Resource::Memlock, 0),
        ("message queues", Resource::Msgqueue, 0),
    ];
    limits.into_iter().try_for_each(|(name, resource, limit)| {
        let found = getrlimit(resource);
        expect(name, Ok::<_, io::Error>([found.current, found.maximum]), [Some(limit); 2])
    })
}

fn confirm_root() -> Result<(), String> {
    let flags =
        StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV | StatVfsMountFlags::NOEXEC;
    expect("the root's mount", statvfs("/").map(|found| found.f_flag & flags), flags)
}

impl fmt::Display for Expectation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, expected) in self.layers.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(formatter, "{comma}{}", expected.layer().name())?;
            match expected {
                Expected::ResourceLimits { processes: number } | Expected::Uid(number) => {
                    write!(formatter, "={number}")?
                }
                Expected::Other(_) => {}
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
        let (name, number) = match word.split_once('=') {
            Some((name, number)) => (name, Some(number.parse().map_err(|_| bad())?)),
            None => (word, None),
        };
        let layer = Layer::ALL.into_iter().find(|layer| layer.name() == name).ok_or_else(bad)?;
        match (layer, number) {
            (Layer::ResourceLimits, Some(processes)) => Ok(Self::ResourceLimits { processes }),
            (Layer::Uid, Some(uid)) => Ok(Self::Uid(uid)),
            (Layer::ResourceLimits | Layer::Uid, None) | (_, Some(_)) => Err(bad()),
            (other, None) => Ok(Self::Other(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_that_are_none_are_named() {
        for word in ["x", "uid", "uid=", "uid=x", "uid=-1", "root=1", "resource-limits", " root"] {
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
                let expected = Expectation::new([layer], 0x7abc_def0, 3);
                let error = expected.confirm().unwrap_err();
                (expected, error)
            })
            .join()
            .unwrap();
            let start = format!("the jail is not what the jailer reported: {}: ", layer.name());
            assert!(error.to_string().starts_with(&start), "{expected}: {error}");
        }
        let error = std::thread::spawn(|| Expectation::new([], 0, 0).confirm()).join().unwrap();
        // It may run in something else's jail.
        assert_eq!(error.is_err(), !no_new_privs().unwrap());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(mask in any::<u8>(), uid in any::<u32>(), processes in any::<u32>()) {
            let layers = Layer::ALL.into_iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1).map(|(_, layer)| layer);
            let expectation = Expectation::new(layers, uid, processes);
            prop_assert_eq!(expectation.to_string().parse::<Expectation>().unwrap(), expectation);
        }

        #[test]
        fn no_text_is_a_surprise(text in "[a-z,=0-9-]{0,40}") {
            let _ = text.parse::<Expectation>();
        }
    }
}
