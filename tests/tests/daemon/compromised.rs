//! A `control` that somebody else has taken over, and what it says to the daemon. This test has its end of the channel, which is all
//! of the daemon's that it can reach; that it reaches nothing else is for `stockade doctor --attack` to show.

use std::fs::File;
use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::signal::{Signal, kill};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, sendmsg};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use stockade_api::{ErrorCode, Request, StopMode, VmId, VmReference};
use stockade_tests::{guest, process, test, wait_for};
use stockaded::roles::frame::{MAX_BYTES, ToControl, ToParent, VERSION, decode, encode};

use crate::daemon::{Daemon, NEEDS, configuration};
use crate::roles::control;

/// The channel of a `control` that stands still, so that nobody else uses it.
struct Stolen {
    pid: i32,
    channel: OwnedFd,
}

impl Stolen {
    /// Takes it of the `control` that there is, which is not `before`.
    fn take(daemon: &Daemon, before: Option<i32>) -> Self {
        wait_for("control to serve", || daemon.try_request("GET", "version", None));
        let pid = wait_for("another control", || Some(control(daemon)).filter(|pid| Some(*pid) != before));
        kill(nix::unistd::Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
        wait_for("a stop", || process::status_field(pid, "State").filter(|state| state.starts_with('T')));
        let role = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
        let is_channel = |number: &i32| {
            let kind = pidfd_getfd(&role, *number, PidfdGetfdFlags::empty())
                .ok()
                .and_then(|it| rustix::net::sockopt::socket_type(&it).ok());
            kind == Some(rustix::net::SocketType::SEQPACKET)
        };
        let number = (0..64).find(is_channel).unwrap();
        let channel = pidfd_getfd(&role, number, PidfdGetfdFlags::empty()).unwrap();
        Self { pid, channel }
    }

    fn send(&self, bytes: &[u8], descriptors: usize) -> bool {
        let null = File::open("/dev/null").unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(250))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let given = vec![null.as_fd(); descriptors];
        assert!(descriptors == 0 || ancillary.push(SendAncillaryMessage::ScmRights(&given)));
        sendmsg(&self.channel, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).is_ok()
    }

    fn say(&self, message: &ToParent) {
        assert!(self.send(&encode(message).unwrap(), 0));
    }

    /// The next thing that the daemon says.
    fn hear(&self) -> ToControl {
        let mut packet = vec![0; MAX_BYTES];
        // Descriptors that come with it are of no interest, and closed.
        let (length, _) =
            wait_for("the daemon to say something", || recv(&self.channel, &mut packet[..], RecvFlags::DONTWAIT).ok());
        let connection = decode(&packet[..length], 1);
        connection.or_else(|_| decode(&packet[..length], 0)).unwrap()
    }

    /// The answer to a request.
    fn answer(&self, number: u64) -> Result<stockade_api::Answer, stockade_api::Error> {
        loop {
            if let ToControl::Answer { request, answer, .. } = self.hear()
                && request == number
            {
                return answer;
            }
        }
    }
}

fn descriptors(daemon: &Daemon) -> usize {
    process::descriptors(daemon.pid()).len()
}

#[test]
fn what_is_no_frame_costs_control_its_life_and_nothing_else() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let daemon = Daemon::start(scratch, &configuration(scratch, &[(&name, guest::IDLE, "")]));
        let vm = daemon.wait_for_state(&name, "running");
        let ready = encode(&ToParent::Ready).unwrap();
        let request = |body| encode(&ToParent::Request { connection: 1, request: 1, body }).unwrap();
        let list = request(Request::List { after: VmId(0) });
        let no_variant = [VERSION, 0xff, 0xff, 0xff, 0xff, 0x0f];
        let longer = [&list[..], b"x"].concat();
        // A text that says that it is longer than there is memory.
        let mut lying = request(Request::Load { path: "x".into() });
        let at = lying.len() - 2;
        lying.splice(at..=at, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]);
        let attacks: [(&str, &[u8], usize); 12] = [
            ("nothing", &[], 0),
            ("another version", &[VERSION + 1, 0], 0),
            ("no such message", &no_variant, 0),
            ("half a message", &list[..list.len() - 1], 0),
            ("more than a message", &longer, 0),
            ("a lie about a length", &lying, 0),
            ("more bytes than a frame has", &vec![VERSION; MAX_BYTES + 1], 0),
            ("noise", &[0xaa; 5000], 0),
            ("a second welcome", &ready, 0),
            ("a descriptor that nobody asked for", &list, 1),
            ("a flood of descriptors", &list, 250),
            ("a message of the other side's", &encode(&ToControl::Connection { connection: 1 }).unwrap(), 1),
        ];
        let mut before = None;
        let mut open = None;
        for (what, bytes, count) in attacks {
            let stolen = Stolen::take(&daemon, before);
            open.get_or_insert_with(|| descriptors(&daemon));
            // A kernel that refuses to send what is too long has stopped it, too.
            let is_sent = stolen.send(bytes, count);
            if !is_sent {
                kill(nix::unistd::Pid::from_raw(stolen.pid), Signal::SIGKILL).unwrap();
            }
            wait_for(&format!("the end of control after {what}"), || {
                (!std::path::Path::new(&format!("/proc/{}", stolen.pid)).exists()).then_some(())
            });
            before = Some(stolen.pid);
        }
        assert_eq!(daemon.vm(&name), vm);
        // Nothing that was sent stays open.
        let open = open.unwrap();
        wait_for("descriptors to be closed", || (descriptors(&daemon) <= open).then_some(()));
    });
}

#[test]
fn it_acts_for_nobody_who_is_not_connected() {
    test(NEEDS, |scratch| {
        let name = scratch.vm_name();
        let daemon = Daemon::start(scratch, &configuration(scratch, &[(&name, guest::IDLE, "")]));
        let vm = daemon.wait_for_state(&name, "running");
        let stolen = Stolen::take(&daemon, None);
        let stop = || Request::Stop { vm: VmReference::Name(name.clone()), mode: StopMode::Force };
        // Numbers of connections that are over, that will be, and that nobody has.
        for (number, connection) in (1..).zip([0, 1, 2, 3, 4, 100, u64::MAX]) {
            stolen.say(&ToParent::Request { connection, request: number, body: stop() });
            assert_eq!(stolen.answer(number).unwrap_err().code, ErrorCode::Interrupted, "{connection}");
            stolen.say(&ToParent::Abandoned { connection, request: number });
            stolen.say(&ToParent::Closed { connection });
        }

        // In the name of somebody who is connected, it may do what that one may, as long as that one is there.
        let nobody = client_of(&daemon, 54321);
        let ToControl::Connection { connection } = stolen.hear() else { panic!("no connection") };
        stolen.say(&ToParent::Request { connection, request: 50, body: stop() });
        let code = stolen.answer(50).unwrap_err().code;
        assert!(matches!(code, ErrorCode::NotFound | ErrorCode::NotPermitted), "{code:?}");
        // As many questions as it likes, but few at a time.
        for request in 100..200 {
            let body = Request::Wait { vm: VmReference::Name(name.clone()) };
            stolen.say(&ToParent::Request { connection, request, body });
        }
        assert!(stolen.answer(199).is_err());
        drop(nobody);
        stolen.say(&ToParent::Request { connection, request: 300, body: stop() });
        assert_eq!(stolen.answer(300).unwrap_err().code, ErrorCode::Interrupted);
        // With the process its word ends, even if an accomplice holds its end of the channel by then.
        kill(nix::unistd::Pid::from_raw(stolen.pid), Signal::SIGKILL).unwrap();
        wait_for("another control", || daemon.try_request("GET", "version", None));
        assert!(!stolen.send(&encode(&ToParent::Ready).unwrap(), 0));
        assert_eq!(daemon.vm(&name), vm);
    });
}

/// A client that runs as another user.
fn client_of(daemon: &Daemon, uid: u32) -> UnixStream {
    // The socket is for root and its group.
    let user = rustix::thread::Uid::from_raw(uid);
    let socket = daemon.socket();
    std::thread::spawn(move || {
        rustix::thread::set_thread_groups(&[]).unwrap();
        rustix::thread::set_thread_res_uid(user, user, rustix::thread::Uid::ROOT).unwrap();
        let mut client = UnixStream::connect(socket).unwrap();
        client.write_all(b"GET ").unwrap();
        client
    })
    .join()
    .unwrap()
}
