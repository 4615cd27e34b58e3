//! Frames: how a message becomes bytes, and how bytes that come in pieces become messages again.
//!
//! The decoder's buffer is the only thing that grows with what a peer sends, and never beyond one frame of the longest
//! kind; no length is believed before it is compared with that.

use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize};

use crate::{GuestMessage, HostMessage, MAX_DATA_BYTES};

/// Bytes of a frame's length field.
const LENGTH_BYTES: usize = 4;
/// What a decoder has room for at first, and reads at once.
const READ_BYTES: usize = MAX_DATA_BYTES + 256;

/// A message that can be sent in a frame.
pub trait Frame {
    /// Most bytes of a frame after its length field.
    const MAX_BYTES: u32;
}

impl Frame for HostMessage<'_> {
    /// As much as Linux takes by default as arguments and environment of a command, which is the longest message.
    const MAX_BYTES: u32 = 2 * 1024 * 1024;
}

impl Frame for GuestMessage<'_> {
    /// A full `Data` message. The host believes a guest nothing, and keeps no more for it.
    const MAX_BYTES: u32 = 64 * 1024 + 256;
}

/// A frame that can't be sent, or bytes that are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length field is 0.
    #[error("frame of no bytes")]
    Empty,
    /// The length is above the limit of its direction.
    #[error("frame of {length} bytes: at most {limit} are allowed")]
    TooLong {
        /// Bytes in the frame.
        length: usize,
        /// Most that are allowed.
        limit: u32,
    },
    /// The bytes are no message, or could not become one.
    #[error("message in a frame: {0}")]
    Message(postcard::Error),
    /// The message ends before its frame.
    #[error("frame with {extra} bytes after its message")]
    Trailing {
        /// How many.
        extra: usize,
    },
}

/// Appends `message` to `output` as a frame. After an error `output` is as it was.
///
/// # Errors
/// [`FrameError::TooLong`] if the message is above its direction's limit, for instance a command with too many arguments.
pub fn encode<M: Frame + Serialize>(message: &M, output: &mut Vec<u8>) -> Result<(), FrameError> {
    let start = output.len();
    let encoded = encode_after(message, output, start);
    if encoded.is_err() {
        output.truncate(start);
    }
    encoded
}

fn encode_after<M: Frame + Serialize>(message: &M, output: &mut Vec<u8>, start: usize) -> Result<(), FrameError> {
    output.extend_from_slice(&[0; LENGTH_BYTES]);
    postcard::serialize_with_flavor(message, Append(output)).map_err(FrameError::Message)?;
    let length = output.len().saturating_sub(start).saturating_sub(LENGTH_BYTES);
    let field = allowed::<M>(length)?.to_le_bytes();
    if let Some(bytes) = output.get_mut(start..start.saturating_add(LENGTH_BYTES)) {
        bytes.copy_from_slice(&field);
    }
    Ok(())
}

/// Where postcard writes to: behind what is there.
struct Append<'a>(&'a mut Vec<u8>);

impl Flavor for Append<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

fn allowed<M: Frame>(length: usize) -> Result<u32, FrameError> {
    match u32::try_from(length) {
        Ok(0) => Err(FrameError::Empty),
        Ok(field) if field <= M::MAX_BYTES => Ok(field),
        _ => Err(FrameError::TooLong { length, limit: M::MAX_BYTES }),
    }
}

/// Finds the frames in a stream of bytes.
///
/// # Examples
/// ```
/// use stockade_guest_protocol::{Decoder, GuestMessage, encode};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut bytes = Vec::new();
/// encode(&GuestMessage::Ready, &mut bytes)?;
///
/// let mut decoder = Decoder::new();
/// let count = std::io::Read::read(&mut bytes.as_slice(), decoder.space())?;
/// decoder.filled(count);
/// assert_eq!(decoder.next::<GuestMessage>()?, Some(GuestMessage::Ready));
/// assert_eq!(decoder.next::<GuestMessage>()?, None);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Decoder {
    /// Bytes `start..end` are received and not yet decoded. Always `start <= end <= buffer.len()`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Decoder {
    /// A decoder at the beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self { buffer: vec![0; READ_BYTES], start: 0, end: 0 }
    }

    /// Where to read more bytes into; never empty once [`Decoder::next`] has returned `None`.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end = self.end.saturating_sub(self.start);
            self.start = 0;
        }
        self.buffer.get_mut(self.end..).unwrap_or_default()
    }

    /// Notes that `count` bytes were read into the beginning of [`Decoder::space`].
    pub fn filled(&mut self, count: usize) {
        self.end = self.end.saturating_add(count).min(self.buffer.len());
    }

    /// Whether the stream may end here: no frame is incomplete.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The next whole message, or `None` until more bytes come.
    ///
    /// # Errors
    /// The peer sent what is no frame. The stream is of no use after that.
    #[allow(clippy::should_implement_trait, reason = "an iterator cannot lend")]
    pub fn next<'a, M: Frame + Deserialize<'a>>(&'a mut self) -> Result<Option<M>, FrameError> {
        let received = self.buffer.get(self.start..self.end).unwrap_or_default();
        let Some((field, rest)) = received.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = usize::try_from(u32::from_le_bytes(*field)).unwrap_or(usize::MAX);
        allowed::<M>(length)?;
        let whole = length.saturating_add(LENGTH_BYTES);
        if rest.len() < length {
            if whole > self.buffer.len() {
                self.buffer.resize(whole, 0);
            }
            return Ok(None);
        }
        let start = self.start.saturating_add(LENGTH_BYTES);
        self.start = self.start.saturating_add(whole);
        let frame = self.buffer.get(start..self.start).unwrap_or_default();
        let (message, trailing) = postcard::take_from_bytes(frame).map_err(FrameError::Message)?;
        if trailing.is_empty() { Ok(Some(message)) } else { Err(FrameError::Trailing { extra: trailing.len() }) }
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}
