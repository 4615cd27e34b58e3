//! One process in `/proc`, held by its folder: once that is open, nothing that is read is of another process that got the same
//! number (proc_pid(5)).

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{CWD, Dir, Mode, OFlags, Stat, openat, readlinkat, statat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::{ParseError, ReadError};

/// Most bytes of a file that are read. A file of this size has a hundred thousand mounts.
const MAX_BYTES: u64 = 16 << 20;

/// A process.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    folder: OwnedFd,
}

impl Process {
    /// Takes hold of process `pid`.
    ///
    /// # Errors
    /// There is none.
    pub fn open(pid: i32) -> Result<Self, ReadError> {
        let path = format!("/proc/{pid}");
        let opened = openat(CWD, &path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        match opened {
            Ok(folder) if pid > 0 => Ok(Self { pid, folder }),
            Ok(_) | Err(Errno::NOENT) => Err(ReadError::NoProcess(pid)),
            Err(errno) => Err(ReadError::new(pid, path, errno)),
        }
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// A descriptor of the process itself (pidfd_open(2)).
    ///
    /// # Errors
    /// It has ended.
    pub fn descriptor(&self) -> Result<OwnedFd, ReadError> {
        let pid = Pid::from_raw(self.pid).ok_or(ReadError::NoProcess(self.pid))?;
        let descriptor = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| self.failed("", errno))?;
        // If the process that this holds is still there, the number was still its own.
        self.text("comm")?;
        Ok(descriptor)
    }

    pub(crate) fn text(&self, name: &str) -> Result<String, ReadError> {
        let failed = |errno| self.failed(name, errno);
        let file = openat(&self.folder, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        let mut bytes = Vec::new();
        let read = File::from(file).take(MAX_BYTES).read_to_end(&mut bytes);
        read.map_err(|error| failed(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(crate) fn parsed<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, ParseError>,
    ) -> Result<T, ReadError> {
        parse(&self.text(name)?).map_err(|source| ReadError::Parse { path: self.path(name), source })
    }

    pub(crate) fn link(&self, name: &str) -> Result<String, ReadError> {
        let link = readlinkat(&self.folder, name, Vec::new()).map_err(|errno| self.failed(name, errno))?;
        Ok(link.to_string_lossy().into_owned())
    }

    /// What the link `name` leads to, without opening it.
    pub(crate) fn metadata(&self, name: &str) -> Result<Stat, ReadError> {
        statat(&self.folder, name, rustix::fs::AtFlags::empty()).map_err(|errno| self.failed(name, errno))
    }

    /// The names in a folder that are numbers, in their order.
    pub(crate) fn numbers(&self, name: &str) -> Result<Vec<i32>, ReadError> {
        let names = self.names(name)?;
        let mut numbers: Vec<i32> = names.iter().filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The names in a folder.
    pub(crate) fn names(&self, name: &str) -> Result<Vec<String>, ReadError> {
        let failed = |errno| self.failed(name, errno);
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let folder = openat(&self.folder, name, flags, Mode::empty()).map_err(failed)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(folder.as_fd()).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn failed(&self, name: &str, errno: Errno) -> ReadError {
        ReadError::new(self.pid, self.path(name), errno)
    }

    fn path(&self, name: &str) -> String {
        PathBuf::from(format!("/proc/{}", self.pid)).join(name).display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_that_are_not_there_are_none() {
        for pid in [0, -1, i32::MAX] {
            assert!(matches!(Process::open(pid), Err(ReadError::NoProcess(number)) if number == pid), "{pid}");
        }
    }

    #[test]
    fn a_successor_is_not_taken_for_the_process() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::open(child.id().try_into().unwrap()).unwrap();
        process.descriptor().unwrap();
        assert_eq!(process.text("comm").unwrap(), "sleep\n");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(process.text("comm").unwrap_err().is_gone());
        assert!(process.descriptor().is_err());
    }
}
