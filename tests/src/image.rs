//! Disk images with files in them, made without root and without mounting anything.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Scratch;

/// An ext4 image of `mib` MiB with a copy of the folder's content, all of it owned by root.
pub fn ext4(scratch: &Scratch, name: &str, folder: &Path, mib: u64) -> PathBuf {
    let image = scratch.join(name);
    File::create(&image).and_then(|file| file.set_len(mib << 20)).expect("make an empty image");
    let mut command = Command::new("mkfs.ext4");
    command.args(["-q", "-F", "-E", "root_owner=0:0", "-d"]).arg(folder).arg(&image);
    run(command);
    image
}

/// A squashfs image with a copy of the folder's content, all of it owned by root.
pub fn squashfs(scratch: &Scratch, name: &str, folder: &Path) -> PathBuf {
    let image = scratch.join(name);
    let mut command = Command::new("mksquashfs");
    command.arg(folder).arg(&image).args([
        "-quiet",
        "-no-progress",
        "-noappend",
        "-all-root",
        "-noI",
        "-noD",
        "-noF",
        "-noX",
    ]);
    run(command);
    image
}

/// Runs a tool of the host to its end, quietly unless it fails.
fn run(mut command: Command) {
    // Both tools are in folders that only root has in its path.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; tools/prepare installs it"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
