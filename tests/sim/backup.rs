//! Somebody puts back an index from a backup, or a whole machine; and how that is found out: by a note
//! beside the files of how far the index was, and by what peers have of it.

use std::collections::BTreeMap;

use trefoil::model::{Incarnation, Lane, NodeId, Sequence};

use crate::disk::Disk;
use crate::faults::Fault;
use crate::index::{Cursors, Index};
use crate::world::{SECOND, World};

/// A copy of a node's state, and of its files.
#[derive(Debug, Clone)]
pub struct Backup {
    index: Index,
    author: NodeId,
    noted: Option<(Incarnation, Sequence)>,
    disk: Disk,
}

impl World {
    pub fn back_up(&mut self, at: usize) {
        self.nodes[at].note_index();
        let node = &self.nodes[at];
        let (index, author, noted) = (node.index.clone(), node.author, node.noted);
        let backup = Backup { index, author, noted, disk: node.disk.clone() };
        self.nodes[at].backup = Some(Box::new(backup));
        self.later(5 * SECOND, Fault::Note(at));
        self.later(20 * SECOND, Fault::PutBack(at));
    }

    /// The index alone, beside files that are newer, or all of the machine.
    pub fn put_back(&mut self, at: usize) {
        let node = &self.nodes[at];
        if node.removed || node.halted || node.engine.is_none() {
            return;
        }
        let Some(backup) = self.nodes[at].backup.take() else { return };
        let whole = self.rng.chance(50);
        // An index that is put back before anything was noted is taken for the right one.
        if !whole && self.nodes[at].noted == backup.noted {
            return;
        }
        self.kill(at);
        self.close_writers(at);
        let Backup { index, author, noted, disk } = *backup;
        let node = &mut self.nodes[at];
        (node.index, node.author) = (index, author);
        node.put_back = true;
        node.visible.clear();
        node.dies_in = None;
        if whole {
            let newer = std::mem::replace(&mut node.disk, disk);
            node.noted = noted;
            node.unsynced.clear();
            self.abandon_open(at);
            let kept = &self.nodes[at].disk;
            let content = |disk: &Disk, path: &_| Some(disk.at(path)?.content()?.id);
            let differs = |path: &&_| content(&newer, path) != content(kept, path);
            let gone = newer.paths().filter(differs).filter_map(|path| content(&newer, path));
            gone.for_each(|content| self.ledger.unfinish(content));
        }
        let ran = whole && self.rng.chance(50);
        if ran {
            // The machine ran when it was copied: as after a power cut.
            self.begin_life(at);
        }
        self.note(|_| format!("n{at} is put back, whole {whole}, ran {ran}"));
        (self.ledger.lost_index, self.ledger.put_back) = (true, true);
        self.later(10 * SECOND, Fault::Start(at, false));
    }

    /// Nobody has the files open that somebody had open in the copy.
    fn abandon_open(&mut self, at: usize) {
        let disk = &mut self.nodes[at].disk;
        let left = disk.close_all();
        self.ledger.abandoned.extend(left.iter().map(|content| content.id));
    }

    /// An index that has not come as far as what is noted beside the files is not used. Says whether it
    /// is another one now.
    pub fn check_note(&mut self, at: usize) -> bool {
        let node = &self.nodes[at];
        let is_new = node.index.head == Sequence(0);
        if is_new || node.noted.is_none_or(|(life, head)| node.index.has_reached(life, head)) {
            return false;
        }
        self.set_index_aside(at);
        true
    }

    /// A peer that has more of this index than it can have been told, or has it of a life that is none
    /// of its own, has it of a later state. Says whether the index was set aside for that.
    pub fn check_age(
        &mut self,
        at: usize,
        peer: usize,
        known: Option<&(Incarnation, Cursors)>,
    ) -> bool {
        let Some((life, cursors)) = known else { return false };
        let peer_id = self.nodes[peer].id;
        if self.nodes[at].index.can_be_of(peer_id, *life, cursors) {
            return false;
        }
        self.note(|_| format!("n{at} finds that n{peer} has more of its index than it has"));
        self.begin_anew(at);
        true
    }

    /// A peer has dropped tombstones that this index never had: it is of a time before they came. Says
    /// whether the index was set aside for that.
    pub fn check_dropped(
        &mut self,
        at: usize,
        peer: usize,
        dropped: &BTreeMap<Lane, Sequence>,
    ) -> bool {
        if !self.nodes[at].index.lacks(self.nodes[peer].id, dropped) {
            return false;
        }
        self.note(|_| format!("n{at} finds that n{peer} has forgotten what it never knew"));
        self.begin_anew(at);
        true
    }

    /// A peer has an edit of this node that it never made.
    pub fn outdated(&mut self, at: usize, peer: NodeId) {
        self.note(|_| format!("n{at} finds that {peer} has an edit that it never made"));
        if !self.nodes[at].put_back {
            self.fail(format!("n{at} did not make an edit that is said to be its own"));
        }
        self.nodes[at].outdated = true;
    }

    pub fn begin_anew(&mut self, at: usize) {
        self.kill(at);
        self.set_index_aside(at);
        self.later(SECOND, Fault::Start(at, true));
    }

    fn set_index_aside(&mut self, at: usize) {
        self.note(|_| format!("n{at} sets its index aside"));
        let incarnation = Incarnation(self.fresh_id());
        let node = &mut self.nodes[at];
        node.index = Index::new(incarnation);
        (node.put_back, node.outdated) = (false, false);
        node.next_author();
        self.ledger.lost_index = true;
    }
}
