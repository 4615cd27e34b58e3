//! What keeps the suite from judging.

use std::io;

use stockade_supervisor::installation::InstallationError;
use stockade_supervisor::machine::launch::LaunchError;
use stockade_supervisor::machine::lease::LeaseError;
use stockade_supervisor::request::InvalidValue;

use crate::verdict::Condition;

/// The suite can't go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttackError {
    /// Only root builds jails.
    #[error("run as root: only root builds jails")]
    NotRoot,
    /// A program is missing.
    #[error(transparent)]
    Installation(#[from] InstallationError),
    /// There can't be jails.
    #[error(transparent)]
    State(#[from] LeaseError),
    /// There can't be one more jail.
    #[error(transparent)]
    Claim(#[from] LaunchError),
    /// A name that no jail can have.
    #[error("name a jail: {0}")]
    Name(InvalidValue),
    /// A file, process or socket to attack, or something for a jail.
    #[error("{step}")]
    Prepare {
        /// What was to be done.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// One attempt can't be made.
    #[error("attempt {attempt} ({condition})")]
    Attempt {
        /// Its name.
        attempt: String,
        /// The jail.
        condition: Condition,
        /// What keeps it from being made.
        #[source]
        source: Box<AttackError>,
    },
    /// The prisoner's program does not list its attempts.
    #[error("stockade-prisoner does not list its attempts; use programs of one Stockade")]
    List(#[source] serde_json::Error),
    /// The jailer refuses.
    #[error("build a jail: {0}")]
    Refused(String),
    /// The jail is not what was asked for.
    #[error("the jail has layer {layer} {state}, which was not asked for")]
    WrongLayers {
        /// Which.
        layer: &'static str,
        /// How it is.
        state: &'static str,
    },
    /// A thread of a vmm can't be taken over.
    #[error("take over a thread of stockade-vmm: {0}")]
    Takeover(&'static str),
    /// The warden says nothing, or nonsense.
    #[error("hear from the warden: {0}")]
    Warden(String),
}

impl AttackError {
    /// Whether the kernel still counts processes of a jail that is gone, whose user the next one has.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Refused(words) if words.contains("(os error 11)"))
    }
}

/// Says what failed.
pub(crate) trait Step<T> {
    fn step(self, step: &'static str) -> Result<T, AttackError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &'static str) -> Result<T, AttackError> {
        self.map_err(|source| AttackError::Prepare { step, source: source.into() })
    }
}
