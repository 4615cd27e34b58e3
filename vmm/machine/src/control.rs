//! What the threads of the vCPUs and the event loop know in common: who shall run, and how the guest ended.
//!
//! ```text
//! event loop                         vCPU thread
//! order = Pause; immediate_exit = 1; KVM_RUN returns EINTR
//! signal  ------------------------>  turn(): sees the order, says that it is parked, sleeps
//! wait for all to be parked  <-----
//! order = Run; wake  ------------->  immediate_exit = 0; KVM_RUN
//! ```
//! `immediate_exit` is set and cleared with the lock held, so that no order is missed: one that is given between `turn`
//! and KVM_RUN makes the latter return at once.

use std::sync::{
    Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicI32, Ordering},
};

use stockade_devices::guest_request::GuestRequest;
use stockade_vmm_api::exit::ExitReason;

use crate::{
    arch::{self, Rest},
    sys::{self, ImmediateExit},
    vcpu::Vcpu,
};

/// How a guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestEnd {
    /// Which end it was.
    pub reason: ExitReason,
    /// The same in words, with what the guest did.
    pub message: String,
}

/// What the vCPUs shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Wait.
    Pause,
    /// Run guest code.
    Run,
    /// End their threads.
    Leave,
}

/// Whether a vCPU thread goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    Run,
    Leave,
}

#[derive(Debug)]
struct State {
    order: Order,
    /// Threads that wait for another order.
    parked: usize,
    /// Threads that run no guest code any more.
    left: usize,
    probe: Option<Probe>,
}

/// A question to all vCPUs: can anything wake you?
#[derive(Debug)]
struct Probe {
    /// Those who have not answered.
    unanswered: Vec<u8>,
    /// Where a vCPU halted.
    halted_at: Option<u64>,
}

/// One vCPU, as seen by others.
#[derive(Debug)]
struct Member {
    /// Its thread, or 0 if that has not begun: then it is sure to look at the order before it runs.
    thread: AtomicI32,
    immediate_exit: ImmediateExit,
}

/// Shared by all vCPU threads and the [group](crate::VcpuGroup).
#[derive(Debug)]
pub(crate) struct Control {
    state: Mutex<State>,
    changed: Condvar,
    members: Vec<Member>,
    process: libc::pid_t,
    request: Arc<GuestRequest>,
    end: OnceLock<GuestEnd>,
}

impl Control {
    pub(crate) fn new(vcpus: &[Vcpu], request: Arc<GuestRequest>) -> std::io::Result<Self> {
        let member = |vcpu: &Vcpu| {
            let immediate_exit = ImmediateExit::map(vcpu.fd())?;
            Ok(Member { thread: AtomicI32::new(0), immediate_exit })
        };
        Ok(Self {
            state: Mutex::new(State { order: Order::Pause, parked: 0, left: 0, probe: None }),
            changed: Condvar::new(),
            members: vcpus.iter().map(member).collect::<std::io::Result<_>>()?,
            process: sys::process_id(),
            request,
            end: OnceLock::new(),
        })
    }

    /// The calling thread runs the vCPU `index`.
    pub(crate) fn enter(&self, index: u8) {
        if let Some(member) = self.members.get(usize::from(index)) {
            member.thread.store(sys::thread_id(), Ordering::SeqCst);
        }
    }

    /// Called by the thread of `vcpu` before it runs guest code, and after each interruption: waits while it shall.
    pub(crate) fn turn(&self, vcpu: &Vcpu) -> Turn {
        let mut state = self.lock();
        if let Some(halted_at) = answer(&mut state, vcpu) {
            self.end(arch::halted(halted_at));
        }
        if state.order == Order::Pause {
            vcpu.tell_guest_of_pause();
            state.parked = state.parked.saturating_add(1);
            self.changed.notify_all();
            while state.order == Order::Pause {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.parked = state.parked.saturating_sub(1);
        }
        if state.order == Order::Leave {
            return Turn::Leave;
        }
        if let Some(member) = self.members.get(usize::from(vcpu.index())) {
            member.immediate_exit.clear();
        }
        Turn::Run
    }

    /// The calling thread runs no guest code any more. Returns when it shall end, which most never do: their process ends
    /// first, and so their filter needs nothing of what a thread's end takes.
    pub(crate) fn leave(&self) {
        let mut state = self.lock();
        state.left = state.left.saturating_add(1);
        self.changed.notify_all();
        while state.order != Order::Leave {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The guest has come to an end by itself. The first end stands.
    pub(crate) fn end(&self, end: GuestEnd) {
        let reason = end.reason;
        if self.end.set(end).is_ok() {
            self.request.end(reason);
        }
    }

    /// Whether the guest has ended, or asked a device for it.
    pub(crate) fn has_ended(&self) -> bool {
        self.request.reason().is_some()
    }

    /// How the guest ended, if it did.
    pub(crate) fn ended(&self) -> Option<GuestEnd> {
        let reason = self.request.reason()?;
        let end = self.end.get().filter(|end| end.reason == reason).cloned();
        Some(end.unwrap_or_else(|| GuestEnd { reason, message: by_device(reason).to_owned() }))
    }

    /// Has the vCPUs leave that have not run yet, without waiting for them.
    pub(crate) fn dismiss(&self) {
        self.lock().order = Order::Leave;
        self.changed.notify_all();
    }

    /// Gives an order, and waits until every vCPU follows it if it is one to stop. After [`Order::Leave`], no other counts.
    pub(crate) fn order(&self, order: Order) -> std::io::Result<()> {
        let mut state = self.lock();
        if state.order == Order::Leave {
            return Ok(());
        }
        state.order = order;
        self.changed.notify_all();
        if order == Order::Run {
            return Ok(());
        }
        self.interrupt_all()?;
        let follows = |state: &State| match order {
            Order::Leave => state.left,
            _ => state.left.saturating_add(state.parked),
        };
        while follows(&state) < self.members.len() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Asks every vCPU whether anything can wake it. If nothing can wake any, the guest's end is reported.
    pub(crate) fn probe(&self) -> std::io::Result<()> {
        let mut state = self.lock();
        if state.order != Order::Run || state.left > 0 {
            return Ok(());
        }
        let unanswered = (0..).take(self.members.len()).collect();
        state.probe = Some(Probe { unanswered, halted_at: None });
        self.interrupt_all()
    }

    /// Ids of the threads.
    pub(crate) fn threads(&self) -> impl Iterator<Item = libc::pid_t> {
        self.members.iter().map(|member| member.thread.load(Ordering::SeqCst))
    }

    /// Makes every KVM_RUN return. To be called with the lock held.
    fn interrupt_all(&self) -> std::io::Result<()> {
        for member in &self.members {
            member.immediate_exit.set();
            match member.thread.load(Ordering::SeqCst) {
                0 => {}
                thread => sys::interrupt_thread(self.process, thread)?,
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers a probe for `vcpu`. If it was the last answer, and nothing can wake any vCPU, returns where one halted.
fn answer(state: &mut State, vcpu: &Vcpu) -> Option<u64> {
    let probe = state.probe.as_mut()?;
    match vcpu.rest() {
        Rest::Halted { rip } => probe.halted_at = probe.halted_at.or(Some(rip)),
        Rest::WaitsForAnother => {}
        Rest::Awake => {
            state.probe = None;
            return None;
        }
    }
    probe.unanswered.retain(|&index| index != vcpu.index());
    if !probe.unanswered.is_empty() {
        return None;
    }
    state.probe.take()?.halted_at
}

/// What a guest did that ended through a device.
fn by_device(reason: ExitReason) -> &'static str {
    match reason {
        ExitReason::Reset => "the guest reset the machine",
        ExitReason::PowerOff => "the guest powered the machine off",
        ExitReason::Panicked => "the guest's kernel reported a panic",
        _ => "the guest ended",
    }
}
