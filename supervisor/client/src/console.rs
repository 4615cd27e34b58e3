//! Consoles: what is wanted of one.

pub use crate::connection::{Download, Stream};

/// Whether somebody who is attached to a console types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Typing {
    /// Unless somebody else does.
    Ask,
    /// In the place of whoever does.
    Take,
    /// No.
    Never,
}

/// Which part of what a console keeps is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What comes after this cursor.
    After(u64),
    /// The last so many bytes.
    Tail(u32),
}

/// Whether to go on with what is written from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Following {
    /// Until the virtual machine does not run any more.
    Yes,
    /// No.
    No,
}
