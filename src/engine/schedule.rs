//! Says when snapshots are due.
//!
//! In: the text of a schedule, moments, and when the last run was. Out: the moments before and
//! after, and whether a run is due. Pure: the time is an argument, and nothing is remembered or
//! started here; the caller stores the last run.
//!
//! **Text** is that of crontab(5): minute, hour, day of month, month, day of week, or the same with
//! seconds before them. 0 and 7 are Sunday. A day that is named both by its date and by its weekday
//! is due when either fits, unless one of the two starts with `*`. The crate `cron` does the
//! search; it reads weekdays and such days in another way, so it is only given numbers made here.
//!
//! **Changes of the clock in a time zone.** `cron` is asked about the face of a wall clock and
//! never sees the zone. A schedule of certain hours runs once for each time on the face: at the
//! first of two equal times in autumn, and at the end of the gap for a time that spring leaves out.
//! One of every hour follows the hours that really pass: twice through the doubled hour, never in
//! the gap.

use std::{collections::BTreeSet, fmt, str::FromStr};

use chrono::{DateTime, MappedLocalTime, TimeDelta, TimeZone, Utc};
use chrono_tz::{GapInfo, Tz};
use jiff::{SignedDuration, Timestamp};

/// Bytes of a schedule's text: room for long lists, and short enough to show in a message.
pub const SCHEDULE_BYTES_MAX: usize = 512;

/// How far back [`Schedule::last_until`] looks: longer than from one 29 February to the next.
const LOOK_BACK_SECONDS: i64 = 5 * 366 * 24 * 3600;

/// How far ahead of the clock a last run may be before it is no longer believed.
const AHEAD_MAX: SignedDuration = SignedDuration::from_hours(24);

const SECOND: Field = Field { name: "second", first: 0, last: 59, names: &[] };
const MINUTE: Field = Field { name: "minute", first: 0, last: 59, names: &[] };
const HOUR: Field = Field { name: "hour", first: 0, last: 23, names: &[] };
const DAY: Field = Field { name: "day of month", first: 1, last: 31, names: &[] };
const MONTH: Field = Field { name: "month", first: 1, last: 12, names: &MONTHS };
const WEEKDAY: Field = Field { name: "day of week", first: 0, last: 6, names: &WEEKDAYS };

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

const WEEKDAYS: [&str; 7] =
    ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];

/// Why a text is not a schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// One field says what it cannot.
    #[error("cannot read `{text}` as {field}: {wants}; a whole schedule is \"0 */6 * * *\"")]
    Field {
        /// Which one, as in "day of month".
        field: &'static str,
        /// What it says.
        text: String,
        /// What it could say.
        wants: String,
    },
    /// Too few or too many fields.
    #[error(
        "a schedule has five fields (minute, hour, day of month, month, day of week) or six with \
         seconds before them, as in \"0 */6 * * *\"; this one has {0}"
    )]
    Fields(usize),
    /// The days it names do not exist, as 30 February.
    #[error("schedule names no day that exists; one that runs every six hours is \"0 */6 * * *\"")]
    Never,
    /// Longer than [`SCHEDULE_BYTES_MAX`].
    #[error("schedule is longer than {SCHEDULE_BYTES_MAX} bytes; a usual one is \"0 */6 * * *\"")]
    TooLong,
    /// No such time zone.
    #[error("no time zone is named `{0}`; names are as \"UTC\" or \"Europe/Berlin\"")]
    Zone(String),
}

/// When something is to run, again and again, until the end of the year 2100.
#[derive(Clone)]
pub struct Schedule {
    text: Box<str>,
    zone: Tz,
    /// One, or two where a day is named both by its date and by its weekday.
    patterns: Vec<cron::Schedule>,
    every_hour: bool,
}

impl Schedule {
    /// Parses a schedule in a time zone (UTC, if none), which is named as by IANA.
    ///
    /// # Errors
    /// [`ScheduleError`], when the text is no schedule, would never run, or the zone is unknown.
    pub fn parse(text: &str, zone: Option<&str>) -> Result<Self, ScheduleError> {
        if text.len() > SCHEDULE_BYTES_MAX {
            return Err(ScheduleError::TooLong);
        }
        let zone = match zone {
            Some(name) => Tz::from_str(name).map_err(|_| ScheduleError::Zone(name.to_owned()))?,
            None => Tz::UTC,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let (second, fields) = match *fields.as_slice() {
            [minute, hour, day, month, weekday] => ("0", [minute, hour, day, month, weekday]),
            [second, minute, hour, day, month, weekday] => {
                (second, [minute, hour, day, month, weekday])
            }
            _ => return Err(ScheduleError::Fields(fields.len())),
        };
        let every_hour = HOUR.parse(fields[1])?.len() == 24;
        let patterns = patterns(second, fields)?;
        let schedule = Self { text: text.into(), zone, patterns, every_hour };
        schedule.next_after(Timestamp::UNIX_EPOCH).ok_or(ScheduleError::Never)?;
        Ok(schedule)
    }

    /// The name of its time zone.
    #[must_use]
    pub fn zone(&self) -> &'static str {
        self.zone.name()
    }

    /// The first moment after this one. Nothing from the year 2101 on.
    #[must_use]
    pub fn next_after(&self, at: Timestamp) -> Option<Timestamp> {
        let at = whole_seconds(at).max(-1);
        let (now, overlap) = self.face(at)?;
        let mut face = now - overlap;
        let mut best = None;
        while let Some(next) = self.face_after(face) {
            face = next;
            let Some(moments) = self.moments(face) else { continue };
            best = moments.into_iter().filter(|&moment| moment > at).chain(best).min();
            // No later face has an earlier first moment.
            if moments[0] > at {
                break;
            }
        }
        Timestamp::from_second(best?).ok()
    }

    /// The last moment that is not after this one. Nothing, if that is more than five years back.
    #[must_use]
    pub fn last_until(&self, at: Timestamp) -> Option<Timestamp> {
        let at = whole_seconds(at);
        if at < 0 {
            return None;
        }
        let oldest = at - LOOK_BACK_SECONDS;
        let (now, overlap) = self.face(at)?;
        let mut face = now + overlap + TimeDelta::seconds(1);
        let mut best = None;
        while let Some(previous) = self.face_before(face) {
            face = previous;
            let Some(moments) = self.moments(face) else { continue };
            best = moments.into_iter().filter(|&moment| moment <= at).chain(best).max();
            // No earlier face has a later second moment.
            if moments[1] <= at || moments[1] < oldest {
                break;
            }
        }
        Timestamp::from_second(best.filter(|&moment| moment >= oldest)?).ok()
    }

    /// Whether a run is due: a moment has passed since the last one, or there was none.
    ///
    /// However many moments were missed, one run makes up for all. `last_run` is the `now` with
    /// which this said yes; when the clock is set back a little, the same moment is not due again.
    /// When it is more than a day ahead the clock was wrong then, and it counts as no run.
    #[must_use]
    pub fn due(&self, last_run: Option<Timestamp>, now: Timestamp) -> bool {
        let believed = last_run.filter(|last| last.duration_since(now) <= AHEAD_MAX);
        let Some(last_run) = believed else { return true };
        self.last_until(now).is_some_and(|moment| moment > last_run)
    }

    /// How many moments have passed after one and up to another, up to `most`.
    #[must_use]
    pub fn count(&self, after: Timestamp, until: Timestamp, most: usize) -> usize {
        let next = |at: &Timestamp| self.next_after(*at).filter(|next| *next <= until);
        std::iter::successors(next(&after), next).take(most).count()
    }

    /// What the wall clock shows, as if it were UTC, and how much later it shows that again or
    /// earlier has shown it before.
    fn face(&self, at: i64) -> Option<(DateTime<Utc>, TimeDelta)> {
        let local = DateTime::from_timestamp(at, 0)?.with_timezone(&self.zone).naive_local();
        let overlap = match self.zone.from_local_datetime(&local) {
            MappedLocalTime::Ambiguous(first, second) => second.signed_duration_since(first),
            _ => TimeDelta::zero(),
        };
        Some((local.and_utc(), overlap))
    }

    /// The first and the second moment at which the wall clock shows this; they are the same where
    /// it is shown, or counts, only once. Nothing where it is not shown and does not count.
    fn moments(&self, face: DateTime<Utc>) -> Option<[i64; 2]> {
        let local = face.naive_utc();
        match self.zone.from_local_datetime(&local) {
            MappedLocalTime::Single(at) => Some([at.timestamp(); 2]),
            MappedLocalTime::Ambiguous(first, second) if self.every_hour => {
                Some([first.timestamp(), second.timestamp()])
            }
            MappedLocalTime::Ambiguous(first, _) => Some([first.timestamp(); 2]),
            MappedLocalTime::None if self.every_hour => None,
            MappedLocalTime::None => Some([GapInfo::new(&local, &self.zone)?.end?.timestamp(); 2]),
        }
    }

    fn face_after(&self, face: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.patterns.iter().filter_map(|pattern| pattern.after(&face).next()).min()
    }

    fn face_before(&self, face: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.patterns.iter().filter_map(|pattern| pattern.after(&face).next_back()).max()
    }
}

/// Equal in text and time zone.
impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.zone == other.zone
    }
}

impl Eq for Schedule {}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Schedule").field(&self.text).field(&self.zone.name()).finish()
    }
}

/// What `cron` searches for, in numbers only.
fn patterns(
    second: &str,
    [minute, hour, day, month, weekday]: [&str; 5],
) -> Result<Vec<cron::Schedule>, ScheduleError> {
    let time = [SECOND.parse(second)?, MINUTE.parse(minute)?, HOUR.parse(hour)?];
    let time = time.map(|set| list(&set)).join(" ");
    let (days, months) = (list(&DAY.parse(day)?), list(&MONTH.parse(month)?));
    // `cron` counts weekdays from 1, which is Sunday.
    let weekdays = list(&WEEKDAY.parse(weekday)?.iter().map(|n| n + 1).collect());
    let pattern = |days: &str, weekdays: &str| {
        cron::Schedule::from_str(&format!("{time} {days} {months} {weekdays}"))
            .expect("every list is in the range of its field")
    };
    if day.starts_with('*') || weekday.starts_with('*') {
        Ok(vec![pattern(&days, &weekdays)])
    } else {
        Ok(vec![pattern(&days, "*"), pattern("*", &weekdays)])
    }
}

/// What one field of a schedule may say.
struct Field {
    name: &'static str,
    first: u32,
    last: u32,
    /// What its numbers are called, from `first` on; the first three letters are enough.
    names: &'static [&'static str],
}

impl Field {
    /// The numbers that a list stands for.
    fn parse(&self, text: &str) -> Result<BTreeSet<u32>, ScheduleError> {
        let mut set = BTreeSet::new();
        for part in text.split(',') {
            let part = self.part(part).ok_or_else(|| self.error(text))?;
            // 7 is another name of Sunday, which only a weekday can have reached.
            set.extend(part.map(|n| if n > self.last { self.first } else { n }));
        }
        Ok(set)
    }

    /// The numbers that a number, a range, or a range with a step stands for.
    fn part(&self, text: &str) -> Option<impl Iterator<Item = u32> + use<>> {
        let (range, step) = match text.split_once('/') {
            Some((range, step)) => (range, number(step)?),
            None => (text, 1),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (self.first, self.last),
            Some((from, to)) => (self.value(from)?, self.value(to)?),
            // As in crontab, only a range has steps.
            None if text.contains('/') => return None,
            None => (self.value(range)?, self.value(range)?),
        };
        // A week may end on a Sunday.
        let to = if self.is_weekday() && to == 0 && from > 0 { 7 } else { to };
        let step_fits = (1..=self.last).contains(&step);
        let stride = usize::try_from(step).ok()?;
        (from <= to && step_fits).then(|| (from..=to).step_by(stride))
    }

    fn value(&self, text: &str) -> Option<u32> {
        let named = |name: &&str| {
            name.eq_ignore_ascii_case(text) || name.split_at(3).0.eq_ignore_ascii_case(text)
        };
        if let Some(at) = self.names.iter().position(named) {
            return Some(self.first + u32::try_from(at).ok()?);
        }
        let last = if self.is_weekday() { 7 } else { self.last };
        number(text).filter(|n| (self.first..=last).contains(n))
    }

    fn is_weekday(&self) -> bool {
        self.name == WEEKDAY.name
    }

    fn error(&self, text: &str) -> ScheduleError {
        let (first, last) = (self.first, self.last);
        let number = match self.names {
            [] => format!("a number from {first} to {last}"),
            _ if self.is_weekday() => "sun to sat or a number from 0 to 7 (both Sunday)".to_owned(),
            _ => format!("jan to dec or a number from {first} to {last}"),
        };
        let wants = format!(
            "it is `*`, {number}, a range such as {}-{}, a step such as */2, \
             or several with commas",
            first + 1,
            first + 5
        );
        ScheduleError::Field { field: self.name, text: text.to_owned(), wants }
    }
}

fn number(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn list(numbers: &BTreeSet<u32>) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// Seconds since 1970, rounded down.
fn whole_seconds(at: Timestamp) -> i64 {
    at.as_second() - i64::from(at.subsec_nanosecond() < 0)
}

#[cfg(test)]
mod tests;
