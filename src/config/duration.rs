//! Durations as people write them: `200ms`, `1s`, `5m`, `1h`, `7d`.
//!
//! Text in, [`Duration`] out, and back. Pure.

use std::time::Duration;

/// A unit's name and how many milliseconds it has, longest first.
const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// A hundred years: nothing here is meant to be longer, and sums of times cannot overflow.
const DURATION_MAX: Duration = Duration::from_hours(100 * 366 * 24);

/// Text that is not a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a duration; allowed: a whole number and a unit, such as 200ms, 1s, 5m, 1h, 7d")]
pub struct DurationError;

/// Parses a whole number followed by `ms`, `s`, `m`, `h` or `d`.
///
/// # Errors
/// [`DurationError`], when the text is anything else or longer than a hundred years.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or(DurationError)?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().map_err(|_| DurationError)?;
    let &(_, millis) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(DurationError)?;
    let millis = number.checked_mul(millis).ok_or(DurationError)?;
    Some(Duration::from_millis(millis)).filter(|d| *d <= DURATION_MAX).ok_or(DurationError)
}

/// The shortest text that [`parse_duration`] reads back, in whole milliseconds.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let (unit, size) = UNITS
        .into_iter()
        .find(|(_, size)| millis.is_multiple_of(*size))
        .expect("every number is a multiple of one millisecond");
    format!("{}{unit}", millis / size)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_and_a_unit_are_a_duration() {
        for (text, millis) in
            [("200ms", 200), ("0s", 0), ("1s", 1000), ("5m", 300_000), ("1h", 3_600_000)]
        {
            assert_eq!(Ok(Duration::from_millis(millis)), parse_duration(text));
        }
        assert_eq!(Ok(Duration::from_hours(168)), parse_duration("7d"));
        for bad in ["", "1", "s", "-1s", "1.5s", "1 s", "1w", "99999999999999999999d", "40000d"] {
            assert_eq!(Err(DurationError), parse_duration(bad), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(millis in 0u64..1 << 40) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(Ok(duration), parse_duration(&format_duration(duration)));
        }
    }
}
