//! How fast bytes are sent to one peer, if there is a limit.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::model::Lane;

/// What was not sent for so long may be sent at once later.
const BURST: Duration = Duration::from_millis(100);

/// Spreads what is sent to one peer over time.
pub(super) struct Pace {
    bytes_per_s: Option<u64>,
    /// When what was let through so far will have been paid for.
    paid_at: Mutex<Option<Instant>>,
}

impl Pace {
    /// Nothing: no limit.
    pub(super) fn new(bytes_per_s: Option<u64>) -> Self {
        Self { bytes_per_s: bytes_per_s.map(|rate| rate.max(1)), paid_at: Mutex::new(None) }
    }

    /// Waits until so many bytes may be sent. What is urgent waits for nothing, and slows the others.
    pub(super) async fn wait(&self, lane: Lane, bytes: usize) {
        let Some(at) = self.reserve(Instant::now(), bytes) else { return };
        if !matches!(lane, Lane::Urgent | Lane::Release) {
            tokio::time::sleep_until(at.into()).await;
        }
    }

    /// When so many bytes may be sent; nothing if there is no limit.
    fn reserve(&self, now: Instant, bytes: usize) -> Option<Instant> {
        let rate = self.bytes_per_s?;
        let nanos = u128::try_from(bytes).ok()? * 1_000_000_000 / u128::from(rate);
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 2));
        let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let at = paid_at.map_or(earliest, |paid_at| paid_at.max(earliest));
        *paid_at = Some(at + takes);
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_spread_over_time_and_a_pause_is_not_saved_up() {
        let pace = Pace::new(Some(1000));
        let start = Instant::now() + Duration::from_secs(60);
        let at = |now_ms, bytes| {
            let now = start + Duration::from_millis(now_ms);
            let at = pace.reserve(now, bytes).unwrap();
            if at > now { now_ms + u64::try_from((at - now).as_millis()).unwrap() } else { now_ms }
        };
        assert_eq!([0, 0, 100], [at(0, 100), at(0, 100), at(0, 500)]);
        assert_eq!(600, at(10, 10_000));
        assert_eq!(10_600, at(10_600, 1));
        assert_eq!([99_000, 99_000, 99_900], [at(99_000, 50), at(99_000, 950), at(99_000, 1)]);
    }

    #[test]
    fn without_a_limit_nothing_waits() {
        assert_eq!(None, Pace::new(None).reserve(Instant::now(), usize::MAX));
        let slow = Pace::new(Some(0));
        assert!(slow.reserve(Instant::now(), usize::MAX).is_some());
        assert!(slow.reserve(Instant::now(), 1).is_some());
    }
}
