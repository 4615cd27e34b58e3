//! Flow control: the credit that each side has with the other (virtio 1.2, section 5.10.6.3).
//!
//! Both sides count bytes modulo 2^32. What a sender may still send is
//! `buf_alloc - (bytes sent - fwd_cnt)`, with `buf_alloc` and `fwd_cnt` as the receiver last told them.

/// Bytes that the device buffers for the host's end of one connection; the `buf_alloc` that it tells.
pub const BUFFER_SIZE: u32 = 64 * 1024;

/// The guest is told about new room once it knows of less than this.
const UPDATE_BELOW: u32 = BUFFER_SIZE / 2;

/// The guest says that it passed on bytes which it was never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CreditLie;

/// What the device may still send to the guest.
#[derive(Clone, Copy, Debug, Default)]
pub struct GuestRoom {
    sent: u32,
    buf_alloc: u32,
    fwd_cnt: u32,
}

impl GuestRoom {
    /// Takes over what a packet of the guest says.
    ///
    /// More than 2 GiB in flight are never allowed, so that ahead and behind can be told apart. A `fwd_cnt` that goes
    /// backwards is old news, from a packet that another one overtook inside the guest.
    pub fn update(&mut self, buf_alloc: u32, fwd_cnt: u32) -> Result<(), CreditLie> {
        let unsent = fwd_cnt.wrapping_sub(self.sent);
        if unsent != 0 && unsent <= i32::MAX as u32 {
            return Err(CreditLie);
        }
        self.buf_alloc = buf_alloc.min(i32::MAX as u32);
        if self.sent.wrapping_sub(fwd_cnt) <= self.in_flight() {
            self.fwd_cnt = fwd_cnt;
        }
        Ok(())
    }

    /// Bytes that may be sent now.
    pub fn available(&self) -> u32 {
        self.buf_alloc.saturating_sub(self.in_flight())
    }

    /// Notes that `count` bytes were sent, of those that [`GuestRoom::available`] allowed.
    pub fn spend(&mut self, count: u32) {
        self.sent = self.sent.wrapping_add(count);
    }

    fn in_flight(&self) -> u32 {
        self.sent.wrapping_sub(self.fwd_cnt)
    }
}

/// What the guest may still send to the device.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnRoom {
    received: u32,
    forwarded: u32,
    told: u32,
}

impl OwnRoom {
    /// Notes the arrival of `count` bytes.
    pub fn receive(&mut self, count: u32) {
        self.received = self.received.wrapping_add(count);
    }

    /// Notes that `count` bytes left the device, towards the host or because nobody takes them any more.
    pub fn forward(&mut self, count: u32) {
        self.forwarded = self.forwarded.wrapping_add(count);
    }

    /// The `fwd_cnt` for the next packet to the guest, which thereby knows.
    pub fn tell(&mut self) -> u32 {
        self.told = self.forwarded;
        self.told
    }

    /// Whether the guest may soon stop for want of news.
    pub fn update_is_due(&self) -> bool {
        let known_room = BUFFER_SIZE.saturating_sub(self.received.wrapping_sub(self.told));
        self.told != self.forwarded && known_room < UPDATE_BELOW
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn room_is_spent_and_given_back() {
        let mut room = GuestRoom::default();
        assert_eq!(room.available(), 0);
        room.update(100, 0).unwrap();
        room.spend(100);
        assert_eq!(room.available(), 0);
        room.update(100, 40).unwrap();
        assert_eq!(room.available(), 40);
        room.update(10, 40).unwrap();
        assert_eq!(room.available(), 0, "a buffer may shrink below what is in it");
        assert_eq!(room.update(100, 101), Err(CreditLie));
        room.update(100, 30).unwrap();
        assert_eq!(room.available(), 40, "old news change nothing");
    }

    #[test]
    fn counters_wrap() {
        let mut room = GuestRoom { sent: u32::MAX, buf_alloc: 10, fwd_cnt: u32::MAX };
        room.spend(5);
        assert_eq!(room.available(), 5);
        room.update(10, 4).unwrap();
        assert_eq!(room.available(), 10);
    }

    #[test]
    fn the_guest_is_told_before_it_has_to_stop() {
        let mut room = OwnRoom::default();
        room.receive(UPDATE_BELOW);
        room.forward(UPDATE_BELOW);
        assert!(!room.update_is_due());
        room.receive(1);
        assert!(room.update_is_due());
        assert_eq!(room.tell(), UPDATE_BELOW);
        assert!(!room.update_is_due());
    }

    proptest! {
        #[test]
        fn no_news_make_more_room_than_the_guest_has(
            news in prop::collection::vec((any::<u32>(), any::<u32>(), any::<u32>()), 1..50),
        ) {
            let mut room = GuestRoom::default();
            for (buf_alloc, fwd_cnt, spend) in news {
                let _ = room.update(buf_alloc, fwd_cnt);
                prop_assert!(room.available() <= room.buf_alloc);
                let spend = spend.min(room.available());
                room.spend(spend);
                prop_assert!(room.in_flight() <= i32::MAX as u32);
            }
        }
    }
}
