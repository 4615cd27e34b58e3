//! Devices of the virtual machine: port and MMIO bus, serial, i8042, virtio.
