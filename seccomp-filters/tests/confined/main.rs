//! What a confined process can do, and what ends it.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic, unsafe_code)]

mod harness;
mod pledge;
mod refuse;
mod unveil;
