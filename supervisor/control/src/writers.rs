//! Who types at which console: one at a time.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use stockade_api::{Error, VmId};
use tokio::sync::Notify;

use crate::failure;

/// Those who type.
#[derive(Debug, Default)]
pub(crate) struct Writers {
    dismissals: RefCell<BTreeMap<VmId, Rc<Notify>>>,
}

/// What to do about somebody else who types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Leave it at that.
    Free,
    /// End that one's stream.
    Take,
}

/// The right to type at a console, until it is dropped.
#[derive(Debug)]
pub(crate) struct Writer {
    writers: Rc<Writers>,
    vm: VmId,
    dismissal: Rc<Notify>,
}

impl Writers {
    /// Types at the console of `vm` from now on.
    pub(crate) fn claim(self: &Rc<Self>, vm: VmId, claim: Claim) -> Result<Writer, Error> {
        let mut dismissals = self.dismissals.borrow_mut();
        match (dismissals.get(&vm), claim) {
            (Some(_), Claim::Free) => return Err(failure::console_in_use()),
            (Some(other), Claim::Take) => other.notify_one(),
            (None, _) => {}
        }
        let dismissal = Rc::new(Notify::new());
        dismissals.insert(vm, Rc::clone(&dismissal));
        Ok(Writer { writers: Rc::clone(self), vm, dismissal })
    }
}

impl Writer {
    /// Ready once somebody else has taken over.
    pub(crate) async fn dismissed(&self) {
        self.dismissal.notified().await;
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut dismissals = self.writers.dismissals.borrow_mut();
        if dismissals.get(&self.vm).is_some_and(|current| Rc::ptr_eq(current, &self.dismissal)) {
            dismissals.remove(&self.vm);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_types_at_a_time() {
        let writers = Rc::new(Writers::default());
        let first = writers.claim(VmId(1), Claim::Free).unwrap();
        assert!(writers.claim(VmId(1), Claim::Free).is_err());
        let _of_another = writers.claim(VmId(2), Claim::Free).unwrap();
        let second = writers.claim(VmId(1), Claim::Take).unwrap();
        first.dismissed().await;
        // Who was dismissed has nothing to give back.
        drop(first);
        assert!(writers.claim(VmId(1), Claim::Free).is_err());
        drop(second);
        writers.claim(VmId(1), Claim::Free).unwrap();
    }
}
