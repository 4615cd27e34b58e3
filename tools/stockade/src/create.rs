//! `stockade create`: images of disks.
//!
//! An image comes into being whole or not at all: it is made under its own name, which must be free, and removed again if it can't be
//! filled.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use stockade_supervisor::run::Outcome;
use stockade_supervisor::text::{chain, printable};

use crate::arguments::{CreateArguments, DiskSize, ImageFormat, NewImage};
use crate::failure::{Failure, Format, exit};
use crate::run::say;

/// What every qcow2 image begins with.
const QCOW2_MAGIC: [u8; 4] = *b"QFI\xfb";

/// What is copied at once, and left out if it is empty.
const BLOCK_BYTES: usize = 64 << 10;

/// There is no image.
#[derive(Debug, thiserror::Error)]
enum CreateError {
    #[error("{}: there are no images of the format qcow2 yet", .0.display())]
    Qcow2(PathBuf),
    #[error("{}: there are no images that record differences yet; that takes the format qcow2", .0.display())]
    Base(PathBuf),
    #[error("{}: there is such a file already", .0.display())]
    Exists(PathBuf),
    #[error("make {}", .0.display())]
    Make(PathBuf, #[source] io::Error),
    #[error("read {}", .0.display())]
    Input(PathBuf, #[source] io::Error),
    #[error("{}: it has {found} bytes, more than --size {wanted}", path.display())]
    TooSmall { path: PathBuf, found: u64, wanted: u64 },
    #[error("{}: {found} bytes are no whole number of sectors of 512", path.display())]
    PartOfSector { path: PathBuf, found: u64 },
    #[error("write to {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
    #[error("write to standard output")]
    Say(#[source] io::Error),
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Created<'a> {
    path: &'a Path,
    format: &'static str,
    size_bytes: u64,
}

/// Makes what `arguments` describe, and returns the exit code.
pub fn execute(arguments: &CreateArguments) -> u8 {
    let format = if arguments.json { Format::Json } else { Format::Text };
    match create(arguments).and_then(|size| announce(&arguments.image.path, size, format)) {
        Ok(()) => 0,
        Err(error) => Failure::from(error).report(format),
    }
}

fn announce(path: &Path, size_bytes: u64, format: Format) -> Result<(), CreateError> {
    match format {
        Format::Text => say(&printable(&format!("raw imagefile {} created", path.display()))),
        Format::Json => {
            let created = Created { path, format: "raw", size_bytes };
            let text = serde_json::to_string_pretty(&created).map_err(|error| CreateError::Say(error.into()))?;
            writeln!(io::stdout(), "{text}").map_err(CreateError::Say)?;
        }
    }
    Ok(())
}

/// Makes the image, and returns its size in bytes.
fn create(arguments: &CreateArguments) -> Result<u64, CreateError> {
    let NewImage { format, path } = &arguments.image;
    if arguments.base.is_some() {
        return Err(CreateError::Base(path.clone()));
    }
    if *format == ImageFormat::Qcow2 {
        return Err(CreateError::Qcow2(path.clone()));
    }
    let input = arguments.input.as_deref().map(Input::open).transpose()?;
    let size = size(arguments.size, input.as_ref())?;
    let file = File::options().write(true).create_new(true).mode(0o600).open(path);
    let file = file.map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => CreateError::Exists(path.clone()),
        _ => CreateError::Make(path.clone(), source),
    })?;
    let filled = fill(&file, path, size, input);
    if filled.is_err() {
        let _ = fs::remove_file(path);
    }
    filled.map(|()| size)
}

/// The size that is asked for, or else that of what is copied.
fn size(wanted: Option<DiskSize>, input: Option<&Input>) -> Result<u64, CreateError> {
    let found = input.map(|input| (input.path.clone(), input.size));
    match (wanted.map(DiskSize::bytes), found) {
        (Some(wanted), Some((path, found))) if wanted < found => Err(CreateError::TooSmall { path, found, wanted }),
        (Some(wanted), _) => Ok(wanted),
        (None, Some((path, found))) if found % DiskSize::SECTOR_BYTES != 0 => {
            Err(CreateError::PartOfSector { path, found })
        }
        (None, found) => Ok(found.map_or(0, |(_, found)| found)),
    }
}

fn fill(file: &File, path: &Path, size: u64, input: Option<Input>) -> Result<(), CreateError> {
    let failed = |source| CreateError::Write(path.to_owned(), source);
    file.set_len(size).map_err(failed)?;
    if let Some(mut input) = input {
        input.copy_to(file, size, failed)?;
    }
    file.sync_all().map_err(failed)
}

/// An image that is copied.
struct Input {
    file: File,
    path: PathBuf,
    size: u64,
}

impl Input {
    fn open(path: &Path) -> Result<Self, CreateError> {
        let failed = |source| CreateError::Input(path.to_owned(), source);
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(failed(io::Error::other("not a regular file")));
        }
        let mut magic = [0; QCOW2_MAGIC.len()];
        if metadata.len() >= magic.len() as u64 {
            file.read_exact_at(&mut magic, 0).map_err(failed)?;
        }
        if magic == QCOW2_MAGIC {
            return Err(CreateError::Qcow2(path.to_owned()));
        }
        Ok(Self { file, path: path.to_owned(), size: metadata.len() })
    }

    /// Copies what is not zero, and no more than `size` bytes, however the file grows meanwhile.
    fn copy_to(
        &mut self,
        image: &File,
        size: u64,
        failed: impl Fn(io::Error) -> CreateError,
    ) -> Result<(), CreateError> {
        let mut block = vec![0; BLOCK_BYTES];
        let mut offset = 0_u64;
        let mut rest = (&self.file).take(size);
        loop {
            let length =
                read_full(&mut rest, &mut block).map_err(|error| CreateError::Input(self.path.clone(), error))?;
            let data = block.get(..length).unwrap_or_default();
            if data.is_empty() {
                return Ok(());
            }
            if data.iter().any(|&byte| byte != 0) {
                image.write_all_at(data, offset).map_err(&failed)?;
            }
            offset = offset.saturating_add(length as u64);
        }
    }
}

/// Reads until `block` is full or there is no more, and returns how much there was.
fn read_full(input: &mut impl Read, block: &mut [u8]) -> io::Result<usize> {
    let mut length = 0_usize;
    while let Some(rest) = block.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match input.read(rest) {
            Ok(0) => break,
            Ok(more) => length = length.saturating_add(more),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

impl From<CreateError> for Failure {
    fn from(error: CreateError) -> Self {
        let text = chain(&error);
        let make = |exit, code, remedy: &str| Self::new(exit, code, text.clone(), remedy);
        match error {
            CreateError::Qcow2(_) | CreateError::Base(_) => make(exit::UNSUPPORTED, "unsupported", "use raw images"),
            CreateError::Exists(_) => make(exit::IN_THE_WAY, "exists", "choose another name, or remove it first"),
            CreateError::TooSmall { .. } => make(exit::UNUSABLE, "invalid_value", "give a larger one, or none"),
            CreateError::PartOfSector { .. } => make(exit::UNUSABLE, "invalid_value", "give a larger --size"),
            CreateError::Make(..) | CreateError::Input(..) => make(exit::UNUSABLE, "file_not_usable", ""),
            CreateError::Write(..) | CreateError::Say(_) => make(Outcome::FAILED, "failed", ""),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn arguments(image: &Path, size: Option<&str>, input: Option<&Path>) -> CreateArguments {
        CreateArguments {
            image: NewImage::parse(image.as_os_str()).unwrap(),
            size: size.map(|size| size.parse().unwrap()),
            input: input.map(Path::to_owned),
            base: None,
            json: false,
        }
    }

    fn failure(arguments: &CreateArguments) -> Failure {
        create(arguments).unwrap_err().into()
    }

    #[test]
    fn an_image_is_sparse_private_and_new() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk.img");
        assert_eq!(create(&arguments(&path, Some("1G"), None)).unwrap(), 1 << 30);
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.len(), metadata.mode() & 0o7777), (1 << 30, 0o600));
        assert!(metadata.blocks() < 64, "{} blocks", metadata.blocks());
        let again = failure(&arguments(&path, Some("2G"), None));
        assert_eq!((again.exit, again.code), (exit::IN_THE_WAY, "exists"));
        assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 30);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path().join("elsewhere"), &link).unwrap();
        assert_eq!(failure(&arguments(&link, Some("1M"), None)).code, "exists");
        let nowhere = failure(&arguments(&folder.path().join("no/disk"), Some("1M"), None));
        assert_eq!((nowhere.exit, nowhere.code), (exit::UNUSABLE, "file_not_usable"));
    }

    #[test]
    fn a_copy_has_the_same_bytes_and_no_blocks_of_zeros() {
        let folder = tempfile::tempdir().unwrap();
        let [input, copy] = ["input", "copy"].map(|name| folder.path().join(name));
        let mut bytes = vec![0; 10 * BLOCK_BYTES + 512];
        bytes[3 * BLOCK_BYTES + 7] = 1;
        *bytes.last_mut().unwrap() = 2;
        fs::write(&input, &bytes).unwrap();
        assert_eq!(create(&arguments(&copy, None, Some(&input))).unwrap(), bytes.len() as u64);
        assert!(fs::read(&copy).unwrap() == bytes);
        assert!(fs::metadata(&copy).unwrap().blocks() <= 2 * BLOCK_BYTES as u64 / 512 + 64);
        fs::remove_file(&copy).unwrap();
        create(&arguments(&copy, Some("2M"), Some(&input))).unwrap();
        bytes.resize(2 << 20, 0);
        assert!(fs::read(&copy).unwrap() == bytes);
    }

    #[test]
    fn what_can_not_be_made_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let [image, input, qcow2] = ["image", "input", "old"].map(|name| folder.path().join(name));
        fs::write(&input, vec![1; 1025]).unwrap();
        fs::write(&qcow2, b"QFI\xfb\0\0\0\x03").unwrap();
        let based = CreateArguments { base: Some(qcow2.clone()), ..arguments(&image, Some("1M"), None) };
        let ending = folder.path().join("image.qcow2");
        for (arguments, code) in [
            (arguments(&image, Some("512"), Some(&input)), exit::UNUSABLE),
            (arguments(&image, None, Some(&input)), exit::UNUSABLE),
            (arguments(&image, None, Some(folder.path())), exit::UNUSABLE),
            (arguments(&image, None, Some(Path::new("/nonexistent"))), exit::UNUSABLE),
            (arguments(&image, Some("1M"), Some(&qcow2)), exit::UNSUPPORTED),
            (arguments(&ending, Some("1M"), None), exit::UNSUPPORTED),
            (based, exit::UNSUPPORTED),
        ] {
            let failure = failure(&arguments);
            assert_eq!(failure.exit, code, "{}", failure.message);
            assert!(!image.exists() && !ending.exists());
        }
    }
}
