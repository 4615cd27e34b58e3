//! The agent's ends of the pipes and terminals of a channel, none of which ever blocks.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

use rustix::event::PollFlags;
use rustix::io::Errno;
use stockade_guest_protocol::{CreditError, MAX_DATA_BYTES, ReceiveCredit, SendCredit};

/// What a terminal takes for the end of its input: Ctrl-D.
const END_OF_TRANSMISSION: u8 = 4;

/// What a stream leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Pipe,
    Terminal,
}

/// From the host to the command.
#[derive(Debug)]
pub(crate) struct Input {
    descriptor: OwnedFd,
    kind: Kind,
    pending: VecDeque<u8>,
    credit: ReceiveCredit,
    ended: bool,
}

/// What became of an input after bytes were passed on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Passed {
    /// It takes more; the credit to grant now, if any.
    On(Option<u32>),
    /// All was passed on, and the host sends no more.
    Ended,
    /// Nobody reads any more.
    Closed,
}

impl Input {
    pub(crate) fn new(descriptor: OwnedFd, kind: Kind) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        Ok(Self { descriptor, kind, pending: VecDeque::new(), credit: ReceiveCredit::new(), ended: false })
    }

    pub(crate) fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// What to wait for. A pipe tells without being asked when its reader is gone; a terminal would tell all the time.
    pub(crate) fn interest(&self) -> Option<PollFlags> {
        match (self.pending.is_empty(), self.kind) {
            (false, _) => Some(PollFlags::OUT),
            (true, Kind::Pipe) => Some(PollFlags::empty()),
            (true, Kind::Terminal) => None,
        }
    }

    /// Takes bytes from the host.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<(), CreditError> {
        self.credit.receive(bytes.len())?;
        self.pending.extend(bytes);
        Ok(())
    }

    /// Whether the host has said that it sends no more.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }

    /// The host sends no more. A pipe is closed then; for a terminal that stays open the end is a character.
    pub(crate) fn end(&mut self) {
        self.ended = true;
        if self.kind == Kind::Terminal {
            self.pending.push_back(END_OF_TRANSMISSION);
        }
    }

    /// Passes on as much as is taken without waiting.
    pub(crate) fn pass_on(&mut self) -> Passed {
        let mut grant: Option<u32> = None;
        while !self.pending.is_empty() {
            match rustix::io::write(&self.descriptor, self.pending.as_slices().0) {
                Ok(length) => {
                    self.pending.drain(..length.min(self.pending.len()));
                    let more = self.credit.pass_on(length);
                    grant = grant.map_or(more, |bytes| Some(bytes.saturating_add(more.unwrap_or(0))));
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => return Passed::Closed,
            }
        }
        if self.ended && self.pending.is_empty() { Passed::Ended } else { Passed::On(grant) }
    }
}

/// From the command to the host.
#[derive(Debug)]
pub(crate) struct Output {
    descriptor: OwnedFd,
    credit: SendCredit,
    /// Once the output is cut off: how many bytes are still to come.
    remaining: Option<usize>,
}

/// What was read from an output.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read<'a> {
    Bytes(&'a [u8]),
    /// Nothing now.
    Nothing,
    /// Nothing any more.
    End,
}

impl Output {
    pub(crate) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        Ok(Self { descriptor, credit: SendCredit::new(), remaining: None })
    }

    pub(crate) fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// What to wait for: nothing while there is no credit.
    pub(crate) fn interest(&self) -> Option<PollFlags> {
        (self.credit.next_data_bytes() > 0).then_some(PollFlags::IN)
    }

    pub(crate) fn grant(&mut self, bytes: u32) -> Result<(), CreditError> {
        self.credit.grant(bytes)
    }

    /// From here on only what has already been written counts.
    pub(crate) fn cut_off(&mut self) {
        let written = rustix::io::ioctl_fionread(&self.descriptor).unwrap_or(0);
        self.remaining = Some(usize::try_from(written).unwrap_or(usize::MAX));
    }

    /// Whether nothing is left of an output that was cut off.
    pub(crate) fn is_over(&self) -> bool {
        self.remaining == Some(0)
    }

    /// Reads once, as much as there is credit for, and spends it.
    pub(crate) fn read<'b>(&mut self, buffer: &'b mut [u8; MAX_DATA_BYTES]) -> Read<'b> {
        if self.is_over() {
            return Read::End;
        }
        let allowed = self.credit.next_data_bytes().min(self.remaining.unwrap_or(usize::MAX));
        let Some(space) = buffer.get_mut(..allowed).filter(|space| !space.is_empty()) else { return Read::Nothing };
        match rustix::io::read(&self.descriptor, &mut *space) {
            Ok(0) => Read::End,
            Ok(length) => {
                if let Some(remaining) = &mut self.remaining {
                    *remaining = remaining.saturating_sub(length);
                }
                match (self.credit.spend(length), space.get(..length)) {
                    (Ok(()), Some(bytes)) => Read::Bytes(bytes),
                    _ => Read::End,
                }
            }
            Err(Errno::AGAIN | Errno::INTR) if self.remaining.is_none() => Read::Nothing,
            // A terminal that nobody has open gives EIO.
            Err(_) => Read::End,
        }
    }
}
