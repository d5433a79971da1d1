//! Says which snapshots stay and which may be removed.
//!
//! In: a rule, the time, and of each snapshot when it was taken, whether it is pinned and whether
//! it can be restored. Out: a verdict on each, with the reasons to keep it. Pure: it has no clock
//! and removes nothing.
//!
//! **What always stays:** what is pinned, the newest that can be restored, and what was taken in
//! the future, for then the clock is or was wrong and its age is not known. When nothing can be
//! restored nothing is removed: that is more likely a fault in finding out, or one to heal.
//!
//! **Which snapshot stays for a period** must not change with time, or each would make way for the
//! next and nothing would ever grow old. So periods are those of the calendar in UTC, and never
//! "the last seven days":
//! - a tier, which ends at an age, keeps the oldest of a period. Nothing older can come, so it
//!   stays until it is too old; and as every tier counts from the first day on, what a long period
//!   will need is kept from the start.
//! - a count keeps the newest of a period, as restic does. That changes while the period lasts, but
//!   only for the newest of all, and is settled when it has ended.
//!
//! What cannot be restored stands for no period and uses up no count.

use std::{fmt, time::Duration};

use jiff::{SignedDuration, Timestamp, tz::Offset};

use super::schedule::Schedule;

const DAY: Duration = Duration::from_hours(24);
/// Snapshots that go at once without a question, even if they are more than half of all.
const AT_ONCE: usize = 8;

const WEEK: Duration = Duration::from_hours(7 * 24);

/// A rule by which snapshots are kept. Each part keeps what it names, whatever the others say; the
/// default keeps only what always stays.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Retention {
    /// So many of the newest.
    pub keep_last: u32,
    /// All that are younger than this, also those that cannot be restored.
    pub keep_within: Option<Duration>,
    /// The newest of each of so many hours that have one, the latest first.
    pub keep_hourly: u32,
    /// The same of days.
    pub keep_daily: u32,
    /// The same of weeks, which begin on Monday.
    pub keep_weekly: u32,
    /// The same of months.
    pub keep_monthly: u32,
    /// The oldest of each period, up to an age.
    pub tiers: Vec<Tier>,
}

/// Keeps the oldest snapshot of each period while it is younger than an age.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tier {
    /// One is kept of each of these.
    pub period: Period,
    /// The age at which it is kept no longer.
    pub until: Duration,
}

/// A period of the calendar, in UTC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Period {
    /// From minute 0.
    Hour,
    /// From midnight.
    Day,
    /// From Monday.
    Week,
    /// From every second Monday, 29 December 1969 being one.
    TwoWeeks,
    /// From the first day.
    Month,
}

/// What is known of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// When it was taken.
    pub taken: Timestamp,
    /// Whether a person said that it is to stay.
    pub pinned: bool,
    /// Whether it is whole and undamaged.
    pub restorable: bool,
}

/// What becomes of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It stays, for these reasons; there is at least one.
    Keep(Vec<Reason>),
    /// It may go.
    Remove,
}

/// Why a snapshot stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// It was taken after the time it is now.
    Future,
    /// It is among the newest, as many as are kept.
    Last,
    /// It is the newest that can be restored.
    LastRestorable,
    /// Nothing can be restored, so nothing is removed.
    NoneRestorable,
    /// It stands for a period.
    Of(Period),
    /// A person said so.
    Pinned,
    /// It is younger than this.
    Within(Duration),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Future => "taken in the future",
            Self::Last => "the last",
            Self::LastRestorable => "the last that can be restored",
            Self::NoneRestorable => "none can be restored",
            Self::Of(Period::Hour) => "hourly",
            Self::Of(Period::Day) => "daily",
            Self::Of(Period::Week) => "weekly",
            Self::Of(Period::TwoWeeks) => "every two weeks",
            Self::Of(Period::Month) => "monthly",
            Self::Pinned => "pinned",
            Self::Within(age) => return f.pad(&format!("within {}", words(*age))),
        })
    }
}

impl Retention {
    /// All for three days, one a day up to six days old, one a week up to six weeks, one every two
    /// weeks up to twelve, one a month up to twenty-two.
    #[must_use]
    pub fn standard() -> Self {
        let tier = |period, until| Tier { period, until };
        Self {
            keep_within: Some(3 * DAY),
            tiers: vec![
                tier(Period::Day, 6 * DAY),
                tier(Period::Week, 6 * WEEK),
                tier(Period::TwoWeeks, 12 * WEEK),
                tier(Period::Month, 22 * WEEK),
            ],
            ..Self::default()
        }
    }

    /// A verdict on each snapshot, in the order they were given, which may be any.
    #[must_use]
    pub fn decide(&self, now: Timestamp, snapshots: &[Candidate]) -> Vec<Verdict> {
        let mut ballot = Ballot::new(now, snapshots);
        ballot.keep_always();
        ballot.keep_last(self.keep_last);
        if let Some(age) = self.keep_within {
            ballot.keep_within(age);
        }
        for (period, count) in self.counts() {
            ballot.keep_newest_of(period, count);
        }
        for tier in &self.tiers {
            ballot.keep_oldest_of(*tier);
        }
        ballot.verdicts()
    }

    /// Whether so many of all may go without a person's word. More at once is what a clock says that is
    /// years ahead, or a rule that nobody has thought over.
    #[must_use]
    pub fn may_remove(over: usize, all: usize) -> bool {
        over <= AT_ONCE.max(all / 2)
    }

    /// What would be left after a time in which a snapshot is taken at each moment of the schedule,
    /// and this rule is applied after each. The oldest first.
    ///
    /// The moments are those after `from`, up to its end. The work is as many moments as there are
    /// times what is kept: little for every hour, much for every minute.
    #[must_use]
    pub fn simulate(
        &self,
        schedule: &Schedule,
        from: Timestamp,
        length: SignedDuration,
    ) -> Vec<Timestamp> {
        let end = from.saturating_add(length).unwrap_or(Timestamp::MAX);
        let mut held = Vec::new();
        let mut at = from;
        while let Some(next) = schedule.next_after(at).filter(|&next| next <= end) {
            at = next;
            held.push(at);
            self.prune(at, &mut held);
        }
        held
    }

    /// The rule in a person's words.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut parts = Vec::new();
        match self.keep_last {
            0 => {}
            1 => parts.push("the last one".to_owned()),
            number => parts.push(format!("the last {number}")),
        }
        if let Some(age) = self.keep_within {
            parts.push(format!("all up to {} old", words(age)));
        }
        for (period, count) in self.counts().into_iter().filter(|&(_, count)| count > 0) {
            let name = period.name();
            parts.push(match count {
                1 => format!("the newest of the last {name} that has one"),
                _ => format!("the newest of each of the last {count} {name}s that have one"),
            });
        }
        for Tier { period, until } in &self.tiers {
            let each = match period {
                Period::Hour => "one an hour",
                Period::Day => "one a day",
                Period::Week => "one a week",
                Period::TwoWeeks => "one every two weeks",
                Period::Month => "one a month",
            };
            parts.push(format!("{each} up to {} old", words(*until)));
        }
        let always = "what is pinned and the last that can be restored";
        match parts.as_slice() {
            [] => format!("keeps only {always}"),
            parts => format!("keeps {}; always {always}", parts.join(", ")),
        }
    }

    fn counts(&self) -> [(Period, u32); 4] {
        [
            (Period::Hour, self.keep_hourly),
            (Period::Day, self.keep_daily),
            (Period::Week, self.keep_weekly),
            (Period::Month, self.keep_monthly),
        ]
    }

    /// Removes what the rule does not keep, where all can be restored and nothing is pinned.
    fn prune(&self, now: Timestamp, held: &mut Vec<Timestamp>) {
        let candidate = |&taken| Candidate { taken, pinned: false, restorable: true };
        let candidates: Vec<_> = held.iter().map(candidate).collect();
        let mut verdicts = self.decide(now, &candidates).into_iter();
        held.retain(|_| verdicts.next() != Some(Verdict::Remove));
    }
}

impl Period {
    /// Counts periods, so that times in the same one have the same number.
    fn number(self, at: Timestamp) -> i64 {
        let seconds = at.as_second();
        // Since 29 December 1969, a Monday.
        let days = seconds.div_euclid(24 * 3600) + 3;
        match self {
            Self::Hour => seconds.div_euclid(3600),
            Self::Day => days,
            Self::Week => days.div_euclid(7),
            Self::TwoWeeks => days.div_euclid(14),
            Self::Month => {
                let date = Offset::UTC.to_datetime(at).date();
                i64::from(date.year()) * 12 + i64::from(date.month())
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::TwoWeeks => "two-week period",
            Self::Month => "month",
        }
    }
}

/// The reasons for each snapshot, while they are gathered.
struct Ballot<'a> {
    now: Timestamp,
    snapshots: &'a [Candidate],
    /// Those not in the future, the oldest first.
    past: Vec<usize>,
    /// Of these, those that can be restored.
    sound: Vec<usize>,
    /// One list a snapshot, as they were given.
    reasons: Vec<Vec<Reason>>,
}

impl<'a> Ballot<'a> {
    fn new(now: Timestamp, snapshots: &'a [Candidate]) -> Self {
        let mut past: Vec<usize> =
            (0..snapshots.len()).filter(|&at| snapshots[at].taken <= now).collect();
        past.sort_by_key(|&at| snapshots[at].taken);
        let sound = past.iter().copied().filter(|&at| snapshots[at].restorable).collect();
        Self { now, snapshots, past, sound, reasons: vec![Vec::new(); snapshots.len()] }
    }

    fn keep_always(&mut self) {
        for (snapshot, reasons) in self.snapshots.iter().zip(&mut self.reasons) {
            if snapshot.pinned {
                reasons.push(Reason::Pinned);
            }
            if snapshot.taken > self.now {
                reasons.push(Reason::Future);
            }
        }
        if let Some(&newest) = self.sound.last() {
            self.reasons[newest].push(Reason::LastRestorable);
        } else {
            for &at in &self.past {
                self.reasons[at].push(Reason::NoneRestorable);
            }
        }
    }

    fn keep_last(&mut self, count: u32) {
        for (&at, _) in self.sound.iter().rev().zip(0..count) {
            self.reasons[at].push(Reason::Last);
        }
    }

    fn keep_within(&mut self, age: Duration) {
        for &at in &self.past {
            if self.is_younger(at, age) {
                self.reasons[at].push(Reason::Within(age));
            }
        }
    }

    fn keep_newest_of(&mut self, period: Period, count: u32) {
        let newest = self.firsts(self.sound.iter().rev(), period);
        for (at, _) in newest.into_iter().zip(0..count) {
            self.reasons[at].push(Reason::Of(period));
        }
    }

    fn keep_oldest_of(&mut self, Tier { period, until }: Tier) {
        for at in self.firsts(self.sound.iter(), period) {
            if self.is_younger(at, until) && !self.reasons[at].contains(&Reason::Of(period)) {
                self.reasons[at].push(Reason::Of(period));
            }
        }
    }

    /// The first of each period, in the given order of time.
    fn firsts<'b>(&self, order: impl Iterator<Item = &'b usize>, period: Period) -> Vec<usize> {
        let mut firsts: Vec<usize> = order.copied().collect();
        firsts.dedup_by_key(|at| period.number(self.snapshots[*at].taken));
        firsts
    }

    fn is_younger(&self, at: usize, age: Duration) -> bool {
        self.now.duration_since(self.snapshots[at].taken).unsigned_abs() < age
    }

    fn verdicts(self) -> Vec<Verdict> {
        let verdict = |reasons: Vec<Reason>| {
            if reasons.is_empty() { Verdict::Remove } else { Verdict::Keep(reasons) }
        };
        self.reasons.into_iter().map(verdict).collect()
    }
}

/// A duration in the largest unit that divides it; weeks only from two on.
fn words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(WEEK, 2, "week"), (DAY, 1, "day"), (Duration::from_hours(1), 1, "hour")];
    let fits = |&(unit, least, name): &(Duration, u64, &'static str)| {
        let unit = unit.as_secs();
        (seconds.is_multiple_of(unit) && seconds / unit >= least).then_some((seconds / unit, name))
    };
    let (number, name) = units.iter().find_map(fits).unwrap_or(match seconds % 60 {
        0 if seconds > 0 => (seconds / 60, "minute"),
        _ => (seconds, "second"),
    });
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {name}{plural}")
}

#[cfg(test)]
mod tests;
