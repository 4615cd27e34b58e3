//! The control API over HTTP: the outermost of the daemon's roles, and the only one that reads what clients write.
//!
//! It turns bytes into [`Request`](stockade_api::Request)s and [`Answer`](stockade_api::Answer)s into bytes. Who may do
//! what, and everything that is done, is up to the [`Backend`]. Routes, parameters, bodies and failures are rows of one
//! table, from which the server and the OpenAPI document at `/v1/openapi.json` are made.
//!
//! # What it is confined to
//! One thread, and no file, address or name: everything it has is the listener, connections, and what the backend
//! brings along. Once the runtime of tokio is there, [`serve`] makes these system calls and no others, and [`Server`], whose
//! clients somebody else has let in, all but the first two:
//!
//! | system call | for |
//! |---|---|
//! | `accept4` with `SOCK_CLOEXEC \| SOCK_NONBLOCK` | connections |
//! | `getsockopt` of `SO_PEERCRED` | counting the connections of each user |
//! | `recvfrom`, `sendto`, `shutdown` of `SHUT_WR`, `close` | connections; `close` at their end only |
//! | `epoll_ctl`, `epoll_wait` | waiting, also for time |
//! | `write` | waking the runtime through its eventfd |
//! | `brk`, `mmap`, `mremap`, `munmap`, `madvise` | memory, as the allocator sees fit |
//!
//! In a thread that is not the process's first, the allocator uses `mprotect` (never with `PROT_EXEC`) in the place of
//! `brk`. Programs with debug assertions add `fcntl` of `F_GETFD` before each `close`. The clock is read without a system call,
//! unless the host has no vDSO clock: then there is `clock_gettime`.
//!
//! # Bounds
//! [`Limits`] has a bound for everything that a client can take: connections, the size of a request, the time in which it
//! has to come, and in which what is sent has to be read. A connection has one request under way at a time; those that
//! a client sends ahead wait in the socket. A client that closes its connection, or only its sending side, is taken to
//! have gone, and what it asked for is dropped.

#![forbid(unsafe_code)]

mod answer;
mod backend;
mod call;
mod connection;
mod console;
mod document;
mod events;
mod failure;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
mod json;
mod limits;
mod operation;
mod relay;
mod server;
mod table;
mod wire;
mod writers;

pub use backend::{Attachment, Backend, Console, Reception};
pub use limits::Limits;
pub use server::{Server, serve};
