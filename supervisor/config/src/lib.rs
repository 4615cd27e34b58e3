//! The language of vm.conf: parsed, checked, compared, printed.

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
