//! Has the event loop return when somebody else than a device wants something.

use std::io;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use vmm_sys_util::eventfd::EventFd;

/// Watches an eventfd, and leaves what it announces, and reading it, to whoever runs the event loop.
#[derive(Debug)]
pub struct Wake(EventFd);

impl Wake {
    /// Wakes when `event` is readable.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn on(event: &EventFd) -> io::Result<Self> {
        event.try_clone().map(Self)
    }
}

impl MutEventSubscriber for Wake {
    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::new(&self.0, EventSet::IN)) {
            log::error!("watch eventfd: {error}");
        }
    }

    fn process(&mut self, _: Events, _: &mut EventOps) {}
}
