#![doc = include_str!("../vm.conf.md")]
//! ```text
#![doc = include_str!("../examples/small.conf")]
//! ```
//!
//! Everything at once is in `examples/vm.conf`:
//!
//! ```text
#![doc = include_str!("../examples/vm.conf")]
//! ```
//!
//! # The crate
//!
//! Data flows one way: texts ([`SourceMap`]) to tokens to a tree, that to a [`Config`]: plain, finished data that can be compared, printed and sent.
//! Macros and inclusions are gone after the tokens, places in files after the tree, templates and defaults after the check. Whatever a file holds, it ends
//! with a [`Config`] or with a [`Report`] of errors ([`limits`]); the host is asked through [`Host`](host::Host).
//!
//! - [`load()`] for start and reload, [`load_beside`] for `load FILE`, [`Config::reset`] for reset; [`Config::difference`] says what that changes.
//! - [`check()`] is `stockaded -n`.
//! - [`instantiate`] makes instances, at run time as well; [`Overrides::into_definition`] other VMs that are in no file.
//! - [`model::Definition::missing`] says why a VM can't be started yet.
//! - The text of a [`Config`] (its [`Display`](std::fmt::Display)) is `vm.conf` again.

#![forbid(unsafe_code)]

mod check;
mod definition;
mod diagnostic;
mod difference;
pub mod host;
mod instance;
mod lexer;
pub mod limits;
mod load;
pub mod model;
mod print;
mod source;
mod syntax;

pub use definition::{InvalidDefinition, Missing};
pub use diagnostic::{Diagnostic, Report, Severity, Style};
pub use difference::{Change, Difference, Global, Reset, SwitchField, TakesEffect, VmField};
pub use instance::{InstanceError, Overrides, Requester, instantiate};
pub use lexer::{InvalidMacro, Macro};
pub use load::{DEFAULT_PATH, Input, Loaded, Rejected, Verbosity, Verdict, check, load, load_beside};
pub use model::Config;
pub use source::{SourceId, SourceMap, Span};
