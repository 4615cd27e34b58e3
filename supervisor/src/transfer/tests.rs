//! Archives that a guest should and should not send, and the way there and back.

use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::staging::CONTENT;
use super::{Destination, Owners, pack, unpack};
use crate::request::CopyOut;

/// An archive of `(type, name, target or content)`.
fn archive(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, name, content) in entries {
        let mut header = Header::new_gnu();
        // Straight into the header: the crate's own setters refuse what a hostile guest would write.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_mode(0o7755);
        header.set_mtime(1_000_000_000);
        header.set_uid(1234);
        header.set_entry_type(*kind);
        let data = if *kind == EntryType::Regular { content.as_bytes() } else { &[] };
        if *kind == EntryType::Symlink || *kind == EntryType::Link {
            header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
        }
        header.set_size(data.len() as u64);
        header.set_cksum();
        builder.append(&header, data).unwrap();
    }
    builder.into_inner().unwrap()
}

fn unpack(bytes: &[u8]) -> (tempfile::TempDir, Result<(), String>) {
    let directory = tempfile::tempdir().unwrap();
    let destination = directory.path().join("destination");
    std::fs::create_dir(&destination).unwrap();
    let result = unpack::unpack(bytes, b"top", &destination, CONTENT).map_err(|error| error.to_string());
    // Whatever happened, nothing is beside the destination.
    let entries: Vec<_> =
        std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(entries, ["destination"]);
    let inside: Vec<_> = std::fs::read_dir(&destination).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(inside.is_empty() || inside == [CONTENT], "{inside:?}");
    (directory, result)
}

fn refused(entries: &[(EntryType, &str, &str)]) -> String {
    unpack(&archive(entries)).1.unwrap_err()
}

const DIRECTORY: EntryType = EntryType::Directory;
const FILE: EntryType = EntryType::Regular;
const LINK: EntryType = EntryType::Symlink;

#[test]
fn an_honest_tree_is_unpacked() {
    let bytes = archive(&[
        (DIRECTORY, "top/", ""),
        (DIRECTORY, "top/a", ""),
        (FILE, "top/a/file", "text"),
        (LINK, "top/a/link", "../b/./c"),
        (LINK, "top/here", "a/file"),
    ]);
    let (directory, result) = unpack(&bytes);
    result.unwrap();
    let content = directory.path().join("destination").join(CONTENT);
    assert_eq!(std::fs::read_to_string(content.join("here")).unwrap(), "text");
    assert_eq!(std::fs::read_link(content.join("a/link")).unwrap(), Path::new("../b/./c"));
    for path in ["", "a", "a/file"] {
        let metadata = std::fs::metadata(content.join(path)).unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0o755, "set-user-ID and the like are dropped");
        assert_eq!(metadata.mtime(), 1_000_000_000);
        assert_eq!(metadata.uid(), rustix::process::geteuid().as_raw());
    }
}

#[test]
fn paths_that_lead_out_are_refused() {
    for name in ["../top", "/top", "/etc/passwd", "top/../../x", "other", "", ".", "..", "topper/x"] {
        assert!(refused(&[(FILE, name, "x")]).contains("refused"), "{name}");
    }
}

#[test]
fn symbolic_links_that_lead_out_are_refused() {
    for target in ["/etc/passwd", "../../x", "a/../../..", "../a/../..", "/"] {
        let error = refused(&[(DIRECTORY, "top", ""), (DIRECTORY, "top/a", ""), (LINK, "top/a/l", target)]);
        assert!(error.contains("points out"), "{target}: {error}");
    }
    assert!(refused(&[(LINK, "top", "../x")]).contains("points out"));
    // Up from where another link leads.
    let entries =
        [(DIRECTORY, "top", ""), (DIRECTORY, "top/a", ""), (LINK, "top/a/up", ".."), (LINK, "top/a/l", "up/../x")];
    assert!(refused(&entries).contains("points out"));
}

#[test]
fn nothing_is_written_through_a_link() {
    let through_folder = [(DIRECTORY, "top", ""), (LINK, "top/l", "."), (FILE, "top/l/x", "x")];
    refused(&through_folder);
    let over_link = [(DIRECTORY, "top", ""), (LINK, "top/l", "x"), (FILE, "top/l", "x")];
    refused(&over_link);
    let folder_over_link = [(DIRECTORY, "top", ""), (LINK, "top/l", "x"), (DIRECTORY, "top/l", "")];
    refused(&folder_over_link);
}

#[test]
fn other_kinds_are_refused() {
    for kind in [EntryType::Block, EntryType::Char, EntryType::Fifo, EntryType::Link, EntryType::GNUSparse] {
        assert!(refused(&[(kind, "top", "x")]).contains("neither"), "{kind:?}");
    }
}

#[test]
fn broken_archives_are_refused() {
    let whole = archive(&[(FILE, "top", "some text")]);
    assert!(unpack(&whole[..514]).1.is_err(), "cut in the content");
    assert!(unpack(&whole[..100]).1.is_err(), "cut in the header");
    let mut changed = whole.clone();
    changed[0] ^= 1;
    assert!(unpack(&changed).1.is_err(), "checksum");
    let mut endless = whole;
    endless.resize(4 << 20, 0);
    assert!(unpack(&endless).1.unwrap_err().contains("after its end"));
}

#[test]
fn extension_entries_are_bounded() {
    let long = "n".repeat(20_000);
    let mut builder = Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(long.len() as u64);
    header.set_cksum();
    builder.append(&header, long.as_bytes()).unwrap();
    assert!(unpack(&builder.into_inner().unwrap()).1.unwrap_err().contains("too long"));
}

#[test]
fn what_is_packed_is_unpacked() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("source");
    let deep = source.join("d".repeat(120)).join("e".repeat(120));
    std::fs::create_dir_all(&deep).unwrap();
    let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(deep.join("file"), &content).unwrap();
    std::fs::set_permissions(&deep, std::fs::Permissions::from_mode(0o500)).unwrap();
    std::os::unix::fs::symlink("d".repeat(120), source.join("link")).unwrap();

    let mut bytes = Vec::new();
    pack(&source, Path::new("top"), Owners::Root, &mut bytes).unwrap();
    let (unpacked, result) = unpack(&bytes);
    result.unwrap();
    let copy = unpacked.path().join("destination").join(CONTENT);
    assert_eq!(std::fs::read(copy.join("link").join("e".repeat(120)).join("file")).unwrap(), content);
    let mode = std::fs::metadata(copy.join("link").join("e".repeat(120))).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o500);
}

#[test]
fn sockets_are_not_packed() {
    let directory = tempfile::tempdir().unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(directory.path().join("socket")).unwrap();
    let error = pack(directory.path(), Path::new("top"), Owners::Root, std::io::sink()).unwrap_err().to_string();
    assert!(error.contains("socket is neither"), "{error}");
}

#[test]
fn destinations_appear_whole_and_leave_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let copy = |host: &Path| CopyOut { guest: "/work/out".into(), host: host.to_owned() };
    let abandoned = directory.path().join(".stockade-copy-old");
    std::fs::create_dir_all(abandoned.join(CONTENT)).unwrap();

    let destination = Destination::resolve(&copy(directory.path())).unwrap();
    let staging = destination.stage().unwrap();
    assert!(!abandoned.exists());
    std::fs::create_dir(staging.path().join(CONTENT)).unwrap();
    // One that is in use is left alone.
    let other = destination.stage().unwrap();
    assert!(staging.path().exists());
    drop(other);
    destination.publish(staging).unwrap();
    let names: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["out"]);

    // A folder is never replaced, a file is.
    assert!(Destination::resolve(&copy(directory.path())).unwrap_err().to_string().contains("exists"));
    let file = Destination::resolve(&copy(&directory.path().join("file"))).unwrap();
    for text in ["one", "two"] {
        let staging = file.stage().unwrap();
        std::fs::write(staging.path().join(CONTENT), text).unwrap();
        file.publish(staging).unwrap();
        assert_eq!(std::fs::read_to_string(directory.path().join("file")).unwrap(), text);
    }
    assert!(Destination::resolve(&copy(&directory.path().join("missing/file"))).is_err());
}

proptest! {
    /// Whatever the bytes, nothing appears outside, nothing panics.
    #[test]
    fn random_archives_do_no_harm(entries in proptest::collection::vec(
        (prop_oneof![Just(DIRECTORY), Just(FILE), Just(LINK), Just(EntryType::Link)],
         "(top)?(/(\\.\\.|a|b|l)){0,4}", "(/|\\.\\./)?((\\.\\.|a|b|l)/?){0,4}"), 0..12),
        flip in any::<proptest::sample::Index>(), value in any::<u8>()) {
        let entries: Vec<_> = entries.iter().map(|(kind, name, target)| (*kind, name.as_str(), target.as_str())).collect();
        let mut bytes = archive(&entries);
        let _ = unpack(&bytes);
        let at = flip.index(bytes.len());
        bytes[at] ^= value;
        let _ = unpack(&bytes);
    }

    #[test]
    fn contents_survive(content in proptest::collection::vec(any::<u8>(), 0..5000)) {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("source");
        std::fs::write(&source, &content).unwrap();
        let mut bytes = Vec::new();
        pack(&source, Path::new("top"), Owners::Root, &mut bytes).unwrap();
        let (unpacked, result) = unpack(&bytes);
        result.unwrap();
        let mut copy = Vec::new();
        std::fs::File::open(unpacked.path().join("destination").join(CONTENT)).unwrap().read_to_end(&mut copy).unwrap();
        prop_assert_eq!(copy, content);
    }
}
