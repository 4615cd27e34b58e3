//! CPUID as a table, and what no guest gets to see of the host's.
//!
//! Guests see what KVM supports on the host, without what they have no use for here and what would only widen the attack
//! surface: nested virtualisation, performance counters and tracing, enclaves, cache allocation.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use stockade_vmm_api::cpu_template::CpuidRegister;

use super::host::HostKind;

/// KVM's paravirtual features.
const KVM_FEATURES: u32 = 0x4000_0001;

/// Features that a guest must not use where KVM emulates its kernel, because the hypercalls behind them never return:
/// `KVM_FEATURE_PV_UNHALT`, `KVM_FEATURE_PV_SEND_IPI`, `KVM_FEATURE_PV_SCHED_YIELD`.
const HYPERCALL_FEATURES: u32 = 1 << 7 | 1 << 11 | 1 << 13;

const HYPERVISOR: u32 = 1 << 31;
const TSC_DEADLINE: u32 = 1 << 24;

/// Bits that no guest sees, by leaf, subleaf and register.
const HIDDEN_BITS: [(u32, u32, CpuidRegister, u32); 6] = [
    // DTES64, MONITOR, DS-CPL, VMX, SMX, EIST, TM2, PDCM
    (1, 0, CpuidRegister::Ecx, 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 15),
    // DS, ACPI thermal control, TM
    (1, 0, CpuidRegister::Edx, 1 << 21 | 1 << 22 | 1 << 29),
    // SGX, RDT monitoring and allocation, processor trace
    (7, 0, CpuidRegister::Ebx, 1 << 2 | 1 << 12 | 1 << 15 | 1 << 25),
    // WAITPKG, SGX launch control
    (7, 0, CpuidRegister::Ecx, 1 << 5 | 1 << 30),
    // SVM, extended APIC space, IBS, SKINIT, watchdog timer, LWP, three kinds of performance counters, MONITORX
    (
        0x8000_0001,
        0,
        CpuidRegister::Ecx,
        1 << 2 | 1 << 3 | 1 << 10 | 1 << 12 | 1 << 13 | 1 << 15 | 1 << 23 | 1 << 24 | 1 << 28 | 1 << 29,
    ),
    // Architectural last branch records
    (7, 0, CpuidRegister::Edx, 1 << 19),
];

/// Leaves that are empty for every guest: MONITOR, power management, direct cache access, performance counters, RDT, SGX,
/// processor trace, last branch records; SVM, IBS, LWP, cache allocation, memory encryption, performance counters.
const HIDDEN_LEAVES: [u32; 16] = [
    5,
    6,
    9,
    0xa,
    0xf,
    0x10,
    0x12,
    0x14,
    0x1c,
    0x8000_000a,
    0x8000_001b,
    0x8000_001c,
    0x8000_001f,
    0x8000_0020,
    0x8000_0022,
    0x8000_0023,
];

/// The maker of a processor, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Vendor {
    Intel,
    /// AMD and Hygon.
    Amd,
    Other,
}

/// What CPUID answers on a vCPU.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cpuid {
    entries: Vec<kvm_cpuid_entry2>,
}

impl Cpuid {
    /// What guests may see of `supported`, which is KVM_GET_SUPPORTED_CPUID's answer.
    pub(crate) fn for_guests(supported: &[kvm_cpuid_entry2], host: HostKind, deadline_timer: TscDeadlineTimer) -> Self {
        let mut cpuid = Self { entries: supported.to_vec() };
        for entry in &mut cpuid.entries {
            if HIDDEN_LEAVES.contains(&entry.function) {
                clear(entry);
            }
            let place = (entry.function, entry.index);
            for &(leaf, subleaf, register, bits) in &HIDDEN_BITS {
                if (leaf, subleaf) == place {
                    *register_of(entry, register) &= !bits;
                }
            }
        }
        if let Some(entry) = cpuid.find_mut(1, 0) {
            entry.ecx |= HYPERVISOR;
            // KVM did not report it before Linux 6.3, though it has it.
            if deadline_timer == TscDeadlineTimer::Offered {
                entry.ecx |= TSC_DEADLINE;
            }
        }
        // CMPXCHG16B, which the emulator lacks too, stays: user mode has it, and programs for x86-64-v2 insist on it.
        if host == HostKind::Emulated
            && let Some(entry) = cpuid.find_mut(KVM_FEATURES, 0)
        {
            entry.eax &= !HYPERCALL_FEATURES;
        }
        cpuid
    }

    /// The answer for a leaf and subleaf, if there is one.
    pub(crate) fn find(&self, leaf: u32, subleaf: u32) -> Option<&kvm_cpuid_entry2> {
        self.entries.iter().find(|entry| entry.function == leaf && entry.index == subleaf)
    }

    /// The answer for a leaf and subleaf, to change it.
    pub(crate) fn find_mut(&mut self, leaf: u32, subleaf: u32) -> Option<&mut kvm_cpuid_entry2> {
        self.entries.iter_mut().find(|entry| entry.function == leaf && entry.index == subleaf)
    }

    /// All subleaves of a leaf.
    pub(crate) fn subleaves(&mut self, leaf: u32) -> impl Iterator<Item = &mut kvm_cpuid_entry2> {
        self.entries.iter_mut().filter(move |entry| entry.function == leaf)
    }

    /// Replaces all subleaves of a leaf by `answers`, the first of which is of subleaf 0.
    pub(crate) fn replace(&mut self, leaf: u32, answers: &[[u32; 4]]) {
        self.entries.retain(|entry| entry.function != leaf);
        self.entries.extend((0..).zip(answers).map(|(index, &[eax, ebx, ecx, edx])| kvm_cpuid_entry2 {
            function: leaf,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        }));
    }

    /// Whether the processor knows `leaf`.
    pub(crate) fn has_leaf(&self, leaf: u32) -> bool {
        self.find(leaf & 0xc000_0000, 0).is_some_and(|entry| leaf <= entry.eax)
    }

    /// Who made the processor.
    pub(crate) fn vendor(&self) -> Vendor {
        match self.find(0, 0).map(|entry| [entry.ebx, entry.edx, entry.ecx].map(u32::to_le_bytes).concat()) {
            Some(name) if name == b"GenuineIntel" => Vendor::Intel,
            Some(name) if name == b"AuthenticAMD" || name == b"HygonGenuine" => Vendor::Amd,
            _ => Vendor::Other,
        }
    }

    /// Bits of a guest physical address.
    pub(crate) fn address_bits(&self) -> u8 {
        // 36 is what a processor has that does not say (Intel SDM volume 3, 5.1.4).
        self.find(0x8000_0008, 0).map_or(36, |entry| entry.eax as u8)
    }

    /// The table in the form that KVM takes. Empty answers are left out: no entry means the same, but costs less.
    pub(crate) fn to_kvm(&self) -> Result<CpuId, vmm_sys_util::fam::Error> {
        let is_empty = |entry: &kvm_cpuid_entry2| entry.eax | entry.ebx | entry.ecx | entry.edx == 0;
        let entries: Vec<_> = self.entries.iter().copied().filter(|entry| !is_empty(entry)).collect();
        CpuId::from_entries(&entries)
    }
}

/// Whether KVM emulates the local APIC's TSC deadline mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TscDeadlineTimer {
    Offered,
    Missing,
}

/// One of an answer's registers.
pub(crate) fn register_of(entry: &mut kvm_cpuid_entry2, register: CpuidRegister) -> &mut u32 {
    match register {
        CpuidRegister::Eax => &mut entry.eax,
        CpuidRegister::Ebx => &mut entry.ebx,
        CpuidRegister::Ecx => &mut entry.ecx,
        CpuidRegister::Edx => &mut entry.edx,
    }
}

fn clear(entry: &mut kvm_cpuid_entry2) {
    (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 { function, eax, ebx, ecx, edx, ..Default::default() }
    }

    fn everything() -> Vec<kvm_cpuid_entry2> {
        let max = |leaf, highest| entry(leaf, [highest, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]);
        let all = |leaf| entry(leaf, [u32::MAX; 4]);
        vec![
            max(0, 0x1f),
            all(1),
            all(7),
            all(0xa),
            max(0x4000_0000, KVM_FEATURES),
            all(KVM_FEATURES),
            max(0x8000_0000, 0x8000_0022),
            all(0x8000_0001),
            entry(0x8000_0008, [0x3030, 0, 0, 0]),
            all(0x8000_000a),
        ]
    }

    #[test]
    fn hides_what_guests_must_not_see() {
        let cpuid = Cpuid::for_guests(&everything(), HostKind::Hardware, TscDeadlineTimer::Missing);
        let ecx = |leaf| cpuid.find(leaf, 0).unwrap().ecx;
        assert_eq!(ecx(1) & (1 << 5 | 1 << 15 | 1 << 3), 0, "VMX, PDCM, MONITOR");
        assert_eq!(ecx(1) & (1 << 21 | 1 << 13 | 1 << 26), 1 << 21 | 1 << 13 | 1 << 26, "x2APIC, CX16, XSAVE stay");
        assert_eq!(ecx(0x8000_0001) & (1 << 2 | 1 << 23), 0, "SVM, performance counters");
        assert_eq!(cpuid.find(7, 0).unwrap().ebx & (1 << 2 | 1 << 25), 0, "SGX, processor trace");
        assert_eq!(*cpuid.find(0xa, 0).unwrap(), entry(0xa, [0; 4]));
        assert_eq!(*cpuid.find(0x8000_000a, 0).unwrap(), entry(0x8000_000a, [0; 4]));
        assert_eq!(cpuid.find(KVM_FEATURES, 0).unwrap().eax, u32::MAX);
    }

    #[test]
    fn adds_what_kvm_has_without_saying() {
        let mut supported = everything();
        supported[1].ecx = 0;
        let ecx = |timer| Cpuid::for_guests(&supported, HostKind::Hardware, timer).find(1, 0).unwrap().ecx;
        assert_eq!(ecx(TscDeadlineTimer::Offered), HYPERVISOR | TSC_DEADLINE);
        assert_eq!(ecx(TscDeadlineTimer::Missing), HYPERVISOR);
    }

    #[test]
    fn hides_hypercalls_where_they_never_return() {
        let cpuid = Cpuid::for_guests(&everything(), HostKind::Emulated, TscDeadlineTimer::Offered);
        assert_eq!(cpuid.find(KVM_FEATURES, 0).unwrap().eax, !(1 << 7 | 1 << 11 | 1 << 13));
        assert_ne!(cpuid.find(1, 0).unwrap().ecx & 1 << 13, 0, "CMPXCHG16B stays for user mode");
    }

    #[test]
    fn knows_leaves_vendor_and_addresses() {
        let cpuid = Cpuid::for_guests(&everything(), HostKind::Hardware, TscDeadlineTimer::Offered);
        assert_eq!(cpuid.vendor(), Vendor::Intel);
        assert_eq!(cpuid.address_bits(), 48);
        assert!(cpuid.has_leaf(0x1f) && !cpuid.has_leaf(0x20));
        assert!(cpuid.has_leaf(0x8000_001e) && !cpuid.has_leaf(0x8000_0023));
        assert!(cpuid.to_kvm().unwrap().as_slice().iter().all(|entry| entry.function != 0xa));
    }
}
