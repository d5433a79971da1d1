//! One machine of the modelled cluster: its disk, index and daemon, and what is out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use trefoil::engine::session::Outgoing;
use trefoil::engine::{Engine, Hint};
use trefoil::model::{ContentId, Incarnation, Lane, NodeId, RelPath, Sequence, Version};

use crate::backup::Backup;
use crate::crash::Unsynced;
use crate::disk::Disk;
use crate::index::Index;
use crate::mirror::{Feed, Job};
use crate::ops::Writer;
use crate::world::{AUTHORS, Micros};

/// One machine.
pub struct Node {
    pub id: NodeId,
    /// Who its edits are by: another one with each index, as counters may start lower then.
    pub author: NodeId,
    /// How many indexes and lives of them it had.
    pub authors: u64,
    pub disk: Disk,
    pub index: Index,
    /// Nothing while the daemon is down.
    pub engine: Option<Box<Engine>>,
    /// Changes with every start: what was out before is gone.
    pub life: u64,
    /// Whether the machine is on, and has been set up.
    pub powered: bool,
    pub skew_ns: i64,
    /// Content at hand, by path.
    pub shelf: BTreeSet<(RelPath, ContentId)>,
    /// The watcher's queue: what happened in which directory.
    pub hints: Vec<(Hint, Option<u64>)>,
    pub flushing: bool,
    /// Directories made a moment ago that nobody watches yet.
    pub unwatched: BTreeSet<RelPath>,
    /// The first scan is under way.
    pub scanning: bool,
    /// It was cut short, and has to be done again.
    pub scan_cut: bool,
    pub group: VecDeque<Job>,
    pub done: Vec<Feed>,
    /// What became visible while the machine was on.
    pub visible: BTreeMap<RelPath, Version>,
    pub applying: bool,
    /// When the last outcomes come back.
    pub answer_at: Micros,
    pub conflicts: Vec<(RelPath, ContentId)>,
    pub trash: Vec<(RelPath, ContentId)>,
    pub writers: BTreeMap<u64, Writer>,
    pub out: BTreeMap<usize, Box<Outgoing>>,
    /// The incarnation of each peer that its cursors belong to.
    pub heard: BTreeMap<usize, Incarnation>,
    pub tick_at: Option<u64>,
    pub failing: bool,
    pub paused: bool,
    /// Up to where every member had each lane, at a time.
    pub reached: Option<(Micros, [Sequence; Lane::ALL.len()])>,
    /// It is no member any more.
    pub removed: bool,
    /// The file system under the mount is away.
    pub halted: bool,
    /// The daemon is killed after so many more applies.
    pub dies_in: Option<u64>,
    /// Files that were written and not synced yet, by inode.
    pub unsynced: BTreeMap<u64, Unsynced>,
    /// When something was last told of a path.
    pub hinted: BTreeMap<RelPath, Micros>,
    pub backup: Option<Box<Backup>>,
    /// Its index was put back, and not found out yet.
    pub put_back: bool,
    /// It was just found out.
    pub outdated: bool,
    /// Whether anything is ever noted.
    pub notes: bool,
    /// How far the index was, noted beside the files.
    pub noted: Option<(Incarnation, Sequence)>,
}

impl Node {
    /// Whoever makes edits with another index, or another life of it, is another author.
    pub fn next_author(&mut self) {
        self.authors += 1;
        self.author = NodeId(self.id.0 + self.authors * AUTHORS);
    }

    /// Notes how far the index is beside the files, which is synced first.
    pub fn note_index(&mut self) {
        if self.notes {
            self.index.sync();
            self.noted = Some((self.index.incarnation, self.index.head));
        }
    }

    pub fn new(id: NodeId, incarnation: Incarnation, skew_ns: i64) -> Self {
        Self {
            id,
            author: id,
            disk: Disk::default(),
            index: Index::new(incarnation),
            engine: None,
            life: 0,
            powered: false,
            skew_ns,
            shelf: BTreeSet::new(),
            hints: Vec::new(),
            flushing: false,
            unwatched: BTreeSet::new(),
            scanning: false,
            scan_cut: false,
            group: VecDeque::new(),
            done: Vec::new(),
            visible: BTreeMap::new(),
            applying: false,
            answer_at: 0,
            conflicts: Vec::new(),
            trash: Vec::new(),
            writers: BTreeMap::new(),
            out: BTreeMap::new(),
            heard: BTreeMap::new(),
            tick_at: None,
            failing: false,
            paused: false,
            reached: None,
            removed: false,
            halted: false,
            dies_in: None,
            unsynced: BTreeMap::new(),
            authors: 0,
            hinted: BTreeMap::new(),
            backup: None,
            put_back: false,
            outdated: false,
            notes: false,
            noted: None,
        }
    }
}
