//! A thread of a running process, taken over: whoever holds it can have it run another program.
//!
//! It is done as a debugger does it (ptrace(2)), by root, from outside. The thread stays what it is, with its user, filters, root
//! directory and descriptors; nothing of the process's own program runs in it any more, and its other threads go on. While the other
//! program is loaded and starts, the thread's filters rest (`PTRACE_O_SUSPEND_SECCOMP`): an attacker who runs code needs no system
//! call for that. They are back before the first thing that the program tries.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use rustix::process::{WaitOptions, WaitStatus};

use crate::error::{AttackError, Step};
use crate::program::Program;

/// `PTRACE_O_SUSPEND_SECCOMP`, and `__WALL`: every kind of thread.
const REST_FILTERS: i32 = 1 << 21;
const EVERY_THREAD: u32 = 0x4000_0000;
/// The `syscall` instruction.
const SYSTEM_CALL: [u8; 2] = [0x0f, 0x05];
/// `PROT_READ | PROT_WRITE`, `PROT_READ | PROT_EXEC`, `MAP_PRIVATE | MAP_ANONYMOUS`, and `MAP_FIXED`.
const DATA: u64 = 3;
const CODE: u64 = 5;
const ANONYMOUS: u64 = 0x22;
const FIXED: u64 = 0x10;
const MMAP: u64 = 9;

/// What a thread does next.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It traps, and shows this.
    Trap(Vec<u8>),
    /// It executed a program.
    Executed,
    /// It is gone: with a code, or by a signal.
    Exited(i32),
    /// A signal ended it.
    Killed(i32),
}

/// A thread that is held. It ends with whoever holds it.
#[derive(Debug)]
pub(crate) struct Thread {
    id: Pid,
    process: i32,
    memory: File,
}

impl Thread {
    /// Takes a thread of a process.
    pub(crate) fn take(process: i32, id: i32) -> Result<Self, AttackError> {
        let id = Pid::from_raw(id);
        let options =
            Options::PTRACE_O_EXITKILL | Options::PTRACE_O_TRACEEXEC | Options::from_bits_retain(REST_FILTERS);
        ptrace::seize(id, options).step("trace a thread of stockade-vmm")?;
        let path = format!("/proc/{process}/mem");
        let memory = File::options().read(true).write(true).open(path).step("open the memory of stockade-vmm")?;
        ptrace::interrupt(id).step("stop a thread of stockade-vmm")?;
        let thread = Self { id, process, memory };
        match thread.wait()?.stopping_signal() {
            Some(_) => Ok(thread),
            None => Err(AttackError::Takeover("the thread ended")),
        }
    }

    /// Has it run `program` up to its first trap, with its filters at rest.
    pub(crate) fn load(&self, program: &Program, arguments: &[&str]) -> Result<(), AttackError> {
        let base = self.map(0, program.bytes(), DATA, ANONYMOUS)?;
        // No memory is writable and executable, so that its code can be written from outside only.
        for (first, length) in program.code(base) {
            self.map(first, length, CODE, ANONYMOUS | FIXED)?;
        }
        for (address, bytes) in program.content(base) {
            self.memory.write_all_at(bytes, address).step("write to the memory of stockade-vmm")?;
        }
        let (stack, content) = program.stack(base, arguments, &auxiliary(self.process)?);
        self.memory.write_all_at(&content, stack).step("write to the memory of stockade-vmm")?;
        let mut registers = ptrace::getregs(self.id).step("read registers")?;
        registers.orig_rax = u64::MAX;
        (registers.rip, registers.rsp, registers.rdx, registers.rbp) = (program.entry(base), stack, 0, 0);
        ptrace::setregs(self.id, registers).step("set registers")?;
        match self.go_on()? {
            Stop::Trap(_) => Ok(()),
            _ => Err(AttackError::Takeover("the program that was loaded ended before its attempt")),
        }
    }

    /// Has it make the system call mmap(2), and returns where the memory is.
    fn map(&self, address: u64, length: u64, protection: u64, flags: u64) -> Result<u64, AttackError> {
        let mut registers = ptrace::getregs(self.id).step("read registers")?;
        // No call that was interrupted is to be made again.
        registers.orig_rax = u64::MAX;
        registers.rip = self.system_call()?;
        (registers.rax, registers.rdi, registers.rsi, registers.rdx) = (MMAP, address, length, protection);
        (registers.r10, registers.r8, registers.r9) = (flags, u64::MAX, 0);
        ptrace::setregs(self.id, registers).step("set registers")?;
        self.step()?;
        let mapped = ptrace::getregs(self.id).step("read registers")?.rax;
        if mapped == 0 || mapped > u64::MAX - 4096 {
            return Err(AttackError::Takeover("there is no memory for a program"));
        }
        Ok(mapped)
    }

    /// Has its filters back.
    pub(crate) fn filter(&self) -> Result<(), AttackError> {
        ptrace::setoptions(self.id, Options::PTRACE_O_EXITKILL | Options::PTRACE_O_TRACEEXEC)
            .step("filter a thread again")
    }

    /// Lets it go on until something happens. Signals are delivered.
    pub(crate) fn go_on(&self) -> Result<Stop, AttackError> {
        let mut signal = None;
        loop {
            ptrace::cont(self.id, signal.take()).step("let a thread go on")?;
            let status = self.wait()?;
            if let Some(code) = status.exit_status() {
                return Ok(Stop::Exited(code));
            }
            if let Some(signal) = status.terminating_signal() {
                return Ok(Stop::Killed(signal));
            }
            let event = status.as_raw() >> 16;
            match status.stopping_signal() {
                Some(libc::SIGTRAP) if event == libc::PTRACE_EVENT_EXEC => return Ok(Stop::Executed),
                Some(libc::SIGTRAP) if event == 0 => return Ok(Stop::Trap(self.shown()?)),
                // One that no name is for interrupts a vCPU, and is nobody's any more.
                Some(number) if event == 0 => signal = Signal::try_from(number).ok(),
                _ => {}
            }
        }
    }

    /// Lets it execute one instruction. A signal that comes before that interrupts a vCPU, and is nobody's any more.
    fn step(&self) -> Result<(), AttackError> {
        loop {
            ptrace::step(self.id, None).step("make a system call")?;
            let status = self.wait()?;
            match status.stopping_signal() {
                Some(libc::SIGTRAP) if status.as_raw() >> 16 == 0 => return Ok(()),
                Some(_) => {}
                None => return Err(AttackError::Takeover("the thread ended")),
            }
        }
    }

    /// Ends its process.
    pub(crate) fn end(self) -> Result<(), AttackError> {
        if let Some(process) = rustix::process::Pid::from_raw(self.process) {
            rustix::process::kill_process(process, rustix::process::Signal::KILL).step("end stockade-vmm")?;
        }
        // Only then does its parent hear of it.
        loop {
            let status = self.wait()?;
            if status.exited() || status.signaled() {
                return Ok(());
            }
        }
    }

    fn shown(&self) -> Result<Vec<u8>, AttackError> {
        const MOST_BYTES: u64 = 1 << 16;
        let registers = ptrace::getregs(self.id).step("read registers")?;
        let mut bytes = vec![0; usize::try_from(registers.rsi.min(MOST_BYTES)).unwrap_or(0)];
        self.memory.read_exact_at(&mut bytes, registers.rdi).step("read the memory of stockade-vmm")?;
        Ok(bytes)
    }

    fn wait(&self) -> Result<WaitStatus, AttackError> {
        let id = rustix::process::Pid::from_raw(self.id.as_raw());
        let status = rustix::process::waitpid(id, WaitOptions::from_bits_retain(EVERY_THREAD));
        let waited = status.step("wait for a thread of stockade-vmm")?;
        waited.map(|(_, status)| status).ok_or(AttackError::Takeover("the thread is gone"))
    }

    /// Where in the program of the process there is such an instruction.
    fn system_call(&self) -> Result<u64, AttackError> {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.process)).step("read maps of memory")?;
        let executable = maps.lines().filter(|line| line.contains(" r-xp ") && !line.contains("[vsyscall]"));
        for line in executable {
            let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
            let Some((start, end)) = range else { continue };
            let bound = |text| u64::from_str_radix(text, 16).map_err(io::Error::other).step("read maps of memory");
            let (start, end) = (bound(start)?, bound(end)?);
            let mut code = vec![0; usize::try_from(end - start).unwrap_or(0)];
            self.memory.read_exact_at(&mut code, start).step("read the memory of stockade-vmm")?;
            if let Some(at) = code.windows(2).position(|window| window == SYSTEM_CALL) {
                return Ok(start + at as u64);
            }
        }
        Err(AttackError::Takeover("its program makes no system call"))
    }
}

/// The auxiliary vector of a process.
fn auxiliary(process: i32) -> Result<Vec<(u64, u64)>, AttackError> {
    let bytes = std::fs::read(format!("/proc/{process}/auxv")).step("read an auxiliary vector")?;
    let word = |bytes: &[u8]| bytes.first_chunk().copied().map(u64::from_le_bytes);
    let pairs = bytes.chunks_exact(16);
    Ok(pairs.filter_map(|pair| Some((word(pair)?, word(pair.get(8..)?)?))).collect())
}
