//! Guest memory: private, reserved by nobody until it is touched; zero at first, or what a file has. Only huge pages of the host's
//! pool are reserved, because a guest that touches one which is not there ends its vmm.
//!
//! A file that memory was saved to is mapped and not read. Machines that were restored from the same file share its pages
//! until they write to them, and none of them ever changes it.

use std::{fs::File, io, sync::Arc};

use kvm_bindings::KVM_MEM_LOG_DIRTY_PAGES;
use kvm_ioctls::VmFd;
use stockade_boot::{GuestMemory, layout::LayoutError, memory_regions};
use stockade_vmm_api::machine_config::HugePages;
use vm_memory::{FileOffset, GuestAddress, GuestRegionMmap, mmap::MmapRegionBuilder};

use crate::sys;

/// How much memory a guest gets, and of what kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySpec {
    /// Bytes, a multiple of 4096, or of 2 MiB with [`HugePages::Hugetlbfs2M`].
    pub bytes: u64,
    /// The pages that back it.
    pub huge_pages: HugePages,
    /// Whether KVM notes which pages the guest writes to.
    pub dirty_log: DirtyLog,
}

/// Whether KVM keeps a dirty page log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirtyLog {
    /// It does.
    On,
    /// It does not.
    Off,
}

/// Guest memory that can't be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// No guest has memory like that.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The host gives none.
    #[error(
        "map {bytes} bytes of guest memory: {source}; lower mem_size_mib, or raise the limit on the address space of this process"
    )]
    Map {
        /// Size of the mapping.
        bytes: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// The host has too few huge pages, or none.
    #[error(
        "machine-config: huge_pages \"2M\": reserve {pages} pages of 2 MiB: {source}; let the host have as many that are free \
         (sysctl vm.nr_hugepages, HugePages_Free in /proc/meminfo), or use huge_pages \"None\""
    )]
    HugePagePool {
        /// How many the guest's memory takes.
        pages: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The host's processor has too few address lines.
    #[error(
        "guest memory ends at {end:#x}, beyond the {bits} bits of a physical address that KVM offers on this host: lower \
         mem_size_mib"
    )]
    AddressBits {
        /// First guest physical address behind it.
        end: u64,
        /// Bits of an address.
        bits: u8,
    },
    /// The file has another length than the memory.
    #[error(
        "the memory file has {found} bytes, and the guest's memory {expected}: it belongs to another state, or is damaged"
    )]
    FileLength {
        /// Of the file.
        found: u64,
        /// Of the memory.
        expected: u64,
    },
    /// The file can't be used.
    #[error("map the memory file: {0}")]
    File(io::Error),
    /// Memory from a file has pages of the usual size.
    #[error("memory can't be loaded into huge pages; use huge_pages None")]
    HugePages,
    /// KVM does not take it.
    #[error("KVM_SET_USER_MEMORY_REGION at {address:#x}: {source}")]
    Slot {
        /// Guest physical address.
        address: u64,
        /// What KVM said.
        source: io::Error,
    },
}

impl MemorySpec {
    /// Small pages, no dirty log.
    pub fn of_bytes(bytes: u64) -> Self {
        Self { bytes, huge_pages: HugePages::None, dirty_log: DirtyLog::Off }
    }

    /// Maps the memory for a guest whose physical addresses have `address_bits`.
    pub(crate) fn map(&self, address_bits: u8) -> Result<GuestMemory, MemoryError> {
        let ranges = memory_regions(self.bytes)?;
        check_address_bits(&ranges, address_bits)?;
        self.map_ranges(ranges, None)
    }

    /// Maps the memory from `file`, which has all of its ranges one after the other.
    pub(crate) fn map_file(&self, address_bits: u8, file: &File) -> Result<GuestMemory, MemoryError> {
        let ranges = memory_regions(self.bytes)?;
        check_address_bits(&ranges, address_bits)?;
        let found = file.metadata().map_err(MemoryError::File)?.len();
        if found != self.bytes {
            return Err(MemoryError::FileLength { found, expected: self.bytes });
        }
        if self.huge_pages != HugePages::None {
            return Err(MemoryError::HugePages);
        }
        self.map_ranges(ranges, Some(&Arc::new(file.try_clone().map_err(MemoryError::File)?)))
    }

    fn map_ranges(
        &self,
        ranges: Vec<(GuestAddress, usize)>,
        file: Option<&Arc<File>>,
    ) -> Result<GuestMemory, MemoryError> {
        let mut flags = libc::MAP_PRIVATE;
        if file.is_none() {
            flags |= libc::MAP_ANONYMOUS;
        }
        flags |= match self.huge_pages {
            HugePages::Hugetlbfs2M => libc::MAP_HUGETLB | libc::MAP_HUGE_2MB,
            HugePages::None | HugePages::Transparent => libc::MAP_NORESERVE,
        };
        let mut regions = Vec::new();
        let mut offset = 0_u64;
        for (start, bytes) in ranges {
            let failed = |source| self.refused(bytes, source);
            let mut builder =
                MmapRegionBuilder::new(bytes).with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE).with_mmap_flags(flags);
            if let Some(file) = file {
                builder = builder.with_file_offset(FileOffset::from_arc(file.clone(), offset));
            }
            offset = offset.saturating_add(bytes as u64);
            let mapping = builder.build().map_err(|error| failed(os_error(error)))?;
            let region = GuestRegionMmap::new(mapping, start)
                .ok_or_else(|| failed(io::Error::other("region wraps around the address space")))?;
            regions.push(region);
        }
        let memory = GuestMemory::from_regions(regions)
            .map_err(|error| MemoryError::Slot { address: 0, source: io::Error::other(error.to_string()) })?;
        let advise = |advice| {
            sys::advise(&memory, advice).map_err(|source| MemoryError::Map { bytes: self.bytes as usize, source })
        };
        advise(libc::MADV_DONTDUMP)?;
        if self.huge_pages == HugePages::Transparent {
            advise(libc::MADV_HUGEPAGE)?;
        }
        Ok(memory)
    }

    /// Why a mapping of `bytes` can't be had.
    fn refused(&self, bytes: usize, source: io::Error) -> MemoryError {
        const PAGE_BYTES: u64 = 2 << 20;
        match self.huge_pages {
            HugePages::Hugetlbfs2M => MemoryError::HugePagePool { pages: self.bytes.div_ceil(PAGE_BYTES), source },
            HugePages::None | HugePages::Transparent => MemoryError::Map { bytes, source },
        }
    }

    /// Gives the memory to the guest.
    pub(crate) fn register(&self, vm: &VmFd, memory: &GuestMemory) -> Result<(), MemoryError> {
        let flags = match self.dirty_log {
            DirtyLog::On => KVM_MEM_LOG_DIRTY_PAGES,
            DirtyLog::Off => 0,
        };
        sys::set_memory_slots(vm, memory, flags).map_err(|(address, source)| MemoryError::Slot { address, source })
    }
}

fn check_address_bits(ranges: &[(GuestAddress, usize)], bits: u8) -> Result<(), MemoryError> {
    let end = ranges.last().map_or(0, |&(start, bytes)| start.0.saturating_add(bytes as u64));
    match 1_u64.checked_shl(bits.into()) {
        Some(limit) if end > limit => Err(MemoryError::AddressBits { end, bits }),
        _ => Ok(()),
    }
}

fn os_error(error: vm_memory::mmap::MmapRegionError) -> io::Error {
    match error {
        vm_memory::mmap::MmapRegionError::Mmap(source) => source,
        other => io::Error::other(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn memory_must_be_addressable() {
        let error = |bytes, bits| MemorySpec::of_bytes(bytes).map(bits).unwrap_err().to_string();
        assert!(error(4 * GIB, 32).contains("ends at 0x140000000, beyond the 32 bits"), "{}", error(4 * GIB, 32));
        assert!(error(256 * GIB, 39).contains("lower mem_size_mib"));
        assert!(error(4097, 48).contains("4097"));
        assert!(check_address_bits(&memory_regions(3 * GIB).unwrap(), 32).is_ok());
        assert!(check_address_bits(&memory_regions(1022 * GIB).unwrap(), 64).is_ok());
    }

    #[test]
    fn memory_is_reserved_by_nobody() {
        // More than any machine that this is tested on has.
        let memory = MemorySpec::of_bytes(1022 * GIB).map(48).unwrap();
        let regions: Vec<_> = memory.iter().map(|region| (region.start_addr().0 / GIB, region.len() / GIB)).collect();
        assert_eq!(regions, [(0, 3), (4, 252), (512, 767)]);
    }

    /// And not when the guest touches it.
    #[test]
    fn huge_pages_that_the_host_lacks_are_named() {
        // More than there are on any machine that this is tested on.
        let spec = MemorySpec { huge_pages: HugePages::Hugetlbfs2M, ..MemorySpec::of_bytes(1022 * GIB) };
        let error = spec.map(48).unwrap_err();
        assert!(matches!(&error, MemoryError::HugePagePool { pages: 523_264, .. }), "{error:?}");
        let error = error.to_string();
        for part in
            ["machine-config: huge_pages \"2M\": reserve 523264 pages", "vm.nr_hugepages", "huge_pages \"None\""]
        {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
