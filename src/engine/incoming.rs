//! What one peer has announced for one mount, and what of it is not done yet.
//!
//! Gives the durable position per lane (the acknowledgement) and says when an ordered record may
//! become visible. The peer's sequences are unique over its lanes.

use std::collections::{BTreeMap, BTreeSet};

use super::slot::Source;
use crate::model::{Lane, RelPath, Sequence};

/// How strictly an ordered record waits for what came before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Strictness {
    /// A barrier: all of it is visible.
    Done,
    /// The removal of a directory: all of it is visible or handed out before it.
    Issued,
}

/// The state of what one peer announces.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    received: [Sequence; Lane::ALL.len()],
    undone: [BTreeSet<Sequence>; Lane::ALL.len()],
    plain: BTreeSet<Sequence>,
    plain_unissued: BTreeSet<Sequence>,
    ordered: BTreeSet<Sequence>,
    ordered_unissued: BTreeSet<Sequence>,
    /// Ordered wants whose turn has not come.
    held: BTreeMap<Sequence, RelPath>,
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

    /// Everything of `lane` up to `sequence` has arrived.
    pub(super) fn receive(&mut self, lane: Lane, sequence: Sequence) {
        let received = &mut self.received[lane as usize];
        *received = (*received).max(sequence);
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

    /// A want has this source now.
    pub(super) fn add(&mut self, lane: Lane, source: &Source) {
        self.undone[lane as usize].insert(source.first);
        if source.after.is_some() {
            self.ordered.insert(source.sequence);
            self.ordered_unissued.insert(source.sequence);
        } else {
            self.plain.insert(source.first);
            self.plain_unissued.insert(source.first);
        }
    }

    /// The want no longer has this source.
    pub(super) fn remove(&mut self, lane: Lane, source: &Source) {
        self.undone[lane as usize].remove(&source.first);
        for set in [&mut self.ordered, &mut self.ordered_unissued] {
            set.remove(&source.sequence);
        }
        for set in [&mut self.plain, &mut self.plain_unissued] {
            set.remove(&source.first);
        }
        self.held.remove(&source.sequence);
    }

    /// The want was handed out to be applied.
    pub(super) fn issue(&mut self, source: &Source) {
        self.ordered_unissued.remove(&source.sequence);
        self.plain_unissued.remove(&source.first);
    }

    /// The want came back undone.
    pub(super) fn unissue(&mut self, source: &Source) {
        if self.ordered.contains(&source.sequence) {
            self.ordered_unissued.insert(source.sequence);
        }
        if self.plain.contains(&source.first) {
            self.plain_unissued.insert(source.first);
        }
    }

    /// Whether everything that this source has to wait for is there.
    pub(super) fn is_released(&self, lane: Lane, source: &Source, how: Strictness) -> bool {
        let Some(after) = source.after else { return true };
        let arrived = Lane::ALL.iter().all(|&other| {
            (other == Lane::Forward && lane != Lane::Forward)
                || self.received[other as usize] >= after
        });
        let (plain, ordered) = match how {
            Strictness::Done => (&self.plain, &self.ordered),
            Strictness::Issued => (&self.plain_unissued, &self.ordered_unissued),
        };
        arrived
            && plain.first().is_none_or(|&first| first > after)
            && ordered.first().is_none_or(|&first| first >= source.sequence)
    }

    /// Notes that the path's turn has not come.
    pub(super) fn hold(&mut self, source: &Source, path: RelPath) {
        self.held.insert(source.sequence, path);
    }

    /// The held path whose turn is next.
    pub(super) fn next_held(&self) -> Option<(Sequence, RelPath)> {
        self.held.first_key_value().map(|(&sequence, path)| (sequence, path.clone()))
    }

    /// The path is no longer held.
    pub(super) fn unhold(&mut self, sequence: Sequence) {
        self.held.remove(&sequence);
    }
}
