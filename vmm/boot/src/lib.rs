//! From a kernel file to a vCPU's first instruction: everything that a guest finds in its memory when it starts.
//!
//! [`load`] reads a kernel and an initramfs into guest memory, writes what firmware would have left there (memory map,
//! ACPI and MP tables, the boot protocol's own structures) and returns the state in which the first vCPU starts. Nothing
//! here knows KVM, and nothing needs `unsafe`.
//!
//! The files are a stranger's: every length and address in them is checked before it is used, memory is only allocated in
//! sizes that are bounded by a constant here, and a file that changes while it is read gives an error or a guest that
//! doesn't boot, never an access outside of guest memory. Guest memory is expected to be fresh, that is zero.
//!
//! What depends on the architecture is in one module each ([`x86_64`]), re-exported here under common names.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

mod command_line;
mod image;
mod initramfs;
mod platform;
#[cfg(target_arch = "x86_64")]
pub mod x86_64;

pub use command_line::{CommandLine, CommandLineError, DEFAULT_BOOT_ARGS, RootAccess};
pub use image::{ImageError, Role};
pub use initramfs::{InitramfsError, LoadedInitramfs};
pub use platform::{Platform, VirtioMmio};
#[cfg(target_arch = "x86_64")]
pub use x86_64::{BootError, CpuState, Entry, Protocol, layout, load, memory_regions};

use std::fs::File;

/// Memory of a guest, by guest physical address.
pub type GuestMemory = vm_memory::GuestMemoryMmap<()>;

/// What a guest boots from.
#[derive(Debug)]
pub struct BootSource<'a> {
    /// An ELF vmlinux or a bzImage, in any file that can seek.
    pub kernel: &'a mut File,
    /// A cpio archive, in any file that can seek.
    pub initramfs: Option<&'a mut File>,
    /// The kernel's command line.
    pub command_line: &'a CommandLine,
}
