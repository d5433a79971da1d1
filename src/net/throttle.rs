//! Lines of the log that whoever likes can cause: one at a time, and how many were left out. Pure.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long one kind of line is left out after it was written.
const PAUSE: Duration = Duration::from_secs(10);

/// Counts one kind of line.
#[derive(Default)]
pub(super) struct Throttle(Mutex<State>);

#[derive(Default)]
struct State {
    until: Option<Instant>,
    left_out: u64,
}

impl Throttle {
    /// Whether a line may be written, and how many were left out before it.
    pub(super) fn pass(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.until.is_some_and(|until| now < until) {
            state.left_out += 1;
            return None;
        }
        state.until = Some(now + PAUSE);
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a moment to begin with")]
mod tests {
    use super::*;

    #[test]
    fn lines_in_a_row_are_counted_instead_of_written() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        assert_eq!(Some(0), throttle.pass(now));
        assert_eq!([None; 3], [throttle.pass(now), throttle.pass(now), throttle.pass(now)]);
        assert_eq!(Some(3), throttle.pass(now + PAUSE));
        assert_eq!(None, throttle.pass(now + PAUSE));
    }
}
