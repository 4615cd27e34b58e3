//! What a booted guest depends on: the content of files, and the host.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A file by its content. As long as it is the same file, and was not changed, its content is not looked at again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// SHA-256, hexadecimal.
    sha256: String,
    device: u64,
    inode: u64,
    length: u64,
    /// Times of the last change to the content and to the inode, nanoseconds. Nobody can set the latter.
    changed_ns: [i128; 2],
}

impl Part {
    /// Looks at `file`.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let nanoseconds =
            |seconds: i64, rest: i64| i128::from(seconds).saturating_mul(1_000_000_000).saturating_add(rest.into());
        Ok(Self {
            sha256: digest(file)?,
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            changed_ns: [
                nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
                nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
            ],
        })
    }

    /// Whether `file` has this content.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn is(&self, file: &File) -> io::Result<bool> {
        let metadata = file.metadata()?;
        if metadata.len() != self.length {
            return Ok(false);
        }
        let nanoseconds =
            |seconds: i64, rest: i64| i128::from(seconds).saturating_mul(1_000_000_000).saturating_add(rest.into());
        let changed_ns = [
            nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        ];
        let is_untouched = (metadata.dev(), metadata.ino(), changed_ns) == (self.device, self.inode, self.changed_ns);
        Ok(is_untouched || digest(file)? == self.sha256)
    }
}

/// Reads all of `file`, and leaves it at its beginning.
fn digest(file: &File) -> io::Result<String> {
    let mut file = file;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    file.rewind()?;
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => hash.update(buffer.get(..count).unwrap_or_default()),
        }
    }
    file.rewind()?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The host, as far as a guest sees it: its processor with microcode, its kernel, and which KVM it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    kernel: String,
    processor: Vec<String>,
    kvm: Vec<String>,
}

impl Host {
    /// This one.
    ///
    /// # Errors
    /// If /proc can't be read.
    pub fn current() -> io::Result<Self> {
        const FIELDS: [&str; 8] =
            ["vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags", "bugs"];
        const KVM: [&str; 3] = ["kvm_intel", "kvm_amd", "kvm_pvm"];
        let uname = rustix::system::uname();
        let kernel = format!("{} {}", uname.release().to_string_lossy(), uname.version().to_string_lossy());
        let mut processor = Vec::new();
        // The first processor stands for all.
        for line in BufReader::new(File::open("/proc/cpuinfo")?).lines() {
            let line = line?;
            if line.is_empty() {
                break;
            }
            if line.split_once(':').is_some_and(|(name, _)| FIELDS.contains(&name.trim())) {
                processor.push(line);
            }
        }
        let is_loaded = |module: &&str| std::path::Path::new("/sys/module").join(module).exists();
        let kvm = KVM.into_iter().filter(is_loaded).map(str::to_owned).collect();
        Ok(Self { kernel, processor, kvm })
    }
}
