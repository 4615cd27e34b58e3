//! Guest memory, read and written through `/proc/PID/mem` of the vmm: behind the guest's back, and at once.
//!
//! Guests with a shared page (see `guests/flat.h`) are found by its first bytes in the page that the vmm loaded it to.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

/// What the shared page of a flat guest begins with.
const SHARED_PAGE_MARK: &[u8; 16] = b"stockade shared ";
/// Guest address of the shared page.
pub const SHARED_PAGE: u64 = 0x10_1000;
/// Guest address of what follows the mark: the counter of the guests that count.
pub const COUNTER: u64 = SHARED_PAGE + SHARED_PAGE_MARK.len() as u64;

const PAGE: u64 = 4096;

/// The memory of a guest below the hole at 3 GiB.
#[derive(Debug)]
pub struct GuestMemory {
    memory: File,
    /// Where the guest's address 0 is in the vmm.
    base: u64,
}

impl GuestMemory {
    /// Finds the memory in a vmm that has loaded a guest with a shared page; `None` as long as it hasn't.
    pub fn find(pid: i32) -> Option<Self> {
        let memory = OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem")).ok()?;
        let page_map = File::open(format!("/proc/{pid}/pagemap")).ok()?;
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
        for line in maps.lines().filter(|line| line.contains(" rw")) {
            let (start, end) = line.split(' ').next()?.split_once('-')?;
            let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
            if end - start > SHARED_PAGE {
                let page = present_pages(&page_map, start, end).into_iter().find(|page| is_shared_page(&memory, *page));
                if let Some(page) = page {
                    return Some(Self { memory, base: page - SHARED_PAGE });
                }
            }
        }
        None
    }

    /// Reads bytes.
    pub fn read(&self, address: u64, bytes: &mut [u8]) {
        self.memory.read_exact_at(bytes, self.base + address).expect("read guest memory");
    }

    /// Reads a fixed number of bytes.
    pub fn read_array<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.read(address, &mut bytes);
        bytes
    }

    /// Reads a little-endian number.
    pub fn read_u64(&self, address: u64) -> u64 {
        u64::from_le_bytes(self.read_array(address))
    }

    /// Reads a little-endian number.
    pub fn read_u32(&self, address: u64) -> u32 {
        u32::from_le_bytes(self.read_array(address))
    }

    /// Reads a little-endian number.
    pub fn read_u16(&self, address: u64) -> u16 {
        u16::from_le_bytes(self.read_array(address))
    }

    /// Writes bytes.
    pub fn write(&self, address: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, self.base + address).expect("write guest memory");
    }
}

fn is_shared_page(memory: &File, page: u64) -> bool {
    let mut bytes = [0; 16];
    memory.read_exact_at(&mut bytes, page).is_ok() && &bytes == SHARED_PAGE_MARK
}

/// Addresses of the pages in the range that are there: Documentation/admin-guide/mm/pagemap.rst.
fn present_pages(page_map: &File, start: u64, end: u64) -> Vec<u64> {
    const PRESENT: u64 = 1 << 63;
    let pages = (end - start) / PAGE;
    let mut entries = vec![0; usize::try_from(pages * 8).expect("fits")];
    if page_map.read_exact_at(&mut entries, start / PAGE * 8).is_err() {
        return Vec::new();
    }
    entries
        .as_chunks::<8>()
        .0
        .iter()
        .zip((start..end).step_by(PAGE as usize))
        .filter_map(|(entry, page)| (u64::from_le_bytes(*entry) & PRESENT != 0).then_some(page))
        .collect()
}
