//! Whether KVM runs guests on the processor, or emulates their kernels.
//!
//! KVM needs VT-x or AMD-V of the processor, which CPUID shows to everybody. If KVM works on a processor that has neither,
//! it is one that executes only user mode natively (`kvm_pvm`) and takes a guest's kernel through its instruction
//! emulator. So a look at CPUID tells, in a jail as well, where neither /proc nor /sys is.

use std::{
    arch::x86_64::{__cpuid, CpuidResult},
    fmt,
};

/// How KVM runs a guest's kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKind {
    /// On the processor.
    Hardware,
    /// Instruction by instruction: a few million a second, and not all of them.
    Emulated,
}

impl HostKind {
    /// Looks at the processor.
    pub fn detect() -> Self {
        const VMX: u32 = 1 << 5;
        const SVM: u32 = 1 << 2;
        let has_vmx = host_cpuid(1).ecx & VMX != 0;
        let has_svm = host_cpuid(0x8000_0001).ecx & SVM != 0;
        if has_vmx || has_svm { Self::Hardware } else { Self::Emulated }
    }
}

impl fmt::Display for HostKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Hardware => "KVM runs guests on the processor",
            Self::Emulated => {
                "this processor has neither VT-x nor AMD-V: KVM emulates the guest's kernel, which is slow and needs a \
                 kernel made for it (tools/guest)"
            }
        })
    }
}

/// CPUID of the host's processor, or zeros if it does not know `leaf`.
fn host_cpuid(leaf: u32) -> CpuidResult {
    let highest = __cpuid(leaf & 0x8000_0000).eax;
    if leaf > highest { CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 } } else { __cpuid(leaf) }
}
