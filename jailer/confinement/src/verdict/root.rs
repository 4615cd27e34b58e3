//! What of the file system the process can reach: by paths from its root, and from folders that it has open.

use super::Finding;
use crate::confinement::Confinement;
use crate::descriptors::DescriptorKind;
use crate::mounts::{Mount, Root};
use crate::namespaces::NamespaceKind;
use crate::record::{JailKind, Record};

pub(super) fn judge(confinement: &Confinement, record: Option<&Record>) -> Finding {
    let root = &confinement.root;
    let own_mounts = confinement.namespaces.is_own(NamespaceKind::Mount);
    if !own_mounts && root.path == "/" {
        return Finding::off("sees the host's files");
    }
    let mut wrong = Vec::new();
    if !own_mounts {
        wrong.push(format!("is only in {} of the host's mounts (chroot)", root.path));
    }
    let text = match record.map(|record| &record.jail) {
        Some(JailKind::Compatible { root: recorded, .. }) => {
            wrong.extend(folder(root, *recorded));
            format!("the jail's folder, which it may write to: nosuid, noexec{}", more(root))
        }
        _ => {
            wrong.extend(empty(root));
            "an empty tmpfs: read-only, nosuid, nodev, noexec".to_owned()
        }
    };
    let folders = confinement.descriptors.iter().filter(|descriptor| descriptor.kind == DescriptorKind::Folder);
    wrong.extend(folders.map(|folder| format!("descriptor {} is an open folder, {}", folder.number, folder.target)));
    Finding::weak_if(&wrong, text)
}

/// What the folder of a jail of compatible mode lacks. What the host has mounted in it is one of its mounts.
fn folder(root: &Root, recorded: (u64, u64)) -> Vec<String> {
    let mut wrong = Vec::new();
    if root.identity != recorded {
        wrong.push("its root is another folder than the jailer made".to_owned());
    }
    for mount in &root.mounts {
        let missing: Vec<_> = ["nosuid", "noexec"].into_iter().filter(|option| !mount.has(option)).collect();
        if !missing.is_empty() {
            wrong.push(format!("the mount on {} lacks {}; remount it", mount.point, missing.join(", ")));
        }
    }
    wrong
}

fn more(root: &Root) -> String {
    match root.mounts.len().saturating_sub(1) {
        0 => String::new(),
        more => format!(", and {more} mounts of the host's in it"),
    }
}

/// What an empty root lacks.
fn empty(root: &Root) -> Vec<String> {
    let mut wrong = Vec::new();
    if root.mounts.len() > 1 {
        wrong.push(format!("{} mounts, not one", root.mounts.len()));
    }
    match root.mounts.iter().find(|mount| mount.point == "/") {
        Some(mount) => wrong.extend(options(mount)),
        None => wrong.push("its root is no mount of its own".to_owned()),
    }
    match root.names {
        Some(0) => {}
        Some(names) => wrong.push(format!("{names} names in its root, which is to be empty")),
        None => wrong.push("its root is no empty tmpfs".to_owned()),
    }
    wrong
}

/// What the mount of a root lacks.
fn options(mount: &Mount) -> Vec<String> {
    let mut wrong = Vec::new();
    if !mount.is_read_only() {
        wrong.push(format!("its root can be written ({})", mount.file_system));
    }
    let missing: Vec<_> = ["nosuid", "nodev", "noexec"].into_iter().filter(|option| !mount.has(option)).collect();
    if !missing.is_empty() {
        wrong.push(format!("its root lacks {}", missing.join(", ")));
    }
    wrong
}
