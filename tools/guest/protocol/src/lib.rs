//! What the host and `stockade-agent`, PID 1 of the default guest, say to each other over vsock.
//!
//! # Session
//! The agent connects to [`HOST_PORT`] of the host (CID 2) as soon as it can run commands, and from then on also accepts
//! sessions on [`GUEST_PORT`]. On every session both sides first send `Hello`; a different version ends it.
//! Everything after that belongs to a *channel*, a number that the host picks when it starts something, or to the session.
//! A session carries any number of channels at once, up to [`MAX_CHANNELS`].
//!
//! # Clones
//! A guest may be saved while it waits for its first command (`Hold`, `Held`), and started from there many times. Each clone
//! finds its session broken off, connects anew, and is renewed (`Renew`) before it is set up and anything is started in it.
//!
//! # Frames
//! | bytes | meaning |
//! |---|---|
//! | 0..4 | length of the rest, little-endian, 1 to the sender's [`Frame::MAX_BYTES`] |
//! | 4.. | one [`HostMessage`] or [`GuestMessage`] in postcard's encoding, filling the frame exactly |
//!
//! A frame that is longer, empty, does not decode, or has bytes left over ends the session. [`encode`] and [`Decoder`]
//! are both directions of this.
//!
//! # Flow control
//! Each stream of a channel (input, output, error) starts with [`WINDOW_BYTES`] of credit. The sender spends a byte of credit
//! for each byte of data, the receiver grants more as it passes data on, so a reader that stalls stops its own stream and
//! no other, and neither side ever buffers more than a window a stream. Spending credit that was not granted, and granting
//! more than a window, ends the session. [`SendCredit`] and [`ReceiveCredit`] keep the books.
//!
//! # End of a channel
//! The guest sends `EndOfOutput` once for `Output` and once for `Error`, then `Ended`; also after the host's `Close`.
//! A channel that never started (`Ended` with [`End::Failed`] without `Started` before it) has no streams and no
//! `EndOfOutput`.
//! What the host has sent for a channel may cross its `Ended` on the way: the agent ignores messages about channels
//! that it does not know. A channel whose host side is gone is ended with `Signal`.
//!
//! The output of a command is over when no process holds it open any more, or [`OUTPUT_GRACE_MS`] after the command itself
//! has ended: a background process that keeps the output open loses it then, and lives on. Everything that was
//! written until that moment is delivered.
//!
//! # Transfers
//! Files and trees travel as tar archives on the input stream of [`Task::Receive`] and the output stream of [`Task::Send`];
//! what goes wrong is told in `Ended`.

#![forbid(unsafe_code)]

mod credit;
mod frame;
mod kernel;
mod message;

pub use credit::{CreditError, ReceiveCredit, SendCredit};
pub use frame::{Decoder, Frame, FrameError, encode};
pub use kernel::kernel_command_line;
pub use message::{Channel, Command, End, GuestMessage, HostMessage, Renewal, Root, Setup, Stream, Task, TerminalSize};

/// Version of this protocol; both sides must speak the same one.
pub const VERSION: u32 = 2;
/// Least random bytes in a [`Renewal`].
pub const ENTROPY_BYTES: usize = 32;
/// vsock port on the host (CID 2) that the agent connects to when it is ready.
pub const HOST_PORT: u32 = 1024;
/// vsock port in the guest on which the agent accepts further sessions.
pub const GUEST_PORT: u32 = 1024;
/// Most data bytes in one `Data` message.
pub const MAX_DATA_BYTES: usize = 64 * 1024;
/// Credit that each stream of a channel starts with, and the most that it ever has.
pub const WINDOW_BYTES: u32 = 256 * 1024;
/// Most channels that a session may have at once.
pub const MAX_CHANNELS: usize = 256;
/// How long, in milliseconds, background processes may keep writing to the output of a command that has ended.
pub const OUTPUT_GRACE_MS: u32 = 500;
