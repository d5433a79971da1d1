//! What one peer can have under way here: its share, so that what it announces and never lets be
//! finished takes a bounded amount of memory, and holds up nobody else.
//!
//! Each peer has a share of its own, whole whatever the others do. What fills it are wants, by their
//! weight, in two parts:
//!
//! - *busy* ones need nothing but time: they are looked at, fetched or applied. At a full share the
//!   peer's lanes are not read ([`Engine::reads`]); flow control holds up its streams alone.
//! - *parked* ones need something else: what an ordered record waits for, a directory, content that
//!   could not be had, a disk that refuses. They never keep a lane from being read. At a full share
//!   some of them are *let go*: forgotten here, and asked for again.
//!
//! No lane waits for another one for ever. What a parked want waits for may be on any lane of its
//! peer, behind any number of others that wait: of a hundred thousand removed directories the first
//! may go only when the last has arrived, and content that is gone there is replaced by a record
//! still to come. So the parked must not stop a lane, and they cannot all be kept: one of both has
//! to give. A lane is stopped by busy wants alone, and each of these ends: an apply or a fetch comes
//! back, and its want is done or parked. So every lane is read to its end. What was let go has
//! *arrived*, which is what an ordered removal waits for.
//!
//! What is kept must not wait for what was let go, or nothing would ever be done. Barriers wait for
//! all others: they go first, the latest before the rest. For a file that is to be made nothing
//! waits: it goes next. What is to be made waits for its directory: directories go after that, those
//! furthest down first. Removals go last: the peer may be waiting for one before it gives a directory
//! back. A directory that shall go waits for what is in it: of the removals the one furthest up goes
//! first, and while something is let go no ordered one above it is kept, nor what is to replace a
//! directory there. A barrier that is kept does not pass what was let go before it.
//!
//! What was let go comes again with the next link, which goes on from what is done: an
//! acknowledgement never passes it. The link is made anew when half of the share is free and a second
//! has passed, or after [`ASK_MS`]: what is kept may have failed for ever, and what was let go may be
//! better off.

use super::Engine;
use super::clock::Now;
use super::incoming::Incoming;
use super::want::{Source, Waits};
use crate::model::{Kind, Lane, NodeId, RelPath};

#[cfg(test)]
mod tests;

/// How long what was let go is not asked for again while the share stays full, in milliseconds: as
/// long as any failure waits at most.
pub(super) const ASK_MS: u64 = 60_000;

/// How long what was let go is not asked for again though there is room, in milliseconds: a link
/// that is made anew all the time brings nobody what he waits for.
const SOON_MS: u64 = 1000;

/// Bytes that are kept for a record that is not a long one.
const SMALL_BYTES: usize = 4 << 10;

impl Engine {
    /// Whether the peer's announcements on this lane are to be read: there is room for them in its
    /// share. Urgent ones have as much again for themselves.
    #[must_use]
    pub fn reads(&self, peer: NodeId, lane: Lane) -> bool {
        let times = if lane == Lane::Urgent { 2 } else { 1 };
        self.peers.get(&peer).is_none_or(|incoming| incoming.busy() < times * self.setup.share)
    }

    /// Whether the peer is to be linked anew: some of what it had announced was let go, and now
    /// there is room for it again, or it is time to try.
    #[must_use]
    pub fn asks_again(&self, now: Now, peer: NodeId) -> bool {
        let incoming = self.peers.get(&peer);
        incoming.is_some_and(|i| i.asks_again(now.monotonic_ms, self.setup.share))
    }

    /// When what the peer had announced and was let go is asked for again if nothing happens, by the
    /// monotonic clock.
    #[must_use]
    pub fn asks_at_ms(&self, peer: NodeId) -> Option<u64> {
        self.peers.get(&peer).and_then(|incoming| incoming.asks_at_ms(self.setup.share))
    }

    /// The weight of all that the peer has under way here.
    #[must_use]
    pub fn load(&self, peer: NodeId) -> usize {
        self.peers.get(&peer).map_or(0, Incoming::load)
    }

    /// The path's want cannot go on by itself.
    pub(super) fn park(&mut self, path: &RelPath) {
        let want = self.slots.get(path).and_then(|slot| slot.want.as_deref());
        let leaves = want.is_some_and(|want| want.waits == Waits::Children);
        for (&(peer, lane), source) in want.iter().flat_map(|want| &want.sources) {
            if let Some(incoming) = self.peers.get_mut(&peer) {
                incoming.park(lane, source, leaves);
                self.crowded.insert(peer);
            }
        }
    }

    /// The path's want is looked at again.
    pub(super) fn unpark(&mut self, path: &RelPath) {
        let want = self.slots.get(path).and_then(|slot| slot.want.as_deref());
        for (&(peer, lane), source) in want.iter().flat_map(|want| &want.sources) {
            if let Some(incoming) = self.peers.get_mut(&peer) {
                incoming.unpark(lane, source);
            }
        }
    }

    /// Lets go of what the peers have parked beyond their shares.
    pub(super) fn let_go(&mut self, now: Now) {
        while let Some(peer) = self.crowded.pop_first() {
            let share = self.setup.share;
            while let Some(path) = self.peers.get(&peer).and_then(|i| i.last_beyond(share)) {
                self.let_go_of(now, &path, peer);
            }
        }
    }

    /// What others announced of the path stays.
    fn let_go_of(&mut self, now: Now, path: &RelPath, peer: NodeId) {
        let want = self.slots.get(path).and_then(|slot| slot.want.as_deref());
        let (Some(want), Some(incoming)) = (want, self.peers.get_mut(&peer)) else { return };
        for (&(_, lane), source) in want.sources.iter().filter(|((other, _), _)| *other == peer) {
            incoming.leave(lane, source, (now.monotonic_ms + SOON_MS, now.monotonic_ms + ASK_MS));
            incoming.remove(lane, source);
        }
        self.forget_sources(now, path, peer);
    }

    /// The peer's link has ended; the next one goes on from what has arrived.
    pub(super) fn peer_down(&mut self, peer: NodeId) {
        if let Some(incoming) = self.peers.get_mut(&peer) {
            incoming.begin_again();
        }
    }
}

impl Source {
    /// One, for some [`SMALL_BYTES`] that are kept for any record, and one more for each as much
    /// that this one is longer: its path is in several lists, the rest here and in the want.
    pub(super) fn weight(&self) -> usize {
        let attributes = self.record.entry.iter().flat_map(|entry| &entry.meta.xattrs);
        let attributes: usize = attributes.map(|(name, value)| name.len() + value.len()).sum();
        let target = self.record.entry.as_ref().map_or(0, |entry| match &entry.kind {
            Kind::Symlink { target } => target.len(),
            _ => 0,
        });
        let version = &self.record.version;
        let pairs = version.seen.pairs().len() + version.vector.pairs().len();
        let path = self.record.path.as_bytes().len();
        1 + (6 * path + 2 * (attributes + target + 16 * pairs)) / SMALL_BYTES
    }
}
