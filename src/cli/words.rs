//! Numbers, sizes and times in words for people. Pure.

use std::time::Duration;

use jiff::Timestamp;

use crate::control::types::{KeptSize, MountStatus, StatusReply};
use crate::engine::{CONFLICT_STAYS, TRASH_STAYS};

/// `182 344`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// `1 node`, `3 nodes`.
pub(super) fn plural(number: usize, noun: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{} {noun}{s}", count(number as u64))
}

/// `12.1 GiB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    // Tenths of the unit, so that nothing is lost in between.
    let mut tenths = u128::from(bytes) * 10;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    if unit == 0 {
        return format!("{bytes} B");
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// That the conflict store is larger than it may be, if it is.
pub(super) fn conflicts_over(status: &StatusReply) -> Option<String> {
    over("the conflict store", status.conflicts_size, "conflicts_max", CONFLICT_STAYS)
}

/// That the trash of a mount is larger than it may be, if it is.
pub(super) fn trash_over(mount: &MountStatus) -> Option<String> {
    let what = format!("the trash of mount {}", mount.name);
    over(&what, mount.trash_size?, "trash_max", TRASH_STAYS)
}

fn over(what: &str, kept: KeptSize, key: &str, stays: Duration) -> Option<String> {
    let max = kept.bytes_max.filter(|max| kept.bytes > *max)?;
    let (has, max, days) = (size(kept.bytes), size(max), stays.as_secs() / 86_400);
    Some(format!(
        "{what} takes up {has}, more than the {max} of `{key}`; what is younger than {days} days stays"
    ))
}

/// How long ago, in its largest unit: `12 s`, `5 min`, `3 h`, `2 d`. What is to come is `0 s`.
pub(super) fn age(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(then.as_second());
    whole_seconds(u64::try_from(seconds).unwrap_or(0))
}

fn whole_seconds(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A time span: `2.3 s`, and from two minutes on like [`age`].
pub(super) fn seconds(seconds: f64) -> String {
    let span = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::ZERO);
    match span.as_secs() {
        0..120 => format!("{:.1} s", span.as_secs_f64()),
        whole => whole_seconds(whole),
    }
}

/// How long until then, like [`age`].
pub(super) fn until(now: Timestamp, then: Timestamp) -> String {
    age(then, now)
}

/// A value, or a dash.
pub(super) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| v.to_string())
}

/// A moment that a person names: "2026-11-20 06:00" or with seconds, in UTC; the same in the way of RFC 3339;
/// or "3 hours ago". Nothing if it is none.
pub(super) fn time(text: &str) -> Option<Timestamp> {
    if let Some(ago) = text.strip_suffix(" ago") {
        let span = crate::config::parse_duration(&spelled(ago)?).ok()?;
        let span = jiff::SignedDuration::try_from(span).ok()?;
        return Timestamp::now().checked_sub(span).ok();
    }
    let utc = |format| Timestamp::strptime(format, format!("{text} +0000")).ok();
    let formats = ["%Y-%m-%d %H:%M %z", "%Y-%m-%d %H:%M:%S %z"];
    text.parse().ok().or_else(|| formats.into_iter().find_map(utc))
}

/// "3 hours" as "3h".
fn spelled(text: &str) -> Option<String> {
    let (number, unit) = text.trim().split_once(' ')?;
    let unit = match unit.trim_end_matches('s') {
        "second" => "s",
        "minute" => "m",
        "hour" => "h",
        "day" => "d",
        _ => return None,
    };
    Some(format!("{number}{unit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_sizes_short() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1 000"), (182_344, "182 344")] {
            assert_eq!(text, count(number));
        }
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (13_000_000_000, "12.1 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(text, size(bytes));
        }
    }

    #[test]
    fn a_moment_is_named_in_utc_or_by_how_long_ago_it_was() {
        let noon: Timestamp = "2026-11-20T12:00:00Z".parse().unwrap();
        for text in ["2026-11-20 12:00", "2026-11-20 12:00:00", "2026-11-20T14:00:00+02:00"] {
            assert_eq!(Some(noon), time(text), "{text}");
        }
        let ago = time("3 hours ago").unwrap().duration_since(Timestamp::now()).as_hours();
        assert!((-3..=-2).contains(&ago), "{ago}");
        assert!(time("1 day ago").is_some() && time("90 seconds ago").is_some());
        for text in ["", "yesterday", "3f2a91bc", "12:00", "three hours ago", "2026-13-01 12:00"] {
            assert_eq!(None, time(text), "{text}");
        }
    }

    #[test]
    fn times_are_in_their_largest_unit() {
        let at = |second| Timestamp::from_second(second).unwrap();
        for (seconds, text) in [(-5, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h")] {
            assert_eq!(text, age(at(1000 + seconds), at(1000)));
        }
        assert_eq!("2 d", until(at(0), at(200_000)));
    }
}
