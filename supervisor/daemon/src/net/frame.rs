//! What the parent and `net` say to each other, in the frames of [`crate::roles::frame`]. No descriptor comes with any.

use serde::{Deserialize, Serialize};
use stockade_api::Link;

use crate::roles::frame::Frame;

/// Number of a question, given by the parent, and never twice in a daemon's life.
pub type Question = u64;

/// Most interfaces in a frame, each with a name of at most 15 bytes (`IFNAMSIZ`).
pub const MOST_INTERFACES: usize = 1024;

/// From the parent to `net`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToNet {
    /// From now on, say what becomes of these interfaces, and of no others; beginning with what they are now.
    Watch {
        /// Their names.
        interfaces: Vec<String>,
    },
    /// What are these interfaces?
    Look {
        /// Number of the question.
        question: Question,
        /// Their names.
        interfaces: Vec<String>,
    },
}

/// From `net` to the parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromNet {
    /// It is confined, knows every interface, and is ready.
    Ready,
    /// What interfaces that are watched are now, if it is not what was told of them last.
    Changed {
        /// Their names, and what they are; nothing if they are not there.
        links: Vec<(String, Option<Link>)>,
    },
    /// The answer to a question.
    Links {
        /// Which.
        question: Question,
        /// The interfaces that were asked about, in that order.
        links: Vec<Option<Link>>,
    },
}

impl Frame for ToNet {
    fn descriptors(&self) -> usize {
        0
    }
}

impl Frame for FromNet {
    fn descriptors(&self) -> usize {
        0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::roles::frame::{FrameError, VERSION, decode, encode};

    #[test]
    fn the_longest_frame_fits() {
        let link = Some(Link { bridge: true, up: true, mtu: u32::MAX });
        encode(&FromNet::Changed { links: vec![("x".repeat(15), link); MOST_INTERFACES] }).unwrap();
        let interfaces = vec!["x".repeat(15); MOST_INTERFACES];
        encode(&ToNet::Look { question: u64::MAX, interfaces }).unwrap();
        let links = vec![link; MOST_INTERFACES];
        let bytes = encode(&FromNet::Links { question: u64::MAX, links }).unwrap();
        for length in [0, 1, bytes.len() / 2, bytes.len() - 1] {
            assert!(decode::<FromNet>(&bytes[..length], 0).is_err(), "{length}");
        }
        assert_eq!(decode::<FromNet>(&bytes, 1), Err(FrameError::Descriptors(1)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_frame_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300), version in any::<bool>()) {
            let mut bytes = bytes;
            if version && let Some(first) = bytes.first_mut() {
                *first = VERSION;
            }
            if let Ok(message) = decode::<FromNet>(&bytes, 0) {
                prop_assert_eq!(decode::<FromNet>(&encode(&message).unwrap(), 0), Ok(message));
            }
            if let Ok(message) = decode::<ToNet>(&bytes, 0) {
                prop_assert_eq!(decode::<ToNet>(&encode(&message).unwrap(), 0), Ok(message));
            }
        }
    }
}
