//! The guest's console, kept in a file that does not grow: a ring with a cursor.
//!
//! | bytes | meaning |
//! |---|---|
//! | 0..8 | cursor: how many bytes were ever written, little-endian |
//! | 8.. | the ring: byte `n` of the console is at `8 + n % size` |
//!
//! A writer writes bytes first, and then the cursor, at least after every sixteenth of the ring. A reader takes the cursor, reads,
//! and takes the cursor again: what may have been overwritten meanwhile is older than the second cursor, minus the size, plus
//! that sixteenth.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

const HEADER_BYTES: u64 = 8;

/// The writer's side.
#[derive(Debug)]
pub struct Ring {
    file: File,
    size: u64,
    cursor: u64,
    /// Bytes that the disk had no room for.
    lost: u64,
}

impl Ring {
    /// Makes the file at `path`, of `size` bytes beside its header.
    ///
    /// # Errors
    /// As creating a file.
    pub fn create(path: &Path, size: u32) -> io::Result<Self> {
        let file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Self { file, size: u64::from(size.max(1)), cursor: 0, lost: 0 })
    }

    /// Goes on in `file`, which another writer left, or which is empty.
    ///
    /// # Errors
    /// As reading a file.
    pub fn resume(file: File, size: u32) -> io::Result<Self> {
        let mut header = [0; HEADER_BYTES as usize];
        let cursor = match file.read_exact_at(&mut header, 0) {
            Ok(()) => u64::from_le_bytes(header),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            Err(error) => return Err(error),
        };
        Ok(Self { file, size: u64::from(size.max(1)), cursor, lost: 0 })
    }

    /// The file, for whoever owns it from now on.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Appends. What the disk has no room for is lost, and the guest is not stopped for that.
    pub fn append(&mut self, bytes: &[u8]) {
        let keep = usize::try_from(self.size).unwrap_or(usize::MAX).min(bytes.len());
        let (skipped, mut rest) = bytes.split_at(bytes.len().saturating_sub(keep));
        self.advance(skipped.len());
        while !rest.is_empty() {
            let offset = self.cursor.checked_rem(self.size).unwrap_or_default();
            let room = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
            let stride = usize::try_from(stride(self.size).max(1)).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at(room.min(rest.len()).min(stride));
            if self.file.write_all_at(now, HEADER_BYTES.saturating_add(offset)).is_err() {
                self.lost = self.lost.saturating_add(rest.len() as u64);
                return;
            }
            self.advance(now.len());
            rest = later;
            let _ = self.file.write_all_at(&self.cursor.to_le_bytes(), 0);
        }
    }

    /// How many bytes the disk had no room for.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn advance(&mut self, length: usize) {
        self.cursor = self.cursor.saturating_add(length as u64);
    }
}

/// Reads the last `wanted` bytes, or as many as there are.
///
/// # Errors
/// As reading a file.
pub fn read_tail(file: &File, wanted: usize) -> io::Result<Vec<u8>> {
    let mut header = [0; HEADER_BYTES as usize];
    let length = file.metadata()?.len();
    if length < HEADER_BYTES {
        return Ok(Vec::new());
    }
    file.read_exact_at(&mut header, 0)?;
    let cursor = u64::from_le_bytes(header);
    // Until the ring has gone round once, the file is as long as what is in it.
    let size = length.saturating_sub(HEADER_BYTES);
    let mut tail = vec![0; usize::try_from(cursor.min(size)).unwrap_or(usize::MAX).min(wanted)];
    let mut start = cursor.saturating_sub(tail.len() as u64);
    let mut rest = tail.as_mut_slice();
    while !rest.is_empty() {
        let offset = start.checked_rem(size).unwrap_or_default();
        let room = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX).min(rest.len());
        let (now, later) = rest.split_at_mut(room);
        file.read_exact_at(now, HEADER_BYTES.saturating_add(offset))?;
        start = start.saturating_add(now.len() as u64);
        rest = later;
    }
    Ok(tail)
}

/// A piece of a console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The cursor after them.
    pub next: u64,
}

impl Piece {
    /// The cursor before them.
    pub fn first(&self) -> u64 {
        self.next.saturating_sub(self.bytes.len() as u64)
    }
}

/// Reads at most `most` bytes, in a ring of `size` bytes, that were written after the cursor `after`, or after those that are
/// not there any more. A cursor from the future is one of another console, and begins anew.
///
/// # Errors
/// As reading a file.
pub fn read_after(file: &File, size: u32, after: u64, most: usize) -> io::Result<Piece> {
    let (size, before) = (u64::from(size), cursor(file)?);
    let after = if after > before { 0 } else { after };
    let mut next = after.max(oldest(before, size));
    let first = next;
    let wanted = usize::try_from(before.saturating_sub(first)).unwrap_or(usize::MAX).min(most);
    let mut bytes = vec![0; wanted];
    let mut rest = bytes.as_mut_slice();
    while !rest.is_empty() {
        let offset = next.checked_rem(size).unwrap_or_default();
        let room = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX).min(rest.len());
        let (now, later) = rest.split_at_mut(room);
        file.read_exact_at(now, HEADER_BYTES.saturating_add(offset))?;
        next = next.saturating_add(now.len() as u64);
        rest = later;
    }
    // What was overwritten while it was read is something else.
    let overwritten = oldest(cursor(file)?, size).saturating_sub(first);
    bytes.drain(..usize::try_from(overwritten).unwrap_or(usize::MAX).min(bytes.len()));
    Ok(Piece { bytes, next })
}

/// How many bytes were ever written.
///
/// # Errors
/// As reading a file.
pub fn cursor(file: &File) -> io::Result<u64> {
    let mut header = [0; HEADER_BYTES as usize];
    match file.read_exact_at(&mut header, 0) {
        Ok(()) => Ok(u64::from_le_bytes(header)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
        Err(error) => Err(error),
    }
}

/// The cursor before the oldest byte that a writer who is at work leaves alone.
fn oldest(cursor: u64, size: u64) -> u64 {
    cursor.saturating_sub(size.saturating_sub(stride(size)))
}

/// How much a writer writes at most before it says so.
const fn stride(size: u64) -> u64 {
    size / 16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(path: &Path, wanted: usize) -> String {
        String::from_utf8(read_tail(&File::open(path).unwrap(), wanted).unwrap()).unwrap()
    }

    #[test]
    fn the_last_bytes_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        let mut ring = Ring::create(&path, 8).unwrap();
        assert_eq!(tail(&path, 100), "");
        let mut written = String::new();
        for piece in ["abc", "de", "", "fgh", "i", "jklmnopqrstuvwxyz", "0123456"] {
            ring.append(piece.as_bytes());
            written.push_str(piece);
            let kept = &written[written.len().saturating_sub(8)..];
            assert_eq!(tail(&path, 100), kept);
            assert_eq!(tail(&path, 3), &kept[kept.len() - 3..]);
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 16);
    }

    #[test]
    fn a_ring_goes_on_where_another_writer_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        let open = || File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        Ring::resume(open(), 8).unwrap().append(b"abcdef");
        Ring::resume(open(), 8).unwrap().append(b"ghij");
        assert_eq!(tail(&path, 100), "cdefghij");
    }

    #[test]
    fn a_reader_sees_every_byte_that_it_is_in_time_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console");
        let mut ring = Ring::create(&path, 8).unwrap();
        let file = File::open(&path).unwrap();
        let mut after = 0;
        let mut read = |most| {
            let piece = read_after(&file, 8, after, most).unwrap();
            after = piece.next;
            String::from_utf8(piece.bytes).unwrap()
        };
        assert_eq!(read(100), "");
        for text in ["abc", "defg", "h", "ijklm", ""] {
            ring.append(text.as_bytes());
            assert_eq!(read(100), text);
        }
        ring.append(b"0123456789");
        assert_eq!((read(3), read(100), read(100)), ("234".into(), "56789".into(), String::new()));
        assert_eq!(read_after(&file, 8, u64::MAX, 100).unwrap(), Piece { bytes: b"23456789".into(), next: 23 });
    }

    #[test]
    fn a_full_disk_loses_bytes_and_nothing_else() {
        let file = File::options().write(true).open("/dev/full").unwrap();
        let mut ring = Ring { file, size: 8, cursor: 0, lost: 0 };
        ring.append(b"hello");
        assert_eq!(ring.lost(), 5);
    }
}
