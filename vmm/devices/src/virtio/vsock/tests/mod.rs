//! Tests of the whole device: a small driver on real rings in memory, a real event loop, real sockets.

mod driver;
mod hostile;
mod states;
mod streams;
mod teardown;
