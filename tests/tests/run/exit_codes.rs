//! Exit codes, and the one line that says what they mean.

use stockade_tests::test;

use crate::stockade::{NEEDS, finish, run, shell};

#[test]
fn the_commands_own() {
    test(NEEDS, |scratch| {
        for code in [0, 1, 7, 125, 255] {
            let finished = shell(scratch, &format!("exit {code}"));
            assert_eq!((finished.code, finished.error.as_str()), (code, ""));
        }
    });
}

#[test]
fn a_signal() {
    test(NEEDS, |scratch| {
        shell(scratch, "kill -9 $$").expect_line(137, &["signal 9 (SIGKILL)"]);
        shell(scratch, "kill -SEGV $$").expect_line(139, &["signal 11 (SIGSEGV)"]);
    });
}

#[test]
fn a_timeout() {
    test(NEEDS, |scratch| {
        let finished = finish(run(scratch, ["--timeout", "500ms", "--", "sleep", "1000"]));
        finished.expect_line(124, &["after 500ms"]);
        // Neither is one that ignores what it is asked.
        let script = "trap '' TERM; while :; do :; done";
        finish(run(scratch, ["--timeout", "500ms", "--", "sh", "-c", script])).expect_line(124, &["after 500ms"]);
    });
}

#[test]
fn a_command_that_is_not_there_or_not_executable() {
    test(NEEDS, |scratch| {
        finish(run(scratch, ["--", "no-such-command"])).expect_line(127, &["no-such-command"]);
        finish(run(scratch, ["--", "/no/such/command"])).expect_line(127, &["/no/such/command"]);
        finish(run(scratch, ["--", "/proc/version"])).expect_line(126, &["/proc/version"]);
    });
}

#[test]
fn stockades_own_failure() {
    test(NEEDS, |scratch| {
        let finished = finish(run(scratch, ["--cpus", "99", "--", "true"]));
        assert_eq!(finished.code, 125);
        assert!(finished.error.contains("1 to 32"), "{}", finished.error);

        let missing = scratch.join("missing");
        let option = |name: &str| [name.into(), missing.clone().into_os_string(), "--".into(), "true".into()];
        for name in ["--kernel", "--initramfs", "--rootfs", "--binaries"] {
            finish(run(scratch, option(name))).expect_line(125, &["missing", "No such file"]);
        }
    });
}
