//! Who may begin a handshake: few at a time, few from one place, and whoever comes in a crowd has to
//! show first that he is where he says he is.
//!
//! In: where an attempt comes from, and when. Out: a verdict. Pure. What an attempt costs before it
//! is admitted is one packet; the table of sources has a limit.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Handshakes at a time; from a quarter of it on, addresses have to be proven first.
pub(super) const HANDSHAKES_MAX: usize = 64;

/// Handshakes at a time from one source, so that one cannot keep all others out.
const SOURCE_HANDSHAKES_MAX: usize = 16;

/// Handshakes from one source in a row: all nodes of a cluster behind one address.
const BURST: u32 = 64;

/// After a burst, one handshake is allowed each time that long has passed. A peer redials ten times a
/// second at most, and soon less often.
const REFILL: Duration = Duration::from_millis(100);

/// Sources remembered at a time.
const SOURCES_MAX: usize = 1024;

/// What to do with an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// Go on with the handshake; [`Doorman::left`] has to be called when it is over.
    Admit,
    /// Answer with a token that the sender has to come back with: nothing is kept for it.
    Prove,
    /// Do not answer.
    Ignore,
}

struct Source {
    open: usize,
    /// When the burst is whole again.
    whole_at: Instant,
}

/// Counts handshakes.
#[derive(Default)]
pub(super) struct Doorman {
    open: usize,
    sources: HashMap<IpAddr, Source>,
}

impl Doorman {
    /// Judges an attempt. `proven`: its sender has shown that it receives what is sent to `from`.
    pub(super) fn judge(&mut self, from: IpAddr, proven: bool, now: Instant) -> Verdict {
        if self.open >= HANDSHAKES_MAX {
            return if proven { Verdict::Ignore } else { Verdict::Prove };
        }
        let from = place(from);
        self.forget_idle(now);
        if self.sources.len() >= SOURCES_MAX && !self.sources.contains_key(&from) {
            return if proven { Verdict::Ignore } else { Verdict::Prove };
        }
        let source = self.sources.entry(from).or_insert(Source { open: 0, whole_at: now });
        let owed = source.whole_at.saturating_duration_since(now);
        // Half of it is for those who prove where they are: nobody can use it up in another's name.
        let burst = if proven { BURST } else { BURST / 2 };
        let room = owed + REFILL <= REFILL * burst && source.open < SOURCE_HANDSHAKES_MAX;
        if !proven && (!room || self.open >= HANDSHAKES_MAX / 4) {
            return Verdict::Prove;
        }
        if !room {
            return Verdict::Ignore;
        }
        source.open += 1;
        source.whole_at = source.whole_at.max(now) + REFILL;
        self.open += 1;
        Verdict::Admit
    }

    /// A handshake that was admitted is over.
    pub(super) fn left(&mut self, from: IpAddr) {
        self.open = self.open.saturating_sub(1);
        if let Some(source) = self.sources.get_mut(&place(from)) {
            source.open = source.open.saturating_sub(1);
        }
    }

    fn forget_idle(&mut self, now: Instant) {
        if self.sources.len() >= SOURCES_MAX {
            self.sources.retain(|_, source| source.open > 0 || source.whole_at > now);
        }
    }
}

/// What counts as one source: an IPv4 address, or the network of an IPv6 address, of which its owner
/// has as many as he likes.
fn place(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => {
            let network = v6.segments();
            Ipv6Addr::from([network[0], network[1], network[2], network[3], 0, 0, 0, 0]).into()
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a moment to begin with")]
mod tests {
    use super::*;

    fn v4(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn a_quiet_door_is_open_and_a_crowd_has_to_prove_where_it_is() {
        let (mut door, now) = (Doorman::default(), Instant::now());
        for last in 0..16 {
            assert_eq!(Verdict::Admit, door.judge(v4(last), false, now), "{last}");
        }
        assert_eq!(Verdict::Prove, door.judge(v4(99), false, now));
        assert_eq!(Verdict::Admit, door.judge(v4(99), true, now));
        door.left(v4(0));
        door.left(v4(1));
        assert_eq!(Verdict::Admit, door.judge(v4(0), false, now));
    }

    #[test]
    fn one_source_cannot_keep_the_others_out() {
        let (mut door, now) = (Doorman::default(), Instant::now());
        for _ in 0..SOURCE_HANDSHAKES_MAX {
            assert_eq!(Verdict::Admit, door.judge(v4(1), true, now));
        }
        assert_eq!(Verdict::Ignore, door.judge(v4(1), true, now));
        assert_eq!(Verdict::Admit, door.judge(v4(2), true, now));
        // One network of IPv6 is one source.
        let v6 = |low: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, low]);
        let admitted = (0..100).filter(|&n| door.judge(v6(n), true, now) == Verdict::Admit);
        assert_eq!(SOURCE_HANDSHAKES_MAX, admitted.count());
    }

    #[test]
    fn a_source_is_admitted_at_a_bounded_rate_and_nobody_can_use_up_anothers() {
        let (mut door, mut now) = (Doorman::default(), Instant::now());
        let mut admitted = |proven, now| {
            let verdict = door.judge(v4(1), proven, now);
            if verdict == Verdict::Admit {
                door.left(v4(1));
            }
            verdict
        };
        for _ in 0..BURST / 2 {
            assert_eq!(Verdict::Admit, admitted(false, now));
        }
        assert_eq!(Verdict::Prove, admitted(false, now));
        for _ in 0..BURST / 2 {
            assert_eq!(Verdict::Admit, admitted(true, now));
        }
        assert_eq!(Verdict::Ignore, admitted(true, now));
        let mut count = 0;
        for _ in 0..1000 {
            now += Duration::from_millis(10);
            count += usize::from(admitted(true, now) == Verdict::Admit);
        }
        assert_eq!(100, count, "ten a second");
    }

    #[test]
    fn the_table_of_sources_is_bounded() {
        let (mut door, mut now) = (Doorman::default(), Instant::now());
        for n in 0..100_000_u32 {
            let from = IpAddr::from(n.to_be_bytes());
            if door.judge(from, true, now) == Verdict::Admit {
                door.left(from);
            }
            assert!(door.sources.len() <= SOURCES_MAX);
            if n % 5000 == 0 {
                now += REFILL;
                assert_eq!(Verdict::Admit, door.judge(v4(7), true, now), "{n}");
                door.left(v4(7));
            }
        }
    }
}
