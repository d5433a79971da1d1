//! Records of peers: from an announcement to a visible file.

use std::collections::BTreeMap;

use super::clock::Now;
use super::incoming::Incoming;
use super::policy::Class;
use super::problem::backoff_ms;
use super::reconcile::{Verdict, reconcile};
use super::slot::{Busy, Slot};
use super::want::{Content, Source, Waits, Want};
use super::{Announced, Considered, Displaced, Engine, Outcome, Output, SOON_MS};
use crate::model::{Entry, Lane, NodeId, Record, RelPath, Sequence, Version};

/// How long a writer that has a wanted file open is waited for at a time, and how often: what he
/// writes later is found in the displaced file.
const OPEN_MS: u64 = 500;
const OPEN_MAX: u32 = 20;

/// How long a file that changes again and again between a look and its apply is left alone at
/// most. Nothing failed: removing one name of a file, for one, changes all its other names.
const CHANGED_MS: u64 = 1000;

impl Engine {
    pub(super) fn peer_up(
        &mut self,
        now: Now,
        peer: NodeId,
        cursors: &[(Lane, Sequence)],
        anew: bool,
    ) {
        if anew {
            self.forget_peer(now, peer);
        }
        self.peers.entry(peer).or_insert_with(|| Incoming::starting_at(cursors));
    }

    pub(super) fn forget_peer(&mut self, now: Now, peer: NodeId) {
        let paths: Vec<_> = self.slots.keys().cloned().collect();
        paths.iter().for_each(|path| self.forget_sources(now, path, peer));
        self.peers.remove(&peer);
    }

    /// The peer's sequences mean nothing any more. What it alone had announced is in nobody's
    /// index: if the peer still has it, it announces it anew.
    pub(super) fn forget_sources(&mut self, now: Now, path: &RelPath, peer: NodeId) {
        let Some(slot) = self.slots.get_mut(path) else { return };
        let Some(want) = slot.want.as_deref_mut() else { return };
        if want.forget(peer) {
            // What is wanted now may be something else: what was under way is not for it.
            self.step(now, path);
        } else if !matches!(slot.busy, Busy::Applying(_)) {
            self.finish(now, path);
        }
    }

    pub(super) fn moved(&mut self, peer: NodeId, sequence: Sequence) {
        self.peers.entry(peer).or_default().wait_for(sequence);
    }

    pub(super) fn progress(&mut self, now: Now, peer: NodeId, lane: Lane, sequence: Sequence) {
        if let Some(incoming) = self.peers.get_mut(&peer) {
            let _first = incoming.receive(lane, sequence);
        }
        self.release_held(now, peer);
    }

    pub(super) fn announced(&mut self, now: Now, announced: Announced) {
        let Announced { peer, lane, sequence, after, theirs, content, ours } = announced;
        if self.clock.is_to_come(&theirs.version) {
            self.outputs.push_back(Output::Outdated(peer));
            return;
        }
        let path = theirs.path.clone();
        self.clock.observe(theirs.version.stamp);
        self.clock.observe(theirs.version.touched);
        let first = self.peers.entry(peer).or_default().receive(lane, sequence);
        let slot = self.slots.get(&path);
        let known = slot.is_some_and(|slot| slot.want.is_some());
        let journaled = slot.is_some_and(|slot| slot.journaled.is_some());
        if path.is_root() || self.class(&path) == Class::Local {
            return;
        }
        if !known && reconcile(ours.as_ref(), &theirs) == Verdict::Keep {
            if !journaled {
                self.outputs.push_back(Output::Finished(path));
            }
        } else {
            let barrier = self.class(&path) == Class::Barrier;
            let source = Source { first, sequence, after, barrier, record: theirs };
            self.add_want(&path, (peer, lane), source, content);
            self.step(now, &path);
            if barrier {
                let others: Vec<_> = self.peers.keys().copied().filter(|&p| p != peer).collect();
                others.into_iter().for_each(|other| self.release_held(now, other));
            }
        }
        self.release_held(now, peer);
    }

    fn add_want(&mut self, path: &RelPath, from: (NodeId, Lane), mut source: Source, here: bool) {
        let slot = self.slots.entry(path.clone()).or_default();
        let content = if here { Content::Here } else { Content::Absent };
        let incoming = self.peers.entry(from.0).or_default();
        let Some(want) = &mut slot.want else {
            self.wants += 1;
            incoming.add(from.1, &source);
            let want = Want::new(source.record.clone(), BTreeMap::from([(from, source)]));
            slot.want = Some(Box::new(Want { content, ..want }));
            return;
        };
        if let Some(older) = want.sources.get(&from) {
            if older.sequence.0 > 0 {
                source.first = older.first;
            }
            if source.sequence == Sequence(0) {
                // Ahead of its next turn: the one it had is still to be done.
                source = Source { record: source.record, ..older.clone() };
            }
            incoming.remove(from.1, older);
        }
        incoming.add(from.1, &source);
        let announced = source.record.version.stamp;
        want.sources.insert(from, source);
        if want.renew() {
            if want.record.version.stamp == announced {
                want.content = content;
            }
        } else if here && want.content == Content::Absent {
            // The same record from another peer; content of a loser is put away by its name.
            want.retry_ms = 0;
        }
        // The record moves from lane to lane, and the lanes overtake each other.
        let of_peer = || want.sources.iter().filter(|((peer, _), _)| *peer == from.0);
        let newest = of_peer().map(|(_, source)| source.sequence).max().unwrap_or_default();
        for (_, older) in of_peer().filter(|(_, source)| source.sequence < newest) {
            incoming.supersede(older);
        }
        self.supersede_losers(path);
    }

    /// A barrier that lost to another node's edit is not shown, and nothing waits for it to be: two
    /// nodes may have written the same barriers in opposite orders.
    fn supersede_losers(&mut self, path: &RelPath) {
        let want = self.slots.get(path).and_then(|slot| slot.want.as_deref());
        let Some(want) = want else { return };
        let stamp = want.record.version.stamp;
        let lost = |source: &Source| source.barrier && source.record.version.stamp != stamp;
        for (&(peer, _), source) in want.sources.iter().filter(|(_, source)| lost(source)) {
            if let Some(incoming) = self.peers.get_mut(&peer) {
                incoming.supersede(source);
            }
        }
    }

    pub(super) fn journaled(&mut self, now: Now, record: Record, visible: bool) {
        let path = record.path.clone();
        if visible {
            self.store(now, record, None, None);
        } else {
            self.slots.entry(path.clone()).or_default().journaled = Some(Box::new(record));
        }
        self.look_again(now, &path, 0);
    }

    /// A peer that holds just this version, as the path's want tells.
    pub(super) fn holder_of(&self, path: &RelPath, version: &Version) -> Option<NodeId> {
        self.slots.get(path)?.want.as_ref()?.holder(version)
    }

    pub(super) fn consider(&mut self, path: &RelPath) {
        if self.is_held(path) {
            return;
        }
        self.unpark(path);
        let Some(slot) = self.slots.get_mut(path) else { return };
        slot.busy = Busy::Considering;
        let children_max = self.leaving.get(path).copied().unwrap_or_default() + 1;
        self.outputs.push_back(Output::Consider { path: path.clone(), children_max });
    }

    pub(super) fn considered(&mut self, now: Now, considered: Considered) {
        let path = considered.path.clone();
        let Some(slot) = self.slots.get_mut(&path) else { return };
        if !matches!(slot.busy, Busy::Considering) {
            return;
        }
        slot.busy = Busy::No;
        let Some(want) = slot.want.as_deref_mut() else { return };
        if want.waits != Waits::Listed {
            want.waits = Waits::Nothing;
        }
        if want.restores && considered.ours.as_ref() == Some(&want.record) {
            let record = want.record.clone();
            return self.take_back(path, record);
        }
        if want.sources.is_empty() {
            // Who alone had announced it was forgotten meanwhile, or it is not to come back any more.
            return self.finish(now, &path);
        }
        match reconcile(considered.ours.as_ref(), &want.record) {
            Verdict::Keep => self.finish(now, &path),
            Verdict::Learn(version) => {
                if let Some(ours) = considered.ours {
                    self.store_taken(now, Record { version, ..ours });
                }
                self.finish(now, &path);
            }
            Verdict::Take { version, keep_ours } => {
                let record = Record { version, ..want.record.clone() };
                self.take(now, considered, record, keep_ours);
            }
        }
    }

    /// Our own record is made anew where nothing is.
    fn take_back(&mut self, path: RelPath, record: Record) {
        match self.missing_content(&path, &record, None) {
            Some((content, size)) => self.fetch(&path, content, size),
            None => self.apply(path, record, None, false),
        }
    }

    fn store_taken(&mut self, now: Now, record: Record) {
        let from = self.holder_of(&record.path, &record.version);
        self.store(now, record, None, from);
    }

    fn take(&mut self, now: Now, considered: Considered, record: Record, keep_ours: bool) {
        let Considered { path, ours, parent_live, children } = considered;
        let ours_entry = ours.as_ref().and_then(|ours| ours.entry.as_ref());
        if !record.is_dir() && self.slots_below(&path).any(|(_, slot)| slot.is_leaving()) {
            // Told to others before those removals, it would look like one that never saw them.
            self.retry_want(now, &path, SOON_MS, Waits::Children);
            return;
        }
        match (&record.entry, ours_entry) {
            (None, None) => {
                self.store_taken(now, record);
                self.finish(now, &path);
                return;
            }
            (Some(new), Some(old)) if new.same(old) => {
                self.store_taken(now, record);
                self.finish(now, &path);
                return;
            }
            _ => {}
        }
        let leaves = record.entry.as_ref().is_none_or(|entry| !entry.is_dir());
        if leaves && ours_entry.is_some_and(Entry::is_dir) {
            let leaving = self.leaving.get(&path).copied().unwrap_or_default();
            let stays = self.slots.get(&path).is_some_and(Slot::holds_unmirrored);
            if children > leaving || stays {
                self.clear_or_revive(now, &path, ours.as_ref(), &record);
                return;
            }
        }
        if record.is_live() && !parent_live && !self.parent_is_coming(&path) {
            self.wait_for_parent(&path);
            return;
        }
        if let Some((content, size)) = self.missing_content(&path, &record, ours_entry) {
            self.fetch(&path, content, size);
            return;
        }
        self.apply(path, record, ours, keep_ours);
    }

    /// A directory shall go but has children: they are on their way out, or whoever removed it has
    /// never seen them. Then it stays, as a new version that takes the removal into account; a weak
    /// one, for nobody made it: a removal by who has seen more may be on its way.
    fn clear_or_revive(
        &mut self,
        now: Now,
        path: &RelPath,
        ours: Option<&Record>,
        theirs: &Record,
    ) {
        let busy = self.slots_below(path).next().is_some();
        let cleared = busy && !self.slots_below(path).any(|(_, slot)| slot.keeps_directory());
        if cleared || self.lacks_below(path) {
            self.retry_want(now, path, SOON_MS, Waits::Children);
            return;
        }
        let Some(ours) = ours else { return };
        let mut version = Version::edit(self.clock.stamp(now), Some(&ours.version));
        version.vector.merge(&theirs.version.vector);
        version.touched = ours.version.touched;
        version.weak = true;
        let record = Record { version, ..ours.clone() };
        self.store(now, record, None, None);
        self.finish(now, path);
    }

    /// Whether who announced the want may have announced removals below it, before, that were let go.
    fn lacks_below(&self, path: &RelPath) -> bool {
        let want = self.slots.get(path).and_then(|slot| slot.want.as_deref());
        want.iter().flat_map(|want| &want.sources).any(|(&(peer, lane), source)| {
            self.peers.get(&peer).is_some_and(|incoming| incoming.lacks_below(lane, source))
        })
    }

    pub(super) fn slots_below<'a>(
        &'a self,
        dir: &'a RelPath,
    ) -> impl Iterator<Item = (&'a RelPath, &'a Slot)> {
        let after = self.slots.range(dir.clone()..).skip_while(move |(path, _)| *path == dir);
        let near = after.take_while(move |(path, _)| path.as_bytes().starts_with(dir.as_bytes()));
        near.filter(|(path, _)| path.is_below(dir))
    }

    pub(super) fn retry_want(&mut self, now: Now, path: &RelPath, in_ms: u64, waits: Waits) {
        if let Some(want) = self.slots.get_mut(path).and_then(|slot| slot.want.as_deref_mut()) {
            want.waits = waits;
            want.retry_ms = now.monotonic_ms + in_ms;
            self.timers.insert((want.retry_ms, path.clone()));
        }
        self.park(path);
    }

    /// Whether the directory is being made in the group that is being handed out.
    fn parent_is_coming(&self, path: &RelPath) -> bool {
        let slot = path.parent().and_then(|parent| self.slots.get(&parent));
        slot.is_some_and(|slot| matches!(&slot.busy, Busy::Applying(record) if record.is_dir()))
    }

    fn wait_for_parent(&mut self, path: &RelPath) {
        if let Some(want) = self.slots.get_mut(path).and_then(|slot| slot.want.as_deref_mut()) {
            want.waits = Waits::Parent;
        }
        if let Some(parent) = path.parent() {
            self.parents.entry(parent).or_default().insert(path.clone());
        }
        self.park(path);
    }

    fn stop_waiting_for_parent(&mut self, path: &RelPath) {
        let parent = if self.parents.is_empty() { None } else { path.parent() };
        let Some(parent) = parent else { return };
        if let Some(paths) = self.parents.get_mut(&parent) {
            paths.remove(path);
            if paths.is_empty() {
                self.parents.remove(&parent);
            }
        }
    }

    /// A directory is there now.
    pub(super) fn wake_children(&mut self, now: Now, dir: &RelPath) {
        for child in self.parents.remove(dir).unwrap_or_default() {
            self.step(now, &child);
        }
    }

    fn apply(&mut self, path: RelPath, record: Record, ours: Option<Record>, keep_ours: bool) {
        let class = self.class(&path);
        let settings = self.setup.policy.settings(class);
        let displaced = match (keep_ours && settings.keep_losers, settings.trash) {
            (true, _) => Displaced::Keep,
            (false, Some(_)) => Displaced::Trash,
            (false, None) => Displaced::Drop,
        };
        if !record.is_live() {
            *self.leaving.entry(path.parent().unwrap_or_else(RelPath::root)).or_default() += 1;
        }
        let Some(slot) = self.slots.get_mut(&path) else { return };
        slot.busy = Busy::Applying(Box::new(record.clone()));
        let even_if_open = slot.want.as_deref().is_some_and(|want| want.refused_open >= OPEN_MAX);
        self.outputs.push_back(Output::Apply { record, ours, displaced, even_if_open });
    }

    pub(super) fn applied(&mut self, now: Now, path: &RelPath, outcome: Outcome) {
        let Some(slot) = self.slots.get_mut(path) else { return };
        let Busy::Applying(record) = std::mem::take(&mut slot.busy) else { return };
        if !record.is_live() {
            self.left(path);
        }
        match outcome {
            Outcome::Done(signature) => self.applied_done(now, *record, signature),
            outcome => self.applied_not(now, path, outcome),
        }
        self.step(now, path);
    }

    fn left(&mut self, path: &RelPath) {
        let parent = path.parent().unwrap_or_else(RelPath::root);
        if let Some(count) = self.leaving.get_mut(&parent) {
            *count -= 1;
            if *count == 0 {
                self.leaving.remove(&parent);
            }
        }
    }

    fn applied_done(
        &mut self,
        now: Now,
        record: Record,
        signature: Option<crate::model::Signature>,
    ) {
        let path = record.path.clone();
        let done = &record.version;
        let from = self.holder_of(&path, done);
        let want = self.slots.get(&path).and_then(|slot| slot.want.as_deref());
        // The same edit may have been announced meanwhile as one that has seen more.
        let newer = want.map(|want| &want.record.version).is_some_and(|wanted| {
            (wanted.stamp, wanted.touched) != (done.stamp, done.touched)
                || !done.vector.covers(&wanted.vector)
        });
        self.problems.solve(&path);
        self.store(now, record, signature, from);
        if !newer {
            self.finish(now, &path);
        }
    }

    fn applied_not(&mut self, now: Now, path: &RelPath, outcome: Outcome) {
        // A file whose removal was refused, and is tried again, is one of ours; what is only to be
        // made there is not there.
        let known_below = outcome == Outcome::NotEmpty
            && self.slots_below(path).any(|(_, slot)| !slot.keeps_directory());
        let Some(want) = self.slots.get_mut(path).and_then(|slot| slot.want.as_deref_mut()) else {
            return;
        };
        want.attempts += 1;
        let wait = backoff_ms(want.attempts);
        match outcome {
            Outcome::Done(_) => {}
            Outcome::Busy => {
                want.refused_open += 1;
                self.retry_want(now, path, OPEN_MS, Waits::Writer);
                self.look_again(now, path, OPEN_MS);
            }
            Outcome::Changed => {
                let patience = if want.attempts > 3 { wait.min(CHANGED_MS) } else { 0 };
                want.retry_ms = now.monotonic_ms + patience;
                self.look_again(now, path, 0);
            }
            Outcome::ParentMissing => {
                self.retry_want(now, path, wait, Waits::Parent);
                if let Some(parent) = path.parent() {
                    self.look_again(now, &parent, 0);
                }
            }
            Outcome::NotEmpty => {
                want.retry_ms = now.monotonic_ms + wait;
                want.holds_unmirrored = want.waits == Waits::Listed && !known_below;
                want.waits = Waits::Listing;
                self.list(path);
            }
            Outcome::ContentMissing => want.content = Content::Absent,
            Outcome::Failed(reason) => {
                self.problems.note(now, path, reason, Some(wait));
                self.retry_want(now, path, wait, Waits::Nothing);
            }
        }
    }

    /// What a directory that could not be removed still holds is known now. If it is nothing that
    /// is mirrored, the directory stays all the same: someone has something in it.
    pub(super) fn listed_for_apply(&mut self, dir: &RelPath) {
        let want = self.slots.get_mut(dir).and_then(|slot| slot.want.as_deref_mut());
        if let Some(want) = want.filter(|want| want.waits == Waits::Listing) {
            want.waits = Waits::Listed;
            want.retry_ms = 0;
        }
    }

    /// The want is done, or needless.
    pub(super) fn finish(&mut self, now: Now, path: &RelPath) {
        let Some(want) = self.slots.get_mut(path).and_then(|slot| slot.want.take()) else {
            return;
        };
        self.wants -= 1;
        self.problems.solve(path);
        if let Some(place) = want.queued {
            self.fetches.forget(place);
        }
        self.stop_waiting_for_parent(path);
        for (&(peer, lane), source) in &want.sources {
            if let Some(incoming) = self.peers.get_mut(&peer) {
                incoming.remove(lane, source);
            }
        }
        let peers: Vec<_> = want.sources.keys().map(|&(peer, _)| peer).collect();
        peers.into_iter().for_each(|peer| self.release_held(now, peer));
        self.step(now, path);
    }
}

#[cfg(test)]
mod tests;
