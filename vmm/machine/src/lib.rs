//! A virtual machine on KVM: memory, interrupt controllers, vCPUs, and what the vCPUs see in CPUID.
//!
//! ```text
//! Hypervisor::open      /dev/kvm, or an inherited descriptor; asked once what it offers
//!   .create_machine     a virtual machine with nothing in it; up to here, no configuration is needed
//! BareMachine::build    memory, interrupt controllers, vCPUs, CPUID
//! Machine               irqfds and ioeventfds; guest memory for the loader
//!   .set_entry          registers of the first vCPU, as the loader returned them
//!   .start_vcpus        a confined thread for each vCPU, paused
//! VcpuGroup             resume, pause, look for a guest that can never go on, and how it ended
//!   .save               MachineState, which BareMachine::restore makes another machine of
//! ```
//!
//! A vCPU's exits are the guest's doing: they become accesses on the buses of `stockade-devices`, or the guest's end, with
//! an [`ExitReason`](stockade_vmm_api::exit::ExitReason) and a message. What depends on the architecture is in one module
//! each (`x86_64`), and `unsafe` is in `sys` alone.
//!
//! # System calls
//! A vCPU thread, once confined: `ioctl` with KVM_RUN, KVM_KVMCLOCK_CTRL, KVM_GET_MP_STATE and KVM_GET_REGS; `futex`;
//! `rt_sigreturn`; what the devices on the buses do; and what allocating a message takes (`brk`). It does not end before
//! [`VcpuGroup::stop`], which is for processes that go on. The thread that has the group: `futex`, `tgkill` with SIGUSR1, and `clock_gettime` for the vCPU
//! threads' processor time; and to save a machine, what KVM_GET_* requests [`VcpuGroup::save`] makes. Everything else is done before a vCPU runs.

#![deny(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

mod control;
mod dump;
mod group;
mod hypervisor;
mod machine;
mod memory;
mod sys;
mod vcpu;
#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
use x86_64 as arch;

pub use arch::{Clock, HostKind, StateError, TemplateError, ThreadsPerCore, VcpuConfigError};
pub use control::GuestEnd;
pub use dump::{write_all, write_memory};
pub use group::{GroupError, VcpuGroup};
pub use hypervisor::{Hypervisor, HypervisorError};
pub use machine::{BareMachine, Machine, MachineError, MachineSpec, MachineState, Saving};
pub use memory::{DirtyLog, MemoryError, MemorySpec};
pub use vcpu::Buses;
