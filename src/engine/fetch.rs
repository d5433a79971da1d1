//! Content of wanted records: what is not at hand is fetched, a limited number at a time, each time
//! from another one of those who may have it.
//!
//! Peers take turns, and the more one has under way the more it leaves free: those who never answer
//! keep no one else's content waiting.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};

use super::clock::Now;
use super::policy::Policy;
use super::problem::backoff_ms;
use super::want::{Content, Waits, Want};
use super::{Engine, Output};
use crate::model::{ContentId, Entry, NodeId, Record, RelPath, limits};

/// Whom a fetch is counted with: who is to be asked first, if anybody is known.
type From = Option<NodeId>;

/// Fetches under way, and wants that wait for one.
#[derive(Debug, Default)]
pub(super) struct Fetches {
    flying: Vec<(RelPath, ContentId, From)>,
    /// In the order in which they came. None is empty.
    waiting: BTreeMap<From, BTreeMap<u64, RelPath>>,
    next_order: u64,
    /// Whose turn it was last.
    last: From,
}

impl Fetches {
    fn free(&self) -> usize {
        limits::FETCHES_IN_FLIGHT_MAX.saturating_sub(self.flying.len())
    }

    fn of(&self, from: From) -> usize {
        self.flying.iter().filter(|(_, _, other)| *other == from).count()
    }

    /// One peer alone has half of all, which is what a link carries at a time; a further one always
    /// finds some free.
    fn has_room(&self, from: From) -> bool {
        self.of(from) < self.free()
    }

    fn begin(&mut self, path: RelPath, content: ContentId, from: From) {
        self.flying.push((path, content, from));
    }

    fn end(&mut self, path: &RelPath, content: ContentId) {
        let at = self.flying.iter().position(|(p, c, _)| p == path && *c == content);
        if let Some(at) = at {
            self.flying.swap_remove(at);
        }
    }

    /// Puts a path behind the others; gives its place.
    fn queue(&mut self, path: RelPath, from: From) -> (From, u64) {
        let order = self.next_order;
        self.next_order += 1;
        self.waiting.entry(from).or_default().insert(order, path);
        (from, order)
    }

    /// The want that waits there is gone.
    pub(super) fn forget(&mut self, (from, order): (From, u64)) {
        if let Some(paths) = self.waiting.get_mut(&from) {
            paths.remove(&order);
            if paths.is_empty() {
                self.waiting.remove(&from);
            }
        }
    }

    /// Takes out as many as there is room for. They are counted only once they are looked at.
    fn take(&mut self) -> Vec<RelPath> {
        let mut taken = Vec::new();
        let mut free = self.free();
        let mut counts = BTreeMap::<From, usize>::new();
        while free > 0 && !self.waiting.is_empty() {
            let count = |from: &From| counts.get(from).copied().unwrap_or_else(|| self.of(*from));
            let after = self.waiting.range((Excluded(self.last), Unbounded));
            let mut turns = after.chain(self.waiting.range(..=self.last)).map(|(from, _)| *from);
            let Some(from) = turns.find(|from| count(from) < free) else { break };
            counts.insert(from, count(&from) + 1);
            free -= 1;
            self.last = from;
            let first = self.waiting.get_mut(&from).and_then(BTreeMap::pop_first);
            taken.extend(first.map(|(_, path)| path));
            if self.waiting.get(&from).is_some_and(BTreeMap::is_empty) {
                self.waiting.remove(&from);
            }
        }
        taken
    }
}

impl Engine {
    pub(super) fn missing_content(
        &self,
        path: &RelPath,
        record: &Record,
        ours: Option<&Entry>,
    ) -> Option<(ContentId, u64)> {
        let entry = record.entry.as_ref()?;
        let (content, size) = entry.content()?;
        let in_place = ours.is_some_and(|ours| ours.same_kind_content(entry));
        let here = self.slots.get(path)?.want.as_ref()?.content == Content::Here;
        (size > 0 && !in_place && !here).then_some((content, size))
    }

    pub(super) fn fetch(&mut self, path: &RelPath, content: ContentId, size: u64) {
        let Some(want) = self.slots.get_mut(path).and_then(|slot| slot.want.as_deref_mut()) else {
            return;
        };
        if want.content == Content::Fetching || want.queued.is_some() {
            return;
        }
        let peers = want.holders(content);
        let from = peers.first().copied();
        if !self.fetches.has_room(from) {
            want.queued = Some(self.fetches.queue(path.clone(), from));
            return;
        }
        want.content = Content::Fetching;
        self.fetches.begin(path.clone(), content, from);
        let lane = Policy::lane(self.class(path));
        self.outputs.push_back(Output::Fetch { path: path.clone(), content, size, peers, lane });
    }

    pub(super) fn fetched(
        &mut self,
        now: Now,
        path: &RelPath,
        content: ContentId,
        result: Result<(), String>,
    ) {
        self.fetches.end(path, content);
        let want = self.slots.get_mut(path).and_then(|slot| slot.want.as_deref_mut());
        let wanted = |want: &&mut Want| want.content == Content::Fetching;
        if let Some(want) = want.filter(wanted) {
            let current = want.record.entry.as_ref().and_then(Entry::content);
            let right = current.is_some_and(|(id, _)| id == content);
            want.content = if right && result.is_ok() { Content::Here } else { Content::Absent };
            match result {
                Err(reason) if right => {
                    want.attempts += 1;
                    let wait = backoff_ms(want.attempts);
                    // A file that is written all the time changes under those who fetch it; its
                    // next version is on the way.
                    if want.attempts > 2 {
                        self.problems.note(now, path, reason, Some(wait));
                    }
                    self.retry_want(now, path, wait, Waits::Nothing);
                }
                _ => self.step(now, path),
            }
        }
        self.next_fetches(now);
    }

    /// Looks at as many waiting wants as there are free fetches.
    pub(super) fn next_fetches(&mut self, now: Now) {
        for next in self.fetches.take() {
            if let Some(want) = self.slots.get_mut(&next).and_then(|slot| slot.want.as_mut()) {
                want.queued = None;
            }
            self.step(now, &next);
        }
    }
}
