//! Hears that the demo shall stop (SIGINT, SIGTERM, SIGHUP), and pauses that end when it does.
//!
//! The signals themselves end nothing: whoever pauses next gets [`Interrupted`] and returns, so
//! that processes are ended and folders removed on the usual way out.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The demo was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub(super) struct Interrupted;

/// Whether the demo was told to stop; all clones say the same.
#[derive(Clone, Default)]
pub(super) struct Interrupt {
    told: Arc<(Mutex<bool>, Condvar)>,
}

impl Interrupt {
    /// Takes the signals over, for the rest of the process's life.
    ///
    /// # Errors
    /// What the operating system refused.
    pub(super) fn listen() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let taken: Vec<Signal> = {
            let _entered = runtime.enter();
            let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
            kinds.into_iter().map(signal).collect::<io::Result<_>>()?
        };
        let interrupt = Self::default();
        let told = interrupt.clone();
        let hear = move || {
            runtime.block_on(first(taken));
            told.stop();
        };
        // Ends with the process.
        drop(thread::Builder::new().name("signals".to_owned()).spawn(hear)?);
        Ok(interrupt)
    }

    /// Lets every pause end, now and from now on.
    pub(super) fn stop(&self) {
        let (stopped, changed) = &*self.told;
        *stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }

    /// Whether the demo was told to stop.
    pub(super) fn is_stopped(&self) -> bool {
        *self.told.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pauses this long.
    ///
    /// # Errors
    /// [`Interrupted`] as soon as the demo was told to stop.
    pub(super) fn pause(&self, time: Duration) -> Result<(), Interrupted> {
        let (stopped, changed) = &*self.told;
        let guard = stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = changed.wait_timeout_while(guard, time, |stopped| !*stopped);
        let (stopped, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if *stopped { Err(Interrupted) } else { Ok(()) }
    }
}

/// Returns when the first of the signals comes.
async fn first(mut signals: Vec<Signal>) {
    std::future::poll_fn(|context| {
        let mut ready = signals.iter_mut().map(|signal| signal.poll_recv(context));
        if ready.any(|poll| poll.is_ready()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_ends_when_the_demo_is_told_to_stop() {
        let interrupt = Interrupt::default();
        assert_eq!(Ok(()), interrupt.pause(Duration::ZERO));
        thread::scope(|scope| {
            let paused = scope.spawn(|| interrupt.pause(Duration::from_hours(1)));
            interrupt.stop();
            assert_eq!(Err(Interrupted), paused.join().unwrap());
        });
        assert_eq!(Err(Interrupted), interrupt.pause(Duration::ZERO));
    }
}
