//! Clears the index of tombstones that nobody waits for any more, and notes how far it is.

use super::actor::Actor;
use super::open;
use crate::engine::clock::Now;
use crate::index::IndexError;
use crate::model::{Lane, NodeId, Sequence};

/// How often, in milliseconds. Not more often than [`Index::mark`](crate::index::Index::mark) allows.
const EVERY_MS: u64 = 60_000;

/// How long a tombstone is kept at least, in nanoseconds: a month.
const KEPT_NS: u64 = 30 * 86_400 * 1_000_000_000;

/// Tombstones looked at in one turn and lane.
const BATCH: usize = 512;

/// How long every member has had what is dropped, in milliseconds: what one had sent to another before it
/// had the tombstone may still be on its way, and would bring the file back.
const SETTLED_MS: u64 = 24 * 3600 * 1000;

/// Up to where every member has the lanes, and since when that is known, by the monotonic clock.
pub(super) struct Reached {
    since_ms: u64,
    lanes: [Sequence; Lane::ALL.len()],
}

impl Actor {
    /// Now and then: drops tombstones that every member has durably acknowledged, and has had for a
    /// while, and that are old enough, however long that takes: a member that has not seen a deletion
    /// would bring the file back. Those learned from others go after twice that time.
    pub(super) fn tidy(&mut self) -> Result<(), IndexError> {
        let now = self.now();
        if now.monotonic_ms < self.tidied_ms + EVERY_MS {
            return Ok(());
        }
        self.tidied_ms = now.monotonic_ms;
        if self.index.head() > self.noted {
            self.index.mark()?;
            self.index.commit()?;
            open::note(&self.mount, &self.index)?;
            self.noted = self.index.head();
        }
        self.drop_tombstones(now)
    }

    fn drop_tombstones(&mut self, now: Now) -> Result<(), IndexError> {
        let due = self.reached.take_if(|reached| now.monotonic_ms >= reached.since_ms + SETTLED_MS);
        let again = match due {
            Some(reached) => self.drop_up_to(now.wall_ns, reached.lanes)?,
            None => None,
        };
        if self.reached.is_none() {
            let since_ms = now.monotonic_ms;
            let members = self.shared.other_members();
            let all_linked = members.iter().all(|id| self.peers.contains_key(id));
            let anew =
                || self.all_have(&members, all_linked).map(|lanes| Reached { since_ms, lanes });
            self.reached = Some(again.map_or_else(anew, Ok)?);
        }
        Ok(())
    }

    /// Drops some. What is left of that many is dropped the next time.
    fn drop_up_to(
        &mut self,
        now_ns: u64,
        lanes: [Sequence; Lane::ALL.len()],
    ) -> Result<Option<Reached>, IndexError> {
        let mut more = false;
        for (lane, up_to) in Lane::ALL.into_iter().zip(lanes) {
            let kept_ns = if lane == Lane::Forward { 2 * KEPT_NS } else { KEPT_NS };
            let before = now_ns.saturating_sub(kept_ns);
            more |= self.index.drop_tombstones(lane, up_to, before, BATCH)? == BATCH;
        }
        Ok(more.then_some(Reached { since_ms: 0, lanes }))
    }

    /// Up to where every member has the lanes. What was learned from others goes only while all are
    /// linked, besides.
    fn all_have(
        &self,
        members: &[NodeId],
        all_linked: bool,
    ) -> Result<[Sequence; Lane::ALL.len()], IndexError> {
        let mut lanes = [self.index.head(); Lane::ALL.len()];
        for lane in Lane::ALL {
            let lowest = &mut lanes[lane as usize];
            if lane == Lane::Forward && !all_linked {
                *lowest = Sequence(0);
            }
            for &id in members {
                *lowest = (*lowest).min(self.durable(id, lane)?);
            }
        }
        Ok(lanes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::testing::Fixture;
    use crate::model::{Record, RelPath, Stamp, Version};

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

    /// Whether the tombstone goes when it is so old, and all have had it for long who have it.
    fn goes(fixture: &mut Fixture, age_ns: u64) -> bool {
        for wait_ms in [0, SETTLED_MS, SETTLED_MS] {
            pass(fixture, age_ns, wait_ms);
        }
        is_gone(fixture)
    }

    fn pass(fixture: &mut Fixture, age_ns: u64, ms: u64) {
        let monotonic_ms =
            fixture.actor.reached.as_ref().map_or(0, |reached| reached.since_ms) + ms;
        let wall_ns = DELETED_NS + age_ns;
        fixture.actor.drop_tombstones(Now { monotonic_ms, wall_ns }).unwrap();
    }

    fn is_gone(fixture: &Fixture) -> bool {
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
    fn a_tombstone_that_all_have_only_now_stays_for_a_day() {
        let (mut fixture, at) = with_tombstone(Lane::Normal);
        fixture.add_members(&OTHERS);
        acknowledge(&mut fixture, OTHERS[0], Lane::Normal, at);
        pass(&mut fixture, 100 * KEPT_NS, 0);
        acknowledge(&mut fixture, OTHERS[1], Lane::Normal, at);
        pass(&mut fixture, 100 * KEPT_NS, SETTLED_MS - 1);
        pass(&mut fixture, 100 * KEPT_NS, SETTLED_MS);
        assert!(!is_gone(&fixture), "what it was sent before may be on its way");
        pass(&mut fixture, 100 * KEPT_NS, SETTLED_MS);
        assert!(is_gone(&fixture));
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

    #[test]
    fn a_tombstone_learned_from_others_stays_while_a_member_that_is_linked_lacks_it() {
        let (mut fixture, at) = with_tombstone(Lane::Forward);
        fixture.add_members(&OTHERS);
        let all_have = |fixture: &Fixture, all_linked| {
            fixture.actor.all_have(&OTHERS, all_linked).unwrap()[Lane::Forward as usize]
        };
        acknowledge(&mut fixture, OTHERS[0], Lane::Forward, at);
        assert!(all_have(&fixture, true) < at);
        acknowledge(&mut fixture, OTHERS[1], Lane::Forward, at);
        assert_eq!((at, Sequence(0)), (all_have(&fixture, true), all_have(&fixture, false)));
    }
}
