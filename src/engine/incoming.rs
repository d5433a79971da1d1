//! What one peer has announced for one mount, and what of it is not done yet.
//!
//! Gives the durable position per lane (the acknowledgement) and says when an ordered record may
//! become visible. The peer's sequences are unique over its lanes.

use std::collections::{BTreeMap, BTreeSet};

use super::want::Source;
use crate::model::{Lane, RelPath, Sequence};

/// How strictly an ordered record waits for what came before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Strictness {
    /// A barrier: all of it is visible.
    Done,
    /// The removal of a directory: all of it has arrived, so that it is known which children the
    /// one who removed it had seen go.
    Arrived,
}

/// The state of what one peer announces.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    received: [Sequence; Lane::ALL.len()],
    undone: [BTreeSet<Sequence>; Lane::ALL.len()],
    /// First and own sequence, of what is no barrier.
    plain: BTreeSet<(Sequence, Sequence)>,
    /// Barriers, by their own sequence: of two that were written again and again meanwhile, each
    /// stands for something older than the other, and one has to come first.
    barriers: BTreeSet<Sequence>,
    /// Ordered wants whose turn has not come, by what they wait for, then by their own sequence.
    held: BTreeMap<(Sequence, Sequence), RelPath>,
    /// Up to where they wait at least: what they waited for has moved behind their own positions.
    moved: Sequence,
}

impl Incoming {
    /// Starts over from these cursors; nothing is outstanding.
    pub(super) fn starting_at(cursors: &[(Lane, Sequence)]) -> Self {
        let mut incoming = Self::default();
        for &(lane, sequence) in cursors {
            incoming.received[lane as usize] = sequence;
        }
        incoming
    }

    /// Everything of `lane` up to `sequence` has arrived. Gives the first sequence that a record at
    /// `sequence` stands for: it may have come in the place of an older record of its path.
    pub(super) fn receive(&mut self, lane: Lane, sequence: Sequence) -> Sequence {
        let received = &mut self.received[lane as usize];
        let first = Sequence(received.0 + 1).min(sequence);
        *received = (*received).max(sequence);
        first
    }

    /// Ordered records wait for everything up to here from now on, whatever they said themselves.
    pub(super) fn wait_for(&mut self, sequence: Sequence) {
        self.moved = self.moved.max(sequence);
    }

    /// Up to where each lane has arrived.
    pub(super) fn received(&self) -> Vec<(Lane, Sequence)> {
        Lane::ALL.iter().map(|&lane| (lane, self.received[lane as usize])).collect()
    }

    /// Up to where each lane is done.
    pub(super) fn done(&self) -> Vec<(Lane, Sequence)> {
        let done = |lane: Lane| match self.undone[lane as usize].first() {
            Some(first) => Sequence(first.0 - 1).min(self.received[lane as usize]),
            None => self.received[lane as usize],
        };
        Lane::ALL.iter().map(|&lane| (lane, done(lane))).collect()
    }

    /// A want has this source now. What was announced ahead of its turn comes again.
    pub(super) fn add(&mut self, lane: Lane, source: &Source) {
        if source.sequence == Sequence(0) {
            return;
        }
        self.undone[lane as usize].insert(source.first);
        if source.barrier {
            self.barriers.insert(source.sequence);
        } else {
            self.plain.insert((source.first, source.sequence));
        }
    }

    /// The want no longer has this source.
    pub(super) fn remove(&mut self, lane: Lane, source: &Source) {
        self.undone[lane as usize].remove(&source.first);
        self.barriers.remove(&source.sequence);
        self.plain.remove(&(source.first, source.sequence));
        self.unhold(source);
    }

    /// The peer has announced a newer record of the path: this one's turn never comes, and nothing
    /// waits for it to.
    pub(super) fn supersede(&mut self, source: &Source) {
        self.barriers.remove(&source.sequence);
        self.unhold(source);
    }

    /// Whether everything that this source has to wait for is there. `own` are the sources that the
    /// path has of this peer: it does not wait for itself.
    pub(super) fn is_released(&self, source: &Source, how: Strictness, own: &[Sequence]) -> bool {
        let Some(after) = source.after else { return true };
        let after = after.max(self.moved);
        let arrived = self.received.iter().all(|&received| received >= after);
        let done = || {
            let plain = self.plain.iter().find(|(_, sequence)| !own.contains(sequence));
            let barrier = self.barriers.iter().find(|sequence| !own.contains(sequence));
            plain.is_none_or(|&(first, _)| first > after)
                && barrier.is_none_or(|&other| other >= source.sequence)
        };
        arrived && (how == Strictness::Arrived || done())
    }

    /// Notes that the path's turn has not come.
    pub(super) fn hold(&mut self, source: &Source, path: RelPath) {
        self.held.insert((source.after.unwrap_or_default(), source.sequence), path);
    }

    /// The held paths for which everything has arrived, in order.
    pub(super) fn arrived(&self) -> Vec<RelPath> {
        let until = self.received.iter().min().copied().unwrap_or_default();
        if until < self.moved {
            return Vec::new();
        }
        let arrived = self.held.range(..=(until, Sequence(u64::MAX)));
        arrived.map(|(_, path)| path.clone()).collect()
    }

    /// The path is no longer held.
    pub(super) fn unhold(&mut self, source: &Source) {
        self.held.remove(&(source.after.unwrap_or_default(), source.sequence));
    }
}
