//! Archives there and back, and archives that make no sense.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use proptest::prelude::*;

use super::{pack_below_its_name, unpack};

fn packed(path: &Path) -> Vec<u8> {
    let mut archive = Vec::new();
    pack_below_its_name(path, &mut archive).unwrap();
    archive
}

#[test]
fn trees_survive() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    let long = "n".repeat(120);
    std::fs::create_dir_all(tree.join("empty")).unwrap();
    std::fs::create_dir_all(tree.join(&long)).unwrap();
    std::fs::write(tree.join(&long).join(&long), b"content").unwrap();
    std::fs::write(tree.join("program"), [0; 70_000]).unwrap();
    std::fs::set_permissions(tree.join("program"), std::fs::Permissions::from_mode(0o4751)).unwrap();
    symlink("../away", tree.join("link")).unwrap();
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000);
    std::fs::File::open(tree.join("empty")).unwrap().set_modified(time).unwrap();
    std::fs::File::open(&tree).unwrap().set_modified(time).unwrap();

    let copy = folder.path().join("new/folders/copy");
    unpack::unpack(packed(&tree).as_slice(), &copy).unwrap();
    assert_eq!(std::fs::read(copy.join(&long).join(&long)).unwrap(), b"content");
    assert_eq!(std::fs::read(copy.join("program")).unwrap(), [0; 70_000]);
    assert_eq!(std::fs::metadata(copy.join("program")).unwrap().mode() & 0o7777, 0o4751);
    assert_eq!(std::fs::read_link(copy.join("link")).unwrap(), Path::new("../away"));
    assert_eq!(std::fs::metadata(copy.join("empty")).unwrap().mtime(), 1000);
    assert_eq!(std::fs::metadata(&copy).unwrap().mtime(), 1000);

    // Once more, over what is there, and a file over a file.
    unpack::unpack(packed(&tree).as_slice(), &copy).unwrap();
    std::fs::write(tree.join("program"), b"new").unwrap();
    unpack::unpack(packed(&tree.join("program")).as_slice(), &copy.join("program")).unwrap();
    assert_eq!(std::fs::read(copy.join("program")).unwrap(), b"new");
}

#[test]
fn what_cannot_be_copied_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
    let error = pack_below_its_name(folder.path(), std::io::sink()).unwrap_err();
    assert!(error.contains("socket is neither"), "{error}");
    let error = pack_below_its_name(&folder.path().join("missing"), std::io::sink()).unwrap_err();
    assert!(error.contains("missing") && error.contains("No such file"), "{error}");
    std::fs::write(folder.path().join("file"), "").unwrap();
    let error =
        unpack::unpack(packed(&folder.path().join("file")).as_slice(), &folder.path().join("file/below")).unwrap_err();
    assert!(error.to_string().starts_with("write "), "{error}");
}

#[test]
fn archives_that_make_no_sense_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    std::fs::write(&source, [1; 1000]).unwrap();
    let archive = packed(&source);
    let target = folder.path().join("target");
    assert!(unpack::unpack(&archive[..600], &target).is_err());
    assert!(matches!(unpack::unpack(&[0; 1024][..], &target), Err(unpack::UnpackError::Empty)));
    let mut outside = archive;
    outside[..8].copy_from_slice(b"../away\0");
    assert!(unpack::unpack(outside.as_slice(), &target).is_err());
    assert!(!folder.path().join("away").exists());
}

proptest! {
    #[test]
    fn random_changes_do_not_panic(at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("source");
        std::fs::create_dir(&source).unwrap();
        std::fs::write(source.join("file"), [1; 100]).unwrap();
        let mut archive = packed(&source);
        let at = at.index(archive.len());
        archive[at] ^= value;
        let _ = unpack::unpack(archive.as_slice(), &folder.path().join("below/target"));
    }
}
