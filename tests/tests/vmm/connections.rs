//! Thousands of connections, from clients of a vmm and from its guest: there are bounds, what comes after them goes on, and so do a
//! neighbour's guest and its API meanwhile. What they did alone and beside is printed; how much that is, is for whoever reads it.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;
use stockade_tests::api::{Connection, request};
use stockade_tests::guest::{self, Protocol};
use stockade_tests::memory::{COUNTER, GuestMemory};
use stockade_tests::puppet::Puppet;
use stockade_tests::vmm::Vmm;
use stockade_tests::{Need, Scratch, process, test, wait_for};

use crate::vsock::Header;
use crate::vsock::driver::{GUEST_CID, REQUEST, RESET, RESPONSE, Vsock, patient, read_exactly};

const MANY: usize = 3000;
/// Connections of the API, as in Firecracker, and of a vsock device.
const MOST_CLIENTS: usize = 10;
const MOST_PEERS: usize = 1023;

/// A machine next door, whose guest counts.
struct Neighbour {
    vmm: Vmm,
    memory: GuestMemory,
    /// What it counted in a while alone.
    alone: u64,
}

impl Neighbour {
    fn start(scratch: &Scratch) -> Self {
        let vmm = Vmm::with_guest(scratch, guest::SPIN, Protocol::Linux64);
        vmm.start_guest();
        let memory = vmm.memory();
        let mut neighbour = Self { vmm, memory, alone: 0 };
        neighbour.alone = neighbour.counts(Duration::from_millis(200)).0;
        neighbour
    }

    /// What its guest counts in a while, in which its API is asked again and again, and how often that answers.
    fn counts(&self, time: Duration) -> (u64, u32) {
        let (begun, before) = (Instant::now(), self.memory.read_u64(COUNTER));
        let mut answers = 0;
        while answers == 0 || begun.elapsed() < time {
            assert_eq!(self.vmm.request("GET", "/", "").json()["state"], "Running");
            answers += 1;
        }
        wait_for("the neighbour's guest to count", || {
            let counted = self.memory.read_u64(COUNTER) - before;
            (counted > 0).then_some((counted, answers))
        })
    }

    /// Makes a storm, and sees the neighbour go on beside it.
    fn beside<T: Send>(&self, what: &str, storm: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let storm = scope.spawn(storm);
            let begun = Instant::now();
            let (mut counted, mut answered) = (0, 0);
            while answered == 0 || !storm.is_finished() {
                let (count, answers) = self.counts(Duration::from_millis(10));
                (counted, answered) = (counted + count, answered + answers);
            }
            let milliseconds = begun.elapsed().as_millis().max(1);
            println!(
                "{what}: beside it a guest counted {} in 200 ms (alone {}), and its API answered {answered} requests in {milliseconds} ms",
                u128::from(counted) * 200 / milliseconds,
                self.alone
            );
            storm.join().unwrap()
        })
    }
}

/// The vmm inherits that.
fn allow_descriptors() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
}

fn descriptors(vmm: i32) -> usize {
    process::descriptors(vmm).len()
}

/// How many it has when those of clients that have gone are closed.
fn settled_descriptors(vmm: i32) -> usize {
    let mut last = descriptors(vmm);
    wait_for("clients that have gone to be let go of", || {
        std::thread::sleep(Duration::from_millis(50));
        let before = std::mem::replace(&mut last, descriptors(vmm));
        (before == last).then_some(last)
    })
}

fn memory_kib(vmm: &Vmm) -> u64 {
    let field = process::status_field(vmm.pid(), "RssAnon").unwrap();
    field.trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn thousands_of_clients_of_an_api() {
    test(&[Need::Kvm], |scratch| {
        allow_descriptors();
        let neighbour = Neighbour::start(scratch);
        let vmm = Vmm::with_guest(scratch, guest::IDLE, Protocol::Linux64);
        vmm.start_guest();
        let (before, memory) = (settled_descriptors(vmm.pid()), memory_kib(&vmm));
        let clients = neighbour.beside("thousands of clients", || {
            let open = |_| {
                let mut client = Connection::open(vmm.socket()).unwrap();
                // It may be closed already.
                let _ = client.try_send(b"PUT /machine-config HTTP/1.1\r\nContent-Length: 51200\r\n\r\n{");
                client
            };
            (0..MANY).map(open).collect::<Vec<_>>()
        });
        wait_for("those that are too many to be turned away", || {
            (descriptors(vmm.pid()) <= before + MOST_CLIENTS).then_some(())
        });
        assert!(memory_kib(&vmm) < memory + 2048, "{} KiB, and {memory} before", memory_kib(&vmm));
        drop(clients);
        wait_for("room for a client", || {
            let mut client = vmm.connect();
            client.try_send(request("GET", "/", "").as_bytes()).ok()?;
            (client.response().status == 200).then_some(())
        });
        assert_eq!(settled_descriptors(vmm.pid()), before);
    });
}

/// The driver of a guest with a vsock device, the process of its vmm, and a neighbour.
fn with_machines(body: impl FnOnce(&mut Vsock<'_>, i32, &Neighbour, &Scratch)) {
    test(&[Need::Kvm], |scratch| {
        allow_descriptors();
        let neighbour = Neighbour::start(scratch);
        let mut puppet = Puppet::start_with(scratch, Protocol::Pvh, |vmm| {
            vmm.put("/vsock", &json!({ "guest_cid": GUEST_CID, "uds_path": scratch.join("vsock") }));
        });
        let process = puppet.vmm().pid();
        body(&mut Vsock::open(&puppet), process, &neighbour, scratch);
        assert_eq!(puppet.vmm().request("GET", "/", "").json()["state"], "Running");
    });
}

#[test]
fn thousands_of_connections_from_the_host() {
    with_machines(|vsock, vmm, neighbour, scratch| {
        let before = settled_descriptors(vmm);
        let clients = neighbour.beside("thousands of connections from the host", || {
            let open = |_| {
                let mut client = UnixStream::connect(scratch.join("vsock")).unwrap();
                // Half of what it has to say, if it is not closed already.
                let _ = client.write_all(b"CONNECT 8");
                client
            };
            (0..MANY).map(open).collect::<Vec<_>>()
        });
        wait_for("the vmm to have taken or closed all", || {
            let open = clients.iter().filter(|client| is_open(client)).count();
            assert!(open >= MOST_PEERS, "{open}");
            (open == MOST_PEERS).then_some(())
        });
        assert_eq!(descriptors(vmm), before + MOST_PEERS);
        drop(clients);
        wait_for("the vmm to let go of all", || (descriptors(vmm) == before).then_some(()));
        let mut client = patient(UnixStream::connect(scratch.join("vsock")).unwrap());
        client.write_all(b"CONNECT 80\n").unwrap();
        let (asked, _) = vsock.expect(REQUEST);
        vsock.send(Header::new(RESPONSE, 80, asked.source_port), &[]);
        read_exactly(&mut client, format!("OK {}\n", asked.source_port).len());
    });
}

fn is_open(client: &UnixStream) -> bool {
    client.set_nonblocking(true).unwrap();
    let mut reader = client;
    reader.read(&mut [0; 1]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn thousands_of_connections_from_a_guest() {
    with_machines(|vsock, vmm, neighbour, scratch| {
        let listener = UnixListener::bind(scratch.join("vsock_52")).unwrap();
        let before = settled_descriptors(vmm);
        let (accepted, refused) = neighbour.beside("thousands of connections from a guest", || {
            let (mut accepted, mut refused) = (Vec::new(), 0);
            for port in 1000..1000 + MANY as u32 {
                vsock.send(Header::request(port, 52), &[]);
                match wait_for("an answer", || vsock.take()).0.operation {
                    RESPONSE => accepted.push(listener.accept().unwrap().0),
                    RESET => refused += 1,
                    other => panic!("operation {other}"),
                }
            }
            (accepted, refused)
        });
        assert_eq!((accepted.len(), refused), (MOST_PEERS, MANY - MOST_PEERS));
        assert_eq!(descriptors(vmm), before + MOST_PEERS);
    });
}
