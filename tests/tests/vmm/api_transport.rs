//! HTTP as a client sees it byte by byte. The reference is Firecracker's: existing clients depend on more of it than HTTP says.

use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use stockade_tests::api::{Response, request};
use stockade_tests::vmm::{Builder, Vmm};
use stockade_tests::{Need, process, test, wait_for};

const HEAD_204: &str = "HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n";
const DEFAULT_LIMIT: usize = 51200;
const MACHINE: &str = r#"{"vcpu_count":1,"mem_size_mib":64}"#;

fn idle(body: impl FnOnce(&Vmm)) {
    test(&[Need::Kvm], |scratch| body(&Builder::new(scratch).start()));
}

fn head_200(body: &str) -> String {
    format!(
        "HTTP/1.1 200 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
}

/// An error of the parser, not of the API: another key, and a raw newline in the text.
fn assert_parse_error(response: &Response) {
    assert_eq!(response.status, 400, "{response:?}");
    assert!(response.body.starts_with("{ \"error\": \""), "{response:?}");
    assert!(response.body.ends_with("\nAll previous unanswered requests will be dropped.\" }"), "{response:?}");
}

#[test]
fn responses_are_byte_exact() {
    idle(|vmm| {
        let mut client = vmm.connect();
        let response = client.request("GET", "/", "");
        assert_eq!(response.head, head_200(&response.body));
        assert_eq!(client.request("PUT", "/machine-config", MACHINE).head, HEAD_204);
        let response = client.request("PUT", "/machine-config", "{}");
        let error = head_200(&response.body).replace("200", "400");
        assert_eq!(response.head, error);
        assert!(!response.fault_message().is_empty());
    });
}

#[test]
fn connections_are_kept_alive_whatever_the_client_says() {
    idle(|vmm| {
        let mut client = vmm.connect();
        for version in
            ["GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\nConnection: close\r\n\r\n", "GET / HTTP/1.1\r\n\r\n"]
        {
            client.send(version);
            let response = client.response();
            assert_eq!(response.head, head_200(&response.body), "{version:?}");
        }
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    idle(|vmm| {
        let mut client = vmm.connect();
        let machine = request("PUT", "/machine-config", MACHINE);
        client.send([request("GET", "/version", ""), machine, request("GET", "/machine-config", "")].concat());
        assert!(client.response().json()["firecracker_version"].is_string());
        assert_eq!(client.response().status, 204);
        assert_eq!(client.response().json()["mem_size_mib"], 64);
    });
}

#[test]
fn requests_may_come_in_pieces() {
    idle(|vmm| {
        let mut client = vmm.connect();
        for byte in request("PUT", "/machine-config", MACHINE).bytes() {
            client.send([byte]);
        }
        assert_eq!(client.response().status, 204);
        // A body that follows its head, and takes the start of the next request along.
        let whole = request("PUT", "/machine-config", MACHINE) + &request("GET", "/", "");
        let (first, second) = whole.split_at(whole.find('{').unwrap() + 5);
        client.send(first);
        client.send(second);
        assert_eq!(client.response().status, 204);
        assert_eq!(client.response().status, 200);
    });
}

#[test]
fn targets_are_normalized_as_by_firecracker() {
    idle(|vmm| {
        let mut client = vmm.connect();
        for target in ["/version", "/version/", "//version", "http://localhost/version"] {
            assert_eq!(client.request("GET", target, "").status, 200, "{target}");
        }
        for target in ["/version?pretty=1", "/nothing"] {
            let response = client.request("GET", target, "");
            assert_eq!(response.status, 400, "{target}");
            assert!(!response.fault_message().is_empty());
        }
    });
}

#[test]
fn other_methods_are_parse_errors() {
    idle(|vmm| {
        for method in ["POST", "HEAD", "OPTIONS", "get", "PUTT"] {
            assert_parse_error(&vmm.request(method, "/", ""));
        }
    });
}

#[test]
fn header_names_have_no_case_and_unknown_headers_no_meaning() {
    idle(|vmm| {
        let mut client = vmm.connect();
        let many: String = (0..50).map(|number| format!("X-Header-{number}: value\r\n")).collect();
        let length = MACHINE.len();
        client.send(format!(
            "PUT /machine-config HTTP/1.1\r\n{many}cOnTeNt-LeNgTh: {length}\r\ncontent-type: text/plain\r\n\
             Accept-Encoding: gzip\r\n\r\n{MACHINE}"
        ));
        assert_eq!(client.response().head, HEAD_204);
    });
}

#[test]
fn malformed_requests_are_refused() {
    let long = "a".repeat(1100);
    let cases = [
        format!("GET /{long} HTTP/1.1\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nX-Long: {long}\r\n\r\n"),
        "GET / HTTP/1.1\r\nno colon here\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nContent-Length: many\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nContent-Length: 4294967296\r\n\r\n".into(),
        "GET / HTTP/1.1\r\nAccept-Encoding: identity;q=0\r\n\r\n".into(),
        "GET / HTTP/2.0\r\n\r\n".into(),
        "GET /\r\n\r\n".into(),
        " \r\n\r\n".into(),
        "\0\0\0\0\r\n\r\n".into(),
    ];
    idle(|vmm| {
        for case in cases {
            let mut client = vmm.connect();
            client.send(&case);
            let response = client.response();
            assert_parse_error(&response);
        }
        assert_eq!(vmm.request("GET", "/", "").status, 200);
    });
}

#[test]
fn chunked_bodies_are_not_understood() {
    idle(|vmm| {
        let mut client = vmm.connect();
        client.send("PUT /machine-config HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n22\r\n");
        // The body counts as empty, and the first chunk as the next request.
        assert_eq!(client.response().status, 400);
    });
}

#[test]
fn a_parse_error_drops_what_was_not_answered() {
    idle(|vmm| {
        let mut client = vmm.connect();
        client.send("POST / HTTP/1.1\r\n\r\n");
        assert_parse_error(&client.response());
        client.send(request("GET", "/version", ""));
        assert_eq!(client.response().status, 200, "the connection goes on");
    });
}

#[test]
fn payload_limit_is_checked_before_the_payload_comes() {
    idle(|vmm| {
        let mut client = vmm.connect();
        let size = DEFAULT_LIMIT + 1;
        client.send(format!("PUT /machine-config HTTP/1.1\r\nContent-Length: {size}\r\n\r\n"));
        let response = client.response();
        assert_eq!(response.status, 400);
        assert_eq!(
            response.body,
            format!(
                "{{ \"error\": \"Request payload with size {size} is larger than the limit of {DEFAULT_LIMIT} allowed by \
                 server.\nAll previous unanswered requests will be dropped.\" }}"
            )
        );
        let mut client = vmm.connect();
        let padding = " ".repeat(DEFAULT_LIMIT - MACHINE.len());
        assert_eq!(client.request("PUT", "/machine-config", &format!("{MACHINE}{padding}")).status, 204);
    });
}

#[test]
fn payload_limit_can_be_set() {
    test(&[Need::Kvm], |scratch| {
        let vmm = Builder::new(scratch).arguments(["--http-api-max-payload-size", "50"]).start();
        assert_eq!(vmm.request("PUT", "/machine-config", MACHINE).status, 204);
        let response = vmm.request("PUT", "/machine-config", &format!("{MACHINE}{}", " ".repeat(51 - MACHINE.len())));
        assert!(response.body.contains("with size 51 is larger than the limit of 50"), "{response:?}");

        let vmm = Builder::new(scratch).arguments(["--http-api-max-payload-size", "2000000"]).start();
        let padding = " ".repeat(1_500_000);
        assert_eq!(vmm.request("PUT", "/machine-config", &format!("{MACHINE}{padding}")).status, 204);
    });
}

#[test]
fn expect_100_continue_is_answered_before_the_body() {
    idle(|vmm| {
        let mut client = vmm.connect();
        let length = MACHINE.len();
        client
            .send(format!("PUT /machine-config HTTP/1.1\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"));
        assert_eq!(client.response().head, HEAD_204.replace("204", "100"));
        client.send(MACHINE);
        assert_eq!(client.response().head, HEAD_204);

        let too_much = DEFAULT_LIMIT + 1;
        client.send(format!("PUT /vm HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: {too_much}\r\n\r\n"));
        assert_parse_error(&client.response());
    });
}

#[test]
fn the_eleventh_connection_is_turned_away() {
    idle(|vmm| {
        let mut clients: Vec<_> = (0..10).map(|_| vmm.connect()).collect();
        for client in &mut clients {
            assert_eq!(client.request("GET", "/", "").status, 200);
        }
        let mut eleventh = vmm.connect();
        let response = eleventh.response();
        assert_eq!(response.status, 503);
        assert!(response.head.starts_with("HTTP/1.1 503"), "{response:?}");
        assert_eq!(response.header("Connection"), Some("close"));
        assert_eq!(response.header("Content-Length"), Some("40"));
        assert_eq!(response.body, "{ \"error\": \"Too many open connections\" }");
        assert!(eleventh.is_closed());

        drop(clients.pop());
        wait_for("room for a connection", || {
            let mut client = vmm.connect();
            client.try_send(request("GET", "/", "").as_bytes()).ok()?;
            (client.response().status == 200).then_some(())
        });
        assert_eq!(clients[0].request("GET", "/", "").status, 200);
    });
}

#[test]
fn clients_that_leave_in_the_middle_harm_nobody() {
    idle(|vmm| {
        for _ in 0..50 {
            let mut client = vmm.connect();
            client.send("PUT /machine-config HTTP/1.1\r\nContent-Length: 100\r\n\r\n{\"vcpu");
        }
        wait_for("room for a connection", || {
            let mut client = vmm.connect();
            client.try_send(request("GET", "/", "").as_bytes()).ok()?;
            (client.response().status == 200).then_some(())
        });
    });
}

#[test]
fn descriptors_that_a_client_attaches_are_dropped() {
    idle(|vmm| {
        drop(vmm.connect().request("GET", "/", ""));
        wait_for("the connection to be closed", || vmm.connect().request("GET", "/", "").status.eq(&200).then_some(()));
        let stream = UnixStream::connect(vmm.socket()).unwrap();
        let before = process::descriptors(vmm.pid()).len();
        let message = request("GET", "/", "");
        let attached = [stream.as_raw_fd(); 4];
        let control = [ControlMessage::ScmRights(&attached)];
        sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(message.as_bytes())], &control, MsgFlags::empty(), None)
            .unwrap();
        let mut answer = [0; 12];
        std::io::Read::read_exact(&mut &stream, &mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        // The connection itself may have been accepted in between.
        assert!(process::descriptors(vmm.pid()).len() <= before + 1, "{:?}", process::descriptors(vmm.pid()));
    });
}

#[test]
fn requests_need_their_body_and_no_other() {
    idle(|vmm| {
        let mut client = vmm.connect();
        for (method, target, body) in [
            ("GET", "/", "{}"),
            ("GET", "/machine-config", MACHINE),
            ("PUT", "/machine-config", ""),
            ("PATCH", "/machine-config", ""),
            ("PUT", "/nothing", ""),
            ("DELETE", "/drives/a", "{}"),
        ] {
            let response = client.request(method, target, body);
            assert_eq!(response.status, 400, "{method} {target}");
            assert!(!response.fault_message().is_empty());
        }
    });
}

#[test]
fn the_socket_is_made_for_its_owner_and_never_replaced() {
    test(&[Need::Kvm], |scratch| {
        let vmm = Builder::new(scratch).start();
        drop(vmm.connect());
        let mode = std::fs::metadata(vmm.socket()).unwrap().permissions().mode();
        assert_eq!(mode & 0o022, 0, "mode {mode:o}");

        let second = Builder::bare().argument("--api-sock").argument(vmm.socket()).start();
        let (exit, _, log, _) = second.finish();
        assert_eq!(exit, stockade_tests::vmm::Exit::Code(1), "{log}");
        assert!(log.contains(vmm.socket().to_str().unwrap()), "the message names the socket: {log}");
        assert_eq!(vmm.request("GET", "/", "").status, 200, "the first still has it");
    });
}
