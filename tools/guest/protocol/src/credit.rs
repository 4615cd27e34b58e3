//! Credit of one stream: how many bytes its sender may still send.
//!
//! Invariant: bytes sent and not yet granted again never exceed [`WINDOW_BYTES`], so a receiver that enforces it with
//! [`ReceiveCredit`] needs a buffer of one window and no more, whatever the sender does.

use crate::{MAX_DATA_BYTES, WINDOW_BYTES};

/// A peer broke the rules of flow control, which ends the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CreditError {
    /// More was sent than was granted.
    #[error("{sent} bytes sent with credit for {credit}: the peer must wait for more credit")]
    Overspent {
        /// Bytes that came.
        sent: usize,
        /// Bytes that were allowed.
        credit: u32,
    },
    /// More was granted than a window.
    #[error("credit for {granted} bytes on top of {credit}: a stream never has more than {WINDOW_BYTES}")]
    Overgranted {
        /// Bytes granted.
        granted: u32,
        /// Bytes that were allowed before.
        credit: u32,
    },
}

/// The sender's side.
#[derive(Debug, Clone)]
pub struct SendCredit {
    available: u32,
}

impl SendCredit {
    /// A stream that starts.
    #[must_use]
    pub const fn new() -> Self {
        Self { available: WINDOW_BYTES }
    }

    /// Most bytes that the next `Data` may carry; 0 if the stream has to wait.
    #[must_use]
    pub fn next_data_bytes(&self) -> usize {
        usize::try_from(self.available).map_or(MAX_DATA_BYTES, |available| available.min(MAX_DATA_BYTES))
    }

    /// Notes that a `Data` of `sent` bytes was sent.
    ///
    /// # Errors
    /// [`CreditError::Overspent`] if that is more than the credit; nothing is spent then.
    pub fn spend(&mut self, sent: usize) -> Result<(), CreditError> {
        self.available = spend(self.available, sent)?;
        Ok(())
    }

    /// Notes that the receiver granted more.
    ///
    /// # Errors
    /// [`CreditError::Overgranted`] if the stream had more than a window then.
    pub fn grant(&mut self, granted: u32) -> Result<(), CreditError> {
        self.available = self
            .available
            .checked_add(granted)
            .filter(|available| *available <= WINDOW_BYTES)
            .ok_or(CreditError::Overgranted { granted, credit: self.available })?;
        Ok(())
    }
}

impl Default for SendCredit {
    fn default() -> Self {
        Self::new()
    }
}

/// The receiver's side.
#[derive(Debug, Clone)]
pub struct ReceiveCredit {
    /// What the sender may still send.
    available: u32,
    /// What was passed on and not granted again.
    owed: u32,
}

impl ReceiveCredit {
    /// Credit is granted in lots of at least this many bytes, so that it costs few messages.
    const LOT: u32 = WINDOW_BYTES / 4;

    /// A stream that starts.
    #[must_use]
    pub const fn new() -> Self {
        Self { available: WINDOW_BYTES, owed: 0 }
    }

    /// Notes that a `Data` of `received` bytes came.
    ///
    /// # Errors
    /// [`CreditError::Overspent`] if the sender had no credit for it.
    pub fn receive(&mut self, received: usize) -> Result<(), CreditError> {
        self.available = spend(self.available, received)?;
        Ok(())
    }

    /// Notes that `passed` bytes left the buffer. Returns the credit to send now, if it is worth a message.
    ///
    /// Bytes that were never received are not counted.
    #[must_use]
    pub fn pass_on(&mut self, passed: usize) -> Option<u32> {
        let buffered = WINDOW_BYTES.saturating_sub(self.available).saturating_sub(self.owed);
        self.owed = self.owed.saturating_add(u32::try_from(passed).map_or(buffered, |passed| passed.min(buffered)));
        if self.owed < Self::LOT {
            return None;
        }
        self.available = self.available.saturating_add(self.owed);
        Some(std::mem::take(&mut self.owed))
    }
}

impl Default for ReceiveCredit {
    fn default() -> Self {
        Self::new()
    }
}

fn spend(credit: u32, sent: usize) -> Result<u32, CreditError> {
    u32::try_from(sent).ok().and_then(|bytes| credit.checked_sub(bytes)).ok_or(CreditError::Overspent { sent, credit })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_window_is_spent_and_no_byte_more() {
        let mut credit = SendCredit::new();
        for _ in 0..4 {
            assert_eq!(credit.next_data_bytes(), MAX_DATA_BYTES);
            credit.spend(MAX_DATA_BYTES).unwrap();
        }
        assert_eq!(credit.next_data_bytes(), 0);
        assert_eq!(credit.spend(1), Err(CreditError::Overspent { sent: 1, credit: 0 }));
        credit.grant(7).unwrap();
        assert_eq!(credit.next_data_bytes(), 7);
    }

    #[test]
    fn more_than_a_window_is_never_granted() {
        let mut credit = SendCredit::new();
        assert_eq!(credit.grant(1), Err(CreditError::Overgranted { granted: 1, credit: WINDOW_BYTES }));
        assert_eq!(credit.grant(u32::MAX), Err(CreditError::Overgranted { granted: u32::MAX, credit: WINDOW_BYTES }));
    }

    #[test]
    fn a_receiver_refuses_what_it_did_not_grant() {
        let mut credit = ReceiveCredit::new();
        credit.receive(256 * 1024).unwrap();
        assert_eq!(credit.receive(1), Err(CreditError::Overspent { sent: 1, credit: 0 }));
        assert_eq!(credit.pass_on(usize::MAX), Some(WINDOW_BYTES));
        assert_eq!(credit.pass_on(100_000), None);
    }

    proptest! {
        /// Whatever the sizes of reads and writes, both books agree, nothing gets stuck, and a window is the limit.
        #[test]
        fn both_sides_agree(steps in prop::collection::vec((0usize..100_000, 0usize..100_000), 1..200)) {
            let (mut sender, mut receiver, mut buffered) = (SendCredit::new(), ReceiveCredit::new(), 0usize);
            for (send, pass) in steps {
                let sent = send.min(sender.next_data_bytes());
                sender.spend(sent).unwrap();
                receiver.receive(sent).unwrap();
                buffered += sent;
                prop_assert!(buffered <= WINDOW_BYTES as usize);
                let passed = pass.min(buffered);
                buffered -= passed;
                if let Some(granted) = receiver.pass_on(passed) {
                    sender.grant(granted).unwrap();
                }
            }
            if let Some(granted) = receiver.pass_on(buffered) {
                sender.grant(granted).unwrap();
            }
            prop_assert!(sender.next_data_bytes() == MAX_DATA_BYTES, "an empty buffer must let the sender go on");
        }
    }
}
