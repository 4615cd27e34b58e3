//! Has a thread of a running, unmodified vmm break its filter while its warden traces it.
//!
//! Only one process can trace another, so it is done as by an attacker who can write where he likes: through `/proc/PID/mem`, by
//! root. The process is stopped, its threads in system calls. Where the thread comes back from its own, a jump leads to code that
//! takes the place of the program's entry, which nobody needs any more. A thread with that stack pointer makes the forbidden call
//! there; any other goes on as if nothing were.

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{process, wait_for};

/// What a forbidden call looks like in a report: `setresuid(7, 0, -1)`, with what is in the other registers.
pub const CALL: &str = "called setresuid (number 117) with 0x7, 0x0, 0xffffffff, 0x8, 0x9, 0xa at 0x";
/// Filters of a vmm's main thread once its guest runs: the jailer's, and two of its own, upon what the warden's parent has, from
/// which all are inherited.
const FILTERS_AT_RUN_TIME: u32 = 3;
/// How the C library goes on behind a system call, which a jump may take the place of: `cmp $-4096, %rax`, `cmp $-4095, %rax`, or
/// `mov %eax, %edx; cmp $-4096, %eax`.
const COMPARISONS: [&[u8]; 3] = [
    &[0x48, 0x3d, 0x00, 0xf0, 0xff, 0xff],
    &[0x48, 0x3d, 0x01, 0xf0, 0xff, 0xff],
    &[0x89, 0xc2, 0x3d, 0x00, 0xf0, 0xff, 0xff],
];
const JUMP_BYTES: u64 = 5;
const NO_OPERATION: u8 = 0x90;
/// Key of the program's entry in the auxiliary vector (getauxval(3)).
const ENTRY: u64 = 9;

/// Which thread of a vmm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thread {
    /// The one that the process began with.
    Main,
    /// The one of this name.
    Named(&'static str),
}

/// Has a thread of the vmm make a [`CALL`] that no role has, once its guest runs.
pub fn violate(vmm: i32, thread: Thread) {
    let field = |pid: i32, field: &str| process::status_field(pid, field)?.parse::<i32>().ok();
    wait_for("the filters of a vmm whose guest runs", || {
        let supervisor = field(field(vmm, "PPid")?, "PPid")?;
        let filters = |pid| field(pid, "Seccomp_filters")?.try_into().ok();
        let inherited: u32 = filters(supervisor)?;
        (filters(vmm)? == inherited + FILTERS_AT_RUN_TIME).then_some(())
    });
    let id = wait_for("the thread", || number(vmm, thread));
    let memory = File::options().read(true).write(true).open(format!("/proc/{vmm}/mem")).expect("open its memory");
    wait_for("the thread to be in a system call of the C library", || {
        stop(vmm);
        let done = waits_at(vmm, id).and_then(|(stack, at)| plant(vmm, &memory, stack, at));
        kill(Pid::from_raw(vmm), Signal::SIGCONT).expect("let the vmm go on");
        done
    });
}

fn number(vmm: i32, thread: Thread) -> Option<i32> {
    let Thread::Named(name) = thread else { return Some(vmm) };
    let threads = std::fs::read_dir(format!("/proc/{vmm}/task")).ok()?;
    threads.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).find(|id| {
        let comm = std::fs::read_to_string(format!("/proc/{vmm}/task/{id}/comm"));
        comm.is_ok_and(|found| found.trim() == name)
    })
}

/// Stops all of its threads.
fn stop(vmm: i32) {
    kill(Pid::from_raw(vmm), Signal::SIGSTOP).expect("stop the vmm");
    wait_for("the vmm to stop", || {
        let states = process::thread_status(vmm, "State");
        states.iter().all(|(_, state)| state.starts_with(['T', 't'])).then_some(())
    });
}

/// Stack and instruction pointer behind the system call that a thread is in.
fn waits_at(vmm: i32, id: i32) -> Option<(u64, u64)> {
    // number, six arguments, stack pointer, instruction pointer; less if it is in none.
    let text = std::fs::read_to_string(format!("/proc/{vmm}/task/{id}/syscall")).ok()?;
    let words: Vec<_> = text.split_whitespace().collect();
    let word = |at: usize| u64::from_str_radix(words.get(at)?.strip_prefix("0x")?, 16).ok();
    Some((word(7)?, word(8)?))
}

/// Leads a thread from `at` to a forbidden call, if its stack pointer is `stack`.
fn plant(vmm: i32, memory: &File, stack: u64, at: u64) -> Option<()> {
    let mut found = [0; 7];
    memory.read_exact_at(&mut found, at).ok()?;
    let compare = COMPARISONS.into_iter().find(|compare| found.starts_with(compare))?;
    let entry = entry(vmm)?;
    memory.write_all_at(&code(entry, stack, compare, at), entry).expect("write to its memory");
    let mut jump = jump(at, entry);
    jump.resize(compare.len(), NO_OPERATION);
    memory.write_all_at(&jump, at).expect("write to its memory");
    Some(())
}

/// Where the program begins.
fn entry(vmm: i32) -> Option<u64> {
    let auxiliary = std::fs::read(format!("/proc/{vmm}/auxv")).ok()?;
    let words: Vec<_> =
        auxiliary.chunks_exact(8).filter_map(|word| Some(u64::from_le_bytes(*word.first_chunk()?))).collect();
    words.chunks_exact(2).find(|pair| pair[0] == ENTRY).map(|pair| pair[1])
}

/// `jmp to`, at `from`.
fn jump(from: u64, to: u64) -> Vec<u8> {
    let distance = i64::try_from(to).expect("an address") - i64::try_from(from + JUMP_BYTES).expect("an address");
    let mut code = vec![0xe9];
    code.extend(i32::try_from(distance).expect("it is in the same program").to_le_bytes());
    code
}

/// The code at `entry`.
fn code(entry: u64, stack: u64, compare: &[u8], at: u64) -> Vec<u8> {
    let over = u8::try_from(compare.len()).expect("it is short") + JUMP_BYTES as u8;
    // mov $stack, %r11; cmp %r11, %rsp; je over the next two
    let mut code = vec![0x49, 0xbb];
    code.extend(stack.to_le_bytes());
    code.extend([0x4c, 0x39, 0xdc, 0x74, over]);
    // What the jump takes the place of, and back behind it.
    code.extend(compare);
    code.extend(jump(entry + code.len() as u64, at + compare.len() as u64));
    // mov $117, %eax; mov $7, %edi; xor %esi, %esi; mov $-1, %edx
    code.extend([0xb8, 117, 0, 0, 0, 0xbf, 7, 0, 0, 0, 0x31, 0xf6, 0xba, 0xff, 0xff, 0xff, 0xff]);
    // mov $8, %r10d; mov $9, %r8d; mov $10, %r9d; syscall; ud2
    code.extend([0x41, 0xba, 8, 0, 0, 0, 0x41, 0xb8, 9, 0, 0, 0, 0x41, 0xb9, 10, 0, 0, 0, 0x0f, 0x05, 0x0f, 0x0b]);
    code
}
