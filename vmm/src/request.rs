//! What a client asks of the VM, and the channel by which the API thread asks the main thread.

use std::io;
use std::sync::mpsc::{Receiver, RecvError, SyncSender, sync_channel};

use stockade_vmm_api::boot_source::BootSource;
use stockade_vmm_api::cpu_template::CpuTemplate;
use stockade_vmm_api::drive::Drive;
use stockade_vmm_api::entropy::Entropy;
use stockade_vmm_api::logger::Logger;
use stockade_vmm_api::machine_config::{MachineConfig, MachineConfigPatch};
use stockade_vmm_api::serial::Serial;
use stockade_vmm_api::snapshot::{SnapshotCreate, SnapshotLoad};
use stockade_vmm_api::vsock::Vsock;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// A request whose shape is right.
#[derive(Debug, Clone, PartialEq)]
pub enum ApiRequest {
    /// `GET /`
    GetInstance,
    /// `GET /version`
    GetVersion,
    /// `GET /vm/config`
    GetVmConfig,
    /// `GET /machine-config`
    GetMachineConfig,
    /// `PUT /boot-source`
    PutBootSource(BootSource),
    /// `PUT /machine-config`
    PutMachineConfig(MachineConfig),
    /// `PATCH /machine-config`
    PatchMachineConfig(MachineConfigPatch),
    /// `PUT /cpu-config`
    PutCpuConfig(CpuTemplate),
    /// `PUT /drives/{id}`
    PutDrive(Drive),
    /// `PUT /vsock`
    PutVsock(Vsock),
    /// `PUT /entropy`
    PutEntropy(Entropy),
    /// `PUT /serial`
    PutSerial(Serial),
    /// `PUT /logger`
    PutLogger(Logger),
    /// `PUT /snapshot/create`
    CreateSnapshot(SnapshotCreate),
    /// `PUT /snapshot/load`
    LoadSnapshot(SnapshotLoad),
    /// `PUT /actions` with `InstanceStart`
    Start,
    /// `PUT /actions` with `SendCtrlAltDel`
    SendCtrlAltDel,
    /// `PUT /actions` with `FlushMetrics`
    FlushMetrics,
    /// `PATCH /vm` with `Paused`
    Pause,
    /// `PATCH /vm` with `Resumed`
    Resume,
}

/// The answer to a request that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// There is nothing to say.
    Done,
    /// What was asked for, as JSON.
    Json(Vec<u8>),
}

/// The answer to a request: what was asked for, or what went wrong and the remedy.
pub type Reply = Result<Answer, String>;

/// The end of the channel that asks. One request is under way at a time.
pub struct Asker {
    requests: SyncSender<Box<ApiRequest>>,
    replies: Receiver<Reply>,
    event: EventFd,
}

/// The end of the channel that answers.
pub struct Answerer {
    requests: Receiver<Box<ApiRequest>>,
    replies: SyncSender<Reply>,
    event: EventFd,
}

/// A channel.
///
/// # Errors
/// If the process has no descriptor left.
pub fn channel() -> io::Result<(Asker, Answerer)> {
    let (ask, asked) = sync_channel(1);
    let (answer, answered) = sync_channel(1);
    let event = EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
    let asker = Asker { requests: ask, replies: answered, event: event.try_clone()? };
    Ok((asker, Answerer { requests: asked, replies: answer, event }))
}

impl Asker {
    /// Asks, and waits for the reply. `None` if the other end is gone, and the process about to end.
    pub fn ask(&self, request: ApiRequest) -> Option<Reply> {
        self.requests.send(Box::new(request)).ok()?;
        self.event.write(1).ok()?;
        self.replies.recv().ok()
    }
}

impl Answerer {
    /// Waits for a request.
    ///
    /// # Errors
    /// If the other end is gone.
    pub fn wait(&self) -> Result<Box<ApiRequest>, RecvError> {
        let request = self.requests.recv()?;
        // The asker writes after it sends: if nothing is there yet, the event comes later and finds no request.
        let _ = self.event.read();
        Ok(request)
    }

    /// The request that [`event`](Self::event) announced, if it is still there.
    pub fn take(&self) -> Option<Box<ApiRequest>> {
        let _ = self.event.read();
        self.requests.try_recv().ok()
    }

    /// Answers the request that was taken last.
    pub fn reply(&self, reply: Reply) {
        // Nobody waits for it if the asker is gone.
        let _ = self.replies.send(reply);
    }

    /// Readable when there may be a request.
    pub const fn event(&self) -> &EventFd {
        &self.event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_answered_in_order() {
        let (asker, answerer) = channel().unwrap();
        let api = std::thread::spawn(move || {
            assert_eq!(asker.ask(ApiRequest::GetVersion), Some(Ok(Answer::Json(b"1".to_vec()))));
            assert_eq!(asker.ask(ApiRequest::Start), Some(Err("no".to_owned())));
            assert_eq!(asker.ask(ApiRequest::Pause), None);
        });
        assert_eq!(*answerer.wait().unwrap(), ApiRequest::GetVersion);
        answerer.reply(Ok(Answer::Json(b"1".to_vec())));
        let request = loop {
            if let Some(request) = answerer.take() {
                break request;
            }
        };
        assert_eq!(*request, ApiRequest::Start);
        answerer.reply(Err("no".to_owned()));
        assert_eq!(*answerer.wait().unwrap(), ApiRequest::Pause);
        drop(answerer);
        api.join().unwrap();
    }
}
