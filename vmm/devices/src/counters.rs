//! Counters that a device keeps and an embedder reads and serialises. They only ever grow.

use std::sync::atomic::{AtomicU64, Ordering};

/// One event counter. Any thread may count and read; nothing is ordered by it.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one event.
    pub fn count(&self) {
        self.add(1);
    }

    /// Counts `amount` events or bytes.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// How much was counted so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters of one device, to be listed by name.
pub trait Counters: Send + Sync {
    /// Calls `visit` with the name and the value of each counter.
    fn for_each(&self, visit: &mut dyn FnMut(&'static str, u64));
}

/// Defines a struct of [`Counter`]s that can be listed by name.
macro_rules! counters {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* $field:ident,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        pub struct $name { $($(#[$field_meta])* pub $field: $crate::counters::Counter,)+ }

        impl $crate::counters::Counters for $name {
            fn for_each(&self, visit: &mut dyn FnMut(&'static str, u64)) {
                $(visit(stringify!($field), self.$field.get());)+
            }
        }
    };
}
pub(crate) use counters;
