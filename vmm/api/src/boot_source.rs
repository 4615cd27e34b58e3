//! `PUT /boot-source`: what the guest boots.

use serde::{Deserialize, Serialize};

/// Kernel command line of a guest whose boot source has no `boot_args`.
pub const DEFAULT_BOOT_ARGS: &str =
    "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce";

/// Most bytes that a kernel command line may have, additions of the vmm and the closing NUL included.
pub const COMMAND_LINE_MAX_BYTES: usize = 2048;

/// Body of `PUT /boot-source`. A path may be `fd:NAME`, a descriptor that the vmm inherited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootSource {
    /// The kernel: ELF `vmlinux` or bzImage.
    pub kernel_image_path: String,
    /// The initial RAM disk.
    pub initrd_path: Option<String>,
    /// Kernel command line; [`DEFAULT_BOOT_ARGS`] if absent.
    pub boot_args: Option<String>,
}

impl BootSource {
    /// Kernel command line before the vmm's additions.
    pub fn boot_args_or_default(&self) -> &str {
        self.boot_args.as_deref().unwrap_or(DEFAULT_BOOT_ARGS)
    }

    /// Checks what can be told without opening anything.
    pub fn validate(&self) -> Result<(), BootSourceError> {
        let arguments = self.boot_args_or_default();
        if arguments.len() >= COMMAND_LINE_MAX_BYTES {
            return Err(BootSourceError::TooLong { bytes: arguments.len() });
        }
        match arguments.bytes().position(|byte| !(b' '..=b'~').contains(&byte)) {
            Some(at) => Err(BootSourceError::NotPrintable { at }),
            None => Ok(()),
        }
    }
}

/// Why a boot source is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootSourceError {
    /// The command line doesn't fit.
    #[error(
        "boot_args has {bytes} bytes, which leaves no room in the {COMMAND_LINE_MAX_BYTES} bytes of a kernel command \
         line; shorten it"
    )]
    TooLong {
        /// Length of `boot_args`.
        bytes: usize,
    },
    /// The command line has a byte that the kernel would not take literally.
    #[error("boot_args has a byte at offset {at} that is not printable ASCII; remove it")]
    NotPrintable {
        /// Offset of the first such byte.
        at: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_args(arguments: &str) -> BootSource {
        BootSource { boot_args: Some(arguments.to_owned()), ..BootSource::default() }
    }

    #[test]
    fn command_line_is_checked() {
        assert_eq!(BootSource::default().validate(), Ok(()));
        assert_eq!(with_args(&"a".repeat(2047)).validate(), Ok(()));
        assert_eq!(with_args(&"a".repeat(2048)).validate(), Err(BootSourceError::TooLong { bytes: 2048 }));
        assert_eq!(with_args("quiet\nro").validate(), Err(BootSourceError::NotPrintable { at: 5 }));
    }

    #[test]
    fn unknown_and_missing_fields_are_refused() {
        let error = serde_json::from_str::<BootSource>(r#"{"kernel_image_path":"k","x":1}"#).unwrap_err();
        assert!(error.to_string().starts_with(
            "unknown field `x`, expected one of `kernel_image_path`, `initrd_path`, `boot_args` at line 1"
        ));
        let error = serde_json::from_str::<BootSource>("{}").unwrap_err();
        assert_eq!(error.to_string(), "missing field `kernel_image_path` at line 1 column 2");
    }
}
