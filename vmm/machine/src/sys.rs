//! The unsafe calls: what the kernel's interfaces leave to the caller to get right, wrapped so that it can't go wrong.

#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use kvm_bindings::{
    KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, Xsave, kvm_run,
    kvm_userspace_memory_region, kvm_xsave,
};
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd, VmFd};
use stockade_boot::GuestMemory;
use stockade_vmm_api::exit::ExitReason;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

/// Makes a handle of an inherited descriptor. Calls on a descriptor that is not /dev/kvm fail.
pub(crate) fn kvm_from_fd(descriptor: OwnedFd) -> Kvm {
    // SAFETY: `into_raw_fd` gives the ownership of the descriptor up, so the handle is its only owner.
    unsafe { Kvm::from_raw_fd(descriptor.into_raw_fd()) }
}

/// Registers every region of `memory` as a memory slot with `flags`. The machine that `vm` belongs to must not outlive
/// `memory`: KVM would go on writing to addresses that were unmapped, which `Machine` prevents by owning both.
pub(crate) fn set_memory_slots(vm: &VmFd, memory: &GuestMemory, flags: u32) -> Result<(), (u64, io::Error)> {
    for (slot, region) in (0..).zip(memory.iter()) {
        let start = region.start_addr().0;
        let host = region
            .get_host_address(MemoryRegionAddress(0))
            .map_err(|source| (start, io::Error::other(source.to_string())))?;
        let region = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: start,
            memory_size: region.len(),
            userspace_addr: host as u64,
        };
        // SAFETY: the range is the mapping of a region of `memory`, which lives as long as the machine (see above), and
        // is only accessed by volatile and atomic operations, as vm-memory guarantees.
        unsafe { vm.set_user_memory_region(region) }.map_err(|source| (start, source.into()))?;
    }
    Ok(())
}

/// Gives the kernel an advice (madvise(2)) about all of `memory` that does not change what is in it.
pub(crate) fn advise(memory: &GuestMemory, advice: libc::c_int) -> io::Result<()> {
    for region in memory.iter() {
        let address = region.get_host_address(MemoryRegionAddress(0)).map_err(io::Error::other)?;
        // SAFETY: the range is a mapping of ours, and the callers' advices, MADV_DONTDUMP and MADV_HUGEPAGE, keep its
        // content.
        if unsafe { libc::madvise(address.cast(), region.len() as usize, advice) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// A second handle of a vCPU, for a thread that reads its state while it does not run.
pub(crate) fn second_handle(vm: &VmFd, vcpu: &VcpuFd) -> io::Result<VcpuFd> {
    // SAFETY: `vcpu` keeps the descriptor open beyond this call.
    let descriptor = unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) }.try_clone_to_owned()?;
    // SAFETY: the descriptor is one of a vCPU of `vm`, and `into_raw_fd` gives its ownership up.
    Ok(unsafe { vm.create_vcpu_from_rawfd(descriptor.into_raw_fd()) }?)
}

/// Size of the area that KVM keeps a vCPU's extended registers in. Only what KVM says becomes one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct XsaveSize {
    /// Behind the part that always is there, in 32-bit words.
    extra_words: usize,
}

impl XsaveSize {
    const WORD: usize = size_of::<u32>();

    /// What KVM says, if it does (KVM_CAP_XSAVE2, Linux 5.17). No feature is turned on later that would change it.
    pub(crate) fn of(vm: &VmFd) -> Option<Self> {
        let bytes = usize::try_from(vm.check_extension_int(Cap::Xsave2)).ok()?;
        let extra = bytes.checked_sub(size_of::<kvm_xsave>())?;
        Some(Self { extra_words: extra.div_ceil(Self::WORD) })
    }

    /// In bytes.
    pub(crate) fn bytes(self) -> usize {
        self.extra_words.saturating_mul(Self::WORD).saturating_add(size_of::<kvm_xsave>())
    }
}

/// The extended registers of a vCPU.
pub(crate) fn xsave(vcpu: &VcpuFd, size: XsaveSize) -> Result<Vec<u32>, kvm_ioctls::Error> {
    let mut area = Xsave::new(size.extra_words).map_err(|_| kvm_ioctls::Error::new(libc::E2BIG))?;
    // SAFETY: the area is as large as KVM says that it has to be.
    unsafe { vcpu.get_xsave2(&mut area) }?;
    let mut words = area.as_fam_struct_ref().xsave.region.to_vec();
    words.extend_from_slice(area.as_slice());
    Ok(words)
}

/// Sets the extended registers of a vCPU.
pub(crate) fn set_xsave(vcpu: &VcpuFd, words: &[u32], size: XsaveSize) -> Result<(), kvm_ioctls::Error> {
    let invalid = || kvm_ioctls::Error::new(libc::EINVAL);
    let mut fixed = kvm_xsave::default();
    let (region, extra) = words.split_at_checked(fixed.region.len()).ok_or_else(invalid)?;
    if extra.len() != size.extra_words {
        return Err(invalid());
    }
    fixed.region.copy_from_slice(region);
    let mut area = Xsave::from_entries(extra).map_err(|_| invalid())?;
    // SAFETY: only the part of fixed size is changed, and not the length of the part behind it.
    unsafe { area.as_mut_fam_struct() }.xsave.region = fixed.region;
    // SAFETY: the area is as large as KVM says that it has to be.
    unsafe { vcpu.set_xsave2(&area) }
}

/// Why KVM_RUN returned.
#[derive(Debug)]
pub(crate) enum Exit {
    /// The guest reads a port: fill [`port_data`].
    PortRead { port: u16 },
    /// The guest wrote [`port_data`] to a port.
    PortWrite { port: u16 },
    /// The guest reads: fill [`mmio_data`].
    MmioRead { address: u64 },
    /// The guest wrote [`mmio_data`].
    MmioWrite { address: u64 },
    /// A signal, or `immediate_exit`.
    Interrupted,
    /// Triple fault.
    Shutdown,
    /// The processor does not take the guest's state.
    EntryFailure { reason: u64, processor: u32 },
    /// KVM gave up.
    InternalError { suberror: u32, data: Vec<u64> },
    /// The guest asked KVM for its end.
    SystemEvent { kind: u32, reason: ExitReason },
    /// Nothing that this machine has asked KVM for.
    Other { reason: u32 },
}

/// Runs the vCPU until it exits.
pub(crate) fn run(vcpu: &mut VcpuFd) -> io::Result<Exit> {
    Ok(match vcpu.run() {
        Ok(VcpuExit::IoIn(port, _)) => Exit::PortRead { port },
        Ok(VcpuExit::IoOut(port, _)) => Exit::PortWrite { port },
        Ok(VcpuExit::MmioRead(address, _)) => Exit::MmioRead { address },
        Ok(VcpuExit::MmioWrite(address, _)) => Exit::MmioWrite { address },
        Ok(VcpuExit::Intr) => Exit::Interrupted,
        Ok(VcpuExit::Shutdown) => Exit::Shutdown,
        Ok(VcpuExit::FailEntry(reason, processor)) => Exit::EntryFailure { reason, processor },
        Ok(VcpuExit::InternalError) => internal_error(vcpu.get_kvm_run()),
        Ok(VcpuExit::SystemEvent(kind, _)) => Exit::SystemEvent { kind, reason: system_event(kind) },
        Ok(_) => Exit::Other { reason: vcpu.get_kvm_run().exit_reason },
        // EAGAIN: a vCPU was started by another one, and is ready to run.
        Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => Exit::Interrupted,
        Err(error) => return Err(error.into()),
    })
}

fn system_event(kind: u32) -> ExitReason {
    match kind {
        KVM_SYSTEM_EVENT_SHUTDOWN => ExitReason::PowerOff,
        KVM_SYSTEM_EVENT_RESET => ExitReason::Reset,
        KVM_SYSTEM_EVENT_CRASH => ExitReason::Panicked,
        _ => ExitReason::InternalError,
    }
}

fn internal_error(run: &kvm_run) -> Exit {
    // SAFETY: the exit's reason says that `internal` is the field in use, and any bits are a value of it.
    let internal = unsafe { run.__bindgen_anon_1.internal };
    let data = internal.data.iter().take(internal.ndata as usize).copied().collect();
    Exit::InternalError { suberror: internal.suberror, data }
}

/// The bytes of the last exit, which was [`Exit::PortRead`] or [`Exit::PortWrite`], and the size of one element: string
/// instructions access a port several times.
pub(crate) fn port_data(vcpu: &mut VcpuFd) -> (&mut [u8], usize) {
    let run = vcpu.get_kvm_run();
    // SAFETY: any bits are a value of this field, which is in use as the exit's reason said.
    let io = unsafe { run.__bindgen_anon_1.io };
    let size = usize::from(io.size).max(1);
    let bytes = size.saturating_mul(io.count as usize);
    // SAFETY: KVM gives an offset that lies within the mapping which begins at `run`.
    let data = unsafe { std::ptr::from_mut(run).cast::<u8>().add(io.data_offset as usize) };
    // SAFETY: KVM keeps that many bytes of the mapping for this exit, nobody else accesses them before the next KVM_RUN,
    // and the result borrows the vCPU that owns the mapping.
    (unsafe { std::slice::from_raw_parts_mut(data, bytes) }, size)
}

/// The bytes of the last exit, which was [`Exit::MmioRead`] or [`Exit::MmioWrite`].
pub(crate) fn mmio_data(vcpu: &mut VcpuFd) -> &mut [u8] {
    let run = vcpu.get_kvm_run();
    // SAFETY: any bits are a value of this field, which is in use as the exit's reason said.
    let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
    let bytes = (mmio.len as usize).min(mmio.data.len());
    mmio.data.split_at_mut(bytes).0
}

/// A second mapping of a vCPU's `kvm_run`, by which another thread makes KVM_RUN return.
#[derive(Debug)]
pub(crate) struct ImmediateExit {
    page: NonNull<kvm_run>,
}

// SAFETY: the mapping belongs to the process, and is only accessed through an atomic.
unsafe impl Send for ImmediateExit {}
// SAFETY: as above.
unsafe impl Sync for ImmediateExit {}

impl ImmediateExit {
    const SIZE: usize = size_of::<kvm_run>();

    /// Maps the `kvm_run` of `vcpu`.
    pub(crate) fn map(vcpu: &VcpuFd) -> io::Result<Self> {
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                Self::SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                vcpu.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(page) {
            Some(page) if page.as_ptr() != libc::MAP_FAILED => Ok(Self { page: page.cast() }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Makes the next or the current KVM_RUN return, the latter if a signal reaches the thread as well.
    pub(crate) fn set(&self) {
        self.flag().store(1, Ordering::SeqCst);
    }

    /// Lets KVM_RUN run again.
    pub(crate) fn clear(&self) {
        self.flag().store(0, Ordering::SeqCst);
    }

    fn flag(&self) -> &AtomicU8 {
        // SAFETY: in bounds, `page` is a mapping of a whole `kvm_run`.
        let flag = unsafe { &raw mut (*self.page.as_ptr()).immediate_exit };
        // SAFETY: the mapping lives as long as `self`, and in this process this byte is only accessed here.
        unsafe { AtomicU8::from_ptr(flag) }
    }
}

impl Drop for ImmediateExit {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing borrows from it any more.
        unsafe { libc::munmap(self.page.as_ptr().cast(), Self::SIZE) };
    }
}

/// Interrupts a vCPU's KVM_RUN. A classic signal: unlike the real-time ones, it needs no room in a queue with a limit.
const INTERRUPT: libc::c_int = libc::SIGUSR1;

extern "C" fn ignore(_signal: libc::c_int) {}

/// Has [`interrupt_thread`] interrupt system calls, and nothing else.
pub(crate) fn handle_interrupt_signal() -> io::Result<()> {
    // SAFETY: all zero is a valid sigaction: no flags, so that system calls are interrupted, and no signal masked.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = ignore as *const () as libc::sighandler_t;
    // SAFETY: `action` lives through the call, its handler does nothing, and the old action is not asked for.
    match unsafe { libc::sigaction(INTERRUPT, &raw const action, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Leaves every other signal to other threads: this one's filter may not allow what their handlers do.
pub(crate) fn block_other_signals() {
    // SAFETY: a signal set is plain data, and filled by the next call.
    let mut signals: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `signals` is a signal set of ours.
    unsafe { libc::sigfillset(&raw mut signals) };
    // SAFETY: as above, and the signal's number is valid.
    unsafe { libc::sigdelset(&raw mut signals, INTERRUPT) };
    // SAFETY: as above; the old mask is not asked for. Fails only for an invalid operation.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const signals, std::ptr::null_mut()) };
}

/// Id of this process.
pub(crate) fn process_id() -> libc::pid_t {
    // SAFETY: has no conditions.
    unsafe { libc::getpid() }
}

/// Id of the calling thread.
pub(crate) fn thread_id() -> libc::pid_t {
    // Not by the C library's gettid: the standard library refers to that weakly, and with link-time optimization so does
    // everybody, so that a static executable has no such function, and calls address 0.
    // SAFETY: has no conditions.
    let id = unsafe { libc::syscall(libc::SYS_gettid) };
    // The kernel's ids are of this type.
    id as libc::pid_t
}

/// Interrupts a system call of a thread of this process. That the thread has ended is no error.
pub(crate) fn interrupt_thread(process: libc::pid_t, thread: libc::pid_t) -> io::Result<()> {
    // SAFETY: takes numbers, and checks them.
    match unsafe { libc::syscall(libc::SYS_tgkill, process, thread, INTERRUPT) } {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            error => Err(error),
        },
    }
}

/// Processor time that a thread of this process has used, or `None` if there is no such thread. None has the id 0, which
/// the kernel would take for the caller's.
pub(crate) fn thread_cpu_time(thread: libc::pid_t) -> Option<Duration> {
    if thread == 0 {
        return None;
    }
    /// `CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED` of the kernel's `include/linux/posix-timers.h`.
    const PER_THREAD_SCHEDULED: libc::clockid_t = 4 | 2;
    let clock = (!thread << 3) | PER_THREAD_SCHEDULED;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec of ours.
    let result = unsafe { libc::clock_gettime(clock, &raw mut time) };
    (result == 0).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}
