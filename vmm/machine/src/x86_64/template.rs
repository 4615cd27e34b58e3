//! Applies a CPU template, and checks by reading back that KVM took it.

use kvm_bindings::kvm_cpuid_entry2;
use kvm_ioctls::VcpuFd;
use stockade_vmm_api::cpu_template::{CpuTemplate, CpuidRegister};

use super::{
    cpuid::{Cpuid, register_of},
    model::VcpuConfigError,
    registers::{read_msr, write_msr},
};

/// A template that can't be applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// A CPUID leaf that this host does not have.
    #[error(
        "cpuid_modifiers of the CPU template name leaf {leaf:#x} subleaf {subleaf:#x} with flags {flags}, which KVM does \
         not offer on this host: take it out"
    )]
    MissingLeaf {
        /// Input EAX.
        leaf: u32,
        /// Input ECX.
        subleaf: u32,
        /// `flags` of `struct kvm_cpuid_entry2`.
        flags: u32,
    },
    /// KVM changed what it was given.
    #[error(
        "cpuid_modifiers of the CPU template: leaf {leaf:#x} subleaf {subleaf:#x} {register} should be {wanted:#010x} in the \
         bits {mask:#010x}, but KVM keeps {found:#010x}: leave those bits x"
    )]
    Cpuid {
        /// Input EAX.
        leaf: u32,
        /// Input ECX.
        subleaf: u32,
        /// Which register.
        register: CpuidRegister,
        /// The bits that the template decides.
        mask: u32,
        /// What KVM was given.
        wanted: u32,
        /// What it answered.
        found: u32,
    },
    /// KVM changed what it was given.
    #[error(
        "msr_modifiers of the CPU template: register {index:#x} should be {wanted:#018x} in the bits {mask:#018x}, but KVM \
         keeps {found:#018x}: leave those bits x"
    )]
    Msr {
        /// The register.
        index: u32,
        /// The bits that the template decides.
        mask: u64,
        /// What KVM was given.
        wanted: u64,
        /// What it answered.
        found: u64,
    },
}

/// Lays the template's CPUID over `cpuid`.
pub(crate) fn modify_cpuid(template: &CpuTemplate, cpuid: &mut Cpuid) -> Result<(), TemplateError> {
    for modifier in &template.cpuid_modifiers {
        let (leaf, subleaf, flags) = (modifier.leaf, modifier.subleaf, modifier.flags);
        let entry = cpuid
            .find_mut(leaf, subleaf)
            .filter(|entry| entry.flags == flags)
            .ok_or(TemplateError::MissingLeaf { leaf, subleaf, flags })?;
        for change in &modifier.modifiers {
            let register = register_of(entry, change.register);
            *register = change.bitmap.apply(*register);
        }
    }
    Ok(())
}

/// Checks that `found`, which was read from KVM, has the bits that the template decides, as they were `given` to it.
pub(crate) fn check_cpuid(
    template: &CpuTemplate,
    given: &Cpuid,
    found: &[kvm_cpuid_entry2],
) -> Result<(), TemplateError> {
    for modifier in &template.cpuid_modifiers {
        let (leaf, subleaf) = (modifier.leaf, modifier.subleaf);
        let mut wanted = given.find(leaf, subleaf).copied().unwrap_or_default();
        let is_it = |entry: &&kvm_cpuid_entry2| entry.function == leaf && entry.index == subleaf;
        // An empty entry is as good as none.
        let mut found = found.iter().find(is_it).copied().unwrap_or_default();
        for change in &modifier.modifiers {
            let mask = change.bitmap.mask;
            let wanted = *register_of(&mut wanted, change.register) & mask;
            let found = *register_of(&mut found, change.register) & mask;
            if wanted != found {
                return Err(TemplateError::Cpuid { leaf, subleaf, register: change.register, mask, wanted, found });
            }
        }
    }
    Ok(())
}

/// Applies the template's model specific registers to a vCPU.
pub(crate) fn modify_msrs(template: &CpuTemplate, vcpu: &VcpuFd) -> Result<(), VcpuConfigError> {
    for modifier in &template.msr_modifiers {
        let index = modifier.addr;
        let mask = modifier.bitmap.mask;
        let value = modifier.bitmap.apply(read_msr(vcpu, index)?);
        write_msr(vcpu, index, value)?;
        let (wanted, found) = (value & mask, read_msr(vcpu, index)? & mask);
        if wanted != found {
            return Err(TemplateError::Msr { index, mask, wanted, found }.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x86_64::{cpuid::TscDeadlineTimer, host::HostKind};

    fn template(flags: u32) -> CpuTemplate {
        let json = format!(
            r#"{{"cpuid_modifiers": [{{"leaf": "0x7", "subleaf": "0x1", "flags": {flags}, "modifiers": [
                {{"register": "eax", "bitmap": "0b01xx"}}, {{"register": "edx", "bitmap": "0b1"}}]}}]}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    fn host() -> Cpuid {
        let entry = |index, eax| kvm_cpuid_entry2 { function: 7, index, flags: 1, eax, ..kvm_cpuid_entry2::default() };
        Cpuid::for_guests(&[entry(0, 1), entry(1, 0b1010)], HostKind::Hardware, TscDeadlineTimer::Missing)
    }

    #[test]
    fn changes_the_bits_that_it_names() {
        let mut cpuid = host();
        modify_cpuid(&template(1), &mut cpuid).unwrap();
        let entry = cpuid.find(7, 1).unwrap();
        assert_eq!((entry.eax, entry.edx), (0b0110, 1));
        assert_eq!(cpuid.find(7, 0).unwrap().eax, 1);
    }

    #[test]
    fn refuses_leaves_that_are_not_there() {
        let error = modify_cpuid(&template(0), &mut host()).unwrap_err();
        assert!(matches!(error, TemplateError::MissingLeaf { leaf: 7, subleaf: 1, flags: 0 }), "{error}");
    }

    #[test]
    fn notices_what_kvm_did_not_take() {
        let mut cpuid = host();
        modify_cpuid(&template(1), &mut cpuid).unwrap();
        let mut found = vec![*cpuid.find(7, 1).unwrap()];
        check_cpuid(&template(1), &cpuid, &found).unwrap();
        // A bit of the host's may differ, one of the template's may not.
        found[0].eax ^= 2;
        check_cpuid(&template(1), &cpuid, &found).unwrap();
        found[0].eax ^= 4;
        let error = check_cpuid(&template(1), &cpuid, &found).unwrap_err();
        assert!(matches!(error, TemplateError::Cpuid { mask: 0b1100, wanted: 0b100, found: 0, .. }), "{error}");
        let error = check_cpuid(&template(1), &cpuid, &[]).unwrap_err();
        assert!(error.to_string().contains("leaf 0x7 subleaf 0x1 eax should be 0x00000004"), "{error}");
    }
}
