//! What a look at the disk means: an edit made here, what a peer had announced, or nothing new.
//!
//! In: what was seen, with our record. Out: what is stored, or when to look again. A look never
//! changes the disk.

use super::clock::Now;
use super::guard::Ruling;
use super::policy::Class;
use super::problem::backoff_ms;
use super::reconcile::{Verdict, reconcile};
use super::slot::{Busy, Dirty, Slot};
use super::{Engine, Output, SOON_MS, Seen};
use crate::model::{Entry, Found, Kind, LinkGroup, Meta, Record, RelPath, Signature, Version};

/// How often a barrier is looked at that is there before its turn.
const EARLY_MS: u64 = 1000;

/// Looks at a file whose writer may be closing it, of which the last comes 140 ms after the first.
const CLOSING_LOOKS: u32 = 3;

/// How often the wait for a writer doubles.
const BUSY_DOUBLINGS_MAX: u32 = 16;

/// Of how many tries to remove a directory one asks anew what is left below it, though the answer to
/// the last time is not all looked at.
const SWEEP_EVERY: u32 = 50;

/// How long what was in a directory that is gone waits while others are listed: one of them may be the
/// same under its new name.
const LISTING_MS: u64 = 500;

/// Files of at least this many bytes are not read again at once when they change again.
const LARGE_BYTES: u64 = 1 << 20;

/// Bytes read in a millisecond, roughly: a file that was just read rests as long as that took.
const BYTES_PER_MS: u64 = 256 << 10;

impl Engine {
    /// What may be on the disk without being an edit made here.
    fn expected(&self, path: &RelPath) -> Vec<&Record> {
        let Some(slot) = self.slots.get(path) else { return Vec::new() };
        let wanted = slot.want.as_deref().map(|want| &want.record);
        slot.journaled.as_deref().into_iter().chain(wanted).collect()
    }

    pub(super) fn take_look(&mut self, now: Now, seen: Seen, mut dirty: Dirty) {
        let path = seen.path.clone();
        self.early.remove(&path);
        let since = dirty.open_since_ms.unwrap_or(now.monotonic_ms);
        dirty.open_since_ms = (seen.found == Found::Busy).then_some(since);
        let settle = self.settle_ms(self.class(&path));
        match &seen.found {
            Found::Unchanged => {
                self.problems.solve(&path);
                let list = self.guard.forget(&path) || dirty.list;
                if list && seen.ours.as_ref().is_some_and(Record::is_dir) {
                    self.list(&path);
                }
            }
            Found::Busy => {
                // The kernel tells of a close before it takes the writer away, and nothing follows.
                // Until that can be told from a file that stays open, it is not read.
                if dirty.attempts < CLOSING_LOOKS {
                    self.wait_in_line(&dirty, &path);
                }
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
        let Some(ours) = seen.ours.as_ref().filter(|ours| ours.is_live()) else {
            let _open = self.guard.forget(&seen.path);
            return;
        };
        if seen.has_children && self.comes_back(&seen.path) {
            self.restore(now, ours, true);
        } else if seen.has_children {
            self.sweep_first(now, &seen.path, dirty);
        } else if let Some(record) = self.adopted_deletion(ours) {
            let from = self.holder_of(&seen.path, &record.version);
            self.store(now, record, None, from);
        } else {
            match self.rule(now, seen, ours) {
                Ruling::Delete => self.store_deletion(now, ours),
                Ruling::Hold => self.hold(now, &seen.path, false),
                Ruling::Restore => self.restore(now, ours, false),
            }
        }
    }

    /// The wanted deletion with the version it gets here: it was done before a crash could note it, or
    /// someone here did the same. But who removes what that deletion had not seen removes more: it is
    /// an edit made here.
    fn adopted_deletion(&self, ours: &Record) -> Option<Record> {
        let slot = self.slots.get(&ours.path)?;
        let gone = self.expected(&ours.path).into_iter().filter(|record| !record.is_live());
        let mut adopted = gone.filter_map(|record| match reconcile(Some(ours), record) {
            Verdict::Take { keep_ours: true, .. } if slot.journaled.is_none() => None,
            Verdict::Take { version, .. } => Some(Record { version, ..record.clone() }),
            _ => None,
        });
        adopted.next()
    }

    /// Children go before their directory: some at a time, and what cannot be looked at stops no
    /// other for long. If the directory is elsewhere now, its files are to be found there before they
    /// are missed here.
    fn sweep_first(&mut self, now: Now, path: &RelPath, mut dirty: Dirty) {
        if dirty.swept && self.is_held_open(path) {
            self.hold(now, path, true);
            return;
        }
        let listing = self.listings.keys().any(|dir| !dir.is_root());
        let wait = if listing { LISTING_MS } else { SOON_MS };
        if !dirty.swept && now.monotonic_ms < dirty.first_ms + wait {
            self.wait_in_line(&dirty, path);
            self.again(now, path, dirty, SOON_MS);
            return;
        }
        let looks = |slot: &Slot| slot.dirty.is_some() || matches!(slot.busy, Busy::Reading(_));
        let under_way = self.slots_below(path).any(|(_, slot)| looks(slot));
        if !under_way || !dirty.swept || dirty.attempts.is_multiple_of(SWEEP_EVERY) {
            self.outputs.push_back(Output::Sweep(path.clone()));
        }
        let soon = if dirty.swept { SOON_MS } else { 0 };
        dirty.swept = true;
        self.wait_in_line(&dirty, path);
        self.again(now, path, dirty, soon);
    }

    fn store_deletion(&mut self, now: Now, ours: &Record) {
        let version = Version::edit(self.clock.stamp(now), Some(&ours.version));
        self.store(now, Record { path: ours.path.clone(), entry: None, version }, None, None);
    }

    /// Something is at the path.
    fn there(&mut self, now: Now, seen: Seen, mut dirty: Dirty) {
        let Seen { path, found, ours, parent_live, has_children, group, .. } = seen;
        let Found::Entry { mut entry, signature, .. } = found else { return };
        self.problems.solve(&path);
        dirty.list |= self.guard.forget(&path);
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
        if class == Class::Barrier && self.came_early(&path, &entry) {
            if dirty.joining {
                self.early.insert(path.clone());
            }
            self.again(now, &path, dirty, EARLY_MS);
            return;
        }
        if let Some(record) = self.adopted(now, &path, ours.as_ref(), &entry, dirty.joining) {
            let from = self.holder_of(&path, &record.version);
            self.store(now, record, Some(signature), from);
        } else if ours_live.is_some_and(|ours| ours.same(&entry))
            || self.is_half_done(&path, ours.as_ref(), &entry)
        {
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

    /// Whether a barrier that is wanted is there before its turn: someone copied it here by hand. It
    /// is taken for the wanted one when its turn comes, or others would be told of it too early.
    fn came_early(&mut self, path: &RelPath, entry: &Entry) -> bool {
        let slot = self.slots.get(path).filter(|slot| slot.journaled.is_none());
        let wanted = slot.and_then(|slot| slot.want.as_deref()?.record.entry.as_ref());
        wanted.is_some_and(|wanted| wanted.same(entry)) && self.is_held(path)
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

    /// Whether a crash came while metadata was set in place: what is there is partly ours and partly
    /// the journaled. It is no edit, and the rest of it is still to be set.
    fn is_half_done(&self, path: &RelPath, ours: Option<&Record>, entry: &Entry) -> bool {
        let journaled = self.slots.get(path).and_then(|slot| slot.journaled.as_deref());
        let (Some(ours), Some(journaled)) = (ours, journaled) else { return false };
        let (Some(old), Some(new)) = (&ours.entry, &journaled.entry) else { return false };
        entry.same_kind_content(old)
            && entry.same_kind_content(new)
            && is_between(&entry.meta, &old.meta, &new.meta)
            && matches!(reconcile(Some(ours), journaled), Verdict::Take { .. })
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
                version.weak = joining && ours.is_none();
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
}

/// Whether each part of `meta` is of `old` or of `new`, as after a change that was cut short.
fn is_between(meta: &Meta, old: &Meta, new: &Meta) -> bool {
    // The kernel takes the bits that lend rights away with a change of owner; those of the owner are
    // set while attributes are.
    const PASSING: u32 = 0o6600;
    let is_acl = |name: &[u8]| name.starts_with(b"system.");
    let is_of = |pair: &(Box<[u8]>, Box<[u8]>), meta: &Meta| {
        meta.xattrs
            .iter()
            .any(|(name, value)| *name == pair.0 && (is_acl(name) || *value == pair.1))
    };
    let known = |pair: &_| is_of(pair, old) || is_of(pair, new);
    let kept = |pair: &&_| is_of(pair, new);
    (meta.mode ^ old.mode) & (meta.mode ^ new.mode) & !PASSING == 0
        && [old.uid, new.uid].contains(&meta.uid)
        && [old.gid, new.gid].contains(&meta.gid)
        && [old.mtime, new.mtime].contains(&meta.mtime)
        && meta.xattrs.iter().all(known)
        && old.xattrs.iter().filter(kept).all(|pair| is_of(pair, meta))
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

#[cfg(test)]
mod tests;
