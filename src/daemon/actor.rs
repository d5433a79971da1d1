//! The control thread of one mount: takes what happened, has the engine decide, carries it out.
//!
//! One thread owns the engine and the index; nothing else changes either. A turn takes a batch of
//! events, has every input handled and its outputs carried out ([`super::mirror`]), commits the
//! index once, then hands out work and announces what was committed ([`super::send`]).

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::ask::Question;
use super::greet::Peer;
use super::halt::Halt;
use super::mailbox::{Batch, Mailbox};
use super::mirror::Turn;
use super::missed::Audit;
use super::moves::Moves;
use super::open;
use super::open::note_marker;
use super::shelf::Shelf;
use super::tidy::Reached;
use super::wait::Waiter;
use super::workers::{Listing, Workers};
use crate::config::Watch;
use crate::disk::watch::{Wanted, WatchError, WatchEvent, Watcher};
use crate::disk::{self, MarkerId, Mount, MountError};
use crate::engine::clock::Now;
use crate::engine::{Engine, Hint, HintKind, Input, Policy};
use crate::index::{Boot, Index, IndexError, Token};
use crate::model::{ContentId, Entry, Found, Lane, NodeId, RelPath, Sequence, limits};
use crate::net::{Announce, Announced, ControlMessage, LinkHandle};

/// Something that happened.
#[derive(Debug)]
pub(super) enum Event {
    /// Applies were done or refused.
    Applied(Vec<(RelPath, disk::Outcome)>),
    /// A person or another node asks.
    Ask(Question),
    /// A peer said something.
    Control { peer: NodeId, message: ControlMessage },
    /// Content was staged from a file that is here, or not.
    Copied { path: RelPath, content: ContentId, size: u64, done: bool },
    /// A peer was lost.
    Down { peer: NodeId },
    /// Content cannot be put together from what is here.
    FetchWhole { path: RelPath, content: ContentId, size: u64, peer: NodeId, lane: Lane },
    /// Content was fetched from a peer, or not.
    Fetched { path: RelPath, content: ContentId, result: Result<(), String> },
    /// Changed by this node itself, where nobody watches.
    Hinted(Vec<Hint>),
    /// A directory was listed.
    Listing { dir: RelPath, children: Listing },
    /// A directory could not be listed.
    ListingFailed { dir: RelPath, reason: String },
    /// Announcements have their content.
    Loaded {
        peer: NodeId,
        lane: Lane,
        records: Vec<Announced>,
        /// After which row they come, and up to where nothing else is on the lane.
        rows: (Sequence, Sequence),
    },
    /// A peer is no member any more.
    Removed { peer: NodeId },
    /// Paths were read.
    Seen(Vec<(RelPath, Found)>),
    /// End the thread.
    Shutdown,
    /// Everything that happened before a `wait` was noted, or not in time.
    Synced { waiter: u64, result: Result<(), String> },
    /// Everything that happened before the end of a regular scan was noted, or not in time.
    Told(Result<(), String>),
    /// A peer is linked.
    Up { peer: NodeId, link: LinkHandle },
    /// A subtree was listed.
    Walked(RelPath),
}

/// Records that a peer announced.
#[derive(Debug)]
pub(super) struct Bulk {
    pub peer: NodeId,
    pub lane: Lane,
    pub announce: Announce,
}

/// Where a mount's control thread gets everything.
pub(super) type Inbox = Mailbox<Event, Bulk>;

/// How long a turn waits for something to happen when nothing is due.
const TURN_MAX: Duration = Duration::from_secs(1);

/// Hints taken from the watcher in one turn.
const HINTS_MAX: usize = 4096;

/// How often everything is listed, for what the watcher may have missed, in milliseconds.
const SCAN_EVERY_MS: u64 = 6 * 3600 * 1000;

/// How often a stopped mount is looked at again.
const GUARD_EVERY_MS: u64 = 1000;

/// Where and how a mount is run.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub name: String,
    pub path: PathBuf,
    pub marker: MarkerId,
    /// Nothing for a tree that only this daemon writes.
    pub watch: Option<Watch>,
    pub policy: Arc<Policy>,
    pub node: NodeId,
    pub state: PathBuf,
}

/// How the work on a mount ended.
pub(super) enum End {
    /// The daemon stops.
    Stopped,
    /// Its root is not what it was.
    Lost(Halt),
}

/// One mount, at work.
pub(super) struct Actor {
    pub place: Place,
    pub mount: Arc<Mount>,
    pub engine: Engine,
    pub index: Index,
    /// What the next start has to know if this one does not end by itself.
    pub boot: Arc<Boot>,
    /// Which of the journaled applies are visible, as the last run left it.
    pub visible: BTreeSet<Token>,
    pub inbox: Arc<Inbox>,
    pub workers: Workers,
    pub watcher: Option<Arc<Watcher>>,
    pub peers: BTreeMap<NodeId, Peer>,
    /// The index's last sequence as it is noted beside the files.
    pub noted: Sequence,
    pub fetches: BTreeMap<RelPath, super::fetch::Plan>,
    pub shelf: Shelf,
    pub moves: Moves,
    pub waiters: Vec<Waiter>,
    pub next_waiter: u64,
    pub shared: Arc<super::Shared>,
    pub paused: bool,
    /// Why the mount is halted.
    pub halted: Option<Halt>,
    pub guard_checked_ms: u64,
    /// The first scan after start-up has ended.
    pub scanned: bool,
    /// Subtrees that are being listed, in order.
    pub walking: VecDeque<RelPath>,
    /// The mount was away while the first of these was listed.
    pub walk_cut: bool,
    /// The regular scan that goes on.
    pub audit: Option<Audit>,
    /// What the journal has of the last run, and may be on the disk or not.
    pub unsettled: HashSet<RelPath>,
    pub missed_events: u64,
    /// Announcements of records sent.
    pub messages: u64,
    pub turn: Turn,
    /// Hard links on their way, by path: names of one group that arrive together become one file.
    pub linking: BTreeMap<RelPath, Entry>,
    /// Applies that are handed out.
    pub applying: usize,
    pub started: Instant,
    pub next_scan_ms: u64,
    pub tidied_ms: u64,
    /// What every member has, as it was a while ago.
    pub reached: Option<Reached>,
    pub stopping: bool,
    /// The root is not the directory that was opened.
    pub lost: bool,
}

impl Actor {
    /// Runs until it is told to end, or its root is another one: it has to be opened anew then, and
    /// until that can be, nothing is held that keeps a file system from being unmounted.
    ///
    /// # Errors
    /// [`IndexError`]: the index cannot be used any more; nothing that was announced is lost.
    pub(super) fn run(mut self) -> Result<End, IndexError> {
        self.start()?;
        while !self.stopping && !self.lost {
            self.turn()?;
        }
        // What is being made visible is noted before the end.
        self.input(Input::Stopped(true))?;
        while self.applying > 0 {
            let batch = self.inbox.take(TURN_MAX, 0, |_, _| false);
            self.take_turn(batch)?;
        }
        self.index.commit()?;
        open::note(&self.mount, &self.index)?;
        self.boot.end()?;
        let lost = self.lost && !self.stopping;
        Ok(self.halted.filter(|_| lost).map_or(End::Stopped, End::Lost))
    }

    /// Waits until something happens, and does what follows.
    pub(super) fn turn(&mut self) -> Result<(), IndexError> {
        // While many are being applied, those after them wait where they are: at their sender.
        let room = limits::APPLY_GROUP_MAX.saturating_sub(self.applying);
        let may = |peer, express| {
            self.engine.reads(peer, if express { Lane::Urgent } else { Lane::Normal })
        };
        let batch = self.inbox.take(self.wait(), room, may);
        self.take_turn(batch)
    }

    pub(super) fn start(&mut self) -> Result<(), IndexError> {
        if self.paused {
            self.input(Input::Stopped(true))?;
        }
        let visible = std::mem::take(&mut self.visible);
        for (record, token) in self.index.journaled()? {
            let visible = visible.contains(&token);
            if visible {
                self.index.unjournal(&record.path)?;
            } else {
                self.unsettled.insert(record.path.clone());
            }
            self.input(Input::Journaled { record, visible })?;
        }
        self.turn.applied = true;
        if self.halted.is_some() {
            self.stop_or_go();
        }
        self.check_guard();
        self.begin_scan()?;
        self.end_turn()
    }

    /// Lists the whole mount, to find what changed while nobody watched.
    fn begin_scan(&mut self) -> Result<(), IndexError> {
        if self.halted.is_some() {
            return Ok(());
        }
        self.next_scan_ms = self.now().monotonic_ms + SCAN_EVERY_MS;
        self.input(Input::Scan(RelPath::root()))
    }

    fn wait(&self) -> Duration {
        let now = self.now().monotonic_ms;
        let at = [self.engine.next_tick_ms(), self.next_send_ms()].into_iter().flatten().min();
        let until = at.map_or(TURN_MAX, |at| Duration::from_millis(at.saturating_sub(now)));
        until.min(TURN_MAX)
    }

    pub(super) fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            monotonic_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            wall_ns: u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    fn take_turn(&mut self, batch: Batch<Event, Bulk>) -> Result<(), IndexError> {
        let busy = !batch.events.is_empty() || !batch.bulk.is_empty();
        if busy || self.is_guard_due() {
            self.check_guard();
        }
        for event in batch.events {
            self.event(event)?;
        }
        for bulk in batch.bulk {
            self.announced(bulk)?;
        }
        self.take_hints()?;
        self.input(Input::Tick)?;
        if self.scanned && self.now().monotonic_ms >= self.next_scan_ms {
            self.begin_audit();
            self.begin_scan()?;
        }
        self.count_missed();
        self.tidy()?;
        self.end_turn()
    }

    fn event(&mut self, event: Event) -> Result<(), IndexError> {
        match event {
            Event::Applied(outcomes) => self.applied(outcomes),
            Event::Ask(question) => self.ask(question),
            Event::Control { peer, message } => self.control(peer, message),
            Event::Copied { path, content, size, done } => self.copied(path, content, size, done),
            Event::Down { peer } => self.down(peer),
            Event::Fetched { path, content, result } => {
                self.input(Input::Fetched { path, content, result })
            }
            Event::FetchWhole { path, content, size, peer, lane } => {
                self.fetch_whole(path, content, size, (peer, lane));
                Ok(())
            }
            Event::Hinted(hints) => self.hinted(hints),
            Event::Listing { dir, children } => self.listing(&dir, children),
            Event::ListingFailed { dir, reason } => {
                tracing::warn!(mount = self.place.name, path = %dir, reason, "cannot list");
                Ok(())
            }
            Event::Loaded { peer, lane, records, rows } => {
                self.loaded(peer, lane, records, rows);
                Ok(())
            }
            Event::Removed { peer } => self.removed(peer),
            Event::Seen(seen) => seen.into_iter().try_for_each(|(p, f)| self.seen(p, f)),
            Event::Shutdown => {
                self.stopping = true;
                Ok(())
            }
            Event::Synced { waiter, result } => {
                self.synced(waiter, result);
                Ok(())
            }
            Event::Told(result) => self.told_all(result),
            Event::Up { peer, link } => self.up(peer, link),
            Event::Walked(top) => self.walked(&top),
        }
    }

    /// Takes what the watcher has to tell. Whether there may be more.
    pub(super) fn take_hints(&mut self) -> Result<bool, IndexError> {
        let Some(watcher) = self.watcher.clone() else { return Ok(false) };
        let mut taken = 0;
        for event in watcher.take(HINTS_MAX) {
            taken += 1;
            match event {
                WatchEvent::Hints(hints) => {
                    taken += hints.len();
                    self.hinted(hints.into_iter().map(hint).collect())?;
                }
                WatchEvent::Overflow { below } => {
                    tracing::info!(mount = self.place.name, path = %below, "too many changes at once, listing");
                    if let Some(audit) = &mut self.audit {
                        audit.told_below(&below);
                    }
                    self.input(Input::Scan(below))?;
                }
                WatchEvent::Lost { reason } => {
                    self.watcher = None;
                    self.halt(Halt::unwatched(&WatchError::Lost(reason), &self.place.path));
                }
            }
        }
        Ok(taken >= HINTS_MAX)
    }

    fn is_guard_due(&self) -> bool {
        self.now().monotonic_ms >= self.guard_checked_ms + GUARD_EVERY_MS
    }

    /// Looks whether this is still the mount it was; halts it if not, and goes on when it is back.
    fn check_guard(&mut self) {
        self.guard_checked_ms = self.now().monotonic_ms;
        match self.mount.check_identity(self.place.marker) {
            Err(error) => {
                self.lost |= matches!(error, MountError::Moved);
                self.halt(Halt::unusable(&error, &self.place.path));
            }
            Ok(()) if self.halted.is_some() && !self.lost => self.unhalt(),
            Ok(()) => {}
        }
    }

    /// Halts the mount; a later reason takes the place of an earlier one.
    fn halt(&mut self, halt: Halt) {
        if self.halted.as_ref() != Some(&halt) {
            let Halt { reason, hint } = &halt;
            tracing::error!(mount = self.place.name, reason, hint, "halted");
            self.halted = Some(halt);
            self.audit = None;
            self.stop_or_go();
        }
    }

    /// Everything may have changed meanwhile, unseen.
    fn unhalt(&mut self) {
        if self.watcher.is_none()
            && let Some(watch) = self.place.watch
        {
            match start_watch(&self.place, watch, &self.inbox) {
                Ok(watcher) => self.watcher = Some(Arc::new(watcher)),
                Err(error) => return self.halt(Halt::unwatched(&error, &self.place.path)),
            }
        }
        // Its directory is the same: whoever made the marker anew did so in the right one.
        if let Err(error) = note_marker(&self.place, &self.mount) {
            tracing::warn!(mount = self.place.name, error = super::chain(&error));
        }
        tracing::info!(mount = self.place.name, "the mount is back");
        self.halted = None;
        self.stop_or_go();
        if let Err(error) = self.begin_scan() {
            let error = &error as &dyn std::error::Error;
            tracing::error!(mount = self.place.name, error, "cannot scan");
        }
    }

    pub(super) fn stop_or_go(&mut self) {
        let stopped = self.paused || self.halted.is_some();
        if let Err(error) = self.input(Input::Stopped(stopped)) {
            let error = &error as &dyn std::error::Error;
            tracing::error!(mount = self.place.name, error, "cannot go on");
        }
    }

    /// Whether nothing of this mount may be read or written now.
    pub(super) fn is_halted(&self) -> bool {
        self.halted.is_some()
    }
}

/// Starts to watch a mount.
pub(super) fn start_watch(
    place: &Place,
    watch: Watch,
    inbox: &Arc<Inbox>,
) -> Result<Watcher, WatchError> {
    let wanted = match watch {
        Watch::Auto => Wanted::Auto,
        Watch::Fanotify => Wanted::Fanotify,
        Watch::Inotify => Wanted::Inotify,
    };
    let (policy, inbox) = (place.policy.clone(), inbox.clone());
    let skip = Arc::new(move |dir: &RelPath| policy.skips(dir));
    Watcher::start(&place.path, wanted, skip, Box::new(move || inbox.wake()))
}

fn hint(hint: disk::watch::Hint) -> Hint {
    use disk::watch::HintKind as Kernel;
    let kind = match hint.kind {
        Kernel::Attributes => HintKind::Attributes,
        Kernel::Closed => HintKind::Closed,
        Kernel::Created => HintKind::Created,
        Kernel::Gone => HintKind::Gone,
        Kernel::Moved => HintKind::Moved,
        Kernel::Written => HintKind::Written,
    };
    Hint { path: hint.path, kind }
}

#[cfg(test)]
mod tests {
    use crate::daemon::testing::Fixture;
    use crate::engine::{Announced, Input};
    use crate::model::{Lane, NodeId, Record, RelPath, Sequence, Stamp, Version};

    #[test]
    fn what_the_last_run_left_in_the_journal_is_forgotten_when_it_was_looked_for() {
        let mut fixture = Fixture::start();
        let version = Version::edit(Stamp { counter: 9, node: NodeId(2) }, None);
        let path = RelPath::parse(b"never-seen").unwrap();
        let actor = &mut fixture.actor;
        let removal = Record { path: path.clone(), entry: None, version };
        let _token = actor.index.journal(&removal).unwrap();
        actor.index.commit().unwrap();
        actor.start().unwrap();
        assert!(actor.unsettled.contains(&path));
        fixture.turn_until(|actor| actor.unsettled.is_empty());
        assert!(fixture.actor.index.journaled().unwrap().is_empty());
    }

    #[test]
    fn an_edit_of_this_node_that_it_never_made_shows_that_its_index_is_old() {
        let mut fixture = Fixture::start();
        let actor = &mut fixture.actor;
        let node = actor.place.node.author(actor.index.incarnation());
        let announced = |counter| {
            let version = Version::edit(Stamp { counter, node }, None);
            let theirs =
                Record { path: RelPath::parse(b"made-later").unwrap(), entry: None, version };
            let (peer, lane, sequence) = (NodeId(2), Lane::Normal, Sequence(1));
            let after = None;
            let told =
                Announced { peer, lane, sequence, after, theirs, content: false, ours: None };
            Input::Announced(Box::new(told))
        };
        actor.input(announced(actor.index.last_counter())).unwrap();
        let error = actor.input(announced(actor.index.last_counter() + 1)).unwrap_err();
        assert!(error.is_damage(), "it is set aside");
        let n2 = NodeId(2);
        let than = format!("the index is older than an edit of this node that {n2} has");
        assert_eq!(than, error.to_string());
    }
}
