//! Signals that the caller sends: passed on to the command, instead of ending this program.

use std::io;

use stockade_supervisor::client::{Notice, Notices};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::terminal;

/// Notices that may wait; more are dropped, as pending signals of one kind are.
const QUEUE: usize = 64;
/// Numbers of SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGHUP, SIGINT, SIGQUIT and SIGTERM on x86_64 Linux: what would
/// end a program and may come from outside it.
const PASSED_ON: [u8; 9] = [10, 12, 14, 26, 27, 1, 2, 3, 15];

/// Takes over the signals. To be called within a runtime.
pub fn notices() -> io::Result<Notices> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    for number in PASSED_ON {
        let stream = signal(SignalKind::from_raw(number.into()))?;
        tokio::spawn(forward(stream, sender.clone(), move || Notice::Signal(number)));
    }
    let resized = signal(SignalKind::window_change())?;
    tokio::spawn(forward(resized, sender, || Notice::Resize(terminal::size())));
    Ok(Notices::new(receiver))
}

async fn forward(mut signals: Signal, sender: mpsc::Sender<Notice>, notice: impl Fn() -> Notice) {
    while signals.recv().await.is_some() {
        let _ = sender.try_send(notice());
    }
}
