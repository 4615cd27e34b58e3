//! A static, position-independent program as it is in memory, and what it finds on its stack when it starts.

use std::ops::Range;

const PAGE: u64 = 4096;
/// Room for the stack above the program's own memory.
const STACK_BYTES: u64 = 1 << 20;
/// A program header's length, and the type of one that is loaded.
const HEADER_BYTES: u64 = 56;
const LOADED: u32 = 1;
/// Flag of a segment that is executed.
const EXECUTABLE: u32 = 1;

/// Keys of the auxiliary vector (getauxval(3)).
mod key {
    pub(super) const END: u64 = 0;
    pub(super) const HEADERS: u64 = 3;
    pub(super) const HEADER_BYTES: u64 = 4;
    pub(super) const HEADER_COUNT: u64 = 5;
    pub(super) const BASE: u64 = 7;
    pub(super) const ENTRY: u64 = 9;
    pub(super) const RANDOM: u64 = 25;
    pub(super) const NAME: u64 = 31;
}

/// A program's file.
#[derive(Debug)]
pub(crate) struct Program {
    file: Vec<u8>,
    segments: Vec<Segment>,
    entry: u64,
    headers_at: u64,
    header_count: u16,
}

/// A part of the file, and where it is in memory.
#[derive(Debug)]
struct Segment {
    file: Range<usize>,
    address: u64,
    memory_bytes: u64,
    is_code: bool,
}

impl Program {
    /// The program in this file, if it is one.
    pub(crate) fn parse(file: Vec<u8>) -> Option<Self> {
        let headers_at = u64_at(&file, 32)?;
        let header_count = u16::from_le_bytes(*file.get(56..)?.first_chunk()?);
        let segments: Option<Vec<_>> = (0..u64::from(header_count))
            .filter_map(|index| {
                let at = usize::try_from(headers_at + index * HEADER_BYTES).ok()?;
                let kind = u32::from_le_bytes(*file.get(at..)?.first_chunk()?);
                (kind == LOADED).then(|| segment(&file, at))
            })
            .collect();
        let (segments, entry) = (segments?, u64_at(&file, 24)?);
        (!segments.is_empty()).then_some(Self { file, segments, entry, headers_at, header_count })
    }

    /// Bytes of memory that it takes, its stack included.
    pub(crate) fn bytes(&self) -> u64 {
        self.stack_at() + STACK_BYTES
    }

    /// Where in memory at `base` its code goes: first address and length, in whole pages.
    pub(crate) fn code(&self, base: u64) -> impl Iterator<Item = (u64, u64)> {
        self.segments.iter().filter(|segment| segment.is_code).map(move |segment| {
            let first = segment.address - segment.address % PAGE;
            (base + first, (segment.address + segment.memory_bytes).next_multiple_of(PAGE) - first)
        })
    }

    /// What is to be written to memory at `base` and above, and where.
    pub(crate) fn content(&self, base: u64) -> impl Iterator<Item = (u64, &[u8])> {
        let part = move |segment: &Segment| Some((base + segment.address, self.file.get(segment.file.clone())?));
        self.segments.iter().filter_map(part)
    }

    /// Where it begins to run.
    pub(crate) fn entry(&self, base: u64) -> u64 {
        base + self.entry
    }

    /// Its stack with these arguments: where it begins, and what is there. `inherited` is the auxiliary vector of the process.
    pub(crate) fn stack(&self, base: u64, arguments: &[&str], inherited: &[(u64, u64)]) -> (u64, Vec<u8>) {
        let top = base + self.bytes();
        let text: Vec<u8> = arguments.iter().flat_map(|argument| argument.bytes().chain([0])).collect();
        let random = [0x5a; 16];
        let text_at = top - random.len() as u64 - text.len() as u64;
        let mut words = vec![arguments.len() as u64];
        let mut at = text_at;
        for argument in arguments {
            words.push(at);
            at += argument.len() as u64 + 1;
        }
        // The end of the arguments, and no environment.
        words.extend([0, 0]);
        let own = [
            (key::HEADERS, base + self.headers_at),
            (key::HEADER_BYTES, HEADER_BYTES),
            (key::HEADER_COUNT, self.header_count.into()),
            (key::BASE, 0),
            (key::ENTRY, self.entry(base)),
            (key::RANDOM, top - random.len() as u64),
            (key::NAME, text_at),
        ];
        let others = inherited.iter().filter(|(key, _)| *key != key::END && own.iter().all(|(own, _)| own != key));
        let vector = own.iter().chain(others).chain([&(key::END, 0)]);
        words.extend(vector.flat_map(|(key, value)| [*key, *value]));
        // The processor's convention wants a multiple of 16.
        let start = (text_at - words.len() as u64 * 8) & !0xf;
        let mut bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        bytes.resize(usize::try_from(text_at - start).unwrap_or(0), 0);
        bytes.extend(text);
        bytes.extend(random);
        (start, bytes)
    }

    fn stack_at(&self) -> u64 {
        let end = self.segments.iter().map(|segment| segment.address + segment.memory_bytes).max();
        end.unwrap_or(0).next_multiple_of(PAGE)
    }
}

fn segment(file: &[u8], at: usize) -> Option<Segment> {
    let offset = usize::try_from(u64_at(file, at + 8)?).ok()?;
    let length = usize::try_from(u64_at(file, at + 32)?).ok()?;
    Some(Segment {
        file: offset..offset.checked_add(length)?,
        address: u64_at(file, at + 16)?,
        memory_bytes: u64_at(file, at + 40)?,
        is_code: u32::from_le_bytes(*file.get(at + 4..)?.first_chunk()?) & EXECUTABLE != 0,
    })
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_is_one_and_a_text_is_none() {
        let program = Program::parse(std::fs::read("/proc/self/exe").unwrap()).unwrap();
        assert!(program.content(0).count() >= 2);
        let is_whole = |(first, length): (u64, u64)| first % PAGE == 0 && length % PAGE == 0 && length > 0;
        assert!(program.code(0).count() == 1 && program.code(0).all(is_whole));
        assert!(program.entry < program.stack_at());
        assert!(Program::parse(b"#!/bin/sh".to_vec()).is_none());
        assert!(Program::parse(Vec::new()).is_none());
    }

    #[test]
    fn the_stack_begins_with_the_arguments() {
        let program = Program::parse(std::fs::read("/proc/self/exe").unwrap()).unwrap();
        let base = 0x1000_0000;
        let (start, bytes) = program.stack(base, &["a", "bc"], &[(33, 7), (3, 1), (0, 0)]);
        assert_eq!((start % 16, start + bytes.len() as u64), (0, base + program.bytes()));
        assert_eq!(u64_at(&bytes, 0), Some(2));
        let second = usize::try_from(u64_at(&bytes, 16).unwrap() - start).unwrap();
        assert_eq!(&bytes[second..second + 3], b"bc\0");
        assert_eq!((u64_at(&bytes, 24), u64_at(&bytes, 32)), (Some(0), Some(0)));
        // Its own headers, not those of the process that it gets into; of that is the rest.
        let vector: Vec<_> =
            (40..).step_by(16).map_while(|at| Some((u64_at(&bytes, at)?, u64_at(&bytes, at + 8)?))).collect();
        assert_eq!(vector[0], (3, base + program.headers_at));
        assert!(vector.contains(&(33, 7)) && !vector.contains(&(3, 1)));
    }
}
