//! The control API over HTTP: the outermost of the daemon's roles, and the only one that reads what clients write.
//!
//! It turns bytes into [`Request`](stockade_api::Request)s and [`Answer`](stockade_api::Answer)s into bytes. Who may do
//! what, and everything that is done, is up to the [`Backend`].

#![forbid(unsafe_code)]

mod answer;
mod backend;
mod call;
mod connection;
mod document;
mod events;
mod failure;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod limits;
mod operation;
mod server;
mod table;
mod wire;

pub use backend::Backend;
pub use limits::Limits;
pub use server::serve;
