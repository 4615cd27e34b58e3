//! Virtio socket device.
