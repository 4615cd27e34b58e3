//! `PUT /boot-source`: what the guest boots.

use serde::{Deserialize, Serialize};

/// Body of `PUT /boot-source`. A path may be `fd:NAME`, a descriptor that the vmm inherited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootSource {
    /// The kernel: ELF `vmlinux` or bzImage.
    pub kernel_image_path: String,
    /// The initial RAM disk.
    pub initrd_path: Option<String>,
    /// Kernel command line; Firecracker's default if absent.
    pub boot_args: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

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
