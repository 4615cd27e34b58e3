//! The threads of a process, each of which has its own credentials and filters.

use serde::Serialize;

use crate::error::{ParseError, ReadError};
use crate::process::Process;
use crate::status::Status;

/// A thread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Thread {
    /// Its number.
    pub id: i32,
    /// Whether it runs nothing but the kernel's own code, as a worker of KVM does.
    pub kernel_worker: bool,
    /// What confines it.
    #[serde(flatten)]
    pub status: Status,
}

impl Thread {
    /// Reads all of `process`, the first one first.
    ///
    /// # Errors
    /// They can't be read, or the process has ended.
    pub fn read_all(process: &Process) -> Result<Vec<Self>, ReadError> {
        let mut threads = Vec::new();
        for id in process.numbers("task")? {
            match Self::read(process, id) {
                Ok(thread) => threads.push(thread),
                // Ended meanwhile.
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(error),
            }
        }
        let ended = |thread: &Self| thread.status.state == 'Z' || thread.status.state == 'X';
        if threads.iter().all(ended) { Err(ReadError::Ended(process.pid())) } else { Ok(threads) }
    }

    fn read(process: &Process, id: i32) -> Result<Self, ReadError> {
        let status = process.parsed(&format!("task/{id}/status"), Status::parse)?;
        let kernel_worker = process.parsed(&format!("task/{id}/stat"), is_kernel_worker)?;
        Ok(Self { id, kernel_worker, status })
    }
}

/// Parses the flags of `/proc/PID/task/TID/stat` (proc_pid_stat(5), field 9).
fn is_kernel_worker(text: &str) -> Result<bool, ParseError> {
    /// `PF_IO_WORKER`, `PF_USER_WORKER` and `PF_KTHREAD` of include/linux/sched.h.
    const WORKERS: u32 = 0x10 | 0x4000 | 0x20_0000;
    // The second field is a name in parentheses, in which anything may be; six more are before the flags.
    let flags = text.rsplit_once(") ").and_then(|(_, fields)| fields.split(' ').nth(6));
    let flags = flags.ok_or(ParseError::Missing("flags"))?;
    flags.parse().map(|flags: u32| flags & WORKERS != 0).map_err(|_| ParseError::invalid("flags", flags))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn workers_of_the_kernel_are_told_apart() {
        for (flags, expected) in [(4_194_304_u32, false), (4_210_752, true), (2_129_984, true), (0, false)] {
            let text = format!("3175 (a) S 1 (kvm) S 3170 3171 3171 0 -1 {flags} 12 0 0 0\n");
            assert_eq!(is_kernel_worker(&text), Ok(expected), "{flags}");
        }
        assert!(is_kernel_worker("1 (x) S 1 2").is_err());
    }

    #[test]
    fn every_thread_of_a_process_is_there() {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("another".into()).spawn(move || receiver.recv()).unwrap();
        let own = Process::open(std::process::id().try_into().unwrap()).unwrap();
        // The name is set by the thread itself.
        while !Thread::read_all(&own).unwrap().iter().any(|thread| thread.status.name == "another") {
            std::thread::yield_now();
        }
        let threads = Thread::read_all(&own).unwrap();
        assert_eq!(threads[0].id, own.pid());
        assert!(threads.iter().all(|thread| !thread.kernel_worker));
        drop(sender);
        assert!(thread.join().unwrap().is_err());
    }

    proptest! {
        #[test]
        fn no_text_is_a_surprise(text in "\\PC{0,60}\\)? ?[0-9 ]{0,40}") {
            let _ = is_kernel_worker(&text);
        }
    }
}
