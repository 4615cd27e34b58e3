//! The control API over HTTP: the outermost of the daemon's roles, and the only one that reads what clients write.
//!
//! It turns bytes into [`Request`](stockade_api::Request)s and [`Answer`](stockade_api::Answer)s into bytes. Who may do
//! what, and everything that is done, is up to the [`Backend`].

#![forbid(unsafe_code)]

mod backend;
mod limits;

pub use backend::Backend;
pub use limits::Limits;
