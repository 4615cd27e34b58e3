//! Devices of the virtual machine: port and MMIO [`bus`], [`legacy`] devices, [`virtio`] devices.
//!
//! Two kinds of thread meet here. A *vCPU thread* reaches a device through the bus: it takes a short lock, changes
//! registers, and at most writes to an eventfd. The *event loop* does all work: it runs each device as an
//! `event_manager` subscriber. What a guest does wrong is data: it's counted, at worst the device asks for a reset, and it
//! is never an error of the vmm.

#![deny(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

pub mod bus;
pub mod counters;
pub mod guest_request;
pub mod legacy;
pub mod rate_limiter;
mod sys;
pub mod virtio;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex whose data stay valid whatever a panicking holder did (in production a panic aborts the process).
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
