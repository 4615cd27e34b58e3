//! System calls, as they are.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::sync::atomic::{AtomicU8, Ordering};

use nix::errno::Errno;

/// Something that fits a register: a number, or the address of something that is borrowed for the call.
pub trait Word {
    /// As the kernel gets it.
    fn word(self) -> u64;
}

macro_rules! numbers {
    ($($kind:ty),*) => { $(impl Word for $kind {
        fn word(self) -> u64 {
            // Sign-extended, as C passes an argument.
            self as u64
        }
    })* };
}
numbers!(i32, u32, i64, u64, usize);

impl Word for &CStr {
    fn word(self) -> u64 {
        self.as_ptr().expose_provenance() as u64
    }
}

impl Word for &CString {
    fn word(self) -> u64 {
        self.as_c_str().word()
    }
}

impl<T> Word for &[T] {
    fn word(self) -> u64 {
        self.as_ptr().expose_provenance() as u64
    }
}

impl<T> Word for &mut [T] {
    fn word(self) -> u64 {
        self.as_mut_ptr().expose_provenance() as u64
    }
}

impl<T, const N: usize> Word for &[T; N] {
    fn word(self) -> u64 {
        self.as_slice().word()
    }
}

impl<T, const N: usize> Word for &mut [T; N] {
    fn word(self) -> u64 {
        self.as_mut_slice().word()
    }
}

/// Makes the system call of this name.
macro_rules! call {
    ($name:ident $(, $argument:expr)* $(,)?) => {
        $crate::sys::make(libc::$name, &[$($crate::sys::Word::word($argument)),*])
    };
}
pub(crate) use call;

/// Makes a system call, with up to six arguments.
///
/// # Errors
/// What the kernel said.
pub fn make(number: i64, arguments: &[u64]) -> Result<u64, Errno> {
    let word = |index: usize| arguments.get(index).copied().unwrap_or(0);
    // SAFETY: addresses among the arguments are those of what is borrowed until the call is over, and what the kernel writes to
    // is borrowed mutably; the attempts are written so. What a call may do to this process is what it is here for.
    let result = unsafe { libc::syscall(number, word(0), word(1), word(2), word(3), word(4), word(5)) };
    Errno::result(result).map(i64::unsigned_abs)
}

/// Makes a system call of the 32-bit interface without arguments (`int 0x80`).
///
/// # Errors
/// What the kernel said.
pub fn call_by_interrupt(number: u32) -> Result<u64, Errno> {
    let result: u64;
    // SAFETY: the interrupt changes r8 to r11 on older kernels, and rax; no memory is involved.
    unsafe {
        std::arch::asm!(
            "int 0x80",
            inlateout("rax") u64::from(number) => result,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    let result = i64::from(result as u32 as i32);
    if result < 0 { Err(Errno::from_raw(i32::try_from(-result).unwrap_or(0))) } else { Ok(result.unsigned_abs()) }
}

/// Gets from the kernel what malloc will need, for filters that let nobody get more: one arena, and all of it in the heap.
pub fn keep_heap() {
    const NEEDED: usize = 1 << 20;
    for (parameter, value) in [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_MAX, 0), (libc::M_TRIM_THRESHOLD, i32::MAX)] {
        // SAFETY: mallopt(3) may be called at any time; it takes two integers.
        unsafe { libc::mallopt(parameter, value) };
    }
    drop(std::hint::black_box(vec![1_u8; NEEDED]));
}

/// Copies bytes from memory that the kernel has mapped for this process.
pub fn peek(address: u64, length: usize) -> Vec<u8> {
    mapped(address, length).iter().map(|byte| byte.load(Ordering::Relaxed)).collect()
}

/// Copies bytes to memory that the kernel has mapped for this process, writable.
pub fn poke(address: u64, bytes: &[u8]) {
    mapped(address, bytes.len()).iter().zip(bytes).for_each(|(there, byte)| there.store(*byte, Ordering::Relaxed));
}

/// Writes a byte to every page of memory that the kernel has mapped for this process, writable.
pub fn touch(address: u64, length: u64) {
    let length = usize::try_from(length).unwrap_or(0);
    mapped(address, length).iter().step_by(4096).for_each(|byte| byte.store(1, Ordering::Relaxed));
}

fn mapped(address: u64, length: usize) -> &'static [AtomicU8] {
    let bytes = std::ptr::with_exposed_provenance::<AtomicU8>(usize::try_from(address).unwrap_or(0));
    // SAFETY: the address is one that mmap(2) or shmat(2) returned for at least this length, and nothing unmaps it before the
    // process ends. Others may write to it meanwhile, so each byte is accessed atomically.
    unsafe { std::slice::from_raw_parts(bytes, length) }
}

/// Stops for whoever traces this thread, and shows it `bytes`: `rdi` is where they are, `rsi` how many.
pub fn trap(bytes: &[u8]) {
    // SAFETY: the breakpoint changes no register and no memory, and who traces reads memory that is borrowed until then.
    unsafe {
        std::arch::asm!("int3", in("rdi") bytes.as_ptr(), in("rsi") bytes.len(), options(nostack));
    }
}

/// Whether this process has more rights than who executed it (getauxval(3), `AT_SECURE`).
pub fn is_set_user_id() -> bool {
    // SAFETY: reads what the kernel has put on the stack.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}
