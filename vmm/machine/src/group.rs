//! All vCPUs of a running machine, as the event loop handles them.

use std::{io, sync::Arc, thread, time::Duration};

use kvm_ioctls::VmFd;

use crate::{
    MachineState,
    arch::StateError,
    control::{Control, GuestEnd, Order},
    machine::StateReader,
    sys,
    vcpu::{Buses, Vcpu},
};

/// Bytes of stack of a vCPU thread. Only what is used costs memory.
const STACK_BYTES: usize = 128 << 10;

/// vCPUs that can't be handled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// No thread.
    #[error(
        "start the thread of vCPU {index}: {source}; raise the limit on processes and threads of this user or cgroup"
    )]
    Spawn {
        /// Its number.
        index: u8,
        /// What the kernel said.
        source: io::Error,
    },
    /// Signals and mappings that vCPUs are interrupted by.
    #[error("prepare to interrupt vCPUs: {0}")]
    Prepare(io::Error),
    /// A signal can't be sent.
    #[error("interrupt a vCPU: {0}")]
    Interrupt(io::Error),
}

/// The vCPUs of a machine. They begin paused, and are paused when this is dropped.
#[derive(Debug)]
pub struct VcpuGroup {
    control: Arc<Control>,
    watch: HaltWatch,
    /// Keeps the machine's registrations alive.
    vm: VmFd,
    reader: Option<StateReader>,
}

impl VcpuGroup {
    pub(crate) fn start(
        vm: VmFd,
        vcpus: Vec<Vcpu>,
        buses: Buses,
        reader: Option<StateReader>,
        confine: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, GroupError> {
        sys::handle_interrupt_signal().map_err(GroupError::Prepare)?;
        let control = Arc::new(Control::new(&vcpus, buses.request.clone()).map_err(GroupError::Prepare)?);
        let buses = Arc::new(buses);
        let confine = Arc::new(confine);
        for mut vcpu in vcpus {
            let index = vcpu.index();
            let (member, buses, confine) = (control.clone(), buses.clone(), confine.clone());
            let body = move || {
                sys::block_other_signals();
                member.enter(index);
                confine();
                vcpu.run(&member, &buses);
                member.leave();
            };
            // The name is the one that clients of Firecracker look for, to pin threads to processors.
            let thread = thread::Builder::new().name(format!("fc_vcpu {index}")).stack_size(STACK_BYTES);
            if let Err(source) = thread.spawn(body) {
                control.dismiss();
                return Err(GroupError::Spawn { index, source });
            }
        }
        Ok(Self { control, watch: HaltWatch::default(), vm, reader })
    }

    /// Lets the vCPUs run.
    ///
    /// # Errors
    /// None is known.
    pub fn resume(&self) -> Result<(), GroupError> {
        self.control.order(Order::Run).map_err(GroupError::Interrupt)
    }

    /// Stops the vCPUs, and returns when none runs guest code any more. An access to a device that one was in the middle
    /// of is complete then.
    ///
    /// # Errors
    /// If a vCPU can't be interrupted.
    pub fn pause(&self) -> Result<(), GroupError> {
        self.control.order(Order::Pause).map_err(GroupError::Interrupt)
    }

    /// The state of vCPUs and interrupt controllers. The caller has [paused](Self::pause) the vCPUs.
    ///
    /// # Errors
    /// If the machine was built without [`Saving::Possible`](crate::Saving::Possible), or KVM refuses.
    pub fn save(&self) -> Result<MachineState, StateError> {
        self.reader.as_ref().ok_or(StateError::GivenUp)?.save(&self.vm)
    }

    /// Stops the vCPUs for good, and ends their threads. To a process that ends anyway, [`pause`](Self::pause) is enough.
    ///
    /// # Errors
    /// If a vCPU can't be interrupted.
    pub fn stop(self) -> Result<(), GroupError> {
        self.control.order(Order::Leave).map_err(GroupError::Interrupt)
    }

    /// How the guest ended, once the [`GuestRequest`](stockade_devices::guest_request::GuestRequest) of the buses has a
    /// reason: in the words of the vCPU that came to this end, or for one that a device was asked for, in general ones.
    pub fn end(&self) -> Option<GuestEnd> {
        self.control.ended()
    }

    /// Looks whether the guest has halted for good: all vCPUs in HLT with interrupts masked. KVM does not tell. If it has,
    /// that is reported to the `GuestRequest` a little later. Returns how long to wait before looking again.
    ///
    /// A look costs a system call for each vCPU. Only if none has used any processor time since the last look, they are
    /// interrupted and asked, once for each time that they fall quiet.
    ///
    /// # Errors
    /// If a vCPU can't be interrupted.
    pub fn look_for_halt(&mut self) -> Result<Duration, GroupError> {
        let times = self.control.threads().map(sys::thread_cpu_time).collect();
        if self.watch.look(times) == Look::FellQuiet {
            self.control.probe().map_err(GroupError::Interrupt)?;
        }
        Ok(self.watch.interval)
    }
}

impl Drop for VcpuGroup {
    fn drop(&mut self) {
        // Fails only if a signal can't be sent, and then there is nothing that could be done.
        let _ = self.pause();
    }
}

/// Finds the moments in which a guest may have halted for good.
#[derive(Debug)]
struct HaltWatch {
    /// Processor time of each thread.
    times: Vec<Option<Duration>>,
    mood: Mood,
    interval: Duration,
}

/// What the vCPUs did at the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    /// They ran.
    Busy,
    /// They were asked, which is some work, too.
    Asked,
    /// They have been asked, and did nothing since.
    Quiet,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    FellQuiet,
    Other,
}

impl HaltWatch {
    const SHORTEST: Duration = Duration::from_millis(5);
    const LONGEST: Duration = Duration::from_millis(640);

    fn look(&mut self, times: Vec<Option<Duration>>) -> Look {
        let worked = times != self.times;
        self.times = times;
        self.interval = self.interval.saturating_mul(2).min(Self::LONGEST);
        match (worked, self.mood) {
            (true, Mood::Asked) => self.mood = Mood::Quiet,
            (true, _) => self.mood = Mood::Busy,
            (false, Mood::Busy) => {
                self.mood = Mood::Asked;
                return Look::FellQuiet;
            }
            (false, _) => self.mood = Mood::Quiet,
        }
        Look::Other
    }
}

impl Default for HaltWatch {
    fn default() -> Self {
        Self { times: Vec::new(), mood: Mood::Busy, interval: Self::SHORTEST }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(watch: &mut HaltWatch, milliseconds: [u64; 2]) -> Look {
        watch.look(milliseconds.map(|time| Some(Duration::from_millis(time))).to_vec())
    }

    #[test]
    fn a_quiet_guest_is_asked_once() {
        let mut watch = HaltWatch::default();
        assert_eq!(look(&mut watch, [5, 0]), Look::Other);
        assert_eq!(look(&mut watch, [9, 0]), Look::Other, "it still works");
        assert_eq!(look(&mut watch, [9, 0]), Look::FellQuiet);
        assert_eq!(look(&mut watch, [10, 1]), Look::Other, "the question is some work");
        for _ in 0..3 {
            assert_eq!(look(&mut watch, [10, 1]), Look::Other, "it has answered");
        }
        assert_eq!(look(&mut watch, [10, 2]), Look::Other, "one of them works again");
        assert_eq!(look(&mut watch, [10, 2]), Look::FellQuiet);
        assert_eq!(look(&mut watch, [10, 2]), Look::Other, "an answer that cost nothing is one");
        assert_eq!(look(&mut watch, [10, 2]), Look::Other);
    }

    #[test]
    fn looks_become_rare() {
        let mut watch = HaltWatch::default();
        let intervals: Vec<_> = (0..20).map(|_| (look(&mut watch, [0, 0]), watch.interval).1).collect();
        assert!(intervals[0] <= Duration::from_millis(10));
        assert!(intervals.is_sorted());
        assert_eq!(intervals[19], HaltWatch::LONGEST);
    }
}
