//! The hybrid logical clock: wall time that never goes backwards and is never behind a peer.
//!
//! After Kulkarni et al., "Logical Physical Clocks" (2014), with both parts in one number: when the
//! wall clock stands or goes back, the counter goes on by one nanosecond an edit.

use crate::model::limits::CLOCK_NS_MAX;
use crate::model::{NodeId, Stamp, Version};

/// A moment, as the caller's clocks tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Milliseconds of a clock that never jumps. Only differences count.
    pub monotonic_ms: u64,
    /// Nanoseconds since 1970 by the wall clock, which may jump.
    pub wall_ns: u64,
}

/// A node's hybrid logical clock for one mount.
#[derive(Debug)]
pub struct Clock {
    node: NodeId,
    last: u64,
    /// No edit made here has a higher counter.
    made: u64,
}

impl Clock {
    /// A clock that starts `step` after `last`, the highest counter this node knows of.
    #[must_use]
    pub fn new(node: NodeId, last: u64, step: u64) -> Self {
        Self { node, last: last.saturating_add(step), made: last }
    }

    /// A new, unique stamp, after everything made and observed before.
    pub fn stamp(&mut self, now: Now) -> Stamp {
        self.last = now.wall_ns.max(self.last.saturating_add(1));
        self.made = self.last;
        Stamp { counter: self.last, node: self.node }
    }

    /// Whether an edit is said to be of this node that it has not made yet.
    #[must_use]
    pub fn is_to_come(&self, version: &Version) -> bool {
        let touched = Some(version.touched).filter(|touched| touched.node == self.node);
        let newest = version.vector.counter(self.node).max(touched.map_or(0, |at| at.counter));
        newest > self.made && newest < CLOCK_NS_MAX
    }

    /// Notes a stamp that was made elsewhere: later stamps made here are after it. One that no clock
    /// can have made is not followed: the next ones would leave what a peer believes.
    pub fn observe(&mut self, stamp: Stamp) {
        if stamp.counter < CLOCK_NS_MAX {
            self.last = self.last.max(stamp.counter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_grow_when_the_wall_clock_goes_back() {
        let at = |wall_ns| Now { monotonic_ms: 0, wall_ns };
        let mut clock = Clock::new(NodeId(1), 0, 0);
        let first = clock.stamp(at(100));
        let second = clock.stamp(at(50));
        clock.observe(Stamp { counter: 500, node: NodeId(2) });
        let third = clock.stamp(at(60));
        assert!(first < second && second < third);
        assert!(third.counter > 500);
    }

    #[test]
    fn an_edit_of_this_node_that_it_did_not_make_is_to_come() {
        let mut clock = Clock::new(NodeId(1), 0, 0);
        let mut version = Version::edit(clock.stamp(Now { monotonic_ms: 0, wall_ns: 100 }), None);
        assert!(!clock.is_to_come(&version));
        version.vector.add(Stamp { counter: 900, node: NodeId(2) });
        clock.observe(Stamp { counter: 900, node: NodeId(2) });
        assert!(!clock.is_to_come(&version), "it is of another node");
        let touched =
            Version { touched: Stamp { counter: 101, node: NodeId(1) }, ..version.clone() };
        assert!(clock.is_to_come(&touched));
        version.vector.add(Stamp { counter: 101, node: NodeId(1) });
        assert!(clock.is_to_come(&version));
        version.vector.add(Stamp { counter: u64::MAX, node: NodeId(1) });
        assert!(!clock.is_to_come(&version), "nobody can have made it");
    }

    #[test]
    fn a_stamp_from_beyond_all_clocks_does_not_set_this_one() {
        let mut clock = Clock::new(NodeId(1), 0, 0);
        for counter in [CLOCK_NS_MAX, u64::MAX] {
            clock.observe(Stamp { counter, node: NodeId(2) });
        }
        let now = Now { monotonic_ms: 0, wall_ns: 100 };
        assert_eq!([100, 101], [clock.stamp(now).counter, clock.stamp(now).counter]);
    }
}
