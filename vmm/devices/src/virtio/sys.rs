//! System calls that move bytes straight between guest memory and a file or the kernel's random number generator.
//!
//! Safe to call: they take guest memory and addresses in it, which are checked, and keep no pointer.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, VolatileSlice};

use super::chain::Segment;

/// Pieces in one system call. At most IOV_MAX (1024); each takes 16 bytes of stack.
const PIECES: usize = 256;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    FileToGuest,
    GuestToFile,
}

/// Moves all bytes of `segments` from or to `file` at `offset`, with preadv(2) or pwritev(2).
///
/// # Errors
/// Those of the system call; `UnexpectedEof` if the file ends before; `InvalidInput` if a segment is outside of memory.
pub(super) fn transfer(
    direction: Direction,
    file: BorrowedFd,
    offset: u64,
    memory: &GuestMemoryMmap,
    segments: impl Iterator<Item = Segment>,
) -> io::Result<()> {
    let mut slices = segments.flat_map(|segment| slices(memory, segment));
    let mut offset = offset;
    loop {
        let mut pieces = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; PIECES];
        let mut filled = 0_usize;
        for (piece, slice) in pieces.iter_mut().zip(&mut slices) {
            let slice = slice?;
            *piece = libc::iovec { iov_base: slice.ptr_guard_mut().as_ptr().cast(), iov_len: slice.len() };
            filled = filled.saturating_add(1);
        }
        let Some(pieces @ [_, ..]) = pieces.get_mut(..filled) else { return Ok(()) };
        offset = transfer_pieces(direction, file, offset, pieces)?;
    }
}

/// Returns the offset after the last byte. The pieces must be guest memory that is mapped, and not empty.
fn transfer_pieces(
    direction: Direction,
    file: BorrowedFd,
    mut offset: u64,
    pieces: &mut [libc::iovec],
) -> io::Result<u64> {
    let mut done = 0_usize;
    while let Some(rest @ [_, ..]) = pieces.get_mut(done..) {
        let position = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let count = libc::c_int::try_from(rest.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let result = match direction {
            // SAFETY: `rest` are `count` iovecs, each of mapped guest memory, which the caller borrows; nobody has
            // references into guest memory, it's only accessed as volatile.
            Direction::FileToGuest => unsafe { libc::preadv(file.as_raw_fd(), rest.as_ptr(), count, position) },
            // SAFETY: as above.
            Direction::GuestToFile => unsafe { libc::pwritev(file.as_raw_fd(), rest.as_ptr(), count, position) },
        };
        let moved = match usize::try_from(result) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(moved) => moved,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => continue,
                error => return Err(error),
            },
        };
        offset = offset.saturating_add(u64::try_from(moved).unwrap_or(0));
        done = done.saturating_add(advance(rest, moved));
    }
    Ok(offset)
}

/// Cuts `count` bytes off the front of the pieces. Returns how many pieces are used up.
fn advance(pieces: &mut [libc::iovec], mut count: usize) -> usize {
    let mut used_up = 0_usize;
    for piece in pieces {
        let part = count.min(piece.iov_len);
        piece.iov_base = piece.iov_base.wrapping_byte_add(part);
        piece.iov_len = piece.iov_len.saturating_sub(part);
        count = count.saturating_sub(part);
        if piece.iov_len > 0 {
            break;
        }
        used_up = used_up.saturating_add(1);
    }
    used_up
}

/// Fills `segments` with random bytes, with getrandom(2).
///
/// # Errors
/// Those of the system call; `InvalidInput` if a segment is outside of memory.
pub(super) fn fill_random(memory: &GuestMemoryMmap, segments: impl Iterator<Item = Segment>) -> io::Result<()> {
    for slice in segments.flat_map(|segment| slices(memory, segment)) {
        let mut slice = slice?;
        while !slice.is_empty() {
            // SAFETY: the slice is mapped guest memory of that length, which `memory` keeps mapped; nobody has references
            // into it.
            let result = unsafe { libc::getrandom(slice.ptr_guard_mut().as_ptr().cast(), slice.len(), 0) };
            match usize::try_from(result) {
                Ok(filled) => slice = slice.offset(filled).map_err(|_| io::ErrorKind::InvalidInput)?,
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
            }
        }
    }
    Ok(())
}

/// fallocate(2) with a mode that leaves the file's size.
pub(super) fn allocate(file: BorrowedFd, mode: libc::c_int, offset: u64, length: u64) -> io::Result<()> {
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
    let length = libc::off_t::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
    loop {
        // SAFETY: the call takes no pointer, and the descriptor is open.
        if unsafe { libc::fallocate(file.as_raw_fd(), mode | libc::FALLOC_FL_KEEP_SIZE, offset, length) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn slices(memory: &GuestMemoryMmap, segment: Segment) -> impl Iterator<Item = io::Result<VolatileSlice<'_>>> {
    let length = usize::try_from(segment.length).unwrap_or(usize::MAX);
    let slices = GuestMemoryBackend::get_slices(memory, segment.address, length);
    slices.map(|slice| slice.map_err(|_| io::ErrorKind::InvalidInput.into()))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::fd::AsFd;

    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    fn memory() -> GuestMemoryMmap {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4000), (GuestAddress(0x4000), 0x4000)]).unwrap()
    }

    fn segments(parts: &[(u64, u32)]) -> impl Iterator<Item = Segment> {
        parts.iter().map(|&(address, length)| Segment { address: GuestAddress(address), length })
    }

    #[test]
    fn moves_more_pieces_than_fit_one_call_and_across_regions() {
        let mut file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..8000).map(|index| (index % 251) as u8).collect();
        file.write_all(&content).unwrap();
        let memory = memory();
        let mut parts: Vec<(u64, u32)> = (0..PIECES as u64 + 44).map(|index| (0x100 + index * 5, 3)).collect();
        parts.push((0x3ff0, 0x20));
        transfer(Direction::FileToGuest, file.as_fd(), 7, &memory, segments(&parts)).unwrap();
        let mut position = 7;
        for &(address, length) in &parts {
            let mut bytes = vec![0; length as usize];
            memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
            assert_eq!(bytes, content[position..position + bytes.len()]);
            position += bytes.len();
        }
        let copy = tempfile::NamedTempFile::new().unwrap();
        transfer(Direction::GuestToFile, copy.as_file().as_fd(), 0, &memory, segments(&parts)).unwrap();
        assert_eq!(std::fs::read(copy.path()).unwrap(), content[7..position]);
    }

    #[test]
    fn errors_are_errors() {
        let file = tempfile::tempfile().unwrap();
        let transfer = |file: &File, parts: &[(u64, u32)], offset| {
            transfer(Direction::FileToGuest, file.as_fd(), offset, &memory(), segments(parts)).unwrap_err().kind()
        };
        assert_eq!(transfer(&file, &[(0, 16)], 0), io::ErrorKind::UnexpectedEof);
        assert_eq!(transfer(&file, &[(0x7fff, 2)], 0), io::ErrorKind::InvalidInput);
        assert_eq!(transfer(&file, &[(0, 16)], u64::MAX), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn pieces_are_cut_at_any_byte() {
        let piece = |length| libc::iovec { iov_base: std::ptr::null_mut(), iov_len: length };
        let mut pieces = [piece(4), piece(4), piece(4)];
        assert_eq!(advance(&mut pieces, 6), 1);
        assert_eq!(pieces.map(|piece| (piece.iov_base as usize, piece.iov_len)), [(4, 0), (2, 2), (0, 4)]);
        assert_eq!(advance(&mut pieces[1..], 6), 2);
    }

    #[test]
    fn random_bytes_fill_the_segments_and_nothing_else() {
        let memory = memory();
        fill_random(&memory, segments(&[(0x3fc0, 0x80)])).unwrap();
        let mut bytes = [0; 0x100];
        memory.read_slice(&mut bytes, GuestAddress(0x3f80)).unwrap();
        let (before, rest) = bytes.split_at(0x40);
        let (random, after) = rest.split_at(0x80);
        assert!(before.iter().chain(after).all(|&byte| byte == 0));
        assert!(random.chunks(16).all(|chunk| chunk.iter().any(|&byte| byte != 0)));
    }
}
