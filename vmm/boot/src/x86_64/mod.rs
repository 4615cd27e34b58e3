//! x86-64: kernels are entered by PVH or by the 64-bit Linux protocol, with ACPI and MP tables in place of firmware.

mod acpi;
mod bzimage;
mod cpu_state;
mod elf;
mod kernel;
pub mod layout;
mod linux;
mod memory_map;
mod mp_table;
mod pvh;

use std::fmt;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion};

pub use self::{
    bzimage::BzImageError,
    cpu_state::{CpuState, DescriptorTable, Segment},
    elf::ElfError,
    kernel::KernelError,
    layout::{LayoutError, memory_regions},
};
use self::{
    layout::{COMMAND_LINE, HIGH_MEMORY},
    linux::ZeroPage,
    memory_map::memory_map,
};
use crate::{
    BootSource, GuestMemory, InitramfsError, Platform,
    image::{Image, Role},
    initramfs,
};

/// How a kernel is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Xen's PVH: 32-bit protected mode, RBX points to `hvm_start_info`.
    Pvh,
    /// Linux's 64-bit entry: long mode, RSI points to `boot_params`.
    Linux64,
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Pvh => "PVH",
            Self::Linux64 => "64-bit Linux",
        })
    }
}

/// A loaded guest's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// How the kernel is entered.
    pub protocol: Protocol,
    /// The state in which the first vCPU starts; the others wait to be started by it.
    pub cpu: CpuState,
}

/// A guest that can't be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootError {
    /// No memory for a kernel.
    #[error(
        "guest memory has {0:#x} bytes of low memory, a kernel is loaded at {HIGH_MEMORY:#x} (1 MiB): give it more"
    )]
    LowMemory(u64),
    /// The kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The initramfs.
    #[error(transparent)]
    Initramfs(#[from] InitramfsError),
    /// Guest memory could not be written.
    #[error("write boot tables to guest memory: {0}")]
    Memory(#[from] GuestMemoryError),
}

/// Loads a guest into `memory`, which must be as [`memory_regions`] says and zero.
pub fn load(memory: &GuestMemory, source: BootSource<'_>, platform: &Platform<'_>) -> Result<Entry, BootError> {
    let low_end = memory.find_region(GuestAddress(0)).map_or(0, GuestMemoryRegion::len);
    if low_end <= HIGH_MEMORY {
        return Err(BootError::LowMemory(low_end));
    }
    let mut image = Image::new(source.kernel, Role::Kernel).map_err(KernelError::from)?;
    let kernel = kernel::load(&mut image, memory, low_end)?;
    let initramfs = match source.initramfs {
        Some(file) => Some(initramfs::load(file, memory, kernel.end, kernel.initramfs_end)?),
        None => None,
    };
    let command_line = source.command_line.to_bytes_with_nul();
    memory.write_slice(&command_line, GuestAddress(COMMAND_LINE))?;

    let memory_map = memory_map(memory);
    let cpu = match kernel.protocol {
        Protocol::Pvh => {
            pvh::write_start_info(memory, initramfs, &memory_map)?;
            CpuState::pvh(kernel.entry)
        }
        Protocol::Linux64 => {
            let zero_page = ZeroPage {
                setup_header: kernel.setup_header,
                command_line_length: source.command_line.len() as u32,
                initramfs,
                memory_map: &memory_map,
            };
            zero_page.write(memory)?;
            CpuState::linux64(kernel.entry)
        }
    };
    cpu.write_tables(memory)?;
    mp_table::write(memory, platform.vcpus)?;
    acpi::write(memory, platform)?;
    Ok(Entry { protocol: kernel.protocol, cpu })
}
