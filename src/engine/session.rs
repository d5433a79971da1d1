//! What one peer was sent of one mount, and what of it is durable there.
//!
//! The backlog is never queued: it is whatever the index holds after these positions. The caller
//! asks for rows after [`Outgoing::sent`], sends them and notes it with [`Outgoing::advance`].

use crate::model::{Lane, Sequence};

/// How long records learned from a peer wait before they are passed on to another one that the
/// peer's own announcements reach as well, in milliseconds. Longer than most deployments take: until
/// one is everywhere, both ends differ although nothing is missing.
pub const FORWARD_DELAY_MS: u64 = 10_000;

/// Positions in our sequence for one peer.
#[derive(Debug, Clone)]
pub struct Outgoing {
    sent: [Sequence; Lane::ALL.len()],
    durable: [Sequence; Lane::ALL.len()],
    /// What the peer was told of each lane's position, with or without records.
    told: [Sequence; Lane::ALL.len()],
    /// Up to where every lane has to be told, for an ordered record to be released.
    promised: Sequence,
    /// Up to where an ordered record of this session waits for every lane.
    awaited: Sequence,
    /// Up to where ordered records that were sent before have to wait as well.
    moved: Sequence,
    forward_since_ms: Option<u64>,
}

impl Outgoing {
    /// Goes on where the peer says it is; what is durable there it says separately. `head` is our last sequence: it is promised at once, since
    /// the peer may hold ordered records back that it got before the link, or our daemon, broke.
    #[must_use]
    pub fn starting_at(cursors: &[(Lane, Sequence)], head: Sequence) -> Self {
        let mut at = [Sequence(0); Lane::ALL.len()];
        for &(lane, sequence) in cursors {
            at[lane as usize] = sequence;
        }
        Self {
            sent: at,
            durable: [Sequence(0); Lane::ALL.len()],
            told: at,
            promised: head,
            awaited: Sequence(0),
            moved: Sequence(0),
            forward_since_ms: None,
        }
    }

    /// Up to where the lane was sent.
    #[must_use]
    pub fn sent(&self, lane: Lane) -> Sequence {
        self.sent[lane as usize]
    }

    /// Up to where the lane is durable at the peer.
    #[must_use]
    pub fn durable(&self, lane: Lane) -> Sequence {
        self.durable[lane as usize]
    }

    /// Whether a record on `lane` would overtake the one of its directory, which is at `sequence` of
    /// lane `dir_lane`: lanes are streams of their own, and what was sent on another one is there
    /// only when the peer says so.
    #[must_use]
    pub fn overtakes(&self, lane: Lane, dir_lane: Lane, sequence: Sequence) -> bool {
        let known = if lane == dir_lane { &self.sent } else { &self.durable };
        sequence > known[dir_lane as usize]
    }

    /// The lane was sent up to `sequence`, and told so.
    pub fn advance(&mut self, lane: Lane, sequence: Sequence) {
        let at = lane as usize;
        self.sent[at] = self.sent[at].max(sequence);
        self.told[at] = self.told[at].max(sequence);
    }

    /// The lane has nothing for the peer up to `sequence`; it was not told.
    pub fn skip(&mut self, lane: Lane, sequence: Sequence) {
        let at = lane as usize;
        self.sent[at] = self.sent[at].max(sequence);
    }

    /// The peer has made the lane durable up to `sequence`.
    pub fn acknowledge(&mut self, lane: Lane, sequence: Sequence) {
        let at = lane as usize;
        self.durable[at] = self.durable[at].max(sequence);
    }

    /// An ordered record is sent: the peer holds it until every lane has come to here.
    pub fn promise(&mut self, head: Sequence) {
        self.promised = self.promised.max(head);
        self.awaited = self.awaited.max(head);
    }

    /// A row has moved in our sequence. If the peer was not sent it where it was, ordered records
    /// that it holds wait for what is not to come there any more: they have to wait for where it is
    /// now. Every message says so, and so does the first one to pass the row's old place.
    pub fn moved(&mut self, lane: Lane, old: Sequence, new: Sequence) {
        if old <= self.sent[lane as usize] || old > self.promised {
            return;
        }
        self.moved = self.moved.max(new);
        self.promised = self.promised.max(new);
        if old <= self.awaited {
            self.awaited = self.awaited.max(new);
        }
    }

    /// Up to where the ordered records that the peer was sent so far have to wait at least.
    #[must_use]
    pub fn waits_for(&self) -> Sequence {
        self.moved
    }

    /// The position that a lane with nothing left to send has to be told, if any.
    #[must_use]
    pub fn owed_progress(&self, lane: Lane) -> Option<Sequence> {
        (self.told[lane as usize] < self.promised).then_some(self.promised)
    }

    /// Whether [`Lane::Forward`] is to be sent now: at once if `at_once` (the peer is not linked
    /// with everyone) or if an ordered record waits for it, otherwise some time after `now_ms`, when both ends still differ then.
    pub fn forwards_now(&mut self, now_ms: u64, at_once: bool) -> bool {
        let since = *self.forward_since_ms.get_or_insert(now_ms);
        // Told, not sent: behind the last row that was sent there may be nothing up to there.
        let awaited = self.told[Lane::Forward as usize] < self.awaited;
        at_once || awaited || now_ms.saturating_sub(since) >= FORWARD_DELAY_MS
    }

    /// When [`Outgoing::forwards_now`] will say yes; nothing while nobody asked.
    #[must_use]
    pub fn forwards_at_ms(&self) -> Option<u64> {
        self.forward_since_ms.map(|since| since + FORWARD_DELAY_MS)
    }

    /// [`Lane::Forward`] has nothing left to send.
    pub fn forwarded(&mut self) {
        self.forward_since_ms = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_lane_owes_progress_only_after_a_promise() {
        let mut out = Outgoing::starting_at(&[(Lane::Urgent, Sequence(5))], Sequence(5));
        assert_eq!(None, out.owed_progress(Lane::Urgent));
        out.promise(Sequence(9));
        assert_eq!(Some(Sequence(9)), out.owed_progress(Lane::Urgent));
        out.advance(Lane::Urgent, Sequence(9));
        assert_eq!(None, out.owed_progress(Lane::Urgent));
    }

    #[test]
    fn a_record_overtakes_its_directory_on_another_lane_until_the_peer_has_it() {
        let mut out = Outgoing::starting_at(&[(Lane::Normal, Sequence(5))], Sequence(9));
        let overtakes = |out: &Outgoing, lane| out.overtakes(lane, Lane::Normal, Sequence(7));
        assert!(overtakes(&out, Lane::Normal) && overtakes(&out, Lane::Urgent));
        out.advance(Lane::Normal, Sequence(7));
        assert!(!overtakes(&out, Lane::Normal) && overtakes(&out, Lane::Urgent));
        out.acknowledge(Lane::Normal, Sequence(7));
        assert!(!overtakes(&out, Lane::Urgent));
    }

    #[test]
    fn an_ordered_record_waits_for_what_moved_before_it_was_sent() {
        let mut out = Outgoing::starting_at(&[(Lane::Normal, Sequence(5))], Sequence(5));
        out.promise(Sequence(9));
        out.moved(Lane::Normal, Sequence(4), Sequence(10));
        assert_eq!(Sequence(0), out.waits_for(), "it was sent");
        out.moved(Lane::Normal, Sequence(7), Sequence(11));
        out.moved(Lane::Normal, Sequence(12), Sequence(13));
        assert_eq!(Sequence(11), out.waits_for());
        assert_eq!(Some(Sequence(11)), out.owed_progress(Lane::Urgent));
    }

    #[test]
    fn a_session_promises_what_an_earlier_one_may_have() {
        let out = Outgoing::starting_at(&[(Lane::Normal, Sequence(9))], Sequence(9));
        assert_eq!(Some(Sequence(9)), out.owed_progress(Lane::Release));
        assert_eq!(None, out.owed_progress(Lane::Normal));
    }

    #[test]
    fn records_of_others_go_on_until_an_ordered_record_need_not_wait_for_them() {
        let mut out = Outgoing::starting_at(&[], Sequence(0));
        out.promise(Sequence(9));
        out.advance(Lane::Forward, Sequence(7));
        assert!(out.forwards_now(100, false), "the peer does not know that 8 and 9 are elsewhere");
        out.advance(Lane::Forward, Sequence(12));
        assert!(!out.forwards_now(101, false));
    }

    #[test]
    fn records_of_others_are_passed_on_after_a_while() {
        let mut out = Outgoing::starting_at(&[], Sequence(0));
        assert!(!out.forwards_now(100, false));
        assert!(out.forwards_now(100, true));
        assert!(out.forwards_now(100 + FORWARD_DELAY_MS, false));
    }
}
