//! Nodes that join, are removed or come back as others; and tombstones, which stay until every member
//! has them.

use trefoil::engine::{Class, Input};
use trefoil::model::{Incarnation, Lane, NodeId, Sequence};

use crate::faults::Fault;
use crate::index::Index;
use crate::mirror::Feed;
use crate::world::{SECOND, World};

/// How far the identities of one machine are apart.
const IDENTITIES: u64 = 10;

impl World {
    /// A new node comes with something of another one's, and something of its own, in place.
    pub fn join(&mut self, at: usize) {
        if self.rng.chance(60) {
            let other = self.rng.index(at);
            self.copy_tree(other, at);
        }
        self.power_on(at, true);
    }

    fn copy_tree(&mut self, from: usize, to: usize) {
        let paths: Vec<_> = self.nodes[from].disk.paths().cloned().collect();
        for path in paths {
            let inode = self.nodes[from].disk.at(&path).expect("listed").clone();
            let skip = self.rng.chance(10) || inode.writers > 0;
            let local = self.policy.class(&path) == Class::Local;
            let disk = &mut self.nodes[to].disk;
            if skip || local || !disk.has_parent(&path) || disk.at(&path).is_some() {
                continue;
            }
            let content = inode.content().map(|content| content.id);
            disk.make(&path, inode.body, inode.mode, inode.mtime);
            if self.policy.class(&path) == Class::Barrier {
                let node = self.nodes[to].id;
                self.ledger.copied.extend(content.map(|content| (content, node)));
            }
        }
    }

    fn members(&self) -> usize {
        self.nodes.iter().filter(|node| !node.removed).count()
    }

    /// A node is removed for good. What it alone has stays on its disk.
    pub fn remove_node(&mut self, at: usize) {
        if self.members() < 3 || self.nodes[at].life == 0 || self.nodes[at].removed {
            return;
        }
        self.kill(at);
        let node = &mut self.nodes[at];
        (node.removed, node.powered) = (true, false);
        let id = node.id;
        self.forget_node(at, id);
    }

    /// A machine was lost: another one comes in its place, with its disk or an empty one.
    pub fn replace_node(&mut self, at: usize) {
        if self.nodes[at].life == 0 || self.nodes[at].removed {
            return;
        }
        self.kill(at);
        self.close_writers(at);
        let incarnation = Incarnation(self.fresh_id());
        let empty = self.rng.chance(50);
        let node = &mut self.nodes[at];
        let old = node.id;
        node.id = NodeId(old.0 + IDENTITIES);
        (node.author, node.authors, node.index) = (node.id, 0, Index::new(incarnation));
        (node.noted, node.backup) = (None, None);
        node.visible.clear();
        (node.paused, node.powered, node.dies_in) = (false, false, None);
        if empty {
            let disk = std::mem::take(&mut node.disk);
            node.unsynced.clear();
            let contents = disk.paths().filter_map(|path| disk.at(path)?.content());
            contents.for_each(|content| self.ledger.unfinish(content.id));
            self.lay_out(at);
        }
        // What came to its disk by hand is still no edit that it knows the past of.
        let (ledger, new) = (&mut self.ledger, self.nodes[at].id);
        let copied = ledger.copied.iter().filter(|(_, node)| *node == old);
        let copied: Vec<_> = copied.map(|&(content, _)| (content, new)).collect();
        ledger.copied.extend(copied);
        ledger.lost_index = true;
        self.forget_node(at, old);
        self.later(10 * SECOND, Fault::Start(at, true));
    }

    /// The others are told that nothing comes of this node any more.
    fn forget_node(&mut self, at: usize, id: NodeId) {
        for other in (0..self.nodes.len()).filter(|&other| other != at) {
            self.nodes[other].heard.remove(&at);
            self.feed(other, vec![Feed::Plain(Input::PeerRemoved(id))]);
        }
    }

    /// Drops tombstones that every member has, when they are old enough, and what was learned from
    /// others after twice that time, while everyone is linked.
    ///
    /// Between the moment when all have them and this there is as long again: what a member had sent
    /// before it had them may still be under way, and would come back.
    pub fn tidy(&mut self, at: usize) {
        let (kept, now_ns) = (self.profile.more.kept, self.wall_ns(at));
        let reached = Lane::ALL.map(|lane| self.reached(at, lane));
        let before = self.nodes[at].reached.replace((self.now, reached));
        let Some((since, then)) = before else { return };
        if self.now < since + kept {
            self.nodes[at].reached = Some((since, then));
            return;
        }
        let mut gone = 0;
        for (lane, up_to) in Lane::ALL.into_iter().zip(then) {
            let times = if lane == Lane::Forward { 2 } else { 1 };
            let before = now_ns.saturating_sub(times * kept * 1000);
            gone += self.nodes[at].index.drop_tombstones(lane, up_to, before);
        }
        self.note(|_| format!("n{at} drops {gone} tombstones"));
    }

    /// Up to where every member has a lane.
    fn reached(&self, at: usize, lane: Lane) -> Sequence {
        let others = |&other: &usize| other != at && !self.nodes[other].removed;
        let others = (0..self.nodes.len()).filter(others);
        let Index { head, incarnation, .. } = self.nodes[at].index;
        if lane == Lane::Forward && !others.clone().all(|other| self.is_up(at, other)) {
            return Sequence(0);
        }
        let id = self.nodes[at].id;
        let has = |other: usize| self.nodes[other].index.acknowledged(id, incarnation, lane);
        others.map(has).min().unwrap_or(head)
    }
}
