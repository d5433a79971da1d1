//! Clears the index of tombstones that nobody waits for any more.

use super::actor::Actor;
use crate::index::IndexError;
use crate::model::{Lane, Sequence};

/// How often, in milliseconds.
const EVERY_MS: u64 = 60_000;

/// How long a tombstone is kept at least, in nanoseconds: a month.
const KEPT_NS: u64 = 30 * 86_400 * 1_000_000_000;

/// Tombstones looked at in one turn and lane.
const BATCH: usize = 512;

impl Actor {
    /// Drops tombstones that every member has durably acknowledged and that are old enough. Those
    /// learned from others go after twice that time, while everyone is linked.
    pub(super) fn tidy(&mut self) -> Result<(), IndexError> {
        let now = self.now();
        if now.monotonic_ms < self.tidied_ms + EVERY_MS {
            return Ok(());
        }
        self.tidied_ms = now.monotonic_ms;
        let members = self.shared.other_members();
        let all_linked = members.iter().all(|id| self.peers.contains_key(id));
        for lane in Lane::ALL {
            let (up_to, kept_ns) = if lane == Lane::Forward {
                let head = if all_linked { self.index.head() } else { Sequence(0) };
                (head, 2 * KEPT_NS)
            } else {
                let mut lowest = self.index.head();
                for &id in &members {
                    lowest = lowest.min(self.durable(id, lane)?);
                }
                (lowest, KEPT_NS)
            };
            let before = now.wall_ns.saturating_sub(kept_ns);
            self.index.drop_tombstones(lane, up_to, before, BATCH)?;
        }
        Ok(())
    }
}
