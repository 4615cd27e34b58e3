//! How much a client may have of the server. There is nothing that it can have without limit.

use std::time::Duration;

/// Limits of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections of all users other than root together. Those beyond it are answered with `too_many_requests` and
    /// closed.
    pub connections_of_users: usize,
    /// Connections of one user other than root.
    pub connections_of_user: usize,
    /// Connections of root.
    pub connections_of_root: usize,
    /// Bytes of a request's line and headers together.
    pub head_bytes: usize,
    /// Headers of a request.
    pub headers: usize,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// From the moment that a client may send a request to the end of its headers. Also how long it may be idle.
    pub head_time: Duration,
    /// From the end of its headers to the end of its body.
    pub body_time: Duration,
    /// How long a client may read nothing of what it was sent.
    pub write_time: Duration,
    /// The longest wait for events, before an answer without any.
    pub events_time: Duration,
    /// How long nothing is accepted after the process had no descriptor or memory left for a connection.
    pub accept_pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_of_users: 512,
            connections_of_user: 64,
            connections_of_root: 128,
            head_bytes: 16 << 10,
            headers: 64,
            body_bytes: 64 << 10,
            head_time: Duration::from_secs(30),
            body_time: Duration::from_secs(30),
            write_time: Duration::from_secs(30),
            events_time: Duration::from_secs(60),
            accept_pause: Duration::from_secs(1),
        }
    }
}
