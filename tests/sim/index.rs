//! A modelled index: records, the journal of applies, cursors; commits that a power cut may undo.

use std::collections::BTreeMap;

use trefoil::engine::clock::Now;
use trefoil::engine::fingerprint::Fingerprint;
use trefoil::engine::{Class, Policy};
use trefoil::model::{Entry, Incarnation, Lane, NodeId, Record, RelPath, Sequence, Signature};

use crate::world::{MS, Micros, SECOND};

/// How long what was written may not be on the disk. The index knows it from marks that it makes
/// every minute.
const UNSYNCED: Micros = 60 * SECOND;

/// As in [`Index::told`]: a former life was told without a limit, this one nothing.
const LOST: Sequence = Sequence(u64::MAX);

#[derive(Clone, Debug)]
pub struct Row {
    pub record: Record,
    pub signature: Option<Signature>,
    pub sequence: Sequence,
    pub lane: Lane,
    pub from: Option<NodeId>,
    pub ordered: bool,
    /// When it was stored, by a clock that never jumps.
    pub stored_ms: u64,
}

pub type Cursors = Vec<(Lane, Sequence)>;

#[derive(Clone, Debug)]
enum Undo {
    Row(RelPath, Option<Box<Row>>),
    Journal(RelPath, Option<Box<Record>>),
    Cursors(NodeId, Option<(Incarnation, Cursors)>),
    Acknowledged(NodeId, Option<Cursors>),
    Arrived(NodeId, Option<(Incarnation, Cursors)>),
}

#[derive(Clone, Debug)]
pub struct Index {
    pub incarnation: Incarnation,
    /// The life that this one goes on from, and its last sequence: a power cut took what came after.
    pub former: Option<(Incarnation, Sequence)>,
    pub rows: BTreeMap<RelPath, Row>,
    /// Where each lane's rows are in our sequence.
    pub lanes: [BTreeMap<Sequence, RelPath>; Lane::ALL.len()],
    pub journal: BTreeMap<RelPath, Record>,
    pub cursors: BTreeMap<NodeId, (Incarnation, Cursors)>,
    /// Up to where peers are known to have this index.
    acknowledged: BTreeMap<NodeId, Cursors>,
    /// Up to where a peer's lanes were ever here.
    had: BTreeMap<NodeId, Cursors>,
    /// Up to where each peer's lanes have come here, of which life.
    arrived: BTreeMap<NodeId, (Incarnation, Cursors)>,
    /// Up to where tombstones are gone.
    pub dropped: BTreeMap<Lane, Sequence>,
    pub head: Sequence,
    /// The highest counter of any stamp.
    pub last_counter: u64,
    /// It is new in a cluster that exists, and its first scan is not complete.
    pub joining: bool,
    /// Classes whose deletions are held.
    pub held_classes: Vec<Class>,
    pub versions: Fingerprint,
    pub entries: Fingerprint,
    /// The lives of this index; and those of others that peers knew when they were first linked with it.
    lives: (Vec<Incarnation>, Vec<Incarnation>),
    /// Up to where a peer can have heard of this index, if they are not linked.
    pub told: BTreeMap<NodeId, Option<Sequence>>,
    batch: Vec<Undo>,
    sync: bool,
    /// Commits that a power cut may undo, oldest first.
    commits: Vec<Vec<Undo>>,
}

impl Index {
    pub fn new(incarnation: Incarnation) -> Self {
        Self {
            incarnation,
            former: None,
            rows: BTreeMap::new(),
            lanes: Default::default(),
            journal: BTreeMap::new(),
            cursors: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            arrived: BTreeMap::new(),
            had: BTreeMap::new(),
            dropped: BTreeMap::new(),
            head: Sequence(0),
            last_counter: 0,
            held_classes: Vec::new(),
            joining: false,
            versions: Fingerprint::default(),
            entries: Fingerprint::default(),
            lives: (vec![incarnation], Vec::new()),
            told: BTreeMap::new(),
            batch: Vec::new(),
            sync: false,
            commits: Vec::new(),
        }
    }

    pub fn record(&self, path: &RelPath) -> Option<&Record> {
        self.rows.get(path).map(|row| &row.record)
    }

    pub fn is_live_dir(&self, path: &RelPath) -> bool {
        path.is_root() || self.record(path).is_some_and(Record::is_dir)
    }

    /// Live records below a directory, by path.
    pub fn live_below<'a>(&'a self, dir: &'a RelPath) -> impl Iterator<Item = &'a Row> {
        let rows = self.rows.values();
        rows.filter(move |row| row.record.is_live() && row.record.path.is_below(dir))
    }

    /// Live files and links.
    pub fn files(&self) -> u64 {
        let file = |row: &&Row| row.record.is_live() && !row.record.is_dir();
        self.rows.values().filter(file).count() as u64
    }

    /// Whether another path has the content of this record, or it has none.
    pub fn is_elsewhere(&self, ours: &Record) -> bool {
        let content = |record: &Record| record.entry.as_ref().and_then(Entry::content);
        let Some((id, size)) = content(ours) else { return false };
        let same = |row: &Row| {
            row.record.path != ours.path
                && content(&row.record).is_some_and(|(other, _)| other == id)
        };
        size == 0 || self.rows.values().any(same)
    }

    /// A lane's rows after a position, in order.
    pub fn rows_after(&self, lane: Lane, after: Sequence) -> impl Iterator<Item = &Row> {
        let rows = self.lanes[lane as usize].range(Sequence(after.0 + 1)..);
        rows.map(|(_, path)| &self.rows[path])
    }

    /// The last position of a lane that has a row.
    pub fn lane_head(&self, lane: Lane) -> Sequence {
        self.lanes[lane as usize].last_key_value().map(|(&at, _)| at).unwrap_or_default()
    }

    /// Says where the row was.
    pub fn store(
        &mut self,
        policy: &Policy,
        record: Record,
        signature: Option<Signature>,
        from: Option<NodeId>,
        now: Now,
    ) -> Option<(Lane, Sequence)> {
        let path = record.path.clone();
        let class = policy.class(&path);
        let old = self.rows.get(&path);
        let replaces_dir = |old: &Row| (old.record.is_dir() || old.ordered) && !record.is_dir();
        let may_replace = old.map_or_else(|| !record.is_live(), replaces_dir);
        let ordered = class == Class::Barrier || may_replace;
        let known = old.and_then(|row| row.signature);
        let signature = if record.is_live() { signature.or(known) } else { None };
        self.head = Sequence(now.wall_ns.max(self.head.0 + 1));
        let stamps = record.version.stamp.counter.max(record.version.touched.counter);
        self.last_counter = self.last_counter.max(stamps);
        let lane = if from.is_some() { Lane::Forward } else { Policy::lane(class) };
        let was = old.map(|old| (old.lane, old.sequence));
        let (sequence, stored_ms) = (self.head, now.monotonic_ms);
        let row = Row { record, signature, sequence, lane, from, ordered, stored_ms };
        self.set_row(path, Some(row), true);
        was
    }

    pub fn refresh(&mut self, path: &RelPath, signature: Signature) {
        if let Some(mut row) = self.rows.get(path).cloned() {
            row.signature = Some(signature);
            self.set_row(path.clone(), Some(row), true);
        }
    }

    fn set_row(&mut self, path: RelPath, row: Option<Row>, undoable: bool) {
        let old = self.rows.remove(&path);
        if let Some(old) = &old {
            self.lanes[old.lane as usize].remove(&old.sequence);
            self.versions.remove(Fingerprint::of_version(&old.record));
            self.entries.remove(Fingerprint::of_entry(&old.record));
        }
        if undoable {
            self.batch.push(Undo::Row(path.clone(), old.map(Box::new)));
        }
        if let Some(row) = row {
            self.lanes[row.lane as usize].insert(row.sequence, path.clone());
            self.versions.add(Fingerprint::of_version(&row.record));
            self.entries.add(Fingerprint::of_entry(&row.record));
            self.rows.insert(path, row);
        }
    }

    /// Notes an apply before it is done; its commit is synced, with everything before it.
    pub fn note_apply(&mut self, record: Record) {
        let path = record.path.clone();
        let old = self.journal.insert(path.clone(), record);
        self.batch.push(Undo::Journal(path, old.map(Box::new)));
        self.sync = true;
    }

    pub fn forget_apply(&mut self, path: &RelPath) {
        if let Some(old) = self.journal.remove(path) {
            self.batch.push(Undo::Journal(path.clone(), Some(Box::new(old))));
        }
    }

    /// Up to where a peer's changes have come here, done or not.
    pub fn set_arrived(&mut self, peer: NodeId, life: Incarnation, arrived: Cursors) {
        let new = (life, arrived);
        if self.arrived.get(&peer) != Some(&new) {
            let old = self.arrived.insert(peer, new);
            self.batch.push(Undo::Arrived(peer, old));
        }
    }

    /// What a peer may have told this index of that life at most.
    pub fn latest(&self, peer: NodeId, life: Incarnation, cursors: &Cursors) -> Cursors {
        let arrived = self.arrived.get(&peer).filter(|arrived| arrived.0 == life);
        let come = arrived.into_iter().flat_map(|arrived| &arrived.1);
        let mut latest: BTreeMap<Lane, Sequence> = BTreeMap::new();
        for &(lane, at) in cursors.iter().chain(come) {
            let last = latest.entry(lane).or_default();
            *last = (*last).max(at);
        }
        latest.into_iter().collect()
    }

    pub fn set_cursors(&mut self, peer: NodeId, incarnation: Incarnation, cursors: Cursors) {
        self.set_had(peer, &cursors);
        let new = Some((incarnation, cursors));
        let old = self.cursors.get(&peer).cloned();
        if old != new {
            self.batch.push(Undo::Cursors(peer, old));
            self.cursors.extend(new.map(|new| (peer, new)));
        }
    }

    /// A peer has lost what it had told us: it is to be told of all of it.
    pub fn forget_from(&mut self, peer: NodeId) {
        for row in self.rows.values_mut().filter(|row| row.from == Some(peer)) {
            row.from = None;
        }
        self.sync();
    }

    /// The last commits may be lost. What peers had of them is not what comes in their place, so
    /// this goes on as another life of the index; and what they had from us we ask for again.
    pub fn begin_life(&mut self, incarnation: Incarnation, now_ms: u64) {
        self.former = Some((self.incarnation, self.head));
        self.part_with_life();
        self.incarnation = incarnation;
        self.lives.0.push(incarnation);
        let since = now_ms.saturating_sub(UNSYNCED / MS);
        for row in self.rows.values_mut().filter(|row| row.stored_ms >= since) {
            row.signature = None;
        }
        for (_, cursors) in self.cursors.values_mut() {
            cursors.retain(|&(lane, _)| lane != Lane::Forward);
        }
        self.sync();
    }

    /// From where on somebody goes on who has this index up to `cursors` of the life `heard`: nothing if
    /// that is none that it knows of. What was lost with a former life may have moved what is now where
    /// it was again: there counts what the peer was known to have.
    pub fn goes_on(&self, peer: NodeId, heard: Incarnation, cursors: Cursors) -> Option<Cursors> {
        if heard == self.incarnation {
            return Some(cursors);
        }
        let (_, until) = self.former.filter(|former| former.0 == heard)?;
        let known = self.acknowledged.get(&peer);
        let known = |lane| known.and_then(|known| known.iter().find(|at| at.0 == lane));
        let known = |lane| known(lane).map_or(Sequence(0), |at| at.1.min(until));
        Some(cursors.into_iter().map(|(lane, at)| (lane, at.min(known(lane)))).collect())
    }

    /// A peer's lanes are here up to there.
    fn set_had(&mut self, peer: NodeId, cursors: &Cursors) {
        let had = self.had.entry(peer).or_default();
        for &(lane, at) in cursors {
            match had.iter_mut().find(|had| had.0 == lane) {
                Some(had) => had.1 = had.1.max(at),
                None => had.push((lane, at)),
            }
        }
    }

    /// A peer has another index than before, which has dropped tombstones up to there.
    pub fn forget_had(&mut self, peer: NodeId, dropped: &BTreeMap<Lane, Sequence>) {
        self.had.insert(peer, dropped.iter().map(|(&lane, &at)| (lane, at)).collect());
    }

    /// Whether a peer has dropped tombstones that were never here.
    pub fn lacks(&self, peer: NodeId, dropped: &BTreeMap<Lane, Sequence>) -> bool {
        let had = |lane| self.had.get(&peer)?.iter().find(|had| had.0 == lane).map(|had| had.1);
        dropped.iter().any(|(&lane, &until)| had(lane).unwrap_or_default() < until)
    }

    /// A peer has acknowledged this index up to there.
    pub fn set_acknowledged(&mut self, peer: NodeId, cursors: &Cursors) {
        if self.acknowledged.get(&peer) != Some(cursors) {
            let old = self.acknowledged.insert(peer, cursors.clone());
            self.batch.push(Undo::Acknowledged(peer, old));
        }
    }

    /// A peer has another index than before.
    pub fn forget_acknowledged(&mut self, peer: NodeId) {
        if let Some(old) = self.acknowledged.remove(&peer) {
            self.batch.push(Undo::Acknowledged(peer, Some(old)));
        }
    }

    /// Up to where we have a peer's lane, whatever a power cut takes.
    pub fn acknowledged(&self, peer: NodeId, incarnation: Incarnation, lane: Lane) -> Sequence {
        let undone = self.commits.iter().flatten().find_map(|undo| match undo {
            Undo::Cursors(of, old) if *of == peer => Some(old.as_ref()),
            _ => None,
        });
        let known = undone.unwrap_or_else(|| self.cursors.get(&peer));
        let known = known.filter(|known| known.0 == incarnation);
        let at = known.and_then(|known| known.1.iter().find(|at| at.0 == lane));
        at.map(|at| at.1).unwrap_or_default()
    }

    /// Drops tombstones in a lane up to a position whose edit is older than `before_ns`.
    pub fn drop_tombstones(&mut self, lane: Lane, up_to: Sequence, before_ns: u64) -> usize {
        let rows = self.lanes[lane as usize].range(..=up_to).map(|(_, path)| &self.rows[path]);
        let old = rows
            .filter(|row| !row.record.is_live() && row.record.version.stamp.counter < before_ns);
        let gone: Vec<_> = old.map(|row| (row.record.path.clone(), row.sequence)).collect();
        for (path, at) in &gone {
            self.set_row(path.clone(), None, true);
            let until = self.dropped.entry(lane).or_default();
            *until = (*until).max(*at);
        }
        self.commit();
        gone.len()
    }

    /// Whether what a peer has can be of this index as it is, and not of a later state.
    pub fn can_be_of(&mut self, peer: NodeId, life: Incarnation, cursors: &Cursors) -> bool {
        let Some(told) = self.told.get(&peer) else {
            self.lives.1.push(life);
            return !self.lives.0.contains(&life) || cursors.iter().all(|&(_, at)| at.0 == 0);
        };
        let until = match told {
            // Nobody has heard of more of this life yet than of what it goes on from.
            Some(LOST) if life == self.incarnation => {
                self.former.map(|(_, head)| head).unwrap_or_default()
            }
            told => told.unwrap_or(LOST),
        };
        let own = self.lives.0.contains(&life) && cursors.iter().all(|&(_, at)| at <= until);
        own || self.lives.1.contains(&life)
    }

    pub fn begin_telling(&mut self, peer: NodeId) {
        self.told.insert(peer, None);
    }

    pub fn end_telling(&mut self, peer: NodeId) {
        let head = self.head;
        self.told.entry(peer).and_modify(|told| *told = told.or(Some(head)));
    }

    /// Who was linked when the power went may have heard of what was lost.
    fn part_with_life(&mut self) {
        for told in self.told.values_mut().filter(|told| told.is_none()) {
            *told = Some(LOST);
        }
    }

    /// The daemon was killed: whoever was linked may have heard of all.
    pub fn part_all(&mut self) {
        let peers: Vec<_> = self.told.keys().copied().collect();
        peers.into_iter().for_each(|peer| self.end_telling(peer));
    }

    /// Whether this index has everything that one of this life had up to `head`.
    pub fn has_reached(&self, life: Incarnation, head: Sequence) -> bool {
        let reached = |(own, until)| own == life && until >= head;
        reached((self.incarnation, self.head)) || self.former.is_some_and(reached)
    }

    pub fn commit(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        if std::mem::take(&mut self.sync) {
            self.commits.clear();
        } else if !batch.is_empty() {
            self.commits.push(batch);
        }
    }

    /// Everything committed so far is on the disk.
    pub fn sync(&mut self) {
        self.commits.clear();
    }

    pub fn unsynced(&self) -> usize {
        self.commits.len()
    }

    /// The power went: the last `count` commits are lost.
    pub fn lose(&mut self, count: usize) {
        for _ in 0..count {
            for undo in self.commits.pop().into_iter().flatten().rev() {
                match undo {
                    Undo::Row(path, old) => self.set_row(path, old.map(|row| *row), false),
                    Undo::Journal(path, Some(old)) => {
                        self.journal.insert(path, *old);
                    }
                    Undo::Journal(path, None) => {
                        self.journal.remove(&path);
                    }
                    Undo::Cursors(peer, Some(old)) => {
                        self.cursors.insert(peer, old);
                    }
                    Undo::Cursors(peer, None) => {
                        self.cursors.remove(&peer);
                    }
                    Undo::Arrived(peer, Some(old)) => {
                        self.arrived.insert(peer, old);
                    }
                    Undo::Arrived(peer, None) => {
                        self.arrived.remove(&peer);
                    }
                    Undo::Acknowledged(peer, Some(old)) => {
                        self.acknowledged.insert(peer, old);
                    }
                    Undo::Acknowledged(peer, None) => {
                        self.acknowledged.remove(&peer);
                    }
                }
            }
        }
        self.commits.clear();
        let rows = self.rows.values().map(|row| row.sequence).max();
        self.head = rows.unwrap_or_default();
        let counters = self.rows.values().map(|row| &row.record.version);
        let counters = counters.map(|version| version.stamp.counter.max(version.touched.counter));
        self.last_counter = counters.max().unwrap_or_default();
    }
}
