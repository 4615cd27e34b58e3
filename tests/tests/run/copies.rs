//! Files and trees, to the guest and from it.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use stockade_tests::{program, test};

use crate::stockade::{NEEDS, finish, run};

#[test]
fn trees_go_there_and_come_back() {
    test(NEEDS, |scratch| {
        let tree = scratch.join("tree");
        std::fs::create_dir_all(tree.join("deep/er")).unwrap();
        std::fs::write(tree.join("deep/er/file"), vec![7; 300_000]).unwrap();
        std::fs::write(tree.join("script"), "#!/bin/sh\necho ran\n").unwrap();
        std::fs::set_permissions(tree.join("script"), std::fs::Permissions::from_mode(0o750)).unwrap();
        symlink("deep/er/file", tree.join("link")).unwrap();
        let option = |from: &str, to: &str| format!("{from}:{to}");
        let (source, copy) = (tree.to_str().unwrap(), scratch.join("copy"));
        let file = scratch.file("single", "one file");
        let finished = finish(run(
            scratch,
            [
                "--copy-in",
                &option(source, "/work/tree"),
                "--copy-in",
                &option(file.to_str().unwrap(), "/work/single"),
                "--copy-out",
                &option("/work/tree", copy.to_str().unwrap()),
                "--copy-out",
                &option("/work/result", scratch.join("result").to_str().unwrap()),
                "--workdir",
                "/work",
                "--",
                "sh",
                "-c",
                "tree/script && cat single && echo made >result && echo more >tree/new",
            ],
        ));
        assert_eq!((finished.code, finished.text(), finished.error.as_str()), (0, "ran\none file", ""));
        assert_eq!(std::fs::read(copy.join("link")).unwrap(), vec![7; 300_000]);
        assert_eq!(std::fs::metadata(copy.join("script")).unwrap().permissions().mode() & 0o7777, 0o750);
        assert_eq!(std::fs::read_to_string(copy.join("new")).unwrap(), "more\n");
        assert_eq!(std::fs::read_to_string(scratch.join("result")).unwrap(), "made\n");
    });
}

#[test]
fn what_is_not_there_is_named() {
    test(NEEDS, |scratch| {
        let missing = format!("{}:/x", scratch.join("missing").display());
        finish(run(scratch, ["--copy-in", &missing, "--", "true"])).expect_line(125, &["--copy-in", "missing"]);
        let out = format!("/no/such:{}", scratch.join("out").display());
        finish(run(scratch, ["--copy-out", &out, "--", "true"])).expect_line(125, &["--copy-out", "/no/such"]);
        // A command that failed is the reason, and its exit code counts.
        let finished = finish(run(scratch, ["--copy-out", &out, "--", "false"]));
        finished.expect_line(1, &["--copy-out", "/no/such"]);
        assert!(!scratch.join("out").exists());
    });
}

#[test]
fn a_full_disk_is_named_and_nothing_is_left_on_it() {
    test(NEEDS, |scratch| {
        let full = scratch.join("full");
        std::fs::create_dir(&full).unwrap();
        // A file system of its own for the run alone, which is gone with it.
        let script = r#"mount -t tmpfs -o size=256k none "$1" && "$2" run --name "$3" --copy-out /big:"$1" \
            -- sh -c 'head -c 4000000 /dev/zero >/big'; code=$?; ls -A "$1"; exit $code"#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]).arg(&full).arg(program("stockade")).arg(scratch.vm_name());
        let finished = finish(command);
        finished.expect_line(125, &["--copy-out /big", "No space left"]);
        assert_eq!(finished.text(), "", "left on the disk");
    });
}
