//! What one peer has announced for one mount, and what of it is not done yet.
//!
//! Gives the durable position per lane (the acknowledgement) and says when an ordered record may
//! become visible. The peer's sequences are unique over its lanes.

use std::cmp::Reverse;
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

/// What cannot go on by itself, and on which lane it came; the last in this order is let go first.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Place {
    /// A directory that shall go waits for what is in it: the one furthest up goes first.
    Removal(Reverse<RelPath>, usize),
    /// What is in it waits for it: the one furthest down goes first. Its own directory may be made by
    /// the peer only when a removal here has had its turn.
    Directory(RelPath, usize),
    /// A file that is to be made.
    File(Reverse<RelPath>, usize),
    /// It waits for all others, and for those before it.
    Barrier(Sequence, RelPath, usize),
    /// A directory that shall go, and what is in it may have been let go.
    Emptied(RelPath, usize),
}

/// What was let go: it has arrived, is not done, and comes again.
#[derive(Debug)]
struct Gone {
    /// The first of it, per lane.
    first: [Option<Sequence>; Lane::ALL.len()],
    /// The first that is no barrier.
    plain: Option<Sequence>,
    /// The first barrier, by their own sequences.
    barrier: Option<Sequence>,
    /// The last path of those that are neither barriers nor directories.
    path: Option<RelPath>,
    /// When it is asked for at the earliest, and at the latest.
    asks_ms: (u64, u64),
}

/// The state of what one peer announces.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    received: [Sequence; Lane::ALL.len()],
    /// First and own sequence, per lane.
    undone: [BTreeSet<(Sequence, Sequence)>; Lane::ALL.len()],
    /// First and own sequence, of what is no barrier.
    plain: BTreeSet<(Sequence, Sequence)>,
    /// Barriers, by their own sequence: of two that were written again and again meanwhile, each
    /// stands for something older than the other, and one has to come first.
    barriers: BTreeSet<Sequence>,
    /// Ordered wants whose turn has not come, by what they wait for, then by their own sequence.
    held: BTreeMap<(Sequence, Sequence), RelPath>,
    /// Up to where they wait at least: what they waited for has moved behind their own positions.
    moved: Sequence,
    /// The weight of all sources.
    load: usize,
    /// Those that cannot go on by themselves, and their weights.
    parked: BTreeMap<Place, usize>,
    parked_weight: usize,
    /// Of barriers.
    barriers_weight: usize,
    gone: Option<Gone>,
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
        let done = |lane: Lane| {
            let gone = self.gone.as_ref().and_then(|gone| gone.first[lane as usize]);
            let first = self.undone[lane as usize].first().map(|&(first, _)| first);
            match first.into_iter().chain(gone).min() {
                Some(first) => Sequence(first.0 - 1).min(self.received[lane as usize]),
                None => self.received[lane as usize],
            }
        };
        Lane::ALL.iter().map(|&lane| (lane, done(lane))).collect()
    }

    /// A want has this source now. What was announced ahead of its turn comes again.
    pub(super) fn add(&mut self, lane: Lane, source: &Source) {
        self.load += source.weight();
        if source.sequence == Sequence(0) {
            return;
        }
        self.undone[lane as usize].insert((source.first, source.sequence));
        if source.barrier {
            self.barriers.insert(source.sequence);
        } else {
            self.plain.insert((source.first, source.sequence));
        }
    }

    /// The want no longer has this source.
    pub(super) fn remove(&mut self, lane: Lane, source: &Source) {
        self.load -= source.weight();
        self.unpark(lane, source);
        self.undone[lane as usize].remove(&(source.first, source.sequence));
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
            let gone = self.gone.as_ref();
            plain.is_none_or(|&(first, _)| first > after)
                && gone.and_then(|gone| gone.plain).is_none_or(|first| first > after)
                && barrier.is_none_or(|&other| other >= source.sequence)
                && gone.and_then(|gone| gone.barrier).is_none_or(|other| other > source.sequence)
        };
        arrived
            && match how {
                Strictness::Arrived => !self.is_emptied(source),
                Strictness::Done => done(),
            }
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

    /// The source's want cannot go on by itself.
    /// `leaves`: it waits for what is in a directory to go.
    pub(super) fn park(&mut self, lane: Lane, source: &Source, leaves: bool) {
        let weight = source.weight();
        let emptied = leaves && self.lacks_below(lane, source) || self.is_emptied(source);
        let place = if emptied {
            Place::Emptied(source.record.path.clone(), lane as usize)
        } else {
            place(lane, source)
        };
        let is_barrier = matches!(place, Place::Barrier(..));
        if self.parked.insert(place, weight).is_none() {
            self.parked_weight += weight;
            self.barriers_weight += if is_barrier { weight } else { 0 };
        }
    }

    /// Whether this may be a directory that shall go, and what is in it was let go.
    fn is_emptied(&self, source: &Source) -> bool {
        source.after.is_some() && self.let_go_below(source)
    }

    /// Whether the peer may have announced, before this, something below its path that is not known
    /// here any more: it was let go, and may be about to come again.
    pub(super) fn lacks_below(&self, lane: Lane, source: &Source) -> bool {
        self.let_go_below(source) || source.sequence > self.received[lane as usize]
    }

    fn let_go_below(&self, source: &Source) -> bool {
        let last = self.gone.as_ref().and_then(|gone| gone.path.as_ref());
        last.is_some_and(|last| source.record.path < *last)
    }

    /// The source's want is looked at again, or gone.
    pub(super) fn unpark(&mut self, lane: Lane, source: &Source) {
        if self.parked.is_empty() {
            return;
        }
        self.take_out(&place(lane, source));
        self.take_out(&Place::Emptied(source.record.path.clone(), lane as usize));
    }

    fn take_out(&mut self, place: &Place) {
        let Some(weight) = self.parked.remove(place) else { return };
        self.parked_weight -= weight;
        self.barriers_weight -= if matches!(place, Place::Barrier(..)) { weight } else { 0 };
    }

    /// The weight of all that is not done.
    pub(super) fn load(&self) -> usize {
        self.load
    }

    /// The weight of what needs nothing but time.
    pub(super) fn busy(&self) -> usize {
        self.load.saturating_sub(self.parked_weight)
    }

    /// What is to be let go next, if anything is, with more than `share` parked.
    pub(super) fn last_beyond(&self, share: usize) -> Option<RelPath> {
        let (last, _) = self.parked.last_key_value()?;
        match last {
            Place::Emptied(path, _) => Some(path.clone()),
            _ if self.parked_weight <= share => None,
            Place::Directory(path, _)
            | Place::Removal(Reverse(path), _)
            | Place::File(Reverse(path), _)
            | Place::Barrier(_, path, _) => Some(path.clone()),
        }
    }

    /// The source was let go. What was announced ahead of its turn comes again by itself.
    pub(super) fn leave(&mut self, lane: Lane, source: &Source, asks_ms: (u64, u64)) {
        if source.sequence == Sequence(0) {
            return;
        }
        let gone = self.gone.get_or_insert(Gone {
            first: [None; Lane::ALL.len()],
            plain: None,
            barrier: None,
            path: None,
            asks_ms,
        });
        let lower = |at: &mut Option<Sequence>, new| *at = Some(at.map_or(new, |at| at.min(new)));
        lower(&mut gone.first[lane as usize], source.first);
        if source.barrier {
            lower(&mut gone.barrier, source.sequence);
        } else {
            lower(&mut gone.plain, source.first);
        }
        if matches!(place(lane, source), Place::Removal(..) | Place::File(..)) {
            gone.path = gone.path.take().max(Some(source.record.path.clone()));
        }
    }

    /// Whether what was let go is to be asked for. Barriers wait for the others, and take no room
    /// from them.
    pub(super) fn asks_again(&self, now_ms: u64, share: usize) -> bool {
        self.asks_at_ms(share).is_some_and(|at| now_ms >= at)
    }

    /// When what was let go is asked for, as it is now, by the monotonic clock.
    pub(super) fn asks_at_ms(&self, share: usize) -> Option<u64> {
        let gone = self.gone.as_ref()?;
        let room = (share / 2).max(1);
        let others = self.load.saturating_sub(self.barriers_weight);
        let load = if gone.plain.is_some() { others } else { self.load };
        Some(if load < room { gone.asks_ms.0 } else { gone.asks_ms.1 })
    }

    /// The next link goes on from what is done, if anything was let go.
    pub(super) fn begin_again(&mut self) {
        if self.gone.is_none() {
            return;
        }
        for (lane, done) in self.done() {
            self.received[lane as usize] = done;
        }
        self.gone = None;
    }
}

fn place(lane: Lane, source: &Source) -> Place {
    let (path, lane) = (source.record.path.clone(), lane as usize);
    match source.barrier {
        _ if source.record.is_dir() => Place::Directory(path, lane),
        true if source.record.is_live() => Place::Barrier(source.sequence, path, lane),
        _ if source.record.is_live() && source.after.is_none() => Place::File(Reverse(path), lane),
        _ => Place::Removal(Reverse(path), lane),
    }
}
