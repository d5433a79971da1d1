//! Barriers of this node: read, and so announced, after everything that was finished before them.
//!
//! What was finished before is what was hinted before. A look may see a barrier that is newer than
//! the hint which caused it; it is believed when what was hinted by then is stored.

use super::Engine;
use super::clock::Now;
use super::policy::Class;
use super::slot::{Busy, Dirty, Slot};
use crate::model::{RelPath, Signature};

impl Engine {
    /// Reads the barriers that nothing unread arrived before.
    pub(super) fn release_barriers(&mut self, now: Now) {
        if self.barriers.is_empty() || self.stopped || !self.listings.is_empty() {
            return;
        }
        let first = self.arrivals.keys().next().copied().unwrap_or(u64::MAX);
        for path in std::mem::take(&mut self.barriers) {
            let dirty = self.slots.get(&path).and_then(|slot| slot.dirty.as_ref());
            match dirty.map(|dirty| (dirty.order, dirty.due_ms)) {
                Some((order, due)) if order <= first && due <= now.monotonic_ms => {
                    self.read(now, &path);
                }
                Some((_, due)) if due > now.monotonic_ms => {
                    self.timers.insert((due, path));
                }
                Some(_) => {
                    self.barriers.insert(path);
                }
                None => {}
            }
        }
    }

    /// Whether a barrier may be newer than the hint that made us look: what was written before it
    /// may be among the hints that came since.
    pub(super) fn is_early(&self, path: &RelPath, dirty: &Dirty, signature: &Signature) -> bool {
        let is_barrier = |path: &RelPath| self.class(path) == Class::Barrier;
        let unread = || self.arrivals.values().any(|path| !is_barrier(path));
        let seen_before = dirty.glimpse.is_some_and(|glimpse| glimpse.unchanged(signature));
        is_barrier(path) && !seen_before && (!self.listings.is_empty() || unread())
    }

    /// Has a barrier read again after everything that was hinted so far.
    pub(super) fn again_last(&mut self, now: Now, path: &RelPath, mut dirty: Dirty) {
        dirty.order = self.next_order;
        self.next_order += 1;
        self.arrivals.insert(dirty.order, path.clone());
        self.again(now, path, dirty, 0);
    }

    /// A listing has told what was written before the barriers that wait.
    pub(super) fn barriers_last(&mut self) {
        let policy = std::sync::Arc::clone(&self.setup.policy);
        for (path, slot) in &mut self.slots {
            let Some(dirty) = slot.dirty.as_mut() else { continue };
            if policy.class(path) == Class::Barrier {
                self.arrivals.remove(&dirty.order);
                dirty.order = self.next_order;
                self.next_order += 1;
                self.arrivals.insert(dirty.order, path.clone());
            }
        }
    }

    /// Has a path read that another one waits for: a barrier, which waits for what arrived before
    /// it, would wait for that one.
    pub(super) fn look_now(&mut self, now: Now, path: &RelPath) {
        self.look_again(now, path, 0);
        let waits = |slot: &Slot| matches!(slot.busy, Busy::No) && slot.dirty.is_some();
        if self.class(path) == Class::Barrier && self.slots.get(path).is_some_and(waits) {
            self.read(now, path);
        }
    }
}
