//! Writes guest memory to a file, from which [a machine can be restored](crate::BareMachine::restore).

use std::{
    fs::File,
    io::{self, IoSlice},
};

use nix::sys::uio::pwritev;
use stockade_boot::GuestMemory;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, VolatileMemory};

const PAGE: usize = 4096;
/// Bytes that are looked at at once.
const CHUNK: usize = 64 * PAGE;

/// Writes all of `memory` to `file`, one range after the other, and whatever was in the file is gone. Pages without content
/// take no place. No vCPU runs and no device works meanwhile.
///
/// # Errors
/// Those of the file, for instance a full disk.
pub fn write_memory(memory: &GuestMemory, file: &File) -> io::Result<()> {
    let total = memory.iter().fold(0_u64, |sum, region| sum.saturating_add(region.len()));
    file.set_len(0)?;
    file.set_len(total)?;
    let mut buffer = vec![0_u8; CHUNK];
    let mut offset = 0_u64;
    for region in memory.iter() {
        let all = region.as_volatile_slice().map_err(io::Error::other)?;
        let mut done = 0_usize;
        while done < all.len() {
            let length = all.len().saturating_sub(done).min(CHUNK);
            let chunk = buffer.get_mut(..length).unwrap_or_default();
            all.get_slice(done, length).map_err(io::Error::other)?.copy_to(chunk);
            write_content(file, offset.saturating_add(done as u64), chunk)?;
            done = done.saturating_add(length);
        }
        offset = offset.saturating_add(region.len());
    }
    file.sync_data()
}

/// Writes those pages of `bytes` that are not zero to their places from `offset` on.
fn write_content(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let mut place = offset;
    let pages: Vec<&[u8]> = bytes.chunks(PAGE).collect();
    for run in pages.chunk_by(|one, next| is_zero(one) == is_zero(next)) {
        let length = run.iter().map(|page| page.len()).sum::<usize>();
        if run.first().is_some_and(|page| !is_zero(page)) {
            let start = usize::try_from(place.saturating_sub(offset)).unwrap_or(usize::MAX);
            let end = start.saturating_add(length);
            write_all(file, place, bytes.get(start..end).unwrap_or_default())?;
        }
        place = place.saturating_add(length as u64);
    }
    Ok(())
}

fn is_zero(page: &[u8]) -> bool {
    page.iter().all(|byte| *byte == 0)
}

/// Writes `bytes` to `file` at `offset`.
///
/// # Errors
/// Those of pwritev(2); `WriteZero` if the file takes no more.
pub fn write_all(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let mut rest = bytes;
    let mut offset = offset;
    while !rest.is_empty() {
        let position = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        match pwritev(file, &[IoSlice::new(rest)], position) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                rest = rest.get(count..).unwrap_or_default();
                offset = offset.saturating_add(count as u64);
            }
            Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::MemorySpec;

    #[test]
    fn memory_is_what_was_written_and_holes_take_no_place() {
        const MIB: u64 = 1 << 20;
        let spec = MemorySpec::of_bytes(16 * MIB);
        let memory = spec.map(48).unwrap();
        let texts = [(0, "first"), (5 * MIB + 4095, "across pages"), (16 * MIB - 4, "last")];
        for (address, text) in texts {
            memory.write_slice(text.as_bytes(), GuestAddress(address)).unwrap();
        }
        let file = tempfile::tempfile().unwrap();
        write_all(&file, 0, &vec![7; 17 << 20]).unwrap();
        write_memory(&memory, &file).unwrap();
        assert!(file.metadata().unwrap().blocks() * 512 < MIB);

        let copies = [spec.map_file(48, &file).unwrap(), spec.map_file(48, &file).unwrap()];
        copies[0].write_slice(b"x", GuestAddress(0)).unwrap();
        for (address, text) in texts {
            let mut found = vec![0; text.len()];
            copies[1].read_slice(&mut found, GuestAddress(address)).unwrap();
            assert_eq!(found, text.as_bytes());
        }
        assert_eq!(copies[1].read_obj::<u64>(GuestAddress(MIB)).unwrap(), 0);
        assert!(MemorySpec::of_bytes(8 * MIB).map_file(48, &file).unwrap_err().to_string().contains("another state"));
    }
}
