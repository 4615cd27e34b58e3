//! What the parent and `control` say to each other, one frame a packet (`SOCK_SEQPACKET`).
//!
//! | bytes | meaning |
//! |---|---|
//! | 0 | [`VERSION`] |
//! | 1.. | one [`ToControl`] or [`ToParent`] in postcard's encoding, filling the packet exactly |
//!
//! A descriptor comes with [`ToControl::Consoles`] and [`ToControl::Connection`], and with an [`Answer::Attached`] as many as [`Attached::descriptors`]
//! says; with nothing else. A frame that is longer than [`MAX_BYTES`], does not decode, has bytes left over, or has a
//! descriptor too many or too few ends the channel.
//!
//! [`Attached::descriptors`]: stockade_api::Attached::descriptors

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use stockade_api::{Answer, Error, Request};

/// Version of the frames. Both sides are one program, so it only differs if something is badly wrong.
pub const VERSION: u8 = 1;
/// Most descriptors of a frame.
pub const MAX_DESCRIPTORS: usize = 2;
/// Most bytes of a frame.
pub const MAX_BYTES: usize = 128 * 1024;

/// Number of a client's connection, given by the parent, and never twice in a daemon's life.
pub type Connection = u64;
/// Number of a request, given by `control`, and never twice for a connection.
pub type RequestNumber = u64;

/// From the parent to `control`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToControl {
    /// What tells of consoles that were written to (inotify(7)) is attached. The first frame, once.
    Consoles,
    /// A client has connected. Its socket is attached.
    Connection {
        /// Its number from now on.
        connection: Connection,
    },
    /// The answer to a request.
    Answer {
        /// Of this connection.
        connection: Connection,
        /// This one.
        request: RequestNumber,
        /// What came of it.
        answer: Result<Answer, Error>,
    },
}

/// From `control` to the parent. Who asks is not said: the parent knows whose connection it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToParent {
    /// It is confined, and ready.
    Ready,
    /// A client asks for something.
    Request {
        /// On this connection.
        connection: Connection,
        /// Number of the request.
        request: RequestNumber,
        /// What for.
        body: Request,
    },
    /// Nobody waits for that answer any more.
    Abandoned {
        /// Of this connection.
        connection: Connection,
        /// Which request.
        request: RequestNumber,
    },
    /// The connection is closed.
    Closed {
        /// Which.
        connection: Connection,
    },
}

/// A message of a channel.
pub trait Frame: Serialize + DeserializeOwned {
    /// How many descriptors come with it.
    fn descriptors(&self) -> usize;
}

impl Frame for ToControl {
    fn descriptors(&self) -> usize {
        match self {
            Self::Consoles | Self::Connection { .. } => 1,
            Self::Answer { answer: Ok(Answer::Attached(attached)), .. } => attached.descriptors(),
            Self::Answer { .. } => 0,
        }
    }
}

impl Frame for ToParent {
    fn descriptors(&self) -> usize {
        0
    }
}

/// Bytes that are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Longer than [`MAX_BYTES`].
    #[error("a frame is too long")]
    TooLong,
    /// Another version, or none.
    #[error("a frame has another version")]
    Version,
    /// Not a message, or more than one.
    #[error("a frame is no message")]
    Malformed,
    /// A descriptor too many, or too few.
    #[error("a frame has {0} descriptors too many or too few")]
    Descriptors(usize),
}

/// The bytes of a message.
///
/// # Errors
/// It is too long.
pub fn encode(message: &impl Frame) -> Result<Vec<u8>, FrameError> {
    let bytes = postcard::to_extend(message, vec![VERSION]).map_err(|_| FrameError::Malformed)?;
    if bytes.len() > MAX_BYTES { Err(FrameError::TooLong) } else { Ok(bytes) }
}

/// The message of a packet that came with so many descriptors.
///
/// # Errors
/// It is no frame.
pub fn decode<M: Frame>(packet: &[u8], descriptors: usize) -> Result<M, FrameError> {
    if packet.len() > MAX_BYTES {
        return Err(FrameError::TooLong);
    }
    let Some((&VERSION, body)) = packet.split_first() else { return Err(FrameError::Version) };
    let (message, rest) = postcard::take_from_bytes::<M>(body).map_err(|_| FrameError::Malformed)?;
    if !rest.is_empty() {
        return Err(FrameError::Malformed);
    }
    let missing = message.descriptors().abs_diff(descriptors);
    if missing == 0 { Ok(message) } else { Err(FrameError::Descriptors(missing)) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use stockade_api::{StopMode, VmId, VmReference};

    use super::*;

    fn request() -> ToParent {
        let vm = VmReference::Name("web".into());
        ToParent::Request { connection: 7, request: 300, body: Request::Stop { vm, mode: StopMode::Force } }
    }

    #[test]
    fn frames_are_whole() {
        let answer =
            ToControl::Answer { connection: 1, request: 2, answer: Ok(Answer::List { vms: vec![], more: true }) };
        assert_eq!(decode::<ToControl>(&encode(&answer).unwrap(), 0), Ok(answer.clone()));
        let bytes = encode(&request()).unwrap();
        assert_eq!(decode::<ToParent>(&bytes, 0), Ok(request()));
        for length in 0..bytes.len() {
            assert!(decode::<ToParent>(&bytes[..length], 0).is_err(), "{length}");
        }
        assert_eq!(decode::<ToParent>(&[&bytes[..], &[0]].concat(), 0), Err(FrameError::Malformed));
        assert_eq!(decode::<ToParent>(&bytes, 1), Err(FrameError::Descriptors(1)));
        assert_eq!(
            decode::<ToControl>(&encode(&ToControl::Connection { connection: 1 }).unwrap(), 0),
            Err(FrameError::Descriptors(1))
        );
        assert_eq!(
            decode::<ToControl>(&encode(&ToControl::Connection { connection: 1 }).unwrap(), 3),
            Err(FrameError::Descriptors(2))
        );
        assert_eq!(decode::<ToParent>(&[2, 0], 0), Err(FrameError::Version));
        assert_eq!(decode::<ToParent>(&[VERSION, 0xff, 0xff, 0xff], 0), Err(FrameError::Malformed));
        assert_eq!(decode::<ToParent>(&vec![VERSION; MAX_BYTES + 1], 0), Err(FrameError::TooLong));
        let long = ToParent::Request { connection: 1, request: 1, body: Request::Load { path: "x".repeat(MAX_BYTES) } };
        assert_eq!(encode(&long), Err(FrameError::TooLong));
        let list = ToParent::Request { connection: 1, request: 1, body: Request::List { after: VmId(1) } };
        assert_eq!(decode::<ToParent>(&encode(&list).unwrap(), 0), Ok(list));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_frame_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..600), version in any::<bool>()) {
            let mut bytes = bytes;
            if version && let Some(first) = bytes.first_mut() {
                *first = VERSION;
            }
            if let Ok(message) = decode::<ToParent>(&bytes, 0) {
                prop_assert_eq!(decode::<ToParent>(&encode(&message).unwrap(), 0), Ok(message));
            }
            let _ = decode::<ToControl>(&bytes, 0);
        }

        #[test]
        fn a_frame_with_a_flipped_bit_does_no_harm(at in any::<usize>(), bit in 0_u8..8) {
            let mut bytes = encode(&request()).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            let _ = decode::<ToParent>(&bytes, 0);
        }
    }
}
