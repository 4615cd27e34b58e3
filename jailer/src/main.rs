//! Builds one jail and executes one vmm in it.

fn main() {}
