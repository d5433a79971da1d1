//! Limits of sizes as people write them: `500MiB`, `20GiB`, `10%` of the file system.
//!
//! Text in, [`SizeLimit`] out, and back. Pure.

use std::{fmt, str::FromStr};

/// A unit's name and its bytes, the largest first.
const UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// How much something may take up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeLimit {
    /// So many bytes.
    Bytes(u64),
    /// A part of the file system it is on, at most 100.
    Percent(u8),
}

/// Text that is not a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a size; allowed: a whole number and a unit, such as 500MiB, 20GiB, 1TiB, or a part of the \
     file system, such as 10%"
)]
pub struct SizeLimitError;

impl SizeLimit {
    /// As bytes, on a file system of so many.
    #[must_use]
    pub fn bytes_on(self, file_system_bytes: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            // Divided first: what is lost is less than 100 bytes, and nothing overflows.
            Self::Percent(percent) => file_system_bytes / 100 * u64::from(percent),
        }
    }
}

/// A size in bytes that is not 0.
///
/// # Errors
/// What is allowed.
pub(super) fn parse_bytes(text: &str) -> Result<u64, BytesError> {
    match text.parse() {
        Ok(SizeLimit::Bytes(bytes)) if bytes > 0 => Ok(bytes),
        _ => Err(BytesError),
    }
}

/// Text that is not a size in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a size; allowed: a whole number above 0 and a unit, such as 512KiB, 20MiB, 1GiB")]
pub struct BytesError;

impl FromStr for SizeLimit {
    type Err = SizeLimitError;

    fn from_str(text: &str) -> Result<Self, SizeLimitError> {
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or(SizeLimitError)?;
        let (number, unit) = text.split_at(unit_at);
        if unit == "%" {
            let percent = number.parse().ok().filter(|percent| *percent <= 100);
            return percent.map(Self::Percent).ok_or(SizeLimitError);
        }
        let number: u64 = number.parse().map_err(|_| SizeLimitError)?;
        let &(_, size) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(SizeLimitError)?;
        number.checked_mul(size).map(Self::Bytes).ok_or(SizeLimitError)
    }
}

impl fmt::Display for SizeLimit {
    /// The shortest text that is read back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Percent(percent) => write!(f, "{percent}%"),
            Self::Bytes(0) => f.write_str("0B"),
            Self::Bytes(bytes) => {
                let fits = |(_, size): &(&str, u64)| bytes.is_multiple_of(*size);
                let (unit, size) =
                    UNITS.into_iter().find(fits).expect("every number is a multiple of one byte");
                write!(f, "{}{unit}", bytes / size)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_and_a_unit_or_a_part_of_the_file_system_are_a_limit() {
        for (text, limit) in [
            ("0B", SizeLimit::Bytes(0)),
            ("4KiB", SizeLimit::Bytes(4096)),
            ("5GiB", SizeLimit::Bytes(5 << 30)),
            ("1TiB", SizeLimit::Bytes(1 << 40)),
            ("10%", SizeLimit::Percent(10)),
        ] {
            assert_eq!(Ok(limit), text.parse());
            assert_eq!(text, limit.to_string());
        }
        for bad in ["", "5", "GiB", "-1GiB", "1.5GiB", "5 GiB", "5GB", "5gib", "101%", "-1%", "%"] {
            assert_eq!(Err(SizeLimitError), bad.parse::<SizeLimit>(), "{bad:?}");
        }
        assert!("99999999999TiB".parse::<SizeLimit>().is_err());
    }

    #[test]
    fn a_part_is_one_of_the_whole_file_system() {
        assert_eq!(100, SizeLimit::Percent(10).bytes_on(1000));
        assert_eq!(7, SizeLimit::Bytes(7).bytes_on(1000));
        assert!(SizeLimit::Percent(100).bytes_on(u64::MAX) > u64::MAX - 100);
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(bytes in any::<u64>()) {
            let limit = SizeLimit::Bytes(bytes);
            prop_assert_eq!(Ok(limit), limit.to_string().parse());
        }
    }
}
