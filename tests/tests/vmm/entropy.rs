//! The entropy device.

use serde_json::json;
use stockade_tests::guest::Protocol;
use stockade_tests::puppet::Puppet;
use stockade_tests::virtio::{Device, Queue, feature, flag};
use stockade_tests::vmm::Vmm;
use stockade_tests::{Need, test};

/// Device id of an entropy source, virtio 1.2, section 5.
pub const ENTROPY: u32 = 4;

/// In a vmm that opens paths, and in one that doesn't.
fn with_entropy(body: impl Fn(&Puppet, &Device<'_>, &mut Queue<'_>)) {
    test(&[Need::Kvm], |scratch| {
        let configure = |vmm: &Vmm| vmm.put("/entropy", &json!({}));
        for puppet in
            [Puppet::start_with(scratch, Protocol::Pvh, configure), Puppet::start_sealed(scratch, [], configure)]
        {
            let device = Device::find(&puppet, ENTROPY);
            assert!(device.negotiate(feature::VERSION_1));
            let mut queue = device.queue(0);
            device.driver_ok();
            body(&puppet, &device, &mut queue);
        }
    });
}

#[test]
fn buffers_are_filled() {
    with_entropy(|puppet, device, queue| {
        let at = queue.buffers();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..3 {
            puppet.memory().write(at, &[0; 96]);
            queue.submit(&[(at, 32, flag::WRITE), (at + 32, 32, flag::WRITE)]);
            queue.kick();
            assert_eq!(queue.wait_used().written, 64);
            let bytes = puppet.memory().read_array::<96>(at);
            assert_ne!(bytes[..32], bytes[32..64]);
            assert_eq!(bytes[64..], [0; 32], "no byte more than asked for");
            assert!(seen.insert(bytes));
        }
        assert_ne!(device.take_interrupts() & 1, 0);
    });
}

#[test]
fn a_large_buffer_gets_as_much_as_the_device_gives() {
    with_entropy(|puppet, _, queue| {
        const LENGTH: u32 = 1 << 20;
        let at = 0x200_0000;
        queue.submit(&[(at, LENGTH, flag::WRITE)]);
        queue.kick();
        let written = queue.wait_used().written;
        assert!(written > 0 && written <= LENGTH);
        let mut bytes = vec![0; written as usize];
        puppet.memory().read(at, &mut bytes);
        let zeroes = bytes.iter().filter(|byte| **byte == 0).count();
        assert!(zeroes < bytes.len() / 64, "{zeroes} of {} bytes are zero", bytes.len());
    });
}

#[test]
fn a_buffer_that_cannot_be_written_is_a_driver_error() {
    with_entropy(|puppet, device, queue| {
        let at = queue.buffers();
        puppet.memory().write(at, &[7; 32]);
        queue.submit(&[(at, 32, 0)]);
        queue.kick();
        stockade_tests::wait_for("the device to object", || {
            let refused = queue.take_used().is_some_and(|used| used.written == 0);
            (refused || device.status() & stockade_tests::virtio::status::NEEDS_RESET != 0).then_some(())
        });
        assert_eq!(puppet.memory().read_array::<32>(at), [7; 32]);
    });
}
