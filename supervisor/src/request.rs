//! What a caller asks for, validated: nothing in here refers to anything that exists yet.
//!
//! Every type here that can be written on a command line is read from text by itself; its errors name the value and the remedy.

mod paths;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use stockade_jailer::plan::Layer;

pub use paths::{CopyIn, CopyOut, RootImage};
pub use stockade_guest_protocol::TerminalSize;
pub use values::{Cpus, EnvironmentEntry, MemorySize, VmName, parse_layer};

/// Whether a disk image may be changed by the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The image is shared, and writes go to guest memory and are lost.
    ReadOnly,
    /// The image is locked for this virtual machine, and changes stay.
    ReadWrite,
}

/// When a guest boots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BootMode {
    /// If no booted one is kept that is the same in every respect.
    #[default]
    IfNeeded,
    /// In any case.
    Always,
}

/// A value that can't be used, and what can be used instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; {remedy}")]
pub struct InvalidValue {
    problem: String,
    remedy: &'static str,
}

impl InvalidValue {
    /// What is wrong, and what to write instead.
    pub fn new(problem: impl Into<String>, remedy: &'static str) -> Self {
        Self { problem: problem.into(), remedy }
    }
}

/// A command in a guest.
#[derive(Debug, Clone, Default)]
pub struct CommandRequest {
    /// Program and arguments; empty for an interactive shell.
    pub arguments: Vec<OsString>,
    /// Its environment, on top of the guest's default.
    pub environment: Vec<EnvironmentEntry>,
    /// Its working directory, absolute.
    pub directory: Option<PathBuf>,
    /// It gets a terminal of this size.
    pub terminal: Option<TerminalSize>,
    /// How long it may take.
    pub timeout: Option<Duration>,
}

/// One command in one virtual machine that is made for it and gone afterwards.
#[derive(Debug, Clone)]
pub struct RunRequest {
    /// Name of the virtual machine.
    pub name: VmName,
    /// Virtual processors.
    pub cpus: Cpus,
    /// Memory of the guest.
    pub memory: MemorySize,
    /// Kernel to boot; `None` for the default guest's.
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk, with `stockade-agent` as its init; `None` for the default guest's.
    pub initramfs: Option<PathBuf>,
    /// Image that the command sees as its root; without it, that is the initramfs.
    pub root: Option<RootImage>,
    /// The command.
    pub command: CommandRequest,
    /// Copied to the guest before the command, in this order.
    pub copy_in: Vec<CopyIn>,
    /// Copied from the guest after the command, in this order, whether it succeeded or not.
    pub copy_out: Vec<CopyOut>,
    /// Whether the guest boots even if a booted one is kept.
    pub boot: BootMode,
    /// Layers of the jail that are given up.
    pub without: Vec<Layer>,
}
