//! What of the file system the process can reach: by paths from its root, and from folders that it has open.

use super::Finding;
use crate::confinement::Confinement;
use crate::descriptors::DescriptorKind;
use crate::mounts::Mount;
use crate::namespaces::NamespaceKind;

pub(super) fn judge(confinement: &Confinement) -> Finding {
    let root = &confinement.root;
    let own_mounts = confinement.namespaces.is_own(NamespaceKind::Mount);
    if !own_mounts && root.path == "/" {
        return Finding::off("sees the host's files");
    }
    let mut wrong = Vec::new();
    if !own_mounts {
        wrong.push(format!("is only in {} of the host's mounts (chroot)", root.path));
    }
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
    let folders = confinement.descriptors.iter().filter(|descriptor| descriptor.kind == DescriptorKind::Folder);
    wrong.extend(folders.map(|folder| format!("descriptor {} is an open folder, {}", folder.number, folder.target)));
    Finding::weak_if(&wrong, "an empty tmpfs: read-only, nosuid, nodev, noexec")
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
