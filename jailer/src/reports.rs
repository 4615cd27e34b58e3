//! What a vmm says that outlives its supervisor: the lines on its `events` descriptor, and the end of its standard error.
//!
//! The vmm may have been taken over by its guest. So nothing of it is parsed here, lines are bounded in length and in sum,
//! and whoever gets them has to doubt them.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Most bytes of a line. Longer ones are cut, and then make no sense to anybody.
const MAX_LINE_BYTES: usize = 8 * 1024;
/// Most bytes of lines that are passed on in a vmm's life. A vmm at its work needs a few hundred, and some more for each time
/// that it is paused: this is enough for thousands.
pub(crate) const MAX_LINES_BYTES: usize = 512 * 1024;
/// Most bytes of standard error that are kept.
const MAX_DIAGNOSTICS_BYTES: usize = 2048;
/// Most lines of it that are told.
const MOST_LAST_WORDS: usize = 3;
/// Bytes that are read at once.
const CHUNK_BYTES: usize = 4096;

/// The reading ends of both.
#[derive(Debug)]
pub struct Reports {
    events: Option<File>,
    diagnostics: Option<File>,
    line: Vec<u8>,
    room: usize,
    last_words: Vec<u8>,
}

impl Reports {
    /// Reads from these pipes.
    ///
    /// # Errors
    /// As ioctl(2), `FIONBIO`.
    pub fn new(events: OwnedFd, diagnostics: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&events, true)?;
        rustix::io::ioctl_fionbio(&diagnostics, true)?;
        Ok(Self {
            events: Some(events.into()),
            diagnostics: Some(diagnostics.into()),
            line: Vec::new(),
            room: MAX_LINES_BYTES,
            last_words: Vec::new(),
        })
    }

    /// What can be waited for.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.events.iter().chain(&self.diagnostics).map(AsFd::as_fd)
    }

    /// Reads what is there. Returns the lines that are complete.
    pub fn read(&mut self) -> Vec<String> {
        let mut bytes = [0; CHUNK_BYTES];
        let mut lines = Vec::new();
        while let Some(length) = read_once(&mut self.diagnostics, &mut bytes) {
            self.last_words.extend_from_slice(bytes.get(..length).unwrap_or_default());
            let excess = self.last_words.len().saturating_sub(MAX_DIAGNOSTICS_BYTES);
            self.last_words.drain(..excess);
        }
        while let Some(length) = read_once(&mut self.events, &mut bytes) {
            for byte in bytes.get(..length).unwrap_or_default() {
                if *byte == b'\n' {
                    lines.extend(self.take_line());
                } else if self.line.len() < MAX_LINE_BYTES {
                    self.line.push(*byte);
                }
            }
        }
        lines
    }

    /// The last lines of standard error, as one.
    pub fn last_words(&self) -> String {
        let text = String::from_utf8_lossy(&self.last_words);
        let lines: Vec<_> = text.trim().lines().collect();
        lines.get(lines.len().saturating_sub(MOST_LAST_WORDS)..).unwrap_or_default().join("; ")
    }

    fn take_line(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        self.room = self.room.checked_sub(line.len())?;
        Some(String::from_utf8_lossy(&line).into_owned())
    }
}

/// How many bytes there are; none when there are none now, or never will be.
fn read_once(pipe: &mut Option<File>, bytes: &mut [u8]) -> Option<usize> {
    loop {
        match pipe.as_mut()?.read(bytes) {
            Ok(0) => *pipe = None,
            Ok(length) => return Some(length),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(_) => *pipe = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Write, pipe};

    use super::*;

    #[test]
    fn lines_are_passed_on_and_the_last_words_kept() {
        let ((events, mut said), (diagnostics, mut words)) = (pipe().unwrap(), pipe().unwrap());
        let mut reports = Reports::new(events.into(), diagnostics.into()).unwrap();
        assert_eq!(reports.read(), [] as [&str; 0]);
        said.write_all(b"one\ntw").unwrap();
        words.write_all(b"a\nb\n").unwrap();
        assert_eq!(reports.read(), ["one"]);
        said.write_all(b"o\n\xff\n").unwrap();
        drop((said, words));
        assert_eq!(reports.read(), ["two", "\u{fffd}"]);
        assert_eq!(reports.last_words(), "a; b");
        assert_eq!(reports.descriptors().count(), 0);
    }

    #[test]
    fn a_vmm_that_does_not_stop_talking_is_not_listened_to() {
        let ((events, mut said), (diagnostics, mut words)) = (pipe().unwrap(), pipe().unwrap());
        let mut reports = Reports::new(events.into(), diagnostics.into()).unwrap();
        let mut heard = 0;
        for _ in 0..80 {
            said.write_all(&[b'x'; 9000]).unwrap();
            said.write_all(b"\n").unwrap();
            words.write_all(&[b'y'; 1500]).unwrap();
            heard += reports.read().iter().map(String::len).sum::<usize>();
        }
        assert_eq!(heard, MAX_LINES_BYTES);
        assert_eq!(reports.last_words().len(), MAX_DIAGNOSTICS_BYTES);
    }
}
