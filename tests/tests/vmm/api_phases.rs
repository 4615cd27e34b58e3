//! What each route does once the guest runs.

use serde_json::json;
use stockade_tests::guest::{self, Protocol};
use stockade_tests::vmm::Vmm;
use stockade_tests::{Need, test};

#[test]
fn configuration_is_over_when_the_guest_runs() {
    test(&[Need::Kvm], |scratch| {
        let vmm = Vmm::with_guest(scratch, guest::IDLE, Protocol::Pvh);
        vmm.start_guest();
        assert_eq!(vmm.request("GET", "/", "").json()["state"], "Running");
        let kernel = scratch.join("kernel");
        let vsock = scratch.join("vsock");
        for (method, target, body) in [
            ("PUT", "/boot-source", json!({ "kernel_image_path": kernel })),
            ("PUT", "/machine-config", json!({ "vcpu_count": 1, "mem_size_mib": 64 })),
            ("PATCH", "/machine-config", json!({ "vcpu_count": 1 })),
            ("PUT", "/cpu-config", json!({})),
            ("PUT", "/vsock", json!({ "guest_cid": 3, "uds_path": vsock })),
            ("PUT", "/entropy", json!({})),
            ("PUT", "/serial", json!({ "serial_out_path": scratch.join("serial") })),
            ("PUT", "/logger", json!({ "level": "Debug" })),
            ("PUT", "/actions", json!({ "action_type": "InstanceStart" })),
        ] {
            let response = vmm.request(method, target, &body.to_string());
            assert_eq!(response.status, 400, "{method} {target}: {}", response.body);
            let message = response.fault_message();
            assert!(message.contains("start"), "{method} {target}: the message names the phase: {message}");
        }
        assert!(!vsock.exists(), "a refused request leaves nothing");
        for target in ["/", "/version", "/vm/config", "/machine-config"] {
            assert_eq!(vmm.request("GET", target, "").status, 200, "{target}");
        }
    });
}

#[test]
fn a_failed_start_can_be_repaired() {
    test(&[Need::Kvm], |scratch| {
        let vmm = stockade_tests::vmm::Builder::new(scratch).start();
        let start = json!({ "action_type": "InstanceStart" }).to_string();
        assert_eq!(vmm.request("PUT", "/actions", &start).status, 400);
        // A file that is no kernel is found at the start, at the latest.
        let nonsense = scratch.file("nonsense", [0x5a; 8192]);
        let refused =
            vmm.request("PUT", "/boot-source", &json!({ "kernel_image_path": nonsense }).to_string()).status == 400;
        assert!(refused || vmm.request("PUT", "/actions", &start).status == 400);
        assert_eq!(vmm.request("GET", "/", "").json()["state"], "Not started");

        vmm.put("/boot-source", &stockade_tests::vmm::boot_source(scratch, guest::HELLO, Protocol::Pvh));
        vmm.start_guest();
        vmm.console().wait_for("hello from the guest");
    });
}
