//! Ranges as Nagios plugins take them: when a value is worth an alert. Pure.
//!
//! | text | alert if the value is |
//! |---|---|
//! | `10` | below 0 or above 10 |
//! | `10:` | below 10 |
//! | `~:10` | above 10 |
//! | `10:20` | below 10 or above 20 |
//! | `@10:20` | 10 to 20, both included |

use std::fmt;
use std::str::FromStr;

/// A range; its bounds belong to it.
#[derive(Clone, PartialEq, Debug)]
pub(in crate::cli) struct Range {
    low: f64,
    high: f64,
    /// Alert inside, not outside.
    inside: bool,
    text: String,
}

/// Text that is no range.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(in crate::cli) enum RangeError {
    /// Not of the form.
    #[error("not a range; allowed: 10, 10:, ~:10, 10:20, @10:20")]
    Form,
    /// Nothing is in it.
    #[error("the range begins above its end")]
    Backwards,
}

impl Range {
    /// Whether this value is worth an alert.
    pub(in crate::cli) fn alerts(&self, value: f64) -> bool {
        let is_in = value >= self.low && value <= self.high;
        // What is no number is worth one in any case.
        is_in == self.inside || value.is_nan()
    }
}

impl FromStr for Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let (inside, body) = match text.strip_prefix('@') {
            Some(body) => (true, body),
            None => (false, text),
        };
        let (low, high) = match body.split_once(':') {
            None => (0.0, number(body)?),
            Some((low, "")) => (start(low)?, f64::INFINITY),
            Some((low, high)) => (start(low)?, number(high)?),
        };
        if low > high {
            return Err(RangeError::Backwards);
        }
        Ok(Self { low, high, inside, text: text.to_owned() })
    }
}

/// As it was written.
impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn start(text: &str) -> Result<f64, RangeError> {
    match text {
        "~" => Ok(f64::NEG_INFINITY),
        number_text => number(number_text),
    }
}

/// Digits, with a sign and a fraction at most: no exponent, no `inf`, no `nan`.
fn number(text: &str) -> Result<f64, RangeError> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !all_digits(whole) || !all_digits(fraction) {
        return Err(RangeError::Form);
    }
    text.parse().map_err(|_| RangeError::Form)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, alerts: &[f64], fine: &[f64]) {
        let range: Range = text.parse().unwrap();
        assert_eq!(text, range.to_string());
        for value in alerts {
            assert!(range.alerts(*value), "{value} is worth an alert by {text}");
        }
        for value in fine {
            assert!(!range.alerts(*value), "{value} is fine by {text}");
        }
    }

    #[test]
    fn a_value_outside_of_its_range_is_worth_an_alert() {
        check("10", &[-0.1, 10.1, f64::INFINITY], &[0.0, 10.0]);
        check("10:", &[9.9, -1.0], &[10.0, 1e9, f64::INFINITY]);
        check("~:10", &[10.1], &[-1e9, 10.0]);
        check("10:20", &[9.9, 20.1], &[10.0, 15.0, 20.0]);
        check("-5:-1.5", &[-5.1, -1.4, 0.0], &[-5.0, -1.5]);
        check("0", &[1.0, -1.0], &[0.0]);
        check("~:", &[], &[-1e9, 0.0, 1e9]);
    }

    #[test]
    fn an_at_sign_means_inside_bounds_included() {
        check("@10:20", &[10.0, 15.0, 20.0], &[9.9, 20.1]);
        check("@10", &[0.0, 10.0], &[-0.1, 10.1]);
        check("@~:0", &[-1.0, 0.0], &[0.1]);
    }

    #[test]
    fn a_value_that_is_no_number_is_worth_an_alert() {
        check("10", &[f64::NAN], &[]);
        check("@10", &[f64::NAN], &[]);
    }

    #[test]
    fn what_is_no_range_is_refused() {
        let parse = |text: &str| text.parse::<Range>().unwrap_err();
        for bad in [
            "", ":", ":10", "@", "a", "1:2:3", "10:~", "~", "1e3", "inf", "nan:", "+1", "1.", ".5",
            "1 ",
        ] {
            assert_eq!(RangeError::Form, parse(bad), "{bad:?}");
        }
        for bad in ["20:10", "-1", "@5:4.9"] {
            assert_eq!(RangeError::Backwards, parse(bad), "{bad:?}");
        }
    }
}
