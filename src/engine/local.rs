//! Changes made here: from a hint to a look at the disk, one at a time for each path. What the look
//! means is decided in `look`.

use super::clock::Now;
use super::policy::Class;
use super::slot::{Busy, Dirty, Slot};
use super::{Engine, Hint, HintKind, Output, Seen};
use crate::model::{NodeId, Record, RelPath, Signature, limits};

/// How long a directory's time may lag behind: it moves with every child.
const TOUCH_MS: u64 = 500;

/// How long a file must be open at least, and quiet, before it is taken though a writer has it.
const OPEN_MS: u64 = 2000;

/// How long a file that is never quiet goes untaken.
const STALE_MS: u64 = 30_000;

impl Engine {
    /// Barriers last: what is in one batch arrived before them.
    pub(super) fn hinted(&mut self, now: Now, hints: Vec<Hint>) {
        let (last, first): (Vec<_>, Vec<_>) =
            hints.into_iter().partition(|hint| self.class(&hint.path) == Class::Barrier);
        for hint in first.into_iter().chain(last) {
            self.hint(now, hint);
        }
        self.release_barriers(now);
    }

    fn hint(&mut self, now: Now, Hint { path, kind }: Hint) {
        let class = self.class(&path);
        if matches!(kind, HintKind::Created | HintKind::Gone | HintKind::Moved) {
            self.touch_parent(now, &path);
        }
        if matches!(kind, HintKind::Gone | HintKind::Moved) {
            self.reads_are_old(now, &path);
        }
        if path.is_root() || class == Class::Local {
            return;
        }
        let settle = self.settle_ms(class);
        let wait = if kind == HintKind::Written { settle } else { 0 };
        let order = self.next_order;
        self.next_order += 1;
        let slot = self.slots.entry(path.clone()).or_default();
        let at = now.monotonic_ms;
        let dirty = slot.dirty.get_or_insert(Dirty {
            order,
            first_ms: at,
            last_ms: at,
            due_ms: at + wait,
            list: false,
            touch: false,
            emptied: false,
            joining: self.setup.joining,
            glimpse: None,
            swept: false,
            closed: false,
            open_since_ms: None,
            attempts: 0,
        });
        if class == Class::Barrier && dirty.order != order {
            self.arrivals.remove(&dirty.order);
            dirty.order = order;
        }
        dirty.touch = false;
        if kind != HintKind::Written {
            // Whoever has it open now is another one.
            (dirty.closed, dirty.open_since_ms) = (true, None);
        }
        dirty.last_ms = at;
        dirty.due_ms = if wait == 0 { at } else { dirty.due_ms.max(at + wait) };
        // Where a directory went and another one is now, what was in the first is not there.
        dirty.list |= matches!(kind, HintKind::Moved | HintKind::Gone);
        self.arrivals.insert(dirty.order, path.clone());
        self.step(now, &path);
    }

    /// A directory went or came with all that is in it, and no hint tells of that one by one: what
    /// is being looked at there may be what was there before, and what was just made visible there, and
    /// is not known yet, may have gone with it.
    pub(super) fn reads_are_old(&mut self, now: Now, dir: &RelPath) {
        let out = |slot: &Slot| matches!(slot.busy, Busy::Reading(_) | Busy::Applying(_));
        let old = self.slots_below(dir).filter(|(_, slot)| out(slot) && slot.dirty.is_none());
        let old: Vec<_> = old.map(|(path, _)| path.clone()).collect();
        old.iter().for_each(|path| self.look_again(now, path, 0));
    }

    pub(super) fn settle_ms(&self, class: Class) -> u64 {
        let settle = self.setup.policy.settings(class).settle;
        u64::try_from(settle.as_millis()).unwrap_or(u64::MAX)
    }

    /// The directory's time moved with its child; that is not worth a look each time.
    pub(super) fn touch_parent(&mut self, now: Now, path: &RelPath) {
        let Some(parent) = path.parent().filter(|p| !p.is_root()) else { return };
        if self.class(&parent) == Class::Local {
            return;
        }
        if self.slots.get(&parent).is_some_and(|slot| slot.dirty.is_some()) {
            return;
        }
        self.dirty(now, &parent, TOUCH_MS, |dirty| dirty.touch = true);
    }

    /// Has the path read again `in_ms` from now, whatever is known of it.
    pub(super) fn look_again(&mut self, now: Now, path: &RelPath, in_ms: u64) {
        self.dirty(now, path, in_ms, |_| {});
    }

    fn dirty(&mut self, now: Now, path: &RelPath, in_ms: u64, with: impl FnOnce(&mut Dirty)) {
        let order = self.next_order;
        self.next_order += 1;
        let at = now.monotonic_ms;
        let slot = self.slots.entry(path.clone()).or_default();
        let dirty = slot.dirty.get_or_insert(Dirty {
            order,
            first_ms: at,
            last_ms: at,
            due_ms: at + in_ms,
            list: false,
            touch: false,
            emptied: false,
            joining: self.setup.joining,
            glimpse: None,
            swept: false,
            closed: false,
            open_since_ms: None,
            attempts: 0,
        });
        dirty.due_ms = dirty.due_ms.min(at + in_ms);
        dirty.touch = false;
        with(dirty);
        if !dirty.touch {
            self.arrivals.insert(dirty.order, path.clone());
        }
        self.step(now, path);
    }

    /// Puts back what a read ended in nothing of, to be read again.
    pub(super) fn again(&mut self, now: Now, path: &RelPath, mut dirty: Dirty, in_ms: u64) {
        let slot = self.slots.entry(path.clone()).or_default();
        match &mut slot.dirty {
            Some(newer) => {
                newer.first_ms = newer.first_ms.min(dirty.first_ms);
                newer.list |= dirty.list;
                newer.swept |= dirty.swept;
                if !newer.closed {
                    newer.open_since_ms = dirty.open_since_ms;
                }
                if self.arrivals.contains_key(&dirty.order) {
                    self.arrivals.remove(&newer.order);
                    newer.order = dirty.order;
                }
                newer.attempts = dirty.attempts + 1;
            }
            none => {
                dirty.attempts += 1;
                dirty.due_ms = now.monotonic_ms + in_ms;
                *none = Some(dirty);
            }
        }
        self.step(now, path);
    }

    pub(super) fn read(&mut self, now: Now, path: &RelPath) {
        if self.reads >= limits::READS_IN_FLIGHT_MAX {
            self.reads_waiting.push_back(path.clone());
            return;
        }
        let Some(slot) = self.slots.get_mut(path) else { return };
        let Some(dirty) = slot.dirty.take() else { return };
        let quiet = now.monotonic_ms.saturating_sub(dirty.last_ms);
        let even_if_open = dirty.open_since_ms.is_some_and(|since| {
            let open = now.monotonic_ms.saturating_sub(since);
            open >= OPEN_MS && quiet >= OPEN_MS / 2 || open >= STALE_MS
        });
        slot.busy = Busy::Reading(dirty);
        self.reads += 1;
        self.outputs.push_back(Output::Read { path: path.clone(), even_if_open });
    }

    pub(super) fn seen(&mut self, now: Now, seen: Seen) {
        let path = seen.path.clone();
        let Some(slot) = self.slots.get_mut(&path) else { return };
        let Busy::Reading(dirty) = std::mem::take(&mut slot.busy) else { return };
        self.reads -= 1;
        self.arrivals.remove(&dirty.order);
        self.take_look(now, seen, dirty);
        self.forget_journaled(&path);
        self.step(now, &path);
        while self.reads < limits::READS_IN_FLIGHT_MAX {
            let Some(next) = self.reads_waiting.pop_front() else { break };
            self.step(now, &next);
        }
        self.release_barriers(now);
    }

    /// What was being applied when the daemon ended is on the disk or is not, that is known now; if
    /// it is not, those who announced it do so again.
    fn forget_journaled(&mut self, path: &RelPath) {
        let known = |slot: &&mut Slot| slot.dirty.is_none() && matches!(slot.busy, Busy::No);
        if let Some(slot) = self.slots.get_mut(path).filter(known) {
            slot.journaled = None;
        }
    }

    /// What waits for a directory goes on when there is one.
    pub(super) fn store(
        &mut self,
        now: Now,
        record: Record,
        signature: Option<Signature>,
        from: Option<NodeId>,
    ) {
        // Without a signature nobody has looked at the disk: it may be gone and held all the same.
        let known = signature.is_some() || !record.is_live();
        if known && self.guard.forget(&record.path) && record.is_dir() {
            // It came back, and not all that was in it may have been looked at.
            self.list(&record.path);
        }
        // Whatever is wanted there is weighed against this at once: later this may be forgotten.
        if let Some(want) = self.slots.get_mut(&record.path).and_then(|slot| slot.want.as_mut()) {
            want.retry_ms = 0;
        }
        let dir = record.is_dir().then(|| record.path.clone());
        self.outputs.push_back(Output::Store { record, signature, from });
        if let Some(dir) = dir {
            self.wake_children(now, &dir);
        }
    }

    /// A child of a directory that is gone is looked at, too: that look is older than this, and both
    /// may have been made anew since.
    pub(super) fn swept(&mut self, now: Now, path: &RelPath) {
        let slot = self.slots.get(path);
        let reading = slot.is_some_and(|slot| matches!(slot.busy, Busy::Reading(_)));
        let barrier = self.class(path) == Class::Barrier;
        if !reading && (barrier || slot.is_none_or(|slot| slot.dirty.is_none())) {
            self.look_now(now, path);
        }
    }

    pub(super) fn list(&mut self, dir: &RelPath) {
        *self.listings.entry(dir.clone()).or_default() += 1;
        self.outputs.push_back(Output::List(dir.clone()));
    }

    pub(super) fn listed(&mut self, now: Now, dir: &RelPath) {
        if let Some(count) = self.listings.get_mut(dir) {
            *count -= 1;
            if *count == 0 {
                self.listings.remove(dir);
                self.barriers_last();
            }
        }
        self.listed_for_apply(dir);
        self.step(now, dir);
        self.release_barriers(now);
    }
}
