//! How a device tells the event loop that the guest wants to end, or has ended itself.

use std::io;
use std::sync::OnceLock;

use stockade_vmm_api::exit::ExitReason;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// The end that the guest asked for. The first request stands: a guest that panics and then resets has panicked.
#[derive(Debug)]
pub struct GuestRequest {
    reason: OnceLock<ExitReason>,
    event: EventFd,
}

impl GuestRequest {
    /// No request yet.
    ///
    /// # Errors
    /// If the process has no descriptor left for the eventfd.
    pub fn new() -> io::Result<Self> {
        Ok(Self { reason: OnceLock::new(), event: EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)? })
    }

    /// Records that the guest wants to end for `reason`, and wakes the event loop. Callable on any thread.
    pub fn end(&self, reason: ExitReason) {
        if self.reason.set(reason).is_ok() {
            // A non-blocking write of 1 to a counter that is read can't fail.
            let _ = self.event.write(1);
        }
    }

    /// Why the guest wants to end, if it does.
    pub fn reason(&self) -> Option<ExitReason> {
        self.reason.get().copied()
    }

    /// Becomes readable with the first request, and stays so.
    pub fn event(&self) -> &EventFd {
        &self.event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_request_stands() {
        let request = GuestRequest::new().unwrap();
        assert_eq!(request.reason(), None);
        assert!(request.event().read().is_err());
        request.end(ExitReason::Panicked);
        request.end(ExitReason::Reset);
        assert_eq!(request.reason(), Some(ExitReason::Panicked));
        assert_eq!(request.event().read().unwrap(), 1);
    }
}
