//! Assembles the flat guests in `guests/`: each as `NAME.linux` and `NAME.pvh`, ELF executables at 1 MiB, and as `NAME.flat`,
//! the bare code of the first.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=guests");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    for entry in std::fs::read_dir("guests")? {
        let source = entry?.path();
        if source.extension().is_some_and(|extension| extension == "S") {
            let stem = out.join(source.file_stem().ok_or("a source without a name")?);
            assemble(&source, &stem.with_extension("linux"), &[])?;
            assemble(&source, &stem.with_extension("pvh"), &["-DPVH"])?;
            let (from, to) = (stem.with_extension("linux"), stem.with_extension("flat"));
            run(Command::new("objcopy").args(["--output-target=binary", "--only-section=.text"]).arg(from).arg(to))?;
        }
    }
    Ok(())
}

fn assemble(source: &Path, executable: &Path, defines: &[&str]) -> Result<(), String> {
    let object = executable.with_extension("o");
    run(Command::new("gcc").args(defines).arg("-c").arg(source).arg("-o").arg(&object))?;
    let mut link = Command::new("ld");
    link.args(["-static", "-nostdlib", "--build-id=none", "-z", "max-page-size=4096", "--no-warn-rwx-segments"]);
    run(link.args(["--script", "guests/flat.ld", "-o"]).arg(executable).arg(object))
}

fn run(command: &mut Command) -> Result<(), String> {
    let status = command.status();
    let status = status.map_err(|error| format!("{command:?}: {error}; tools/prepare installs gcc and binutils"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}")) }
}
