//! The wire format: golden bytes of every message, and what a stream of bytes can do to the decoder.

use proptest::prelude::*;
use stockade_guest_protocol::{
    Command, Decoder, End, Frame, FrameError, GuestMessage, HostMessage, Renewal, Root, Setup, Stream, Task,
    TerminalSize, encode,
};

const SIZE: TerminalSize = TerminalSize { rows: 24, columns: 300 };

fn host_messages() -> Vec<(HostMessage<'static>, &'static [u8])> {
    let command = Command {
        arguments: vec![b"ls", b"-l"],
        environment: vec![b"A=b"],
        directory: Some(b"/"),
        terminal: Some(SIZE),
    };
    let empty = Command { arguments: vec![], environment: vec![], directory: None, terminal: None };
    let root = Some(Root { device: "/dev/vda", writable: true });
    vec![
        (HostMessage::Hello { version: 1 }, b"\x02\0\0\0\x00\x01"),
        (HostMessage::Setup(Setup { hostname: "vm", root }), b"\x0f\0\0\0\x01\x02vm\x01\x08/dev/vda\x01"),
        (HostMessage::Setup(Setup { hostname: "", root: None }), b"\x03\0\0\0\x01\x00\x00"),
        (
            HostMessage::Start { channel: 300, task: Task::Command(command) },
            b"\x17\0\0\0\x02\xac\x02\x00\x02\x02ls\x02-l\x01\x03A=b\x01\x01/\x01\x18\xac\x02",
        ),
        (HostMessage::Start { channel: 1, task: Task::Command(empty) }, b"\x07\0\0\0\x02\x01\x00\x00\x00\x00\x00"),
        (HostMessage::Start { channel: 1, task: Task::Receive { path: "/a" } }, b"\x06\0\0\0\x02\x01\x01\x02/a"),
        (HostMessage::Start { channel: 1, task: Task::Send { path: "/a" } }, b"\x06\0\0\0\x02\x01\x02\x02/a"),
        (HostMessage::Data { channel: 1, bytes: b"hello" }, b"\x08\0\0\0\x03\x01\x05hello"),
        (HostMessage::EndOfInput { channel: 1 }, b"\x02\0\0\0\x04\x01"),
        (HostMessage::Close { channel: 1, stream: Stream::Error }, b"\x03\0\0\0\x05\x01\x02"),
        (
            HostMessage::Credit { channel: 1, stream: Stream::Output, bytes: 65536 },
            b"\x06\0\0\0\x06\x01\x01\x80\x80\x04",
        ),
        (HostMessage::Signal { channel: 1, signal: 15 }, b"\x03\0\0\0\x07\x01\x0f"),
        (HostMessage::Resize { channel: 1, size: SIZE }, b"\x05\0\0\0\x08\x01\x18\xac\x02"),
        (HostMessage::PowerOff, b"\x01\0\0\0\x09"),
        (
            HostMessage::Renew(Renewal { unix_time_ns: 300, entropy: b"\x07\xff" }),
            b"\x06\0\0\0\x0a\xac\x02\x02\x07\xff",
        ),
        (HostMessage::Hold, b"\x01\0\0\0\x0b"),
    ]
}

fn guest_messages() -> Vec<(GuestMessage<'static>, &'static [u8])> {
    vec![
        (GuestMessage::Hello { version: 1 }, b"\x02\0\0\0\x00\x01"),
        (GuestMessage::Ready, b"\x01\0\0\0\x01"),
        (GuestMessage::Refused { reason: "no" }, b"\x04\0\0\0\x02\x02no"),
        (GuestMessage::Started { channel: 1 }, b"\x02\0\0\0\x03\x01"),
        (
            GuestMessage::Data { channel: 1, stream: Stream::Output, bytes: b"\0\xff" },
            b"\x06\0\0\0\x04\x01\x01\x02\0\xff",
        ),
        (GuestMessage::EndOfOutput { channel: 1, stream: Stream::Error }, b"\x03\0\0\0\x05\x01\x02"),
        (GuestMessage::InputClosed { channel: 1 }, b"\x02\0\0\0\x06\x01"),
        (GuestMessage::Credit { channel: 1, bytes: 65536 }, b"\x05\0\0\0\x07\x01\x80\x80\x04"),
        (GuestMessage::Ended { channel: 1, end: End::Exited(3) }, b"\x04\0\0\0\x08\x01\x00\x03"),
        (GuestMessage::Ended { channel: 1, end: End::Signaled(9) }, b"\x04\0\0\0\x08\x01\x01\x09"),
        (
            GuestMessage::Ended { channel: 1, end: End::Failed { code: 127, reason: "no" } },
            b"\x07\0\0\0\x08\x01\x02\x7f\x02no",
        ),
        (GuestMessage::Held, b"\x01\0\0\0\x09"),
    ]
}

/// A function that gives `bytes` to a decoder in pieces that end at each of `cuts`, and returns what came out.
/// A macro, because a message borrows from the decoder, so that no one type stands for it.
macro_rules! decode {
    ($name:ident, $message:ident) => {
        fn $name(bytes: &[u8], cuts: &[usize]) -> Result<Vec<String>, FrameError> {
            let mut decoder = Decoder::new();
            let mut messages = Vec::new();
            let mut start = 0;
            for end in cuts.iter().copied().chain([bytes.len()]) {
                while start < end {
                    let space = decoder.space();
                    assert!(!space.is_empty(), "a decoder that waits for more has room for it");
                    let count = space.len().min(end - start);
                    space[..count].copy_from_slice(&bytes[start..start + count]);
                    decoder.filled(count);
                    start += count;
                    while let Some(message) = decoder.next::<$message>()? {
                        messages.push(format!("{message:?}"));
                    }
                }
            }
            Ok(messages)
        }
    };
}

decode!(decode_host, HostMessage);
decode!(decode_guest, GuestMessage);

fn text(messages: &[impl std::fmt::Debug]) -> Vec<String> {
    messages.iter().map(|message| format!("{message:?}")).collect()
}

#[test]
fn host_messages_have_these_bytes() {
    for (message, golden) in host_messages() {
        let mut bytes = Vec::new();
        encode(&message, &mut bytes).unwrap();
        assert_eq!(bytes, golden, "{message:?}");
        assert_eq!(decode_host(golden, &[]).unwrap(), text(&[message]));
    }
}

#[test]
fn guest_messages_have_these_bytes() {
    for (message, golden) in guest_messages() {
        let mut bytes = Vec::new();
        encode(&message, &mut bytes).unwrap();
        assert_eq!(bytes, golden, "{message:?}");
        assert_eq!(decode_guest(golden, &[]).unwrap(), text(&[message]));
    }
}

#[test]
fn a_stream_may_be_split_anywhere() {
    let (messages, golden): (Vec<_>, Vec<_>) = host_messages().into_iter().unzip();
    let (bytes, expected) = (golden.concat(), text(&messages));
    for cut in 0..=bytes.len() {
        assert_eq!(decode_host(&bytes, &[cut]).unwrap(), expected);
    }
    let every_byte: Vec<_> = (0..bytes.len()).collect();
    assert_eq!(decode_host(&bytes, &every_byte).unwrap(), expected);
}

#[test]
fn the_longest_frames_pass_and_longer_ones_do_not() {
    let bytes = vec![7; 2 * 1024 * 1024];
    let data = |length| HostMessage::Data { channel: 1, bytes: &bytes[..length] };
    let longest = bytes.len() - 5;
    let mut frames = Vec::new();
    encode(&HostMessage::PowerOff, &mut frames).unwrap();
    let short = frames.len();
    encode(&data(longest), &mut frames).unwrap();
    assert_eq!(frames.len() - short, 4 + HostMessage::MAX_BYTES as usize);
    assert_eq!(decode_host(&frames, &[3, 70_000]).unwrap(), text(&[HostMessage::PowerOff, data(longest)]));

    let limit = HostMessage::MAX_BYTES;
    let too_long = Err(FrameError::TooLong { length: limit as usize + 1, limit });
    assert_eq!(encode(&data(longest + 1), &mut frames), too_long);
    assert_eq!(decode_host(&(limit + 1).to_le_bytes(), &[]).map(drop), too_long);
    assert_eq!(decode_host(&frames, &[]).unwrap().len(), 2, "what could not be encoded leaves nothing behind");
}

#[test]
fn a_guest_gets_no_room_beyond_a_full_data_message() {
    let bytes = vec![7; stockade_guest_protocol::MAX_DATA_BYTES];
    let mut frame = Vec::new();
    encode(&GuestMessage::Data { channel: u32::MAX, stream: Stream::Error, bytes: &bytes }, &mut frame).unwrap();
    assert_eq!(decode_guest(&frame, &[]).unwrap().len(), 1);
    assert!(matches!(decode_guest(&[0, 0, 2, 0], &[]), Err(FrameError::TooLong { length: 0x2_0000, .. })));
}

#[test]
fn what_is_no_frame_is_refused() {
    assert_eq!(decode_guest(&[0, 0, 0, 0], &[]), Err(FrameError::Empty));
    assert_eq!(decode_guest(b"\x02\0\0\0\x01\x01", &[]), Err(FrameError::Trailing { extra: 1 }));
    assert!(matches!(decode_guest(b"\x01\0\0\0\x7f", &[]), Err(FrameError::Message(_))));
    assert!(matches!(decode_guest(b"\x04\0\0\0\x02\x63no", &[]), Err(FrameError::Message(_))));
}

proptest! {
    #[test]
    fn data_comes_back_as_it_was(lengths in prop::collection::vec(1usize..20_000, 1..8), cuts in prop::collection::vec(0usize..100_000, 0..8)) {
        let bytes: Vec<u8> = (0..20_000_u32).map(|index| index.to_le_bytes()[0]).collect();
        let sent: Vec<_> = lengths
            .iter()
            .map(|length| GuestMessage::Data { channel: 9, stream: Stream::Output, bytes: &bytes[..*length] })
            .collect();
        let mut frames = Vec::new();
        for message in &sent {
            encode(message, &mut frames).unwrap();
        }
        let mut cuts = cuts;
        cuts.retain(|cut| *cut < frames.len());
        cuts.sort_unstable();
        prop_assert_eq!(decode_guest(&frames, &cuts).unwrap(), text(&sent));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..4096), cut in 0usize..4096) {
        let cut = [cut.min(bytes.len())];
        let _ = (decode_host(&bytes, &cut), decode_guest(&bytes, &cut));
    }

    #[test]
    fn arbitrary_frames_never_panic(contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..64), 0..16)) {
        for content in contents {
            let mut bytes = u32::try_from(content.len()).unwrap().to_le_bytes().to_vec();
            bytes.extend(content);
            let _ = (decode_host(&bytes, &[]), decode_guest(&bytes, &[]));
        }
    }
}
