//! The devices that the tables in guest memory tell the kernel about.

/// A virtio-mmio device: its registers take one page of guest physical address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VirtioMmio {
    /// Guest physical address of the registers, below 4 GiB.
    pub address: u32,
    /// Global system interrupt, edge-triggered.
    pub gsi: u32,
}

impl VirtioMmio {
    /// Bytes of registers.
    pub const SIZE: u32 = 0x1000;
}

/// What [`load`](crate::load) describes in ACPI and MP tables. COM1, the i8042 controller, the ACPI sleep registers and
/// pvpanic are always there.
#[derive(Debug, Clone, Copy)]
pub struct Platform<'a> {
    /// Number of vCPUs, with the APIC ids 0 and up.
    pub vcpus: u8,
    /// The virtio devices, in the order in which the guest shall find them.
    pub virtio_mmio: &'a [VirtioMmio],
}
