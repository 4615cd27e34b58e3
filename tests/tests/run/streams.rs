//! Standard input, output and error: separate, byte-exact, and ended by whoever ends them.

use std::fs::File;
use std::io::{Read, Write};
use std::process::Stdio;

use stockade_tests::test;

use crate::stockade::{NEEDS, finish, finished, run, shell};

const SIXTEEN_MIB: usize = 16 << 20;

/// Bytes without a pattern (xorshift).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(&mut next).flatten().take(length).collect()
}

#[test]
fn sixteen_mebibytes_come_back_identical() {
    test(NEEDS, |scratch| {
        let bytes = noise(SIXTEEN_MIB);
        let mut child = run(scratch, ["--", "cat"]).stdin(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let sent = bytes.clone();
        let writer = std::thread::spawn(move || input.write_all(&sent).unwrap());
        let finished = finished(child.wait_with_output().unwrap());
        writer.join().unwrap();
        assert_eq!((finished.code, finished.error.as_str()), (0, ""));
        assert!(finished.output == bytes, "{} bytes came back, not the same", finished.output.len());
    });
}

#[test]
fn output_and_error_are_separate() {
    test(NEEDS, |scratch| {
        let finished = shell(scratch, "printf out; printf err >&2");
        assert_eq!((finished.code, finished.text(), finished.error.as_str()), (0, "out", "err"));
        let both = shell(scratch, "head -c 4000000 /dev/zero; head -c 3000000 /dev/zero >&2");
        assert_eq!((both.output.len(), both.error.len()), (4_000_000, 3_000_000));
    });
}

#[test]
fn input_ends_with_the_callers() {
    test(NEEDS, |scratch| {
        let mut command = run(scratch, ["--", "sh", "-c", "cat; echo end"]);
        command.stdin(File::open(scratch.file("input", "some text ")).unwrap());
        assert_eq!(finish(command).text(), "some text end\n");
        assert_eq!(finish(run(scratch, ["--", "wc", "-c"])).text().trim(), "0");
    });
}

#[test]
fn a_command_may_close_its_input_early() {
    test(NEEDS, |scratch| {
        let mut child = run(scratch, ["--", "head", "-c", "3"]).stdin(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        // Ends when nobody reads any more, which is when the run is over.
        let writer = std::thread::spawn(move || while input.write_all(&[b'x'; 65536]).is_ok() {});
        let finished = finished(child.wait_with_output().unwrap());
        writer.join().unwrap();
        assert_eq!((finished.code, finished.text(), finished.error.as_str()), (0, "xxx", ""));
    });
}

#[test]
fn a_caller_may_close_the_output_early() {
    test(NEEDS, |scratch| {
        let mut child = run(scratch, ["--", "yes"]).spawn().unwrap();
        let mut output = child.stdout.take().unwrap();
        let mut bytes = [0; 1000];
        output.read_exact(&mut bytes).unwrap();
        drop(output);
        let finished = finished(child.wait_with_output().unwrap());
        finished.expect_line(128 + 13, &["SIGPIPE"]);
        assert!(bytes.chunks(2).all(|pair| pair == b"y\n"));
    });
}

#[test]
fn output_that_cannot_be_written_is_a_failure() {
    test(NEEDS, |scratch| {
        let mut command = run(scratch, ["--", "yes"]);
        command.stdout(File::options().write(true).open("/dev/full").unwrap());
        finish(command).expect_line(125, &["write standard output", "No space left"]);
    });
}
