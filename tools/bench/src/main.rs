//! Measures start time and memory of a vmm, beside another Firecracker-compatible one.

fn main() {}
