//! Changes made here: from a hint to a stored record. A little longer than 500 lines, because one
//! change's way is read from the top to the bottom.

use super::clock::Now;
use super::policy::Class;
use super::problem::backoff_ms;
use super::reconcile::{Verdict, reconcile};
use super::slot::{Busy, Dirty, Slot};
use super::{Engine, Hint, HintKind, Output, SOON_MS, Seen};
use crate::model::{
    Entry, Found, Kind, LinkGroup, NodeId, Record, RelPath, Signature, Version, limits,
};

/// How long a directory's time may lag behind: it moves with every child.
const TOUCH_MS: u64 = 500;

/// How long a file must be open at least, and quiet, before it is taken though a writer has it.
const OPEN_MS: u64 = 2000;

/// How long a file that is never quiet goes untaken.
const STALE_MS: u64 = 30_000;

/// How often the wait for a writer doubles.
const BUSY_DOUBLINGS_MAX: u32 = 16;

/// Files of at least this many bytes are not read again at once when they change again.
const LARGE_BYTES: u64 = 1 << 20;

/// Bytes read in a millisecond, roughly: a file that was just read rests as long as that took.
const BYTES_PER_MS: u64 = 256 << 10;

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
            attempts: 0,
        });
        if class == Class::Barrier && dirty.order != order {
            self.arrivals.remove(&dirty.order);
            dirty.order = order;
        }
        dirty.touch = false;
        dirty.last_ms = at;
        dirty.due_ms = if wait == 0 { at } else { dirty.due_ms.max(at + wait) };
        // Where a directory went and another one is now, what was in the first is not there.
        dirty.list |= matches!(kind, HintKind::Moved | HintKind::Gone);
        self.arrivals.insert(dirty.order, path.clone());
        self.step(now, &path);
    }

    /// A directory went or came with all that is in it, and no hint tells of that one by one: what
    /// is being looked at there may be what was there before.
    pub(super) fn reads_are_old(&mut self, now: Now, dir: &RelPath) {
        let reading = |slot: &Slot| matches!(slot.busy, Busy::Reading(_)) && slot.dirty.is_none();
        let old = self.slots_below(dir).filter(|(_, slot)| reading(slot));
        let old: Vec<_> = old.map(|(path, _)| path.clone()).collect();
        old.iter().for_each(|path| self.look_again(now, path, 0));
    }

    fn settle_ms(&self, class: Class) -> u64 {
        let settle = self.setup.policy.settings(class).settle;
        u64::try_from(settle.as_millis()).unwrap_or(u64::MAX)
    }

    /// The directory's time moved with its child; that is not worth a look each time.
    fn touch_parent(&mut self, now: Now, path: &RelPath) {
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
        let open = now.monotonic_ms.saturating_sub(dirty.first_ms);
        let even_if_open = open >= OPEN_MS && quiet >= OPEN_MS / 2 || open >= STALE_MS;
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

    /// What may be on the disk without being an edit made here.
    fn expected(&self, path: &RelPath) -> Vec<&Record> {
        let Some(slot) = self.slots.get(path) else { return Vec::new() };
        let wanted = slot.want.as_ref().map(|want| &want.record);
        slot.journaled.as_deref().into_iter().chain(wanted).collect()
    }

    fn take_look(&mut self, now: Now, seen: Seen, dirty: Dirty) {
        let path = seen.path.clone();
        let settle = self.settle_ms(self.class(&path));
        match &seen.found {
            Found::Unchanged => {
                self.problems.solve(&path);
                if dirty.list && seen.ours.as_ref().is_some_and(Record::is_dir) {
                    self.list(&path);
                }
            }
            Found::Busy => {
                // The kernel tells of a close before it takes the writer away, and nothing follows.
                let soon = SOON_MS << dirty.attempts.min(BUSY_DOUBLINGS_MAX);
                self.again(now, &path, dirty, soon.min(settle));
            }
            Found::Unstable => {
                self.wait_in_line(&dirty, &path);
                self.again(now, &path, dirty, settle);
            }
            Found::Failed(reason) => {
                let wait = backoff_ms(dirty.attempts);
                self.problems.note(now, &path, reason.clone(), Some(wait));
                self.again(now, &path, dirty, wait);
            }
            Found::Special("a mount point") => {
                let reason = "a file system is mounted here; it is not entered".to_owned();
                self.problems.note(now, &path, reason, None);
            }
            Found::Special(kind) => {
                self.gone(now, &seen, dirty);
                self.problems.note(now, &path, format!("{kind} is not mirrored"), None);
            }
            Found::Absent => {
                self.problems.solve(&path);
                self.gone(now, &seen, dirty);
            }
            Found::Entry { signature, entry, .. }
                if !entry.is_dir() && self.is_early(&path, &dirty, signature) =>
            {
                let glimpse = Some(*signature);
                self.again_last(now, &path, Dirty { glimpse, ..dirty });
            }
            Found::Entry { .. } => self.there(now, seen, dirty),
        }
    }

    /// A change that is on its way goes on holding up the barriers behind it.
    fn wait_in_line(&mut self, dirty: &Dirty, path: &RelPath) {
        if !dirty.touch {
            self.arrivals.insert(dirty.order, path.clone());
        }
    }

    /// Nothing is at the path.
    fn gone(&mut self, now: Now, seen: &Seen, dirty: Dirty) {
        let Some(ours) = seen.ours.as_ref().filter(|ours| ours.is_live()) else { return };
        if seen.has_children {
            self.sweep_first(now, &seen.path, dirty);
        } else if let Some(record) = self.adopted_deletion(ours) {
            let from = self.holder_of(&seen.path, &record.version);
            self.store(now, record, None, from);
        } else {
            self.store_deletion(now, ours);
        }
    }

    /// The wanted deletion with the version it gets here: it was done before a crash could note it.
    fn adopted_deletion(&self, ours: &Record) -> Option<Record> {
        let gone = self.expected(&ours.path).into_iter().filter(|record| !record.is_live());
        let mut adopted = gone.filter_map(|record| match reconcile(Some(ours), record) {
            Verdict::Take { version, .. } => Some(Record { version, ..record.clone() }),
            _ => None,
        });
        adopted.next()
    }

    /// Children go before their directory.
    fn sweep_first(&mut self, now: Now, path: &RelPath, dirty: Dirty) {
        self.outputs.push_back(Output::Sweep(path.clone()));
        self.wait_in_line(&dirty, path);
        let soon = if dirty.attempts == 0 { 0 } else { SOON_MS };
        self.again(now, path, dirty, soon);
    }

    fn store_deletion(&mut self, now: Now, ours: &Record) {
        let version = Version::edit(self.clock.stamp(now), Some(&ours.version));
        self.store(now, Record { path: ours.path.clone(), entry: None, version }, None, None);
    }

    /// What waits for a directory goes on when there is one.
    pub(super) fn store(
        &mut self,
        now: Now,
        record: Record,
        signature: Option<Signature>,
        from: Option<NodeId>,
    ) {
        let dir = record.is_dir().then(|| record.path.clone());
        self.outputs.push_back(Output::Store { record, signature, from });
        if let Some(dir) = dir {
            self.wake_children(now, &dir);
        }
    }

    /// A child of a directory that is gone is looked at, too: that look is older than this, and both
    /// may have been made anew since.
    pub(super) fn swept(&mut self, now: Now, ours: Record) {
        let path = ours.path;
        let slot = self.slots.get(&path);
        let reading = slot.is_some_and(|slot| matches!(slot.busy, Busy::Reading(_)));
        let barrier = self.class(&path) == Class::Barrier;
        if !reading && (barrier || slot.is_none_or(|slot| slot.dirty.is_none())) {
            self.look_now(now, &path);
        }
    }

    /// Something is at the path.
    fn there(&mut self, now: Now, seen: Seen, dirty: Dirty) {
        let Seen { path, found, ours, parent_live, has_children, group } = seen;
        let Found::Entry { mut entry, signature, .. } = found else { return };
        self.problems.solve(&path);
        if !parent_live {
            self.parent_first(now, &path, dirty);
            return;
        }
        let ours_live = ours.as_ref().and_then(|record| record.entry.as_ref());
        let class = self.class(&path);
        if self.is_rashly_emptied(class, ours_live, &entry, &dirty) {
            let hold = self.setup.policy.settings(class).emptied_hold.unwrap_or_default();
            let wait = u64::try_from(hold.as_millis()).unwrap_or(u64::MAX);
            self.again(now, &path, Dirty { emptied: true, ..dirty }, wait);
            return;
        }
        self.complete(&mut entry, ours_live, &signature, group, now);
        if let Some(record) = self.adopted(now, &path, ours.as_ref(), &entry, dirty.joining) {
            let from = self.holder_of(&path, &record.version);
            self.store(now, record, Some(signature), from);
        } else if ours_live.is_some_and(|ours| ours.same(&entry)) {
            self.outputs.push_back(Output::Refresh { path: path.clone(), signature });
        } else if ours_live.is_some_and(Entry::is_dir) && !entry.is_dir() && has_children {
            self.sweep_first(now, &path, dirty);
            return;
        } else {
            // A file that is made and closed at once is told as closed only.
            if ours_live.is_none() {
                self.touch_parent(now, &path);
            }
            let record = self.edited(now, &path, entry.clone(), ours.as_ref(), dirty.joining);
            self.store(now, record, Some(signature), None);
            self.rest(now, &path, &entry);
        }
        if entry.is_dir() && dirty.list {
            self.list(&path);
        }
    }

    /// The directory above is not known yet: children are never announced before it.
    fn parent_first(&mut self, now: Now, path: &RelPath, dirty: Dirty) {
        if let Some(parent) = path.parent() {
            self.look_now(now, &parent);
        }
        self.wait_in_line(&dirty, path);
        let wait = if dirty.attempts == 0 { 1 } else { backoff_ms(dirty.attempts) / 50 };
        self.again(now, path, dirty, wait);
    }

    fn is_rashly_emptied(
        &self,
        class: Class,
        ours: Option<&Entry>,
        entry: &Entry,
        dirty: &Dirty,
    ) -> bool {
        let empty = |entry: &Entry| entry.content().is_some_and(|(_, size)| size == 0);
        let had_content = ours.is_some_and(|ours| ours.content().is_some_and(|(_, size)| size > 0));
        let held = self.setup.policy.settings(class).emptied_hold.is_some();
        held && !dirty.emptied && had_content && empty(entry)
    }

    /// Fills in what a look at the disk cannot tell: the link group, and owners that this node
    /// has no right to set.
    fn complete(
        &self,
        entry: &mut Entry,
        ours: Option<&Entry>,
        signature: &Signature,
        group: Option<LinkGroup>,
        now: Now,
    ) {
        if let (false, Some(ours)) = (self.setup.keeps_owners, ours) {
            entry.meta.uid = ours.meta.uid;
            entry.meta.gid = ours.meta.gid;
        }
        if let Kind::File { group: link, .. } = &mut entry.kind {
            let known = ours.and_then(Entry::group);
            *link = if signature.links > 1 {
                group.or(Some(LinkGroup(now.wall_ns ^ signature.inode ^ self.setup.node.0)))
            } else {
                None
            };
            if signature.links == 1
                && ours.is_some_and(|ours| ours.same_kind_content(entry))
                && let Kind::File { group: link, .. } = &mut entry.kind
            {
                *link = known;
            }
        }
    }

    /// The wanted record with the version it gets here, if it is just what is on the disk: an apply
    /// that was done before a crash could note it, or someone who made the same file. A directory
    /// with another time was touched since.
    fn adopted(
        &mut self,
        now: Now,
        path: &RelPath,
        ours: Option<&Record>,
        entry: &Entry,
        joining: bool,
    ) -> Option<Record> {
        // A directory with the time that is known here was not touched: the wanted time is to come.
        let ours_live = ours.and_then(|ours| ours.entry.as_ref());
        let untouched = ours_live.is_some_and(|ours| ours.meta.mtime == entry.meta.mtime);
        let mut adopted = self.expected(path).into_iter().filter_map(|record| {
            let there = record.entry.as_ref()?;
            let touched = there.is_dir() && there.meta != entry.meta && is_touch(there, entry);
            let same = there.same_kind_content(entry) && (touched || there.meta == entry.meta);
            if !same || touched && (joining || untouched) {
                return None;
            }
            match reconcile(ours, record) {
                Verdict::Take { version, .. } => {
                    Some((Record { version, ..record.clone() }, touched))
                }
                _ => None,
            }
        });
        let (mut record, touched) = adopted.next()?;
        if touched {
            record.entry = Some(entry.clone());
            record.version.touched = self.clock.stamp(now);
        }
        Some(record)
    }

    /// The record of an edit made here: of a directory's time alone it is no edit.
    fn edited(
        &mut self,
        now: Now,
        path: &RelPath,
        entry: Entry,
        ours: Option<&Record>,
        joining: bool,
    ) -> Record {
        let stamp = self.clock.stamp(now);
        let only_touched = ours.filter(|ours| is_only_touched(ours.entry.as_ref(), &entry));
        let version = match only_touched {
            Some(ours) => Version { touched: stamp, ..ours.version.clone() },
            None => {
                let mut version = Version::edit(stamp, ours.map(|ours| &ours.version));
                version.joined = joining && ours.is_none();
                if entry.is_dir() {
                    version.touched = stamp;
                }
                version
            }
        };
        Record { path: path.clone(), entry: Some(entry), version }
    }

    /// A large file that was just read is not read again at once.
    fn rest(&mut self, now: Now, path: &RelPath, entry: &Entry) {
        let size = entry.content().map_or(0, |(_, size)| size);
        if size < LARGE_BYTES {
            return;
        }
        let until = now.monotonic_ms + size / BYTES_PER_MS;
        if let Some(dirty) = self.slots.get_mut(path).and_then(|slot| slot.dirty.as_mut()) {
            dirty.due_ms = dirty.due_ms.max(until);
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

fn is_only_touched(ours: Option<&Entry>, entry: &Entry) -> bool {
    ours.is_some_and(|ours| ours.is_dir() && entry.is_dir() && is_touch(ours, entry))
}

/// Whether two directories differ in their time only.
fn is_touch(a: &Entry, b: &Entry) -> bool {
    let mut meta = a.meta.clone();
    meta.mtime = b.meta.mtime;
    meta == b.meta
}
