//! What a process writes, collected while it runs.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::PATIENCE;

/// Everything read from a pipe so far, by a thread that reads on until its end.
#[derive(Debug)]
pub struct Output {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    ended: bool,
}

impl Output {
    /// Starts to collect.
    pub fn collect(mut source: impl Read + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let other = Arc::clone(&shared);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                // A terminal whose other side is closed gives an error instead of an end.
                let count = source.read(&mut buffer).unwrap_or(0);
                let mut state = other.state.lock().expect("lock");
                state.bytes.extend_from_slice(&buffer[..count]);
                state.ended = count == 0;
                other.changed.notify_all();
                if state.ended {
                    return;
                }
            }
        });
        Self { shared }
    }

    /// What has come so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().bytes.clone()
    }

    /// What has come so far, as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().bytes).into_owned()
    }

    /// Waits until `text` has come, or panics with what came instead.
    pub fn wait_for(&self, text: &str) {
        self.wait_until(text, |bytes| String::from_utf8_lossy(bytes).contains(text));
    }

    /// Waits until what has come satisfies `condition`; `what` says what that means.
    pub fn wait_until(&self, what: &str, condition: impl Fn(&[u8]) -> bool) {
        let waited = self
            .shared
            .changed
            .wait_timeout_while(self.lock(), PATIENCE, |state| !state.ended && !condition(&state.bytes));
        let (state, _) = waited.expect("lock");
        let came = String::from_utf8_lossy(&state.bytes);
        assert!(condition(&state.bytes), "waited for {what:?}; ended: {}, came: {came}", state.ended);
    }

    /// Waits for the end.
    pub fn wait_for_end(&self) {
        let waited = self.shared.changed.wait_timeout_while(self.lock(), PATIENCE, |state| !state.ended);
        assert!(waited.expect("lock").0.ended, "the output does not end");
    }

    /// Waits for the end, and returns everything.
    pub fn finish(self) -> Vec<u8> {
        self.wait_for_end();
        std::mem::take(&mut self.lock().bytes)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("lock")
    }
}
