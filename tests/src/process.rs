//! What `/proc` says about a process.

use std::path::PathBuf;

/// A field of `/proc/PID/status`, such as `Seccomp` or `NoNewPrivs`; `None` if there is no such process or field.
pub fn status_field(pid: i32, field: &str) -> Option<String> {
    field_of(&format!("/proc/{pid}/status"), field)
}

/// The same field of every thread: its name, and the value. Threads that KVM adds to a process are left out.
pub fn thread_status(pid: i32, field: &str) -> Vec<(String, String)> {
    std::fs::read_dir(format!("/proc/{pid}/task"))
        .expect("list the threads")
        .map(|entry| {
            let thread = entry.expect("list the threads").path();
            let name = std::fs::read_to_string(thread.join("comm")).expect("read the name of a thread");
            let status = thread.join("status");
            let value = field_of(&status.to_string_lossy(), field).expect("read the status of a thread");
            (name.trim().to_owned(), value)
        })
        .filter(|(name, _)| !name.starts_with("kvm-"))
        .collect()
}

/// Where a link such as `root`, `exe` or `ns/net` of the process leads.
pub fn link(pid: i32, name: &str) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/{name}")).unwrap_or_else(|error| panic!("/proc/{pid}/{name}: {error}"))
}

/// Where control groups of version 2 are mounted, if they are.
pub fn cgroup2() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/mounts").expect("read the mounts");
    let mut fields = mounts.lines().map(|line| line.split(' '));
    fields.find_map(|mut mount| {
        let (_, folder, kind) = (mount.next()?, mount.next()?, mount.next()?);
        (kind == "cgroup2").then(|| folder.into())
    })
}

/// Open descriptors of the process: number and what they lead to.
pub fn descriptors(pid: i32) -> Vec<(i32, String)> {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("list the descriptors")
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let number = path.file_name()?.to_str()?.parse().ok()?;
            Some((number, std::fs::read_link(path).ok()?.to_string_lossy().into_owned()))
        })
        .collect()
}

/// Process ids of the children.
pub fn children(pid: i32) -> Vec<i32> {
    std::fs::read_dir("/proc")
        .expect("list the processes")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|child| status_field(*child, "PPid").is_some_and(|parent| parent == pid.to_string()))
        .collect()
}

/// Finds a descendant of the process by its name, `comm`.
pub fn descendant(pid: i32, name: &str) -> Option<i32> {
    children(pid).into_iter().find_map(|child| {
        let found = status_field(child, "Name").is_some_and(|found| found == name);
        if found { Some(child) } else { descendant(child, name) }
    })
}

fn field_of(path: &str, field: &str) -> Option<String> {
    let status = std::fs::read_to_string(path).ok()?;
    status.lines().find_map(|line| Some(line.strip_prefix(field)?.strip_prefix(':')?.trim().to_owned()))
}
