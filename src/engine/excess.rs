//! Decides what goes of what was kept aside, when that is more than it may be.
//!
//! In: what is kept, since when and how large, and by how much it is too much. Out: what goes, the
//! oldest first. What was kept only lately never goes: a flood must not push out what nobody has had
//! the time to look at. There is no I/O and no clock here.

use std::time::Duration;

/// For how long the loser of a conflict stays at least: a person has a week to look at it.
pub const CONFLICT_STAYS: Duration = Duration::from_hours(7 * 24);

/// For how long something stays in the trash at least, if its class keeps it that long: what was
/// deleted on a Friday is missed on Monday.
pub const TRASH_STAYS: Duration = Duration::from_hours(3 * 24);

/// Something that was kept aside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kept<T> {
    /// Names it to the caller.
    pub what: T,
    /// When it was kept, since 1970.
    pub since: Duration,
    /// What it takes up of the disk.
    pub bytes: u64,
}

/// What goes so that `excess_bytes` come free: the oldest, as few as do, and nothing that was kept at
/// `before` or later.
#[must_use]
pub fn excess<T>(mut kept: Vec<Kept<T>>, excess_bytes: u64, before: Duration) -> Vec<Kept<T>> {
    kept.retain(|one| one.since < before);
    kept.sort_by_key(|one| one.since);
    let mut freed = 0_u64;
    let goes = |one: &Kept<T>| {
        let is_too_much = freed < excess_bytes;
        freed = freed.saturating_add(one.bytes);
        is_too_much
    };
    kept.into_iter().take_while(goes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What goes of these, each written as its time and its bytes, before second 100.
    #[track_caller]
    fn check(kept: &str, excess_bytes: u64, expected: &str) {
        let one = |text: &str| {
            let (secs, bytes) = text.split_once(':').unwrap();
            let since = Duration::from_secs(secs.parse().unwrap());
            Kept { what: text.to_owned(), since, bytes: bytes.parse().unwrap() }
        };
        let kept = kept.split_whitespace().map(one).collect();
        let gone = excess(kept, excess_bytes, Duration::from_secs(100));
        let gone: Vec<_> = gone.into_iter().map(|one| one.what).collect();
        assert_eq!(expected, gone.join(" "));
    }

    #[test]
    fn the_oldest_go_first_and_no_more_than_needed() {
        check("30:10 10:10 20:10", 1, "10:10");
        check("30:10 10:10 20:10", 10, "10:10");
        check("30:10 10:10 20:10", 11, "10:10 20:10");
        check("30:10 10:10 20:10", 99, "10:10 20:10 30:10");
    }

    #[test]
    fn nothing_goes_of_what_is_not_too_much() {
        check("10:10", 0, "");
        check("", 1, "");
    }

    #[test]
    fn what_was_kept_lately_stays_however_much_it_is() {
        check("99:1 100:50 101:50", 100, "99:1");
    }

    #[test]
    fn sizes_that_somebody_made_up_do_no_harm() {
        check(
            "1:18446744073709551615 2:18446744073709551615 3:1",
            u64::MAX,
            "1:18446744073709551615",
        );
    }
}
