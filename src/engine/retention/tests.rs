//! What stays, and that what grows old does so as it should.

use super::*;

const HOURS: SignedDuration = SignedDuration::from_hours(1);
const DAYS: SignedDuration = SignedDuration::from_hours(24);

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn six_hourly() -> Schedule {
    Schedule::parse("0 */6 * * *", None).unwrap()
}

fn sound(taken: Timestamp) -> Candidate {
    Candidate { taken, pinned: false, restorable: true }
}

/// Snapshots, one a word: the day of June 2026 and, after a dot, the hour; then `p` if it is
/// pinned and `d` if it is damaged.
fn parse(text: &str) -> Vec<Candidate> {
    let one = |word: &str| {
        let digits = word.trim_end_matches(['p', 'd']);
        let (day, hour) = digits.split_once('.').unwrap_or((digits, "0"));
        Candidate {
            taken: time(&format!("2026-06-{day:0>2}T{hour:0>2}:00:00Z")),
            pinned: word.contains('p'),
            restorable: !word.contains('d'),
        }
    };
    text.split_whitespace().map(one).collect()
}

/// Which of the snapshots stay at the end of a day of June 2026.
#[track_caller]
fn check(rule: &Retention, day: &str, snapshots: &str, expected: &str) {
    let now = time(&format!("2026-06-{day:0>2}T23:00:00Z"));
    let verdicts = rule.decide(now, &parse(snapshots));
    let kept: Vec<_> = snapshots
        .split_whitespace()
        .zip(&verdicts)
        .filter_map(|(word, verdict)| (*verdict != Verdict::Remove).then_some(word))
        .collect();
    assert_eq!(expected, kept.join(" "), "{rule:?}");
}

fn nothing() -> Retention {
    Retention::default()
}

/// Asserts that from each that is left to the next, or to now, it is no longer than the tier
/// allows in which it is.
#[track_caller]
fn assert_ladder(now: Timestamp, held: &[Timestamp]) {
    let ends = held.iter().skip(1).copied().chain([now]);
    for (&older, newer) in held.iter().zip(ends) {
        let age = now.duration_since(older).as_hours();
        let allowed = match age {
            ..72 => 6,
            72..144 => 24,
            144..1008 => 7 * 24,
            1008..2016 => 14 * 24,
            _ => 31 * 24,
        };
        let gap = newer.duration_since(older).as_hours();
        assert!(gap <= allowed, "{gap} h between {older} and {newer} at {now}");
    }
}

#[test]
fn a_year_of_the_standard_leaves_the_whole_ladder() {
    let from = time("2026-01-01T00:00:00Z");
    for days in [300, 319, 333, 348, 365] {
        let now = from + days * DAYS;
        let held = Retention::standard().simulate(&six_hourly(), from, days * DAYS);
        assert!((25..=32).contains(&held.len()), "{} at {now}", held.len());
        let oldest = now.duration_since(held[0]);
        assert!(oldest < 22 * 7 * DAYS && oldest > (22 * 7 - 31) * DAYS, "{oldest:#}");
        assert_ladder(now, &held);
    }
}

#[test]
fn each_day_removes_a_few_and_never_leaves_a_gap() {
    let rule = Retention::standard();
    let from = time("2026-01-07T05:00:00Z");
    let (mut held, mut at) = (Vec::new(), from);
    for _day in 0..400 {
        let mut removed = 0;
        for _quarter in 0..4 {
            at += 6 * HOURS;
            held.push(at);
            let before = held.len();
            rule.prune(at, &mut held);
            removed += before - held.len();
            assert_ladder(at, &held);
        }
        assert!(removed <= 8, "{removed} on the day to {at}");
    }
}

#[test]
fn pruning_late_leaves_the_same() {
    let from = time("2026-01-01T00:00:00Z");
    let schedule = six_hourly();
    let rules = [
        Retention::standard(),
        Retention { keep_last: 3, keep_daily: 7, keep_weekly: 5, keep_monthly: 6, ..nothing() },
        Retention { keep_last: 1, keep_monthly: 12, ..nothing() },
    ];
    for rule in rules {
        let each_time = rule.simulate(&schedule, from, 365 * DAYS);
        let mut once = Vec::new();
        for pause in [1, 40, 365] {
            once.clear();
            for quarter in 1..=365 * 4 {
                once.push(from + quarter * 6 * HOURS);
                if quarter % (pause * 4) == 0 {
                    rule.prune(*once.last().unwrap(), &mut once);
                }
            }
            rule.prune(*once.last().unwrap(), &mut once);
            assert_eq!(each_time, once, "every {pause} days");
        }
    }
}

#[test]
fn counts_keep_the_newest_of_each_period_that_has_one() {
    let all = "1 1.6 1.7 3 3.18 8 8.12 15.5 15.6";
    check(&Retention { keep_last: 2, ..nothing() }, "15", all, "15.5 15.6");
    check(&Retention { keep_hourly: 3, ..nothing() }, "15", all, "8.12 15.5 15.6");
    check(&Retention { keep_daily: 4, ..nothing() }, "15", all, "1.7 3.18 8.12 15.6");
    // Mondays are 1, 8 and 15 June.
    check(&Retention { keep_weekly: 9, ..nothing() }, "15", all, "3.18 8.12 15.6");
    check(&Retention { keep_monthly: 9, ..nothing() }, "15", all, "15.6");
}

#[test]
fn counts_age_as_well() {
    let rule = Retention { keep_daily: 7, keep_weekly: 4, keep_monthly: 6, ..nothing() };
    let from = time("2026-01-01T00:00:00Z");
    let held = rule.simulate(&six_hourly(), from, 365 * DAYS);
    let oldest = time("2026-08-31T18:00:00Z");
    assert_eq!((Some(&oldest), 13), (held.first(), held.len()));
}

#[test]
fn tiers_keep_the_oldest_of_each_period() {
    let tier =
        |period, days| Retention { tiers: vec![Tier { period, until: days * DAY }], ..nothing() };
    let all = "15.6 1 1.6 3 3.18 8.12 8 15.5";
    check(&tier(Period::Day, 99), "15", all, "15.6 1 3 8 15.5");
    check(&tier(Period::Day, 10), "15", all, "15.6 8 15.5");
    check(&tier(Period::Week, 99), "15", all, "15.6 1 8 15.5");
    check(&tier(Period::TwoWeeks, 99), "15", all, "15.6 1 15.5");
    check(&tier(Period::Month, 99), "15", all, "15.6 1");
}

#[test]
fn what_is_pinned_stays() {
    check(&nothing(), "30", "1p 2 3pd 4", "1p 3pd 4");
}

#[test]
fn the_newest_that_can_be_restored_stays() {
    check(&nothing(), "30", "", "");
    check(&nothing(), "30", "1", "1");
    check(&nothing(), "30", "3d 1 2 4d", "2");
    check(&Retention { keep_within: Some(DAY), ..nothing() }, "30", "1 2", "2");
}

#[test]
fn where_nothing_can_be_restored_nothing_is_removed() {
    check(&nothing(), "30", "1d 2d 3d", "1d 2d 3d");
    check(&nothing(), "2", "1d 3", "1d 3");
}

#[test]
fn what_cannot_be_restored_takes_no_place() {
    let daily = Retention { keep_daily: 2, ..nothing() };
    check(&daily, "4", "1 2.5 2.6d 3d 4.1 4.2d", "2.5 4.1");
    check(&Retention { keep_last: 2, ..nothing() }, "4", "1 2 3d 4d 4.1", "2 4.1");
    let tier = Tier { period: Period::Day, until: 9 * DAY };
    check(&Retention { tiers: vec![tier], ..nothing() }, "4", "1d 1.1 1.2 2d 3", "1.1 3");
    let within = Retention { keep_within: Some(2 * DAY), ..nothing() };
    check(&within, "4", "1 2d 3d 4 4.1d", "3d 4 4.1d");
}

#[test]
fn what_was_taken_in_the_future_stays_and_takes_no_place() {
    let rule = Retention { keep_last: 1, keep_daily: 2, ..nothing() };
    check(&rule, "4", "1 2 3 4 5 6d", "3 4 5 6d");
    let verdicts = rule.decide(time("2026-06-04T23:00:00Z"), &parse("5 4"));
    assert_eq!(Verdict::Keep(vec![Reason::Future]), verdicts[0]);
}

#[test]
fn a_jump_of_the_clock_ahead_and_back_leaves_the_ladder() {
    let rule = Retention::standard();
    let from = time("2026-01-01T00:00:00Z");
    let mut held = rule.simulate(&six_hourly(), from, 300 * DAYS);
    let now = from + 300 * DAYS;
    let wrong = now + 3 * DAYS;
    held.push(wrong);
    let before = held.clone();
    rule.prune(now, &mut held);
    assert_eq!(before, held);
    for quarter in 1..200 {
        let at = now + quarter * 6 * HOURS;
        held.insert(held.partition_point(|&taken| taken < at), at);
        rule.prune(at, &mut held);
    }
    held.retain(|&taken| taken != wrong);
    let expected = rule.simulate(&six_hourly(), from, 300 * DAYS + 199 * 6 * HOURS);
    assert_eq!(expected, held);
}

#[test]
fn after_downtime_the_old_still_ages_by_its_tier() {
    let rule = Retention::standard();
    let from = time("2026-01-01T00:00:00Z");
    let mut held = rule.simulate(&six_hourly(), from, 200 * DAYS);
    let back = from + 260 * DAYS;
    held.push(back);
    rule.prune(back, &mut held);
    let old: Vec<_> = held.iter().map(|&at| back.duration_since(at).as_hours() / 24).collect();
    assert!(old.len() > 3 && old[0] < 22 * 7 && old[1] > 60, "{old:?}");
}

#[test]
fn the_order_given_does_not_matter() {
    let from = time("2026-06-01T00:00:00Z");
    let straight: Vec<_> = (0..400).map(|n| sound(from + n * 6 * HOURS)).collect();
    // 7 and 400 have no common factor, so each is there once.
    let mixed: Vec<_> = (0..400).map(|n| straight[n * 7 % 400]).collect();
    let now = from + 100 * DAYS;
    let rule = Retention { keep_last: 5, keep_weekly: 2, ..Retention::standard() };
    let verdicts = rule.decide(now, &straight);
    let of_mixed = rule.decide(now, &mixed);
    assert!((0..400).all(|n| of_mixed[n] == verdicts[n * 7 % 400]));
}

#[test]
fn times_before_1970_and_at_the_ends_are_counted() {
    let before = [sound(time("1969-12-29T00:00:00Z")), sound(time("1969-12-28T23:59:59Z"))];
    for period in [Period::Hour, Period::Day, Period::Week, Period::TwoWeeks] {
        assert_ne!(period.number(before[0].taken), period.number(before[1].taken));
    }
    let ends = [sound(Timestamp::MIN), sound(Timestamp::MAX)];
    let verdicts = Retention::standard().decide(Timestamp::MAX, &ends);
    assert_eq!(Verdict::Remove, verdicts[0]);
}

#[test]
fn reasons_are_words() {
    let rule = Retention { keep_last: 1, ..Retention::standard() };
    let words = |verdict: &Verdict| match verdict {
        Verdict::Keep(reasons) => {
            reasons.iter().map(Reason::to_string).collect::<Vec<_>>().join(", ")
        }
        Verdict::Remove => "removed".to_owned(),
    };
    let verdicts = rule.decide(time("2026-06-15T12:00:00Z"), &parse("1p 2 15 16 3d"));
    assert_eq!(
        [
            "pinned, weekly, every two weeks, monthly",
            "removed",
            "the last that can be restored, the last, within 3 days, daily, weekly, \
             every two weeks",
            "taken in the future",
            "removed",
        ],
        *verdicts.iter().map(words).collect::<Vec<_>>()
    );
}

#[test]
fn a_rule_is_described() {
    assert_eq!(
        "keeps all up to 3 days old, one a day up to 6 days old, one a week up to 6 weeks old, \
         one every two weeks up to 12 weeks old, one a month up to 22 weeks old; always what \
         is pinned and the last that can be restored",
        Retention::standard().describe()
    );
    let rule = Retention { keep_last: 3, keep_hourly: 24, keep_monthly: 1, ..nothing() };
    assert_eq!(
        "keeps the last 3, the newest of each of the last 24 hours that have one, the newest \
         of the last month that has one; always what is pinned and the last that can be \
         restored",
        rule.describe()
    );
    assert_eq!("keeps only what is pinned and the last that can be restored", nothing().describe());
}

#[test]
fn durations_are_words() {
    for (seconds, expected) in [
        (0, "0 seconds"),
        (1, "1 second"),
        (120, "2 minutes"),
        (3600, "1 hour"),
        (36 * 3600, "36 hours"),
        (7 * 86400, "7 days"),
        (14 * 86400, "2 weeks"),
        (15 * 86400, "15 days"),
    ] {
        assert_eq!(expected, words(Duration::from_secs(seconds)));
    }
}

#[test]
fn more_than_half_at_once_needs_a_word() {
    let may = |over, all| Retention::may_remove(over, all);
    assert!(may(0, 0) && may(8, 9) && may(14, 28) && may(1, 28));
    assert!(!may(15, 28) && !may(9, 10));
}
