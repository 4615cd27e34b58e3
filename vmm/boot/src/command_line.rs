//! The kernel's command line, with the arguments that a virtual machine adds to the user's.

use std::fmt;

use crate::platform::VirtioMmio;

/// The command line of a guest whose user gave none; the same as Firecracker's.
pub const DEFAULT_BOOT_ARGS: &str =
    "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce";

/// A command line that a kernel can take: printable ASCII, at most [`CommandLine::CAPACITY`] bytes with its terminating
/// zero. What follows a lone `--` belongs to init, so arguments for the kernel are added before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    kernel: String,
    init: Option<String>,
}

/// Whether the kernel mounts its root device for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootAccess {
    /// `ro`
    ReadOnly,
    /// `rw`
    ReadWrite,
}

/// A command line that no kernel takes.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandLineError {
    /// It does not fit.
    #[error(
        "kernel command line is {length} bytes long with what the machine adds to it, the limit is {limit}: shorten \
         boot_args"
    )]
    TooLong {
        /// Its bytes, without the terminating zero.
        length: usize,
        /// The most that fit.
        limit: usize,
    },
    /// A control character, or not ASCII.
    #[error("kernel command line has the character {character:?} at byte {offset}: only printable ASCII is allowed")]
    Character {
        /// The character.
        character: char,
        /// Where it is.
        offset: usize,
    },
}

impl CommandLine {
    /// Bytes that are reserved for a command line in guest memory, its terminating zero included (`COMMAND_LINE_SIZE` of
    /// x86 in the kernel).
    pub const CAPACITY: usize = 2048;

    const LIMIT: usize = Self::CAPACITY - 1;

    /// Takes `boot_args` as the user gave it.
    pub fn new(boot_args: &str) -> Result<Self, CommandLineError> {
        check_characters(boot_args)?;
        let (kernel, init) = match split_init(boot_args) {
            Some((kernel, init)) => (kernel, Some(init.trim().to_owned())),
            None => (boot_args, None),
        };
        Self { kernel: kernel.trim().to_owned(), init }.checked()
    }

    /// Adds `argument` to the kernel's arguments. After an error the line is as it was.
    pub fn push(&mut self, argument: &str) -> Result<(), CommandLineError> {
        check_characters(argument)?;
        let separator = if self.kernel.is_empty() { "" } else { " " };
        let kernel = format!("{}{separator}{argument}", self.kernel);
        *self = Self { kernel, init: self.init.clone() }.checked()?;
        Ok(())
    }

    /// Adds the root device: a name in `/dev`, or `PARTUUID=...`.
    pub fn push_root(&mut self, device: &str, access: RootAccess) -> Result<(), CommandLineError> {
        let mode = match access {
            RootAccess::ReadOnly => "ro",
            RootAccess::ReadWrite => "rw",
        };
        self.push(&format!("root={device} {mode}"))
    }

    /// Announces a virtio device, for kernels with `VIRTIO_MMIO_CMDLINE_DEVICES`.
    pub fn push_virtio_mmio(&mut self, device: &VirtioMmio) -> Result<(), CommandLineError> {
        self.push(&format!("virtio_mmio.device=4K@{:#x}:{}", device.address, device.gsi))
    }

    /// Its bytes, with the terminating zero.
    pub fn to_bytes_with_nul(&self) -> Vec<u8> {
        let mut bytes = self.to_string().into_bytes();
        bytes.push(0);
        bytes
    }

    /// Its length in bytes, without the terminating zero.
    pub fn len(&self) -> usize {
        const SEPARATOR: usize = " -- ".len();
        let init = self.init.as_ref().map_or(0, |init| init.len().saturating_add(SEPARATOR));
        self.kernel.len().saturating_add(init)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn checked(self) -> Result<Self, CommandLineError> {
        match self.len() {
            length if length > Self::LIMIT => Err(CommandLineError::TooLong { length, limit: Self::LIMIT }),
            _ => Ok(self),
        }
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.kernel)?;
        match &self.init {
            Some(init) => write!(formatter, " -- {init}"),
            None => Ok(()),
        }
    }
}

fn check_characters(text: &str) -> Result<(), CommandLineError> {
    match text.char_indices().find(|(_, character)| !matches!(character, ' '..='~')) {
        Some((offset, character)) => Err(CommandLineError::Character { character, offset }),
        None => Ok(()),
    }
}

/// Splits at the first `--` that is an argument of its own.
fn split_init(line: &str) -> Option<(&str, &str)> {
    if let Some(init) = line.strip_prefix("-- ") {
        return Some(("", init));
    }
    line.split_once(" -- ").or_else(|| line.strip_suffix(" --").map(|kernel| (kernel, "")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_what_the_machine_needs_before_the_arguments_of_init() {
        let mut line = CommandLine::new(" console=ttyS0 quiet -- -c 'echo -- x' ").unwrap();
        line.push("pci=off").unwrap();
        line.push_root("/dev/vda", RootAccess::ReadOnly).unwrap();
        line.push_virtio_mmio(&VirtioMmio { address: 0xc000_1000, gsi: 5 }).unwrap();
        let whole = "console=ttyS0 quiet pci=off root=/dev/vda ro virtio_mmio.device=4K@0xc0001000:5 -- -c 'echo -- x'";
        assert_eq!(line.to_string(), whole);
        assert_eq!(line.len(), whole.len());
        assert_eq!(line.to_bytes_with_nul(), format!("{whole}\0").into_bytes());
    }

    #[test]
    fn an_empty_line_takes_arguments() {
        let mut line = CommandLine::new("").unwrap();
        assert!(line.is_empty());
        line.push("pci=off").unwrap();
        assert_eq!(line.to_string(), "pci=off");
    }

    #[test]
    fn says_what_is_too_long_and_what_is_no_character() {
        let longest = "x".repeat(2047);
        assert_eq!(CommandLine::new(&longest).unwrap().to_string(), longest);
        assert_eq!(CommandLine::new(&"x".repeat(2048)), Err(CommandLineError::TooLong { length: 2048, limit: 2047 }));
        let mut line = CommandLine::new(&format!("{} -- 1", "x".repeat(2036))).unwrap();
        assert_eq!(line.push("pci=off"), Err(CommandLineError::TooLong { length: 2049, limit: 2047 }));
        assert_eq!(CommandLine::new("a\nb"), Err(CommandLineError::Character { character: '\n', offset: 1 }));
        assert_eq!(CommandLine::new("a -- \0"), Err(CommandLineError::Character { character: '\0', offset: 5 }));
        assert!(CommandLine::new("ä").is_err());
    }
}
