//! `--rootfs`: images as the command's root.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Stdio;

use stockade_tests::output::Output;
use stockade_tests::{Scratch, image, test};

use crate::stockade::{NEEDS, finish, run};

/// A folder with a shell in it, and a file that says where it is from.
fn root(scratch: &Scratch) -> PathBuf {
    let root = scratch.join("root");
    for folder in ["bin", "dev", "proc", "sys", "tmp", "etc"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for name in ["sh", "cat", "sleep", "sync"] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    std::fs::write(root.join("etc/origin"), "from the image\n").unwrap();
    root
}

fn option(image: &std::path::Path, access: &str) -> String {
    format!("{}{access}", image.display())
}

#[test]
fn an_ext4_image_keeps_what_is_written_only_if_it_is_writable() {
    test(NEEDS, |scratch| {
        let image = image::ext4(scratch, "ext4", &root(scratch), 16);
        let in_image = |access: &str, script: &str| {
            finish(run(scratch, ["--rootfs", &option(&image, access), "--", "sh", "-c", script]))
        };
        let before = std::fs::read(&image).unwrap();
        for access in ["", ":ro"] {
            let finished = in_image(access, "cat /etc/origin; echo lost >/etc/new && cat /etc/new");
            assert_eq!((finished.code, finished.text(), finished.error.as_str()), (0, "from the image\nlost\n", ""));
        }
        assert!(std::fs::read(&image).unwrap() == before, "a read-only image was changed");

        let finished = in_image(":rw", "echo kept >/etc/new");
        assert_eq!((finished.code, finished.error.as_str()), (0, ""));
        assert_eq!(in_image(":ro", "cat /etc/new").text(), "kept\n");
    });
}

#[test]
fn a_squashfs_image_is_a_root_that_forgets() {
    test(NEEDS, |scratch| {
        let image = image::squashfs(scratch, "squashfs", &root(scratch));
        let script = "cat /etc/origin; echo lost >/etc/origin && cat /etc/origin";
        let finished = finish(run(scratch, ["--rootfs", &option(&image, ":ro"), "--", "sh", "-c", script]));
        assert_eq!((finished.code, finished.text(), finished.error.as_str()), (0, "from the image\nlost\n", ""));
        let refused = finish(run(scratch, ["--rootfs", &option(&image, ":rw"), "--", "true"]));
        refused.expect_line(125, &["squashfs is never writable", ":ro"]);
    });
}

#[test]
fn a_writable_image_belongs_to_one_machine() {
    test(NEEDS, |scratch| {
        let image = image::ext4(scratch, "ext4", &root(scratch), 16);
        let script = "echo ready; cat";
        let arguments = ["--rootfs", &option(&image, ":rw"), "--", "sh", "-c", script];
        let mut first = run(scratch, arguments).stdin(Stdio::piped()).spawn().unwrap();
        Output::collect(first.stdout.take().unwrap()).wait_for("ready");
        let second = finish(run(scratch, ["--rootfs", &option(&image, ":ro"), "--", "true"]));
        second.expect_line(125, &["in use"]);
        drop(first.stdin.take());
        assert_eq!(first.wait_with_output().unwrap().status.code(), Some(0));
        assert_eq!(finish(run(scratch, ["--rootfs", &option(&image, ":ro"), "--", "true"])).code, 127);
    });
}

#[test]
fn what_is_no_image_is_refused() {
    test(NEEDS, |scratch| {
        let text = scratch.file("text", vec![b'x'; 4096]);
        let refused = finish(run(scratch, ["--rootfs", text.to_str().unwrap(), "--", "true"]));
        refused.expect_line(125, &["neither ext4 nor squashfs", "mkfs.ext4"]);
    });
}
