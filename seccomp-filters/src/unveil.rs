//! Landlock with unveil(2)'s words: say what may be seen, then lock.

use std::fmt;
use std::ops::BitOr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd,
    PathFdError, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};

/// The newest ABI that is handled in full; an older kernel enforces what it knows of it, which [`Enforced`] tells.
const NEWEST: ABI = ABI::V10;

/// What a veil hides, and since which ABI (landlock(7), "Compatibility").
const HIDDEN: [(ABI, &str); 7] = [
    (ABI::V1, "files"),
    (ABI::V3, "truncation"),
    (ABI::V4, "TCP ports"),
    (ABI::V5, "ioctl on devices"),
    (ABI::V6, "abstract unix sockets"),
    (ABI::V9, "unix sockets by path"),
    (ABI::V10, "UDP ports"),
];
const SIGNALS: (ABI, &str) = (ABI::V6, "signals");

/// What may be done with what is unveiled, in the words of unveil(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights(BitFlags<AccessFs>);

impl Rights {
    /// `r`: read files, list folders.
    pub const READ: Self = Self(landlock::make_bitflags!(AccessFs::{ReadFile | ReadDir}));
    /// `w`: write to files that are there, connect to unix sockets that are.
    pub const WRITE: Self = Self(landlock::make_bitflags!(AccessFs::{WriteFile | Truncate | ResolveUnix}));
    /// `x`: execute, for which a file is read too.
    pub const EXECUTE: Self = Self(landlock::make_bitflags!(AccessFs::{Execute | ReadFile}));
    /// `c`: create and remove files and folders.
    pub const CREATE: Self =
        Self(landlock::make_bitflags!(AccessFs::{MakeReg | MakeDir | MakeSock | MakeFifo | RemoveFile | RemoveDir}));
    /// The part of `r` that reads files.
    pub const READ_FILES: Self = Self(landlock::make_bitflags!(AccessFs::{ReadFile}));
    /// The part of `c` that creates files and sockets, and removes them.
    pub const CREATE_FILES: Self = Self(landlock::make_bitflags!(AccessFs::{MakeReg | MakeSock | RemoveFile}));
    /// Control devices by ioctl(2), which pledge(2) and not unveil(2) restricts in OpenBSD.
    pub const CONTROL: Self = Self(landlock::make_bitflags!(AccessFs::{IoctlDev}));
    /// The part of `c` that removes files.
    pub const REMOVE_FILES: Self = Self(landlock::make_bitflags!(AccessFs::{RemoveFile}));
    /// The part of `c` that removes folders.
    pub const REMOVE_FOLDERS: Self = Self(landlock::make_bitflags!(AccessFs::{RemoveDir}));
}

impl BitOr for Rights {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What to do on a kernel without Landlock. One that has it, but not its newest part, is good enough for either: what it lacks is
/// in [`Enforced`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Fail.
    Required,
    /// Go on without.
    BestEffort,
}

/// A veil that can't be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnveilError {
    /// The kernel has no Landlock.
    #[error(
        "this kernel has no Landlock, or it is off: boot Linux 5.13 or newer with CONFIG_SECURITY_LANDLOCK, and with \
         landlock in lsm="
    )]
    Unsupported,
    /// What is to be seen is not there.
    #[error("unveil {}: {source}", path.display())]
    Open {
        /// Its path.
        path: PathBuf,
        /// What the kernel said.
        source: PathFdError,
    },
    /// The kernel refuses.
    #[error("restrict by Landlock: {0}")]
    Ruleset(#[from] landlock::RulesetError),
}

/// What the kernel enforces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enforced {
    abi: ABI,
    asked: Vec<(ABI, &'static str)>,
}

impl Enforced {
    /// Version of Landlock's interface (landlock(7)) that is in force; 0 for none.
    pub fn abi(&self) -> i32 {
        self.abi as i32
    }

    /// What is hidden.
    pub fn hidden(&self) -> impl Iterator<Item = &'static str> {
        self.asked.iter().filter(|(since, _)| *since <= self.abi).map(|(_, what)| *what)
    }

    /// What would be hidden by a newer kernel, and is not.
    pub fn lacking(&self) -> impl Iterator<Item = &'static str> {
        self.asked.iter().filter(|(since, _)| *since > self.abi).map(|(_, what)| *what)
    }
}

impl fmt::Display for Enforced {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |names: &mut dyn Iterator<Item = &str>| names.collect::<Vec<_>>().join(", ");
        if self.abi == ABI::Unsupported {
            return formatter.write_str("no Landlock");
        }
        write!(formatter, "Landlock ABI {} hides {}", self.abi(), list(&mut self.hidden()))?;
        match list(&mut self.lacking()) {
            lacking if lacking.is_empty() => Ok(()),
            lacking => write!(formatter, ", but not {lacking}"),
        }
    }
}

/// A veil over every file, every port, and abstract unix sockets and signals of processes outside.
#[derive(Debug)]
pub struct Veil {
    ruleset: RulesetCreated,
    asked: Vec<(ABI, &'static str)>,
}

impl Veil {
    /// Hides everything, signals to other processes included.
    ///
    /// # Errors
    /// If the kernel refuses; one without Landlock does not before [`lock`](Self::lock).
    pub fn new() -> Result<Self, UnveilError> {
        let mut veil = Self::with_scope(Scope::from_all(NEWEST))?;
        veil.asked.push(SIGNALS);
        Ok(veil)
    }

    /// Hides everything, but leaves signals, for a process that has to end another.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_signals() -> Result<Self, UnveilError> {
        Self::with_scope(Scope::from_all(NEWEST) & !BitFlags::from(Scope::Signal))
    }

    fn with_scope(scope: BitFlags<Scope>) -> Result<Self, UnveilError> {
        let ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(NEWEST))?
            .handle_access(AccessNet::from_all(NEWEST))?
            .scope(scope)?
            .create()?;
        Ok(Self { ruleset, asked: HIDDEN.to_vec() })
    }

    /// Leaves `rights` to the file or folder at `path`, which is followed if it is a link, and to everything below it. Rights
    /// that make no sense for a file are left out for one.
    ///
    /// # Errors
    /// If it is not there, or the kernel refuses the rule.
    pub fn unveil(self, path: impl AsRef<Path>, rights: Rights) -> Result<Self, UnveilError> {
        let path = path.as_ref();
        let descriptor = PathFd::new(path).map_err(|source| UnveilError::Open { path: path.to_owned(), source })?;
        self.unveil_descriptor(descriptor, rights)
    }

    /// The same for the file or folder that is open as `descriptor`, whatever its name is by now. It takes
    /// [`EXECUTE`](Rights::EXECUTE) to run the program behind a descriptor (execveat(2)), even if that was opened before.
    ///
    /// # Errors
    /// If the kernel refuses the rule.
    pub fn unveil_descriptor(mut self, descriptor: impl AsFd, rights: Rights) -> Result<Self, UnveilError> {
        self.ruleset = self.ruleset.add_rule(PathBeneath::new(descriptor, rights.0))?;
        Ok(self)
    }

    /// Drops the veil over the calling thread, and what it starts. Cannot be undone. Descriptors that are open stay usable.
    ///
    /// # Errors
    /// If `policy` requires Landlock and the kernel has none, or if the kernel refuses.
    pub fn lock(self, policy: Policy) -> Result<Enforced, UnveilError> {
        let RestrictionStatus { ruleset, landlock, .. } = self.ruleset.restrict_self()?;
        let abi = match (ruleset, landlock) {
            (
                RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced,
                LandlockStatus::Available { effective_abi, .. },
            ) => effective_abi,
            _ if policy == Policy::Required => return Err(UnveilError::Unsupported),
            _ => ABI::Unsupported,
        };
        Ok(Enforced { abi, asked: self.asked })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn veil(abi: ABI) -> String {
        let mut asked = HIDDEN.to_vec();
        asked.push(SIGNALS);
        Enforced { abi, asked }.to_string()
    }

    #[test]
    fn what_a_kernel_lacks_is_said() {
        assert_eq!(veil(ABI::Unsupported), "no Landlock");
        assert_eq!(
            veil(ABI::V3),
            "Landlock ABI 3 hides files, truncation, but not TCP ports, ioctl on devices, abstract unix sockets, unix \
             sockets by path, UDP ports, signals"
        );
        assert!(!veil(NEWEST).contains("but not"));
    }

    #[test]
    fn everything_is_handled_that_the_newest_interface_knows() {
        // A newer version of the crate brings an ABI that is neither handled nor reported yet.
        assert_eq!(NEWEST, ABI::from(i32::MAX));
    }
}
