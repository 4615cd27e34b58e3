//! A vCPU on its thread: runs guest code, and carries the guest's accesses to the buses.

use std::{io, sync::Arc};

use kvm_ioctls::VcpuFd;
use stockade_boot::GuestMemory;
use stockade_devices::{bus::Bus, guest_request::GuestRequest};
use stockade_vmm_api::exit::ExitReason;

use crate::{
    arch::{self, HostKind, Rest},
    control::{Control, GuestEnd, Turn},
    sys::{self, Exit},
};

/// What a guest can reach.
#[derive(Debug)]
pub struct Buses {
    /// I/O ports.
    pub ports: Bus,
    /// Guest physical addresses without memory.
    pub mmio: Bus,
    /// Where devices and vCPUs report the guest's end. A vCPU whose access led to it runs no further.
    pub request: Arc<GuestRequest>,
}

/// A vCPU that is not running.
#[derive(Debug)]
pub(crate) struct Vcpu {
    fd: VcpuFd,
    index: u8,
    host: HostKind,
    /// Stays mapped while the vCPU can access it.
    _memory: Arc<GuestMemory>,
}

/// Why a vCPU stops running guest code.
enum Stop {
    Interrupted,
    Ended(GuestEnd),
    EndedByDevice,
}

impl Vcpu {
    pub(crate) fn new(fd: VcpuFd, index: u8, host: HostKind, memory: Arc<GuestMemory>) -> Self {
        Self { fd, index, host, _memory: memory }
    }

    pub(crate) fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    pub(crate) fn index(&self) -> u8 {
        self.index
    }

    /// Whether anything can wake it.
    pub(crate) fn rest(&self) -> Rest {
        arch::rest(&self.fd)
    }

    /// Tells the guest's watchdogs, if it has a kvm-clock, that it was stopped.
    pub(crate) fn tell_guest_of_pause(&self) {
        // Fails if the guest has no kvm-clock, and then there is nobody to tell.
        let _ = self.fd.kvmclock_ctrl();
    }

    /// Runs guest code until the guest ends or the group's order is to leave.
    pub(crate) fn run(&mut self, control: &Control, buses: &Buses) {
        while control.turn(self) == Turn::Run {
            match self.run_uninterrupted(control, buses) {
                Stop::Interrupted => {}
                Stop::EndedByDevice => return,
                Stop::Ended(end) => return control.end(end),
            }
        }
    }

    fn run_uninterrupted(&mut self, control: &Control, buses: &Buses) -> Stop {
        loop {
            match sys::run(&mut self.fd) {
                Ok(Exit::Interrupted) => return Stop::Interrupted,
                Ok(exit) => {
                    if let Some(end) = self.handle(exit, buses) {
                        return Stop::Ended(end);
                    }
                }
                Err(source) => return Stop::Ended(self.failed(&source)),
            }
            if control.has_ended() {
                return Stop::EndedByDevice;
            }
        }
    }

    /// Handles an exit; returns the guest's end, if it is one.
    fn handle(&mut self, exit: Exit, buses: &Buses) -> Option<GuestEnd> {
        match exit {
            Exit::PortRead { port } => {
                let (data, size) = sys::port_data(&mut self.fd);
                data.chunks_mut(size).for_each(|element| buses.ports.read(port.into(), element));
            }
            Exit::PortWrite { port } => {
                let (data, size) = sys::port_data(&mut self.fd);
                data.chunks(size).for_each(|element| buses.ports.write(port.into(), element));
            }
            Exit::MmioRead { address } => buses.mmio.read(address, sys::mmio_data(&mut self.fd)),
            Exit::MmioWrite { address } => buses.mmio.write(address, sys::mmio_data(&mut self.fd)),
            Exit::Interrupted => {}
            Exit::Shutdown => return Some(self.end(ExitReason::TripleFault, "triple fault")),
            Exit::EntryFailure { reason, processor } => {
                let what = format_args!("processor {processor} refused the guest's state, for reason {reason:#x}");
                return Some(self.end(ExitReason::EntryFailure, what));
            }
            Exit::InternalError { suberror, data } => {
                let what = arch::internal_error(self.host, suberror, &data);
                return Some(self.end(ExitReason::InternalError, what));
            }
            Exit::SystemEvent { kind, reason } => {
                let what = format_args!("KVM reported system event {kind}");
                return Some(self.end(reason, what));
            }
            Exit::Other { reason } => {
                let what = format_args!("KVM returned to user space for the unexpected reason {reason}");
                return Some(self.end(ExitReason::InternalError, what));
            }
        }
        None
    }

    fn failed(&self, source: &io::Error) -> GuestEnd {
        self.end(ExitReason::InternalError, format_args!("KVM_RUN: {source}"))
    }

    fn end(&self, reason: ExitReason, what: impl std::fmt::Display) -> GuestEnd {
        let index = self.index;
        let place = arch::place(&self.fd);
        GuestEnd { reason, message: format!("vCPU {index} {place}: {what}") }
    }
}
