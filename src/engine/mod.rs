//! The decisions, without I/O: what happens when a file changes, here and on the other nodes.
//!
//! One engine per mount. It is told what happened ([`Input`]) by [`Engine::handle`] and says what
//! follows ([`Output`]) by [`Engine::poll_output`]; it never asks: what it has to know of the index
//! comes with the input. The same inputs give the same outputs: time is an argument and nothing is
//! random, so whole clusters are simulated (`tests/sim`). The story of one change:
//!
//! 1. watch: a path is [`Input::Hinted`]. When nobody writes to it any more it is read.
//! 2. read, index: what was [`Input::Seen`] there is compared with our record. If it is new, the new
//!    record is [`Output::Store`]d; the index gives it a sequence, and it is announced to every peer.
//! 3. net: at a peer it is [`Input::Announced`]. [`reconcile`] decides; if it is taken, it becomes a
//!    want: it waits for its turn (barriers), its directory and its content.
//! 4. apply: [`Output::Apply`] makes it visible, if the disk still holds what was assumed;
//!    [`Input::Applied`] stores it. If a local edit came first, that is read, and both meet in 3.
//!
//! At most one read or apply is out for a path at a time. One path's failure stops no other: it is
//! a [`Problem`], listed and tried again. This file is longer than 500 lines because all inputs and
//! outputs stand here, to be read in one sitting.

mod barrier;
pub mod clock;
mod excess;
mod fetch;
pub mod fingerprint;
mod guard;
mod held;
mod incoming;
mod local;
mod look;
mod policy;
mod problem;
pub mod reconcile;
mod remote;
mod retention;
mod schedule;
pub mod session;
mod share;
mod slot;
#[cfg(test)]
mod tests;
mod want;
pub mod why;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use self::clock::{Clock, Now};
pub use self::excess::{CONFLICT_STAYS, Kept, TRASH_STAYS, excess};
use self::fetch::Fetches;
use self::guard::Guard;
pub use self::guard::{BUDGET_WINDOW_MS, Held};
use self::incoming::Incoming;
pub use self::policy::{
    Class, ClassSettings, ClassTable, DeleteBudget, OWN_DIR, PATTERN_BYTES_MAX, Pattern,
    PatternError, Policy, RULES_MAX, UnknownBudget, UnknownClass,
};
pub use self::problem::Problem;
use self::problem::Problems;
pub use self::retention::{Candidate, Period, Reason, Retention, Tier, Verdict};
pub use self::schedule::{SCHEDULE_BYTES_MAX, Schedule, ScheduleError};
use self::slot::{Busy, Slot};
use crate::model::{
    ContentId, Found, Lane, LinkGroup, NodeId, Record, RelPath, Sequence, Signature,
};

/// How soon something is looked at again that waits for other paths of this node, in milliseconds.
const SOON_MS: u64 = 20;

/// All that can happen to a mount. Closed on purpose: what is not listed cannot matter.
#[derive(Clone, Debug)]
pub enum Input {
    /// watch, scan: something may have changed at these paths, in this order.
    Hinted(Vec<Hint>),
    /// read: this is at the path now. Answers [`Output::Read`].
    Seen(Box<Seen>),
    /// index: the directory is gone, and so is this path below it, a live record of ours. Answers
    /// [`Output::Sweep`], children before their parents.
    Swept(RelPath),
    /// read: the directory's children were listed, and what differs from the index was hinted.
    /// Answers [`Output::List`].
    Listed(RelPath),
    /// net: a peer holds this record.
    Announced(Box<Announced>),
    /// net: everything of this lane up to here has arrived.
    Progress {
        /// Who announces.
        peer: NodeId,
        /// Its lane.
        lane: Lane,
        /// The last sequence that was sent or skipped.
        sequence: Sequence,
    },
    /// net: the peer's ordered records wait for everything up to here from now on: what some of
    /// them waited for was changed again before it was sent, and comes later. So it may have been
    /// while the peer was not linked: then this is its last sequence.
    Moved {
        /// Who announces.
        peer: NodeId,
        /// Where what has moved is now, or before that.
        sequence: Sequence,
    },
    /// index: what there is at and around a wanted path. Answers [`Output::Consider`].
    Considered(Box<Considered>),
    /// net: the wanted content is staged, or why not. Answers [`Output::Fetch`].
    Fetched {
        /// Wanted for this path.
        path: RelPath,
        /// The content that was asked for.
        content: ContentId,
        /// Why it could not be had.
        result: Result<(), String>,
    },
    /// disk: the apply was done, or refused. Answers [`Output::Apply`].
    Applied {
        /// The path of the apply.
        path: RelPath,
        /// What came of it.
        outcome: Outcome,
    },
    /// index: this was being applied when the daemon ended.
    Journaled {
        /// With the version that it gets here.
        record: Record,
        /// Whether it is known to have become visible: then what is at the path now was made after
        /// it. Otherwise it may have.
        visible: bool,
    },
    /// net: a peer is connected and announces everything after these cursors.
    PeerUp {
        /// Who.
        peer: NodeId,
        /// After what it goes on, per lane.
        cursors: Vec<(Lane, Sequence)>,
        /// Whether it begins anew: its index is not the one it had.
        anew: bool,
    },
    /// net: a peer was lost. Its wants stay; what was let go is asked for again with the next link.
    PeerDown(NodeId),
    /// A person lets the deletions through that are held here.
    Approved,
    /// A person wants back what is gone and held here.
    Reverted,
    /// A deployment goes on until then, by the monotonic clock: no deletion is held.
    Deploying {
        /// Zero, or what has passed: none does.
        until_ms: u64,
    },
    /// net: a peer is no member any more. What it alone had announced never comes.
    PeerRemoved(NodeId),
    /// config: classes mean something else now; which path has which class is as before.
    Policy(Arc<Policy>),
    /// The mount is stopped (by a person or a guard), or goes on.
    Stopped(bool),
    /// watch: anything at or below the directory may have changed unseen.
    Scan(RelPath),
    /// The first scan of the index is complete, and all it hinted is stored.
    Scanned,
    /// Time has passed.
    Tick,
}

/// What the watcher, or a scan, says of a path. Only a hint: the path is read afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// Where.
    pub path: RelPath,
    /// What.
    pub kind: HintKind,
}

/// Kinds of hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HintKind {
    /// Mode, owner or attributes were set.
    Attributes,
    /// A writer closed it.
    Closed,
    /// It was made; a writer may have it open.
    Created,
    /// A scan found it different from the index.
    Differs,
    /// It went away.
    Gone,
    /// It was moved here with everything below it, or made before anyone watched what is made
    /// in it.
    Moved,
    /// It was written to, and is still open.
    Written,
}

/// What a read found.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Where.
    pub path: RelPath,
    /// What is there.
    pub found: Found,
    /// Our record of the path.
    pub ours: Option<Record>,
    /// Whether our record of its directory is a live directory. True for what is in the root.
    pub parent_live: bool,
    /// Whether we have live records below the path.
    pub has_children: bool,
    /// The group of a live record with the same inode, or of ours if it had this inode.
    pub group: Option<LinkGroup>,
    /// Whether the content of our record is live at another path, too, or it has none.
    pub elsewhere: bool,
    /// Live files of the mount.
    pub files: u64,
}

/// A record that a peer holds.
#[derive(Clone, Debug)]
pub struct Announced {
    /// Who.
    pub peer: NodeId,
    /// On which lane.
    pub lane: Lane,
    /// Its sequence at the peer. Zero for a directory that is announced ahead of its turn, for what
    /// is below it; it comes again.
    pub sequence: Sequence,
    /// Visible only after everything of the peer up to here.
    pub after: Option<Sequence>,
    /// The record.
    pub theirs: Record,
    /// Whether the content came along.
    pub content: bool,
    /// Our record of the path.
    pub ours: Option<Record>,
}

/// What the index says about a wanted path.
#[derive(Clone, Debug)]
pub struct Considered {
    /// Where.
    pub path: RelPath,
    /// Our record of it.
    pub ours: Option<Record>,
    /// Whether our record of its directory is a live directory. True for what is in the root.
    pub parent_live: bool,
    /// How many live records are in it, counted up to [`Output::Consider`]'s `children_max`.
    pub children: usize,
}

/// What came of an apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A writer has the file open; nothing was changed.
    Busy,
    /// The disk holds something else than our record says.
    Changed,
    /// The content was not where it should be.
    ContentMissing,
    /// Visible and durable; the signature of what is there now, none after a removal.
    Done(Option<Signature>),
    /// The operating system refused; the reason, as "cannot rename over the target: no space".
    Failed(String),
    /// The directory is not empty.
    NotEmpty,
    /// Its directory is not there.
    ParentMissing,
}

/// All that can follow. Carried out in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// disk: look what is at the path, though a writer has it open if so said.
    Read {
        /// Where.
        path: RelPath,
        /// Take it although it is open for writing.
        even_if_open: bool,
    },
    /// disk: list everything below the directory, hint what differs from the index.
    List(RelPath),
    /// index: the directory is gone from the disk; feed live records below it. It is asked again
    /// while there are more than were fed.
    Sweep(RelPath),
    /// index: say what there is at and around the path.
    Consider {
        /// Where.
        path: RelPath,
        /// Count the children up to this.
        children_max: usize,
    },
    /// index: this is our record now. It gets a sequence and is announced once it is committed.
    Store {
        /// The record.
        record: Record,
        /// What `stat` says of it; nothing leaves what is known.
        signature: Option<Signature>,
        /// The peer it was learned from; nothing for an edit made here.
        from: Option<NodeId>,
    },
    /// index: nothing changed at the path but its signature.
    Refresh {
        /// Where.
        path: RelPath,
        /// What `stat` says of it.
        signature: Signature,
    },
    /// disk, net: get the content into the stage.
    Fetch {
        /// Wanted for this path.
        path: RelPath,
        /// What.
        content: ContentId,
        /// In bytes.
        size: u64,
        /// Who may have it, the likeliest first; the first of them that is linked is asked. Empty if
        /// nobody is known: then whoever is linked.
        peers: Vec<NodeId>,
        /// How urgent it is.
        lane: Lane,
    },
    /// disk: make the record visible, if the disk holds what our record says.
    Apply {
        /// What shall be there.
        record: Record,
        /// What is there by our record.
        ours: Option<Record>,
        /// What becomes of the file it replaces.
        displaced: Displaced,
        /// Replace the file although a writer has it open.
        even_if_open: bool,
    },
    /// index: deletions of these classes are held, also after a restart.
    Guard(Vec<Class>),
    /// index: the peer has an edit of this node that it never made. The index was put back as it was
    /// before that, and nothing that it says counts.
    Outdated(NodeId),
    /// The path needs nothing any more: content kept for it in memory can go, and what the journal
    /// had of it from the last run.
    Finished(RelPath),
}

/// What becomes of a file that is replaced or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Displaced {
    /// It goes, once no late writer is seen.
    Drop,
    /// It is the loser of a conflict: into the conflict store.
    Keep,
    /// It stays in the trash for some days.
    Trash,
}

/// What an engine has to know from the start.
#[derive(Clone, Debug)]
pub struct Setup {
    /// This node.
    pub node: NodeId,
    /// Classes of paths.
    pub policy: Arc<Policy>,
    /// Whether owners are kept: only with the rights to set them.
    pub keeps_owners: bool,
    /// Whether this index is new in a cluster that exists: what the first scan finds was there
    /// before, and loses against what the cluster has.
    pub joining: bool,
    /// The highest counter in the index.
    pub last_counter: u64,
    /// How far the counter goes on beyond it: an index that was put back from a backup, with a clock
    /// that is behind it, would count through the same numbers again.
    pub counter_step: u64,
    /// Classes whose deletions were held when the daemon ended.
    pub held_classes: Vec<Class>,
    /// How many records one peer can have under way here; a long one counts as several.
    pub share: usize,
}

/// The decisions for one mount.
#[derive(Debug)]
pub struct Engine {
    setup: Setup,
    clock: Clock,
    slots: BTreeMap<RelPath, Slot>,
    peers: BTreeMap<NodeId, Incoming>,
    problems: Problems,
    guard: Guard,
    /// When to look at which path again, by the monotonic clock.
    timers: BTreeSet<(u64, RelPath)>,
    /// Changes that are not stored yet, by order of arrival: a barrier waits for those before it.
    arrivals: BTreeMap<u64, RelPath>,
    next_order: u64,
    reads_waiting: VecDeque<RelPath>,
    reads: usize,
    listings: BTreeMap<RelPath, u32>,
    /// Barriers that wait for what arrived before them.
    barriers: BTreeSet<RelPath>,
    /// Barriers that the first scan found before their turn, and that are not stored yet.
    early: BTreeSet<RelPath>,
    /// Paths that wait for their directory to be made.
    parents: BTreeMap<RelPath, BTreeSet<RelPath>>,
    /// Removals being applied, per directory.
    leaving: BTreeMap<RelPath, usize>,
    fetches: Fetches,
    /// Peers that have more parked than their share.
    crowded: BTreeSet<NodeId>,
    wants: usize,
    stopped: bool,
    outputs: VecDeque<Output>,
}

impl Engine {
    /// An engine with nothing to do.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        Self {
            clock: Clock::new(setup.node, setup.last_counter, setup.counter_step),
            guard: Guard::tripped(&setup.held_classes),
            setup,
            slots: BTreeMap::new(),
            peers: BTreeMap::new(),
            problems: Problems::default(),
            timers: BTreeSet::new(),
            arrivals: BTreeMap::new(),
            next_order: 0,
            reads_waiting: VecDeque::new(),
            reads: 0,
            listings: BTreeMap::new(),
            barriers: BTreeSet::new(),
            early: BTreeSet::new(),
            parents: BTreeMap::new(),
            leaving: BTreeMap::new(),
            fetches: Fetches::default(),
            crowded: BTreeSet::new(),
            wants: 0,
            stopped: false,
            outputs: VecDeque::new(),
        }
    }

    /// What happens when a file changes, here and on the other nodes.
    pub fn handle(&mut self, now: Now, input: Input) {
        match input {
            Input::Hinted(hints) => self.hinted(now, hints),
            Input::Seen(seen) => self.seen(now, *seen),
            Input::Swept(path) => self.swept(now, &path),
            Input::Listed(dir) => self.listed(now, &dir),
            Input::Announced(announced) => self.announced(now, *announced),
            Input::Progress { peer, lane, sequence } => self.progress(now, peer, lane, sequence),
            Input::Moved { peer, sequence } => self.moved(peer, sequence),
            Input::Considered(considered) => self.considered(now, *considered),
            Input::Fetched { path, content, result } => self.fetched(now, &path, content, result),
            Input::Applied { path, outcome } => self.applied(now, &path, outcome),
            Input::Journaled { record, visible } => self.journaled(now, record, visible),
            Input::PeerUp { peer, cursors, anew } => self.peer_up(now, peer, &cursors, anew),
            Input::PeerDown(peer) => self.peer_down(peer),
            Input::PeerRemoved(peer) => self.forget_peer(now, peer),
            Input::Stopped(stopped) => self.set_stopped(now, stopped),
            Input::Approved => self.approve(now),
            Input::Reverted => self.revert(now),
            Input::Deploying { until_ms } => self.deploy(until_ms),
            Input::Policy(policy) => self.setup.policy = policy,
            Input::Scan(dir) => {
                self.reads_are_old(now, &dir);
                // What was never mirrored, and is gone, is in no listing.
                self.problems.below(&dir).iter().for_each(|path| self.look_again(now, path, 0));
                self.list(&dir);
            }
            Input::Scanned => self.setup.joining = false,
            Input::Tick => self.tick(now),
        }
        self.let_go(now);
    }

    /// The next thing to do, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When the engine wants its next [`Input::Tick`], by the monotonic clock.
    #[must_use]
    pub fn next_tick_ms(&self) -> Option<u64> {
        let timer = self.timers.first().map(|&(at, _)| at);
        timer.into_iter().chain(self.guard.next_ms()).min()
    }

    /// Up to where a peer's lanes are done here. Durable once the index is committed.
    #[must_use]
    pub fn done(&self, peer: NodeId) -> Vec<(Lane, Sequence)> {
        self.peers.get(&peer).map(Incoming::done).unwrap_or_default()
    }

    /// Up to where a peer's lanes have arrived: where it shall go on after a reconnect.
    #[must_use]
    pub fn received(&self, peer: NodeId) -> Vec<(Lane, Sequence)> {
        self.peers.get(&peer).map(Incoming::received).unwrap_or_default()
    }

    /// Local changes that are not stored yet, and peers' records that are not applied yet.
    #[must_use]
    pub fn pending(&self) -> (usize, usize) {
        (self.slots.len().saturating_sub(self.wants), self.wants)
    }

    /// Whether every local change that was hinted so far is stored. Files that are still open for
    /// writing do not count: they are not finished.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.arrivals.is_empty() && self.listings.is_empty()
    }

    /// Whether everything that a first scan has hinted is stored: what a restart finds is an edit then.
    #[must_use]
    pub fn is_scanned(&self) -> bool {
        self.is_read() && self.early.is_empty()
    }

    /// Paths that failed, sorted by path, at most [`PROBLEMS_MAX`](crate::model::limits::PROBLEMS_MAX); and how many in all.
    #[must_use]
    pub fn problems(&self) -> (Vec<Problem>, usize) {
        self.problems.list()
    }

    /// How many paths failed.
    #[must_use]
    pub fn problem_count(&self) -> usize {
        self.problems.count()
    }

    /// Some paths with something to do and what each waits for, sorted by path.
    #[must_use]
    pub fn doing(&self, most: usize) -> Vec<(RelPath, String)> {
        let of = |(path, slot): (&RelPath, &Slot)| (path.clone(), slot.describe());
        self.slots.iter().take(most).map(of).collect()
    }

    fn set_stopped(&mut self, now: Now, stopped: bool) {
        self.stopped = stopped;
        if !stopped {
            let paths: Vec<_> = self.slots.keys().cloned().collect();
            paths.into_iter().for_each(|path| self.step(now, &path));
            self.release_barriers(now);
        }
    }

    fn tick(&mut self, now: Now) {
        while let Some((at, path)) = self.timers.first().cloned() {
            if at > now.monotonic_ms {
                break;
            }
            self.timers.pop_first();
            self.step(now, &path);
        }
        self.tick_guard(now);
        self.release_barriers(now);
        self.next_fetches(now);
    }

    /// Goes on at a path: first what happened here, then what a peer announced.
    fn step(&mut self, now: Now, path: &RelPath) {
        let Some(slot) = self.slots.get(path) else { return };
        if self.stopped || !matches!(slot.busy, Busy::No) {
            return;
        }
        if let Some(dirty) = &slot.dirty {
            if dirty.due_ms > now.monotonic_ms {
                self.timers.insert((dirty.due_ms, path.clone()));
            } else if self.class(path) == Class::Barrier {
                self.barriers.insert(path.clone());
                self.release_barriers(now);
            } else {
                self.read(now, path);
            }
        } else if let Some(want) = &slot.want {
            if want.retry_ms > now.monotonic_ms {
                self.timers.insert((want.retry_ms, path.clone()));
            } else {
                self.consider(path);
            }
        } else {
            self.slots.remove(path);
            self.outputs.push_back(Output::Finished(path.clone()));
        }
    }

    fn class(&self, path: &RelPath) -> Class {
        self.setup.policy.class(path)
    }
}
