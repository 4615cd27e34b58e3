//! Landlock with unveil(2)'s words: say what may be seen, then lock.

use std::fmt;
use std::ops::BitOr;
use std::os::fd::AsFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};

/// The newest ABI that is handled in full; an older kernel enforces what it knows of it, which [`Enforced`] tells.
const NEWEST: ABI = ABI::V10;

/// What may be done with what is unveiled, in the words of unveil(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights(BitFlags<AccessFs>);

impl Rights {
    /// `r`: read files, list folders.
    pub const READ: Self = Self(landlock::make_bitflags!(AccessFs::{ReadFile | ReadDir}));
    /// `w`: write to files that are there.
    pub const WRITE: Self = Self(landlock::make_bitflags!(AccessFs::{WriteFile | Truncate}));
    /// `x`: execute, for which a file is read too.
    pub const EXECUTE: Self = Self(landlock::make_bitflags!(AccessFs::{Execute | ReadFile}));
    /// `c`: create and remove files and folders.
    pub const CREATE: Self =
        Self(landlock::make_bitflags!(AccessFs::{MakeReg | MakeDir | MakeSock | MakeFifo | RemoveFile | RemoveDir}));
    /// The part of `c` that removes folders.
    pub const REMOVE_FOLDERS: Self = Self(landlock::make_bitflags!(AccessFs::{RemoveDir}));
}

impl BitOr for Rights {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
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
    /// The kernel refuses.
    #[error("restrict by Landlock: {0}")]
    Ruleset(#[from] landlock::RulesetError),
}

/// What the kernel enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Enforced {
    abi: ABI,
}

impl Enforced {
    /// Version of Landlock's interface (landlock(7)).
    pub fn abi(self) -> i32 {
        self.abi as i32
    }
}

impl fmt::Display for Enforced {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Landlock ABI {}", self.abi())?;
        for (since, what) in [(ABI::V4, "TCP ports"), (ABI::V6, "signals and abstract sockets")] {
            if self.abi < since {
                write!(formatter, ", not {what}")?;
            }
        }
        Ok(())
    }
}

/// A veil over every file, every TCP port, and abstract unix sockets and signals of processes outside.
#[derive(Debug)]
pub struct Veil {
    ruleset: RulesetCreated,
}

impl Veil {
    /// Hides everything, signals to other processes included.
    ///
    /// # Errors
    /// If the kernel has no Landlock.
    pub fn new() -> Result<Self, UnveilError> {
        Self::with_scope(Scope::from_all(NEWEST))
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
        Ok(Self { ruleset })
    }

    /// Leaves `rights` to the file or folder behind `descriptor`, and to everything below it. Rights that make no sense for
    /// a file are left out for one.
    ///
    /// # Errors
    /// If the kernel refuses the rule.
    pub fn unveil(mut self, descriptor: impl AsFd, rights: Rights) -> Result<Self, UnveilError> {
        self.ruleset = self.ruleset.add_rule(PathBeneath::new(descriptor, rights.0))?;
        Ok(self)
    }

    /// Drops the veil over the calling thread, and what it starts. Cannot be undone.
    ///
    /// # Errors
    /// If the kernel enforces nothing.
    pub fn lock(self) -> Result<Enforced, UnveilError> {
        match self.ruleset.restrict_self()? {
            RestrictionStatus { ruleset: RulesetStatus::NotEnforced, .. } => Err(UnveilError::Unsupported),
            RestrictionStatus { landlock: LandlockStatus::Available { effective_abi, .. }, .. } => {
                Ok(Enforced { abi: effective_abi })
            }
            _ => Err(UnveilError::Unsupported),
        }
    }
}
