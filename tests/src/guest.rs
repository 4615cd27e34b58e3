//! Flat guests: see the sources in `guests/`.

/// How a guest's image is built, and with it the protocol by which the vmm enters it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// An ELF executable, entered in 64-bit mode with the boot parameters in `rsi`.
    Linux64,
    /// An ELF executable with a note that asks for PVH: entered in 32-bit mode with the start information in `ebx`.
    Pvh,
    /// A bzImage of protocol 2.15, entered in 64-bit mode at its second 512 bytes.
    BzImage,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Linux64, Self::Pvh, Self::BzImage];
}

/// A flat guest.
#[derive(Debug, Clone, Copy)]
pub struct Guest {
    linux: &'static [u8],
    pvh: &'static [u8],
    flat: &'static [u8],
}

impl Guest {
    /// The image to boot it from. A bzImage can't have a page that is shared with the harness.
    pub fn image(self, protocol: Protocol) -> Vec<u8> {
        match protocol {
            Protocol::Linux64 => self.linux.to_vec(),
            Protocol::Pvh => self.pvh.to_vec(),
            Protocol::BzImage => bz_image(self.flat),
        }
    }
}

macro_rules! guests {
    ($($(#[$doc:meta])* $constant:ident = $name:literal;)*) => {
        $(
            $(#[$doc])*
            pub const $constant: Guest = Guest {
                linux: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".linux")),
                pvh: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".pvh")),
                flat: include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".flat")),
            };
        )*
    };
}

guests! {
    /// Says `hello from the guest` and resets.
    HELLO = "hello";
    /// Says `idle`, and waits for interrupts.
    IDLE = "idle";
    /// Says `halting`, and halts for good.
    HALT = "halt";
    /// Says `powering off`, and enters S5.
    POWER_OFF = "power_off";
    /// Says `faulting`, and takes a triple fault.
    TRIPLE_FAULT = "triple_fault";
    /// Says `panicking`, and reports a kernel panic.
    PANIC = "panic";
    /// Says `computing`, and executes an instruction that KVM can't emulate.
    UNKNOWN_INSTRUCTION = "unknown_instruction";
    /// Says `counting`, and counts in its shared page.
    SPIN = "spin";
    /// Writes `x` to the console for ever, and counts them in its shared page.
    FLOOD = "flood";
    /// Says `ready`, and sends back what it receives on the console until the end of a line; then it resets.
    ECHO = "echo";
    /// Says `obedient`, and powers off when control, alt and delete are pressed.
    OBEDIENT = "obedient";
    /// Does what [`crate::puppet::Puppet`] says.
    PUPPET = "puppet";
}

/// The least that the boot protocol's documentation (Documentation/arch/x86/boot.rst) asks of a bzImage, around `code`.
fn bz_image(code: &[u8]) -> Vec<u8> {
    const SECTOR: usize = 512;
    const ENTRY_64: usize = 0x200;
    let mut image = vec![0; 2 * SECTOR + ENTRY_64];
    let mut set = |offset: usize, bytes: &[u8]| image[offset..offset + bytes.len()].copy_from_slice(bytes);
    let paragraphs = u32::try_from((ENTRY_64 + code.len()).div_ceil(16)).expect("the code is small");
    set(0x1f1, &[1]); // setup_sects: one beside the boot sector
    set(0x1f4, &paragraphs.to_le_bytes()); // syssize
    set(0x1fe, &0xaa55_u16.to_le_bytes()); // boot_flag
    set(0x200, &[0xeb, 0x66]); // jump over the header, whose size is read from here
    set(0x202, b"HdrS");
    set(0x206, &0x20f_u16.to_le_bytes()); // version 2.15
    set(0x211, &[1]); // loadflags: LOADED_HIGH
    set(0x214, &0x10_0000_u32.to_le_bytes()); // code32_start
    set(0x22c, &0x7fff_ffff_u32.to_le_bytes()); // initrd_addr_max
    set(0x230, &0x20_0000_u32.to_le_bytes()); // kernel_alignment
    set(0x234, &[1]); // relocatable_kernel
    set(0x236, &1_u16.to_le_bytes()); // xloadflags: XLF_KERNEL_64
    set(0x238, &2047_u32.to_le_bytes()); // cmdline_size
    set(0x258, &0x10_0000_u64.to_le_bytes()); // pref_address
    set(0x260, &0x10_0000_u32.to_le_bytes()); // init_size
    image.extend_from_slice(code);
    image.resize(2 * SECTOR + usize::try_from(paragraphs).expect("fits") * 16, 0);
    image
}
