//! When a schedule is due, through changes of the clock and of the hour.

use jiff::{civil::Weekday, tz::Offset};

use super::*;

const MINUTES: SignedDuration = SignedDuration::from_mins(1);

fn utc(text: &str) -> Schedule {
    Schedule::parse(text, None).unwrap()
}

fn berlin(text: &str) -> Schedule {
    Schedule::parse(text, Some("Europe/Berlin")).unwrap()
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// The moments after the first time, up to and with the second one.
fn moments(schedule: &Schedule, from: &str, to: &str) -> Vec<Timestamp> {
    let end = time(to);
    let mut all = Vec::new();
    let mut at = time(from);
    while let Some(next) = schedule.next_after(at).filter(|&next| next <= end) {
        assert!(next > at);
        all.push(next);
        at = next;
    }
    all
}

#[track_caller]
fn check(schedule: &Schedule, from: &str, to: &str, expected: &[&str]) {
    let expected: Vec<_> = expected.iter().map(|text| time(text)).collect();
    assert_eq!(expected, moments(schedule, from, to), "{schedule:?}");
}

/// Runs when due, looking every so often; each run with the moment it was made for.
fn runs(schedule: &Schedule, from: &str, to: &str, step: SignedDuration) -> Vec<Timestamp> {
    let (mut now, end) = (time(from), time(to));
    let mut last = Some(now);
    let mut all = Vec::new();
    while now < end {
        now += step;
        if schedule.due(last, now) {
            all.push(schedule.last_until(now).unwrap());
            last = Some(now);
        }
    }
    all
}

#[test]
fn the_next_is_after_and_the_last_may_be_now() {
    let schedule = utc("0 */6 * * *");
    let at = time("2026-11-29T06:00:00Z");
    let nanosecond = SignedDuration::from_nanos(1);
    assert_eq!(Some(time("2026-11-29T12:00:00Z")), schedule.next_after(at));
    assert_eq!(Some(at), schedule.next_after(at - nanosecond));
    assert_eq!(Some(at), schedule.last_until(at));
    assert_eq!(Some(time("2026-11-29T00:00:00Z")), schedule.last_until(at - nanosecond));
}

#[test]
fn seconds_may_come_first() {
    check(
        &utc("15,45 0 0 1 1 *"),
        "2026-01-01T00:00:00Z",
        "2026-12-31T00:00:00Z",
        &["2026-01-01T00:00:15Z", "2026-01-01T00:00:45Z"],
    );
}

#[test]
fn weekdays_are_those_of_crontab() {
    let names = [
        (Weekday::Sunday, ["0", "7", "sun", "Sunday"]),
        (Weekday::Monday, ["1", "1-1", "mon", "MONDAY"]),
        (Weekday::Tuesday, ["2", "2", "tue", "tuesday"]),
        (Weekday::Wednesday, ["3", "3", "wed", "wednesday"]),
        (Weekday::Thursday, ["4", "4", "thu", "thursday"]),
        (Weekday::Friday, ["5", "5", "fri", "friday"]),
        (Weekday::Saturday, ["6", "6", "Sat", "saturday"]),
    ];
    for (weekday, texts) in names {
        for text in texts {
            let schedule = utc(&format!("0 0 * * {text}"));
            let found = moments(&schedule, "2026-01-01T00:00:00Z", "2026-03-01T00:00:00Z");
            let is_it = |at: &Timestamp| Offset::UTC.to_datetime(*at).weekday() == weekday;
            assert!(found.len() >= 8 && found.iter().all(is_it), "{text}");
        }
    }
}

#[test]
fn ranges_of_weekdays_may_end_on_sunday() {
    for text in ["fri-sun", "5-7", "5-0", "5,6,0", "fri-sat,7"] {
        // Friday to Sunday are 5 to 7 June.
        check(
            &utc(&format!("0 0 * * {text}")),
            "2026-06-01T00:00:00Z",
            "2026-06-11T00:00:00Z",
            &["2026-06-05T00:00:00Z", "2026-06-06T00:00:00Z", "2026-06-07T00:00:00Z"],
        );
    }
    let all = moments(&utc("0 0 * * 0-7"), "2026-06-01T00:00:00Z", "2026-06-15T00:00:00Z");
    assert_eq!(14, all.len());
}

#[test]
fn a_date_and_a_weekday_are_alternatives() {
    // 12 June is a Friday.
    let (from, to) = ("2026-06-09T12:00:00Z", "2026-06-14T12:00:00Z");
    check(&utc("0 0 13 * wed"), from, to, &["2026-06-10T00:00:00Z", "2026-06-13T00:00:00Z"]);
    check(&utc("0 0 */2 * sat"), from, to, &["2026-06-13T00:00:00Z"]);
}

#[test]
fn months_have_names_and_numbers() {
    for text in ["1,4,7,10", "*/3", "jan,Apr,july,oct", "1-12/3"] {
        check(
            &utc(&format!("30 4 1 {text} *")),
            "2026-01-02T00:00:00Z",
            "2027-01-02T00:00:00Z",
            &[
                "2026-04-01T04:30:00Z",
                "2026-07-01T04:30:00Z",
                "2026-10-01T04:30:00Z",
                "2027-01-01T04:30:00Z",
            ],
        );
    }
}

#[test]
fn forwards_and_backwards_agree() {
    let texts =
        ["0 */6 * * *", "30 2 * * *", "0 0 31 * *", "59 23 29 2 *", "7 3 1,15 * 5", "0 9 * 3 1-5"];
    for zone in [None, Some("Europe/Berlin"), Some("America/Havana"), Some("Pacific/Apia")] {
        for text in texts {
            let schedule = Schedule::parse(text, zone).unwrap();
            let all = moments(&schedule, "2011-12-01T00:00:00Z", "2013-01-01T00:00:00Z");
            for pair in all.windows(2) {
                let before = pair[1] - SignedDuration::from_nanos(1);
                assert_eq!(Some(pair[0]), schedule.last_until(before), "{schedule:?}");
                assert_eq!(Some(pair[1]), schedule.last_until(pair[1]), "{schedule:?}");
            }
        }
    }
}

#[test]
fn a_year_in_utc_has_every_moment_once() {
    let (from, to) = ("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z");
    let schedule = utc("0 */6 * * *");
    let all = moments(&schedule, from, to);
    assert_eq!(365 * 4, all.len());
    assert_eq!(all, runs(&schedule, from, to, 45 * MINUTES));
}

#[test]
fn a_year_in_berlin_has_every_moment_once() {
    let (from, to) = ("2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z");
    for (text, number) in [("30 2 * * *", 365), ("0 */6 * * *", 4 * 365)] {
        let schedule = berlin(text);
        let all = moments(&schedule, from, to);
        assert_eq!(number, all.len(), "{text}");
        assert_eq!(all, runs(&schedule, from, to, 45 * MINUTES), "{text}");
    }
}

#[test]
fn a_time_that_autumn_shows_twice_runs_once() {
    check(
        &berlin("30 2 * * *"),
        "2026-10-24T12:00:00Z",
        "2026-10-26T12:00:00Z",
        &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
    );
    let schedule = berlin("30 2 * * *");
    let second_time = time("2026-10-25T01:30:00Z");
    assert_eq!(Some(time("2026-10-25T00:30:00Z")), schedule.last_until(second_time));
    assert!(!schedule.due(Some(time("2026-10-25T00:30:01Z")), second_time));
}

#[test]
fn a_time_that_spring_leaves_out_runs_when_the_gap_ends() {
    check(
        &berlin("30 2 * * *"),
        "2026-03-28T00:00:00Z",
        "2026-03-30T12:00:00Z",
        &["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
    );
    // Several left out are made up for by one run.
    check(
        &berlin("*/20 2,3 * * *"),
        "2026-03-29T00:00:00Z",
        "2026-03-29T02:00:00Z",
        &["2026-03-29T01:00:00Z", "2026-03-29T01:20:00Z", "2026-03-29T01:40:00Z"],
    );
}

#[test]
fn every_hour_is_every_real_hour() {
    for (from, to) in [
        ("2026-10-24T12:00:00Z", "2026-10-25T12:00:00Z"),
        ("2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z"),
    ] {
        for (text, minutes) in [("30 * * * *", 60), ("*/20 * * * *", 20)] {
            let schedule = berlin(text);
            let all = moments(&schedule, from, to);
            assert_eq!(24 * 60 / minutes, i64::try_from(all.len()).unwrap(), "{text}");
            for pair in all.windows(2) {
                assert_eq!(SignedDuration::from_mins(minutes), pair[1].duration_since(pair[0]));
                let before = pair[1] - SignedDuration::from_secs(1);
                assert_eq!(Some(pair[0]), schedule.last_until(before), "{text}");
            }
        }
    }
}

#[test]
fn the_first_run_is_due_at_once() {
    assert!(utc("0 0 1 1 *").due(None, time("2026-06-01T00:00:00Z")));
}

#[test]
fn downtime_is_made_up_for_by_one_run() {
    let schedule = utc("0 */6 * * *");
    let now = time("2026-06-20T13:07:00Z");
    assert!(schedule.due(Some(time("2026-06-01T00:00:02Z")), now));
    assert!(!schedule.due(Some(now), now + 10 * MINUTES));
    assert!(schedule.due(Some(now), time("2026-06-20T18:00:00Z")));
}

#[test]
fn a_step_back_of_the_clock_runs_nothing_twice() {
    let schedule = utc("0 */6 * * *");
    let run = time("2026-06-01T06:00:01Z");
    for now in ["2026-06-01T05:59:58Z", "2026-06-01T05:00:00Z", "2026-06-01T06:00:00Z"] {
        assert!(!schedule.due(Some(run), time(now)), "{now}");
    }
    assert!(schedule.due(Some(run), time("2026-06-01T12:00:00Z")));
}

#[test]
fn a_jump_ahead_runs_once_and_back_again_does_not_block() {
    let schedule = utc("0 */6 * * *");
    let (right, wrong) = (time("2026-06-01T07:00:00Z"), time("2031-01-01T00:00:00Z"));
    assert!(schedule.due(Some(right), wrong));
    assert!(!schedule.due(Some(wrong), wrong + MINUTES));
    // Back to the right time: the run of 2031 is not believed.
    assert!(schedule.due(Some(wrong), right));
    assert!(!schedule.due(Some(right), right + MINUTES));
    // Less than a day ahead it is believed, and blocks no longer than that.
    let ahead = right + SignedDuration::from_hours(23);
    assert!(!schedule.due(Some(ahead), right));
    assert!(schedule.due(Some(ahead), right + SignedDuration::from_hours(30)));
}

#[test]
fn what_is_rare_is_found_within_five_years() {
    let schedule = utc("0 0 29 2 *");
    let leap = time("2024-02-29T00:00:00Z");
    assert_eq!(Some(leap), schedule.last_until(time("2028-02-28T23:59:59Z")));
    assert_eq!(Some(time("2028-02-29T00:00:00Z")), schedule.next_after(leap));
    // 2100 has no such day.
    assert_eq!(None, schedule.next_after(time("2096-02-29T00:00:00Z")));
    assert_eq!(None, schedule.last_until(time("2103-02-28T00:00:00Z")));
}

#[test]
fn times_out_of_range_have_no_moments() {
    let schedule = utc("0 */6 * * *");
    assert_eq!(Some(Timestamp::UNIX_EPOCH), schedule.next_after(Timestamp::MIN));
    assert_eq!(None, schedule.last_until(Timestamp::MIN));
    assert_eq!(None, schedule.next_after(Timestamp::MAX));
    assert_eq!(None, schedule.last_until(Timestamp::MAX));
    assert!(!schedule.due(Some(Timestamp::MIN), Timestamp::MAX));
}

#[test]
fn the_text_comes_back_and_makes_equal() {
    let schedule = berlin("0  */6 * * mon");
    assert_eq!("0  */6 * * mon", schedule.to_string());
    assert_eq!("Europe/Berlin", schedule.zone());
    assert_eq!(schedule, berlin("0  */6 * * mon"));
    assert_ne!(schedule, berlin("0 */6 * * mon"));
    assert_ne!(schedule, utc("0  */6 * * mon"));
    assert_eq!("Schedule(\"0  */6 * * mon\", \"Europe/Berlin\")", format!("{schedule:?}"));
}

#[test]
fn bad_texts_are_refused_with_the_field() {
    for (text, field) in [
        ("60 * * * *", "minute"),
        ("-1 * * * *", "minute"),
        ("+1 * * * *", "minute"),
        ("*/0 * * * *", "minute"),
        ("*/60 * * * *", "minute"),
        ("5/10 * * * *", "minute"),
        ("1, * * * *", "minute"),
        ("99999999999 * * * *", "minute"),
        ("0 24 * * *", "hour"),
        ("0 5-3 * * *", "hour"),
        ("0 1-2-3 * * *", "hour"),
        ("0 0 0 * *", "day of month"),
        ("0 0 L * *", "day of month"),
        ("0 0 ? * *", "day of month"),
        ("0 0 1 13 *", "month"),
        ("0 0 1 janu *", "month"),
        ("0 0 1 ä *", "month"),
        ("0 0 * * 8", "day of week"),
        ("0 0 * * mon#1", "day of week"),
        ("60 0 0 * * *", "second"),
    ] {
        match Schedule::parse(text, None) {
            Err(ScheduleError::Field { field: found, .. }) => {
                assert_eq!(field, found, "{text}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
    for text in ["", "@daily", "0 0 * *", "0 0 0 * * * *"] {
        let fields = text.split_whitespace().count();
        assert_eq!(Err(ScheduleError::Fields(fields)), Schedule::parse(text, None));
    }
    assert_eq!(Err(ScheduleError::Never), Schedule::parse("0 0 30 2 *", None));
    assert_eq!(Err(ScheduleError::Never), Schedule::parse("0 0 31 4,6,9,11 *", None));
    let long = " ".repeat(SCHEDULE_BYTES_MAX + 1);
    assert_eq!(Err(ScheduleError::TooLong), Schedule::parse(&long, None));
    let zone = ScheduleError::Zone("Berlin".to_owned());
    assert_eq!(Err(zone), Schedule::parse("0 0 * * *", Some("Berlin")));
}

#[test]
fn an_error_says_what_is_wrong_and_what_is_right() {
    let error = Schedule::parse("0 25 * * *", None).unwrap_err();
    assert_eq!(
        "cannot read `25` as hour: it is `*`, a number from 0 to 23, a range such as 1-5, a \
         step such as */2, or several with commas; a whole schedule is \"0 */6 * * *\"",
        error.to_string()
    );
}

#[test]
fn moments_between_two_times_are_counted_up_to_a_limit() {
    let schedule = Schedule::parse("0 */6 * * *", None).unwrap();
    let at = |text: &str| text.parse().unwrap();
    let count = |after, until, most| schedule.count(at(after), at(until), most);
    assert_eq!(0, count("2026-11-29T06:00:01Z", "2026-11-29T11:59:59Z", 9));
    assert_eq!(0, count("2026-11-29T06:00:00Z", "2026-11-29T11:59:59Z", 9), "it is done");
    assert_eq!(1, count("2026-11-29T06:00:00Z", "2026-11-29T12:00:00Z", 9));
    assert_eq!(4, count("2026-11-29T06:00:01Z", "2026-11-30T06:00:00Z", 9));
    assert_eq!(9, count("2026-01-01T00:00:00Z", "2026-11-30T06:00:00Z", 9));
    assert_eq!(0, count("2027-01-01T00:00:00Z", "2026-11-30T06:00:00Z", 9));
}
