//! The hostile suite: puts a [prisoner](stockade_prisoner) into jails, once for each attempt, and judges what comes of it.
//!
//! ```text
//! Suite::run ── worker ── Targets (files, a process, sockets, a jail next door)
//!                  │
//!                  └─ Cell: jailer ── prisoner, one attempt ── report
//!                                                               └─ verdict, also from what became of the targets
//! ```
//!
//! There are two modes of jails, and two ways into each: as the program that the jailer executes, or by taking over a thread of the
//! unmodified vmm, which runs a guest and has all its filters. For the latter the prisoner's program is loaded into the vmm by
//! ptrace(2), as code of an attacker would be, so that attempts are the same (`takeover`).
//!
//! The same attempts start from the daemon's roles, which are taken over in that way ([`Suite::compromise`]).
//!
//! A jail lasts for one attempt, because filters end most of them by killing, and so that no attempt finds what another one left.
//! [`Condition`] says what the jail is like: complete, in one of the phases of a vmm, without one layer or namespace, with one layer
//! alone, or [bare](Condition::bare).
//! An attempt that does not succeed in a bare jail shows nothing when it fails in a complete one. [`Known`] is what the project
//! knows: which attempts only one layer stops and which nothing needs to stop, each with the reason, and some that each layer
//! stops by itself, so that none can go missing behind the others; [`Known::deviations`] compares.
//!
//! What an attempt says of itself is not all that counts: whatever became of its targets (a changed file, a process that ended, a
//! connection) is a success too, even if the prisoner died of it.

#![forbid(unsafe_code)]

mod cell;
mod compatible;
mod error;
mod known;
mod machine;
mod neighbour;
mod program;
mod roles;
mod storms;
mod suite;
mod table;
mod takeover;
mod targets;
mod verdict;

pub use error::AttackError;
pub use known::{Deviation, Known, SparedRole};
pub use roles::Compromise;
pub use storms::{Forecast, Weather};
pub use suite::{Progress, Suite};
pub use table::{Matrix, Summary};
pub use verdict::{Condition, Entry, Mode, Outcome, Part, Verdict};
