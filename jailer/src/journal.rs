//! What a warden that outlives its supervisor has said, in a file that the supervisor made: one JSON line for each
//! [event](crate::warden::Event), oldest first.
//!
//! It is read by a supervisor that was away, and then by nobody: a warden that is done needs not wait to be heard. The
//! warden is confined like its vmm, so the file is bounded, and who reads it believes it about this one VM only.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use crate::reports::MAX_LINES_BYTES;
use crate::warden::Event;

/// Most bytes of a journal: whatever a vmm says, six characters for each of its bytes, and room for the warden's own.
pub const MAX_BYTES: u64 = 4 * 1024 * 1024;
const _: () = assert!(MAX_BYTES > 7 * MAX_LINES_BYTES as u64);

/// The writer's side.
#[derive(Debug)]
pub struct Journal {
    file: File,
    length: u64,
}

impl Journal {
    /// Writes to `file`, which is empty.
    pub fn new(file: File) -> Self {
        Self { file, length: 0 }
    }

    /// How many bytes were written.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Appends an event. One that there is no room for is lost.
    pub fn append(&mut self, event: &Event) {
        let Ok(mut line) = serde_json::to_vec(event) else { return };
        line.push(b'\n');
        let end = self.length.saturating_add(line.len() as u64);
        // Half a line is overwritten by the next.
        if end <= MAX_BYTES && self.file.write_all_at(&line, self.length).is_ok() {
            self.length = end;
        }
    }
}

/// Reads the first `bytes` of a journal, or all of it. What is no event ends it.
///
/// # Errors
/// As reading a file.
pub fn read(file: &File, bytes: Option<u64>) -> io::Result<Vec<Event>> {
    let mut text = Vec::new();
    let limit = bytes.unwrap_or(MAX_BYTES).min(MAX_BYTES);
    let mut reader = file;
    io::Seek::rewind(&mut reader)?;
    reader.take(limit).read_to_end(&mut text)?;
    let lines = text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    Ok(lines.map_while(|line| serde_json::from_slice(line).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Event {
        Event::Vmm { line: text.to_owned() }
    }

    #[test]
    fn what_was_said_can_be_read_up_to_any_event() {
        let file = tempfile::tempfile().unwrap();
        let mut journal = Journal::new(file.try_clone().unwrap());
        assert_eq!(read(&file, None).unwrap(), []);
        journal.append(&said("one"));
        let first = journal.length();
        journal.append(&said("two\nlines"));
        assert_eq!(read(&file, Some(first)).unwrap(), [said("one")]);
        assert_eq!(read(&file, None).unwrap(), [said("one"), said("two\nlines")]);
        file.write_all_at(b"nonsense\n", journal.length()).unwrap();
        assert_eq!(read(&file, None).unwrap().len(), 2);
    }

    #[test]
    fn a_journal_is_bounded() {
        let file = tempfile::tempfile().unwrap();
        let mut journal = Journal::new(file.try_clone().unwrap());
        let long = said(&"x".repeat(60_000));
        (0..100).for_each(|_| journal.append(&long));
        assert!(file.metadata().unwrap().len() <= MAX_BYTES);
        assert_eq!(read(&file, None).unwrap().len(), 69);
    }
}
