//! Clears the index of tombstones that nobody waits for any more, and notes how far it is.

use super::actor::Actor;
use super::open;
use crate::index::IndexError;
use crate::model::{Lane, Sequence};

/// How often, in milliseconds.
const EVERY_MS: u64 = 60_000;

/// How long a tombstone is kept at least, in nanoseconds: a month.
const KEPT_NS: u64 = 30 * 86_400 * 1_000_000_000;

/// Tombstones looked at in one turn and lane.
const BATCH: usize = 512;

impl Actor {
    /// Now and then: drops tombstones that every member has durably acknowledged and that are old enough, however
    /// long that takes: a member that has not seen a deletion would bring the file back. Those
    /// learned from others go after twice that time, while everyone is linked.
    pub(super) fn tidy(&mut self) -> Result<(), IndexError> {
        let now = self.now();
        if now.monotonic_ms < self.tidied_ms + EVERY_MS {
            return Ok(());
        }
        self.tidied_ms = now.monotonic_ms;
        if self.index.head() > self.noted {
            self.index.commit()?;
            open::note(&self.mount, &self.index)?;
            self.noted = self.index.head();
        }
        self.drop_tombstones(now.wall_ns)
    }

    fn drop_tombstones(&mut self, now_ns: u64) -> Result<(), IndexError> {
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
            let before = now_ns.saturating_sub(kept_ns);
            self.index.drop_tombstones(lane, up_to, before, BATCH)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::testing::Fixture;
    use crate::model::{NodeId, Record, RelPath, Stamp, Version};

    const OTHERS: [NodeId; 2] = [NodeId(2), NodeId(3)];
    const DELETED_NS: u64 = 1_900_000_000_000_000_000;

    /// A mount that has a tombstone of `DELETED_NS` in `lane`. Gives its sequence.
    fn with_tombstone(lane: Lane) -> (Fixture, Sequence) {
        let mut fixture = Fixture::start();
        let index = &mut fixture.actor.index;
        let version = Version::edit(Stamp { counter: DELETED_NS, node: NodeId(1) }, None);
        let path = RelPath::parse(b"gone").unwrap();
        let via = (lane == Lane::Forward).then_some(OTHERS[0]);
        index.begin().unwrap();
        let record = Record { path, entry: None, version };
        let (row, _) = index.store(&record, None, lane, via, DELETED_NS).unwrap();
        (fixture, row.sequence)
    }

    /// Whether the tombstone goes when it is so old.
    fn goes(fixture: &mut Fixture, age_ns: u64) -> bool {
        fixture.actor.drop_tombstones(DELETED_NS + age_ns).unwrap();
        fixture.actor.index.row(&RelPath::parse(b"gone").unwrap()).unwrap().is_none()
    }

    fn acknowledge(fixture: &mut Fixture, node: NodeId, lane: Lane, at: Sequence) {
        fixture.actor.index.set_acknowledged(node, lane, at).unwrap();
    }

    #[test]
    fn a_tombstone_that_all_have_goes_after_its_time() {
        let (mut fixture, at) = with_tombstone(Lane::Normal);
        fixture.add_members(&OTHERS);
        for node in OTHERS {
            acknowledge(&mut fixture, node, Lane::Normal, at);
        }
        assert!(!goes(&mut fixture, 0));
        assert!(!goes(&mut fixture, KEPT_NS));
        assert!(goes(&mut fixture, KEPT_NS + 1));
        assert_eq!(Fixture::start().actor.index.totals(), fixture.actor.index.totals());
    }

    #[test]
    fn a_tombstone_that_a_member_lacks_stays_however_old_it_is() {
        let (mut fixture, at) = with_tombstone(Lane::Normal);
        fixture.add_members(&OTHERS);
        acknowledge(&mut fixture, OTHERS[0], Lane::Normal, at);
        acknowledge(&mut fixture, OTHERS[1], Lane::Urgent, at);
        acknowledge(&mut fixture, OTHERS[1], Lane::Normal, Sequence(at.0 - 1));
        assert!(!goes(&mut fixture, 100 * KEPT_NS));
        acknowledge(&mut fixture, OTHERS[1], Lane::Normal, at);
        assert!(goes(&mut fixture, KEPT_NS + 1));
    }

    #[test]
    fn a_tombstone_learned_from_others_goes_after_twice_its_time() {
        let (mut fixture, _) = with_tombstone(Lane::Forward);
        assert!(!goes(&mut fixture, 2 * KEPT_NS));
        assert!(goes(&mut fixture, 2 * KEPT_NS + 1));
    }

    #[test]
    fn a_tombstone_learned_from_others_stays_while_a_member_is_not_linked() {
        let (mut fixture, at) = with_tombstone(Lane::Forward);
        fixture.add_members(&OTHERS);
        for node in OTHERS {
            acknowledge(&mut fixture, node, Lane::Forward, at);
        }
        assert!(!goes(&mut fixture, 100 * KEPT_NS));
    }
}
