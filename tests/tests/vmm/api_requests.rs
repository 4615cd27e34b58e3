//! What each route takes before the guest runs: status, shape, strictness, defaults.

use serde_json::{Value, json};
use stockade_tests::guest::{HELLO, Protocol};
use stockade_tests::vmm::{Builder, Vmm};
use stockade_tests::{Need, Scratch, test};

/// A request that must be refused by the API with a text of its own.
fn refuse(vmm: &Vmm, method: &str, target: &str, body: &Value) -> String {
    let response = vmm.request(method, target, &body.to_string());
    assert_eq!(response.status, 400, "{method} {target} {body}: {}", response.body);
    let message = response.fault_message();
    assert!(!message.is_empty());
    message
}

fn get(vmm: &Vmm, target: &str) -> Value {
    let response = vmm.request("GET", target, "");
    assert_eq!(response.status, 200, "GET {target}: {}", response.body);
    response.json()
}

fn idle(body: impl FnOnce(&Vmm, &Scratch)) {
    test(&[Need::Kvm], |scratch| body(&Builder::new(scratch).start(), scratch));
}

#[test]
fn instance_information() {
    test(&[Need::Kvm], |scratch| {
        let socket = scratch.join("api");
        let vmm = Builder::bare().argument("--api-sock").argument(&socket).arguments(["--id", "an-id"]).start();
        let mut client = stockade_tests::wait_for("the socket", || stockade_tests::api::Connection::open(&socket).ok());
        let information = client.request("GET", "/", "").json();
        let version = client.request("GET", "/version", "").json();
        assert_eq!(version.as_object().unwrap().len(), 1);
        assert_eq!(
            information,
            json!({ "id": "an-id", "state": "Not started", "vmm_version": version["firecracker_version"], "app_name": "Firecracker" })
        );
        let parts = version["firecracker_version"].as_str().unwrap().split('.');
        assert_eq!(parts.filter(|part| part.parse::<u32>().is_ok()).count(), 3, "{version}");
        drop(vmm);
    });
}

#[test]
fn the_whole_configuration_has_exactly_the_keys_that_clients_compare() {
    idle(|vmm, scratch| {
        let keys = [
            "balloon",
            "boot-source",
            "cpu-config",
            "drives",
            "entropy",
            "logger",
            "machine-config",
            "memory-hotplug",
            "metrics",
            "mmds-config",
            "network-interfaces",
            "pmem",
            "vsock",
        ];
        let config = get(vmm, "/vm/config");
        let mut found: Vec<_> = config.as_object().unwrap().keys().map(String::as_str).collect();
        found.sort_unstable();
        assert_eq!(found, keys);
        for key in ["balloon", "cpu-config", "entropy", "logger", "memory-hotplug", "metrics", "mmds-config", "vsock"] {
            assert_eq!(config[key], Value::Null, "{key}");
        }
        for key in ["drives", "network-interfaces", "pmem"] {
            assert_eq!(config[key], json!([]), "{key}");
        }

        let kernel = scratch.file("kernel", HELLO.image(Protocol::Pvh));
        let disk = scratch.file("disk", [0; 4096]);
        vmm.put("/boot-source", &json!({ "kernel_image_path": kernel, "boot_args": "quiet" }));
        vmm.put("/drives/root", &json!({ "drive_id": "root", "path_on_host": disk, "is_root_device": true }));
        vmm.put("/vsock", &json!({ "guest_cid": 3, "uds_path": scratch.join("vsock") }));
        vmm.put("/entropy", &json!({}));
        let config = get(vmm, "/vm/config");
        assert_eq!(config["boot-source"]["kernel_image_path"], json!(kernel));
        assert_eq!(config["boot-source"]["boot_args"], "quiet");
        assert_eq!(config["drives"][0]["drive_id"], "root");
        assert_eq!(config["drives"][0]["path_on_host"], json!(disk));
        assert_eq!(config["drives"][0]["is_root_device"], true);
        assert_eq!(config["drives"][0]["is_read_only"], false);
        assert_eq!(config["drives"][0]["cache_type"], "Unsafe");
        assert_eq!(config["drives"][0]["io_engine"], "Sync");
        assert_eq!(config["vsock"]["guest_cid"], 3);
        assert_ne!(config["entropy"], Value::Null);
    });
}

#[test]
fn machine_configuration() {
    idle(|vmm, _| {
        let defaults = json!({ "vcpu_count": 1, "mem_size_mib": 128, "smt": false, "track_dirty_pages": false, "huge_pages": "None" });
        assert_eq!(get(vmm, "/machine-config"), defaults);
        vmm.put(
            "/machine-config",
            &json!({ "vcpu_count": 2, "mem_size_mib": 64, "smt": true, "track_dirty_pages": true }),
        );
        assert_eq!(get(vmm, "/machine-config")["smt"], true);

        let patch = |body: Value| vmm.request("PATCH", "/machine-config", &body.to_string());
        assert_eq!(patch(json!({ "mem_size_mib": 96 })).status, 204);
        let patched = get(vmm, "/machine-config");
        assert_eq!((&patched["vcpu_count"], &patched["mem_size_mib"]), (&json!(2), &json!(96)));
        assert_eq!(patch(json!({})).status, 400, "a PATCH must change something");

        // A PUT resets what it leaves out.
        vmm.put("/machine-config", &json!({ "vcpu_count": 32, "mem_size_mib": 1024 }));
        assert_eq!(get(vmm, "/machine-config")["track_dirty_pages"], false);

        for wrong in [
            json!({ "vcpu_count": 0, "mem_size_mib": 64 }),
            json!({ "vcpu_count": 33, "mem_size_mib": 64 }),
            json!({ "vcpu_count": 256, "mem_size_mib": 64 }),
            json!({ "vcpu_count": -1, "mem_size_mib": 64 }),
            json!({ "vcpu_count": 1.5, "mem_size_mib": 64 }),
            json!({ "vcpu_count": "1", "mem_size_mib": 64 }),
            json!({ "vcpu_count": 3, "mem_size_mib": 64, "smt": true }),
            json!({ "vcpu_count": 1, "mem_size_mib": 0 }),
            json!({ "vcpu_count": 1, "mem_size_mib": 63, "huge_pages": "2M" }),
            json!({ "vcpu_count": 1, "mem_size_mib": 64, "huge_pages": "1G" }),
            json!({ "vcpu_count": 1 }),
            json!({ "mem_size_mib": 64 }),
            json!({ "vcpu_count": 1, "mem_size_mib": 64, "turbo": true }),
            json!([]),
        ] {
            refuse(vmm, "PUT", "/machine-config", &wrong);
        }
        assert_eq!(get(vmm, "/machine-config")["mem_size_mib"], 1024, "a refused request changes nothing");
        for wrong in [
            json!({ "vcpu_count": 0 }),
            json!({ "mem_size_mib": 0 }),
            json!({ "turbo": true }),
            json!({ "smt": "yes" }),
        ] {
            refuse(vmm, "PATCH", "/machine-config", &wrong);
        }
    });
}

#[test]
fn boot_source() {
    idle(|vmm, scratch| {
        let kernel = scratch.file("kernel", HELLO.image(Protocol::Pvh));
        let initramfs = scratch.file("initramfs", [0; 100]);
        vmm.put("/boot-source", &json!({ "kernel_image_path": kernel }));
        vmm.put(
            "/boot-source",
            &json!({ "kernel_image_path": kernel, "initrd_path": initramfs, "boot_args": "console=ttyS0" }),
        );
        let message = refuse(vmm, "PUT", "/boot-source", &json!({ "kernel_image_path": scratch.join("missing") }));
        assert!(message.contains("missing"), "the message names the file: {message}");
        for wrong in [
            json!({}),
            json!({ "kernel_image_path": kernel, "initrd_path": scratch.join("missing") }),
            json!({ "kernel_image_path": kernel, "boot_args": "x".repeat(2049) }),
            json!({ "kernel_image_path": kernel, "kernel": "x" }),
            json!({ "kernel_image_path": 1 }),
        ] {
            refuse(vmm, "PUT", "/boot-source", &wrong);
        }
    });
}

#[test]
fn drives() {
    idle(|vmm, scratch| {
        let disk = scratch.file("disk", [0; 4096]);
        let drive = |id: &str, root: bool| json!({ "drive_id": id, "path_on_host": disk, "is_root_device": root });
        vmm.put("/drives/a", &drive("a", false));
        vmm.put("/drives/root", &drive("root", true));
        vmm.put("/drives/root", &drive("root", true));
        vmm.put("/drives/a", &json!({ "drive_id": "a", "path_on_host": disk, "is_root_device": false, "is_read_only": true, "cache_type": "Writeback" }));
        assert_eq!(get(vmm, "/vm/config")["drives"].as_array().unwrap().len(), 2);

        refuse(vmm, "PUT", "/drives/b", &drive("b", true));
        refuse(vmm, "PUT", "/drives/b", &drive("c", false));
        refuse(vmm, "PUT", "/drives/b-c", &drive("b-c", false));
        refuse(
            vmm,
            "PUT",
            "/drives/b",
            &json!({ "drive_id": "b", "path_on_host": scratch.join("missing"), "is_root_device": false }),
        );
        refuse(
            vmm,
            "PUT",
            "/drives/b",
            &json!({ "drive_id": "b", "path_on_host": scratch.path(), "is_root_device": false }),
        );
        refuse(vmm, "PUT", "/drives/b", &json!({ "drive_id": "b", "path_on_host": disk }));
        refuse(vmm, "PUT", "/drives/b", &json!({ "drive_id": "b", "is_root_device": false }));
        refuse(
            vmm,
            "PUT",
            "/drives/b",
            &json!({ "drive_id": "b", "path_on_host": disk, "is_root_device": false, "cache_type": "None" }),
        );
        refuse(
            vmm,
            "PUT",
            "/drives/b",
            &json!({ "drive_id": "b", "path_on_host": disk, "is_root_device": false, "more": 1 }),
        );
        refuse(vmm, "PUT", "/drives", &drive("b", false));
        assert_eq!(get(vmm, "/vm/config")["drives"].as_array().unwrap().len(), 2);
    });
}

#[test]
fn vsock_entropy_serial_logger() {
    idle(|vmm, scratch| {
        let path = scratch.join("vsock");
        vmm.put("/vsock", &json!({ "guest_cid": 3, "uds_path": path }));
        assert!(path.exists(), "the socket is bound at once");
        vmm.put("/vsock", &json!({ "guest_cid": 4, "uds_path": path }));
        refuse(vmm, "PUT", "/vsock", &json!({ "guest_cid": 3 }));
        refuse(vmm, "PUT", "/vsock", &json!({ "uds_path": path }));
        refuse(vmm, "PUT", "/vsock", &json!({ "guest_cid": 3, "uds_path": path, "port": 1 }));
        refuse(vmm, "PUT", "/vsock", &json!({ "guest_cid": 3, "uds_path": "/nowhere/at/all" }));

        vmm.put("/entropy", &json!({}));
        refuse(vmm, "PUT", "/entropy", &json!({ "source": "/dev/urandom" }));

        vmm.put("/serial", &json!({ "serial_out_path": scratch.join("serial") }));
        refuse(vmm, "PUT", "/serial", &json!({ "port": 1 }));

        for level in ["Debug", "debug", "WARNING", "Off", "Info"] {
            vmm.put("/logger", &json!({ "level": level }));
        }
        let log = scratch.join("log");
        vmm.put("/logger", &json!({ "log_path": log, "level": "Info", "show_level": true, "show_log_origin": true }));
        assert!(log.exists());
        refuse(vmm, "PUT", "/logger", &json!({ "level": "Loud" }));
        refuse(vmm, "PUT", "/logger", &json!({ "log_path": "/nowhere/at/all" }));
        refuse(vmm, "PUT", "/logger", &json!({ "colour": true }));
    });
}

#[test]
fn deprecated_fields_work_and_are_marked() {
    idle(|vmm, scratch| {
        for (method, target, body) in [
            ("PUT", "/machine-config", json!({ "vcpu_count": 1, "mem_size_mib": 64, "cpu_template": "None" })),
            ("PATCH", "/machine-config", json!({ "cpu_template": "None" })),
            ("PUT", "/vsock", json!({ "vsock_id": "v", "guest_cid": 3, "uds_path": scratch.join("vsock") })),
        ] {
            let response = vmm.request(method, target, &body.to_string());
            assert_eq!(response.status, 204, "{method} {target}: {}", response.body);
            let head =
                "HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\nDeprecation: true\r\n\r\n";
            assert_eq!(response.head, head);
        }
        let response = vmm.request("PUT", "/vsock", r#"{"vsock_id":"v","guest_cid":3,"uds_path":"/nowhere/at/all"}"#);
        assert_eq!((response.status, response.header("Deprecation")), (400, Some("true")));
        assert_eq!(vmm.request("PUT", "/entropy", "{}").header("Deprecation"), None);
    });
}

#[test]
fn actions() {
    idle(|vmm, _| {
        for wrong in
            [json!({}), json!({ "action_type": "Fly" }), json!({ "action_type": "InstanceStart", "now": true })]
        {
            refuse(vmm, "PUT", "/actions", &wrong);
        }
        refuse(vmm, "PUT", "/actions", &json!({ "action_type": "SendCtrlAltDel" }));
        refuse(vmm, "PUT", "/actions", &json!({ "action_type": "FlushMetrics" }));
        refuse(vmm, "PATCH", "/vm", &json!({ "state": "Paused" }));
        // Nothing to boot from.
        refuse(vmm, "PUT", "/actions", &json!({ "action_type": "InstanceStart" }));
        assert_eq!(get(vmm, "/")["state"], "Not started");
    });
}

#[test]
fn malformed_json_is_refused() {
    idle(|vmm, _| {
        for body in [
            "{",
            "nothing",
            "{\"vcpu_count\":1,\"mem_size_mib\":64}}",
            "{\"vcpu_count\":1,\"vcpu_count\":1,\"mem_size_mib\":64}",
            "\u{0}",
        ] {
            let response = vmm.request("PUT", "/machine-config", body);
            assert_eq!(response.status, 400, "{body:?}");
            assert!(!response.fault_message().is_empty());
        }
        let deep = "[".repeat(40_000);
        assert_eq!(vmm.request("PUT", "/machine-config", &deep).status, 400);
        assert_eq!(vmm.request("GET", "/", "").status, 200);
    });
}

#[test]
fn unknown_routes_are_refused_in_every_form() {
    idle(|vmm, _| {
        for (method, target) in [
            ("GET", "/drives"),
            ("GET", "/boot-source"),
            ("PUT", "/"),
            ("PUT", "/version"),
            ("PUT", "/vm"),
            ("PATCH", "/"),
            ("PATCH", "/boot-source"),
            ("PUT", "/machine-config/x"),
            ("GET", "/vm"),
            ("GET", "/vm/other"),
            ("PUT", "/no/such/route"),
        ] {
            let body = if method == "GET" { "" } else { "{}" };
            let response = vmm.request(method, target, body);
            assert_eq!(response.status, 400, "{method} {target}: {}", response.body);
            assert!(!response.fault_message().is_empty());
        }
    });
}
