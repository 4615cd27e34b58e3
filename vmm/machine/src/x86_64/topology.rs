//! One package whose cores have one or two threads each, all vCPUs in the order of their APIC ids, as CPUID shows it.
//!
//! Caches of the first two levels belong to a core, higher ones to all vCPUs. Sources: Intel SDM volume 2A, CPUID; AMD APM
//! volume 3, appendix E.

use super::cpuid::{Cpuid, Vendor};

/// How many vCPUs a core has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ThreadsPerCore {
    /// One each.
    #[default]
    One,
    /// Pairs.
    Two,
}

/// All vCPUs of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Topology {
    vcpus: u32,
    threads: u32,
}

impl Topology {
    pub(crate) fn new(vcpus: u8, threads_per_core: ThreadsPerCore) -> Self {
        let threads = match threads_per_core {
            ThreadsPerCore::Two if vcpus > 1 => 2,
            _ => 1,
        };
        Self { vcpus: u32::from(vcpus.max(1)), threads }
    }

    /// Has `cpuid` say where the vCPU with `apic_id` is.
    pub(crate) fn apply(self, cpuid: &mut Cpuid, apic_id: u8) {
        let apic_id = u32::from(apic_id);
        self.basic(cpuid, apic_id);
        self.extended(cpuid, apic_id);
        match cpuid.vendor() {
            Vendor::Intel => self.intel(cpuid),
            Vendor::Amd => self.amd(cpuid, apic_id),
            Vendor::Other => {}
        }
    }

    /// Leaf 1: APIC id, number of logical processors, and whether that number counts.
    fn basic(self, cpuid: &mut Cpuid, apic_id: u32) {
        const HTT: u32 = 1 << 28;
        if let Some(entry) = cpuid.find_mut(1, 0) {
            set(&mut entry.ebx, 24, 8, apic_id);
            set(&mut entry.ebx, 16, 8, self.vcpus.next_power_of_two());
            set(&mut entry.edx, HTT.trailing_zeros(), 1, u32::from(self.vcpus > 1));
        }
    }

    /// Leaves 0xb and 0x1f: levels thread and core, and the end of the list.
    fn extended(self, cpuid: &mut Cpuid, apic_id: u32) {
        const THREAD: u32 = 1 << 8;
        const CORE: u32 = 2 << 8;
        for leaf in [0xb, 0x1f] {
            if cpuid.has_leaf(leaf) {
                let levels = [
                    [width(self.threads), self.threads, THREAD, apic_id],
                    [width(self.vcpus), self.vcpus, CORE | 1, apic_id],
                    [0, 0, 2, apic_id],
                ];
                cpuid.replace(leaf, &levels);
            }
        }
    }

    /// Leaf 4: caches, and the number of cores.
    fn intel(self, cpuid: &mut Cpuid) {
        for cache in cpuid.subleaves(4) {
            if let Some(sharers) = self.sharers(cache.eax) {
                set(&mut cache.eax, 14, 12, last_id(sharers));
                set(&mut cache.eax, 26, 6, last_id(self.cores()));
            }
        }
    }

    /// Leaves 0x80000001, 0x80000008, 0x8000001d and 0x8000001e.
    fn amd(self, cpuid: &mut Cpuid, apic_id: u32) {
        const CMP_LEGACY: u32 = 1 << 1;
        const TOPOLOGY_EXTENSIONS: u32 = 1 << 22;
        let has_extensions = cpuid.has_leaf(0x8000_001e);
        if let Some(entry) = cpuid.find_mut(0x8000_0001, 0) {
            set(&mut entry.ecx, CMP_LEGACY.trailing_zeros(), 1, u32::from(self.vcpus > 1));
            set(&mut entry.ecx, TOPOLOGY_EXTENSIONS.trailing_zeros(), 1, u32::from(has_extensions));
        }
        if let Some(entry) = cpuid.find_mut(0x8000_0008, 0) {
            set(&mut entry.ecx, 0, 8, self.vcpus.saturating_sub(1));
            set(&mut entry.ecx, 12, 4, width(self.vcpus));
        }
        for cache in cpuid.subleaves(0x8000_001d) {
            if let Some(sharers) = self.sharers(cache.eax) {
                set(&mut cache.eax, 14, 12, sharers.saturating_sub(1));
            }
        }
        if has_extensions {
            let core = apic_id >> width(self.threads);
            let threads = self.threads.saturating_sub(1);
            cpuid.replace(0x8000_001e, &[[apic_id, core | threads << 8, 0, 0]]);
        }
    }

    fn cores(self) -> u32 {
        self.vcpus.div_ceil(self.threads)
    }

    /// How many vCPUs share the cache that EAX of its leaf describes; `None` behind the last cache.
    fn sharers(self, eax: u32) -> Option<u32> {
        match (eax & 0x1f, eax >> 5 & 7) {
            (0, _) => None,
            (_, 1 | 2) => Some(self.threads),
            _ => Some(self.vcpus),
        }
    }
}

/// Bits of an APIC id that tell `count` things apart.
fn width(count: u32) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

/// The last of the ids that are set aside for `count` things.
fn last_id(count: u32) -> u32 {
    count.next_power_of_two().saturating_sub(1)
}

/// Sets `bits` bits of `register` from bit `shift` up.
fn set(register: &mut u32, shift: u32, bits: u32, value: u32) {
    let mask = u32::MAX.checked_shr(32_u32.saturating_sub(bits)).unwrap_or(0);
    *register = *register & !(mask << shift) | (value & mask) << shift;
}

#[cfg(test)]
mod tests {
    use kvm_bindings::kvm_cpuid_entry2;

    use super::*;
    use crate::x86_64::{cpuid::TscDeadlineTimer, host::HostKind};

    fn cpuid(vendor: &[u8; 12], caches: u32) -> Cpuid {
        let [ebx, edx, ecx] = [0, 4, 8].map(|at| u32::from_le_bytes(vendor[at..at + 4].try_into().unwrap()));
        let entry =
            |function, index, eax| kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() };
        let mut entries = vec![
            entry(0, 0, 0x1f),
            entry(1, 0, u32::MAX),
            entry(0x8000_0000, 0, 0x8000_001e),
            entry(0x8000_0001, 0, u32::MAX),
            entry(0x8000_0008, 0, 0x3030),
        ];
        // First-level data, second-level unified, third-level unified, end; the sharing is the host's.
        entries.extend(
            (0..)
                .zip([0x021, 0x043, 0x063, 0])
                .map(|(index, kind)| entry(caches, index, if kind == 0 { 0 } else { kind | 0xfdff_c000 })),
        );
        Cpuid::for_guests(&entries, HostKind::Hardware, TscDeadlineTimer::Missing)
    }

    #[test]
    fn pairs_of_threads_on_intel() {
        let mut cpuid = cpuid(b"GenuineIntel", 4);
        Topology::new(6, ThreadsPerCore::Two).apply(&mut cpuid, 5);
        let basic = cpuid.find(1, 0).unwrap();
        assert_eq!((basic.ebx >> 24, basic.ebx >> 16 & 0xff, basic.edx >> 28 & 1), (5, 8, 1));
        for leaf in [0xb, 0x1f] {
            let level = |subleaf| cpuid.find(leaf, subleaf).map(|e| [e.eax, e.ebx, e.ecx, e.edx]).unwrap();
            assert_eq!(level(0), [1, 2, 0x100, 5]);
            assert_eq!(level(1), [3, 6, 0x201, 5]);
            assert_eq!(level(2), [0, 0, 2, 5]);
        }
        let cache = |subleaf| cpuid.find(4, subleaf).unwrap().eax;
        assert_eq!((cache(0) >> 14 & 0xfff, cache(0) >> 26), (1, 3));
        assert_eq!((cache(2) >> 14 & 0xfff, cache(2) >> 26), (7, 3));
        assert_eq!(cache(3), 0);
    }

    #[test]
    fn cores_on_amd() {
        let mut cpuid = cpuid(b"AuthenticAMD", 0x8000_001d);
        Topology::new(3, ThreadsPerCore::One).apply(&mut cpuid, 2);
        assert_eq!(cpuid.find(0x8000_0008, 0).unwrap().ecx & 0xf0ff, 0x2002);
        let ids = cpuid.find(0x8000_001e, 0).unwrap();
        assert_eq!([ids.eax, ids.ebx, ids.ecx], [2, 2, 0]);
        let sharers = |subleaf| cpuid.find(0x8000_001d, subleaf).unwrap().eax >> 14 & 0xfff;
        assert_eq!((sharers(0), sharers(1), sharers(2)), (0, 0, 2));
    }

    #[test]
    fn a_single_processor_has_no_siblings() {
        let mut cpuid = cpuid(b"AuthenticAMD", 0x8000_001d);
        Topology::new(1, ThreadsPerCore::Two).apply(&mut cpuid, 0);
        assert_eq!(cpuid.find(1, 0).unwrap().edx >> 28 & 1, 0);
        assert_eq!(cpuid.find(1, 0).unwrap().ebx >> 16, 1);
        assert_eq!(cpuid.find(0x8000_0001, 0).unwrap().ecx & 2, 0);
        assert_eq!(cpuid.find(0xb, 0).unwrap().eax, 0);
    }
}
