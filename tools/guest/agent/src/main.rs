//! PID 1 of the default guest: runs commands over vsock.

fn main() {}
