//! Watches a mount's directory tree: what the kernel says has changed, as hints.
//!
//! In: the root. Out: [`Watcher::take`] gives paths to look at, in the kernel's order, one entry a
//! path; `wake` is called when there are some. A reader thread does nothing but drain the kernel's
//! queue into a bounded set. A hint may name a path that did not change; a change without a hint is
//! covered by an [`WatchEvent::Overflow`]. Never reads content and never writes into the tree,
//! except for a cookie file in `.trefoil/cookies`.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

mod cookie;
mod fanotify;
mod fanotify_sys;
mod handles;
mod inotify;
mod pending;
mod root;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::cookie::Cookies;
use self::pending::{Bounds, Pending};
use crate::model::RelPath;
use crate::model::limits::DIRTY_MAX;

/// Bytes of the pending paths, per mount; beyond it they are collapsed as beyond [`DIRTY_MAX`].
const PENDING_BYTES_MAX: usize = 16 << 20;

/// How long a watcher that was just set up may take to notice a file: it then does not work here.
const PROOF_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the root is looked at: unmounting makes no event.
const ROOT_CHECK_EVERY: Duration = Duration::from_secs(2);

/// What happened at a path, as far as the kernel tells, weakest first. Only a hint: the path is
/// looked at afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HintKind {
    /// Mode, owner, times or extended attributes were set.
    Attributes,
    /// It was modified and may still be open.
    Written,
    /// It appeared: a file which may still be open, or one linked into place and never closed; or
    /// a directory that was empty and whose content gets hints of its own.
    Created,
    /// A writer closed it.
    Closed,
    /// It is no longer there, with everything below it. If a directory is found there, it is
    /// another one: list it as for [`Moved`](Self::Moved).
    Gone,
    /// It was moved here, or it is a directory of which no content was told: what is below it must
    /// be listed, whole, and what is known below it and not found there is gone.
    Moved,
}

/// A path to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// Where.
    pub path: RelPath,
    /// What happened last or foremost.
    pub kind: HintKind,
    /// Whether it was a directory, as far as is known.
    pub is_dir: bool,
}

/// What a watcher has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// Paths to look at, in the kernel's order, each once. Never empty.
    Hints(Vec<Hint>),
    /// Everything at or below this path may have changed.
    Overflow {
        /// The top of the subtree.
        below: RelPath,
    },
    /// The root was unmounted or removed, or the watch failed: nothing is seen any more. The last
    /// event.
    Lost {
        /// Why, for a person.
        reason: String,
    },
}

/// The kernel interface in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// One mark on the file system, own events left out; needs CAP_SYS_ADMIN and
    /// CAP_DAC_READ_SEARCH.
    Fanotify,
    /// One watch per directory; own events are reported as well.
    Inotify,
}

/// The backend asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// `fanotify` if it can be set up, otherwise `inotify`.
    Auto,
    /// Only `fanotify`.
    Fanotify,
    /// Only `inotify`.
    Inotify,
}

/// Counts since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchStats {
    /// Events of the mount read from the kernel.
    pub events: u64,
    /// Events read and left out: outside the mount, below `.trefoil` or a skipped directory, or
    /// our own.
    pub ignored: u64,
    /// Overflows, the kernel's and those made because too many paths were pending.
    pub overflows: u64,
    /// Marks or watches held in the kernel.
    pub watches: u64,
}

/// Why a tree cannot be watched, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// A step of setting up `fanotify` was refused.
    #[error("cannot {doing} for fanotify")]
    Fanotify {
        /// A verb and its object.
        doing: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
    /// A step of setting up `inotify` was refused.
    #[error("cannot {doing} for inotify")]
    Inotify {
        /// A verb and its object.
        doing: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
    /// More directories than this user may watch.
    #[error("cannot watch every directory: raise the sysctl fs.inotify.max_user_watches")]
    TooManyWatches,
    /// More inotify queues than this user may have.
    #[error("cannot make another inotify queue: raise the sysctl fs.inotify.max_user_instances")]
    TooManyInstances,
    /// The cookie file could not be made or renamed below the root.
    #[error("cannot {doing}")]
    Cookie {
        /// A verb and its object.
        doing: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The cookie's event did not come in time.
    #[error("cannot tell in time whether every change was seen")]
    Timeout,
    /// The watch ended before.
    #[error("cannot watch any longer: {0}")]
    Lost(String),
}

/// Tells a directory whose content is never mirrored.
pub type Skip = Arc<dyn Fn(&RelPath) -> bool + Send + Sync>;

/// Called when there is something to [`take`](Watcher::take), from the watcher's own threads (or
/// the one that takes); must not block.
pub type Wake = Box<dyn Fn() + Send + Sync>;

/// A watch on one tree. Dropping it ends its threads and waits for them.
pub struct Watcher {
    backend: Backend,
    /// Ends with this.
    _reader: Box<dyn Send + Sync>,
    cookies: Cookies,
    shared: Arc<Shared>,
}

impl Watcher {
    /// Starts to watch; every change made after this returns is seen. Makes `.trefoil/cookies`
    /// below the root if need be.
    ///
    /// # Errors
    /// [`WatchError`]; nothing is left running.
    pub fn start(root: &Path, wanted: Wanted, skip: Skip, wake: Wake) -> Result<Self, WatchError> {
        let wake = Arc::new(wake);
        let begin = |wanted| Self::begin(root, wanted, skip.clone(), wake.clone());
        match wanted {
            Wanted::Fanotify => begin(Backend::Fanotify),
            Wanted::Inotify => begin(Backend::Inotify),
            Wanted::Auto => begin(Backend::Fanotify).or_else(|refused| {
                tracing::debug!(error = &refused as &dyn std::error::Error, "fanotify is refused");
                begin(Backend::Inotify)
            }),
        }
    }

    fn begin(
        root: &Path,
        backend: Backend,
        skip: Skip,
        wake: Arc<Wake>,
    ) -> Result<Self, WatchError> {
        let cookies = Cookies::open(root)?;
        let shared = Arc::new(Shared::new(wake, cookies.prefix().to_vec()));
        let reader: Box<dyn Send + Sync> = match backend {
            Backend::Fanotify => Box::new(fanotify::Reader::start(root, skip, shared.clone())?),
            Backend::Inotify => Box::new(inotify::Reader::start(root, skip, shared.clone())?),
        };
        let watcher = Self { backend, _reader: reader, cookies, shared };
        // Proves the whole way, from the kernel to the path: file systems and sandboxes exist that
        // accept a mark and then tell nothing, or nothing that can be resolved.
        watcher.sync(PROOF_TIMEOUT)?;
        Ok(watcher)
    }

    /// The backend in use.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Counts since the start.
    #[must_use]
    pub fn stats(&self) -> WatchStats {
        WatchStats {
            events: self.shared.events.load(Ordering::Relaxed),
            ignored: self.shared.ignored.load(Ordering::Relaxed),
            overflows: self.shared.lock().pending.overflows(),
            watches: self.shared.watches.load(Ordering::Relaxed),
        }
    }

    /// Removes and returns what is pending: `max` paths and overflows at most, in order. If
    /// something is left, `wake` is called again.
    #[must_use]
    pub fn take(&self, max: usize) -> Vec<WatchEvent> {
        let mut taken = Vec::new();
        self.shared.update(|state| {
            state.woken = false;
            taken = state.pending.take(max);
            if !state.pending.is_ready() {
                taken.extend(state.lost_to_tell.take().map(|reason| WatchEvent::Lost { reason }));
            }
        });
        taken
    }

    /// Waits until everything that happened before the call can be [taken](Self::take) or was.
    ///
    /// # Errors
    /// [`WatchError::Timeout`], [`WatchError::Lost`], or [`WatchError::Cookie`] if the root cannot
    /// be written to.
    pub fn sync(&self, timeout: Duration) -> Result<(), WatchError> {
        let until = Instant::now() + timeout;
        loop {
            let overflows = self.shared.lock().kernel_overflows;
            let number = self.cookies.next();
            self.shared.lock().cookies.insert(number, None);
            let put = self.cookies.put(number);
            let done = put.and_then(|()| self.shared.await_cookie(number, overflows, until));
            self.shared.lock().cookies.remove(&number);
            if done? {
                return Ok(());
            }
        }
    }
}

/// What the threads and the watcher's owner share.
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    wake: Arc<Wake>,
    cookie_prefix: Vec<u8>,
    events: AtomicU64,
    ignored: AtomicU64,
    watches: AtomicU64,
}

struct State {
    pending: Pending,
    /// Whether `wake` was called since the last take.
    woken: bool,
    lost: Option<String>,
    lost_to_tell: Option<String>,
    /// The cookies waited for, and the position at which the event was read.
    cookies: HashMap<u64, Option<u64>>,
    kernel_overflows: u64,
}

impl State {
    fn is_ready(&self) -> bool {
        self.pending.is_ready() || self.lost_to_tell.is_some()
    }

    /// Notes that the kernel lost events; a waiting `sync` must not rely on its cookie.
    fn kernel_overflow(&mut self, held: bool) {
        self.kernel_overflows += 1;
        if held {
            self.pending.overflow_held(RelPath::root());
        } else {
            self.pending.overflow(RelPath::root());
        }
    }

    fn lose(&mut self, reason: &str) {
        if self.lost.is_none() {
            self.lost = Some(reason.to_owned());
            self.lost_to_tell = Some(reason.to_owned());
        }
    }

    fn cookie_seen(&mut self, number: u64) {
        let position = self.pending.position();
        if let Some(seen) = self.cookies.get_mut(&number) {
            *seen = Some(position);
        }
    }
}

impl Shared {
    fn new(wake: Arc<Wake>, cookie_prefix: Vec<u8>) -> Self {
        let bounds = Bounds { paths: DIRTY_MAX, bytes: PENDING_BYTES_MAX };
        Self {
            state: Mutex::new(State {
                pending: Pending::new(bounds),
                woken: false,
                lost: None,
                lost_to_tell: None,
                cookies: HashMap::new(),
                kernel_overflows: 0,
            }),
            changed: Condvar::new(),
            wake,
            cookie_prefix,
            events: AtomicU64::new(0),
            ignored: AtomicU64::new(0),
            watches: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, then wakes whoever waits for what the change brought.
    fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let wake = state.is_ready() && !state.woken;
        state.woken |= wake;
        let waiting = !state.cookies.is_empty();
        drop(state);
        if waiting {
            self.changed.notify_all();
        }
        if wake {
            (self.wake)();
        }
    }

    /// The number in the name of one of this watcher's cookies.
    fn cookie_number(&self, name: &[u8]) -> Option<u64> {
        std::str::from_utf8(name.strip_prefix(&self.cookie_prefix[..])?).ok()?.parse().ok()
    }

    /// True once the cookie was read and nothing before it is held; false if the kernel lost
    /// events meanwhile, the cookie's perhaps.
    fn await_cookie(
        &self,
        number: u64,
        overflows: u64,
        until: Instant,
    ) -> Result<bool, WatchError> {
        let mut state = self.lock();
        loop {
            if let Some(reason) = &state.lost {
                return Err(WatchError::Lost(reason.clone()));
            }
            match state.cookies.get(&number) {
                Some(Some(position)) if !state.pending.is_held_before(*position) => {
                    return Ok(true);
                }
                Some(None) if state.kernel_overflows != overflows => return Ok(false),
                _ => {}
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(WatchError::Timeout);
            }
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").field("backend", &self.backend()).finish_non_exhaustive()
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fanotify => "fanotify",
            Self::Inotify => "inotify",
        })
    }
}
