//! The virtual machine monitor: one VM, driven over a JSON API socket.
