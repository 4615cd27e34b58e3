//! What a vsock device counts.

use crate::counters::counters;

counters! {
    /// Totals since the device was made. Broken queues and descriptor chains are counted as faults of the device.
    pub struct VsockCounters {
        /// Packets of connections to the guest.
        rx_packets,
        /// Payload bytes to the guest.
        rx_bytes,
        /// Packets of the guest, addressed to this device.
        tx_packets,
        /// Payload bytes of the guest.
        tx_bytes,
        /// Connections and clients that were refused: nobody listens, the limit is reached, or the client asks for nothing.
        refused,
        /// Connections that ended because the guest did not answer in time.
        timeouts,
        /// Packets that the guest must not send.
        violations,
    }
}
