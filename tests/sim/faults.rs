//! What goes wrong: cuts, crashes, lost indexes, failing disks, clocks that jump.

use trefoil::engine::{Class, Input};
use trefoil::model::{Incarnation, NodeId, RelPath};

use crate::index::Index;
use crate::mirror::Feed;
use crate::world::{AUTHORS, Event, MS, Micros, SECOND, World};

#[derive(Debug, Clone)]
pub enum Fault {
    Cut(usize, usize),
    Mend(usize, usize),
    Crash(usize),
    PowerCut(usize),
    LoseIndex(usize),
    Start(usize, bool),
    Join(usize),
    Overflow(usize),
    FailingDisk(usize),
    GoodDisk(usize),
    ClockJump(usize),
}

impl World {
    pub fn plan_faults(&mut self) {
        let profile = self.profile;
        for _ in 0..profile.cuts {
            let a = self.some_node();
            let b = self.some_node();
            if a != b {
                self.plan(Fault::Cut(a.min(b), a.max(b)));
            }
        }
        type Make = fn(usize) -> Fault;
        let kinds: [(u64, Make); 6] = [
            (profile.crashes, Fault::Crash),
            (profile.power_cuts, Fault::PowerCut),
            (profile.index_losses, Fault::LoseIndex),
            (profile.overflows, Fault::Overflow),
            (profile.disk_faults, Fault::FailingDisk),
            (profile.clock_jumps, Fault::ClockJump),
        ];
        for (count, make) in kinds {
            for _ in 0..count {
                let at = self.some_node();
                self.plan(make(at));
            }
        }
    }

    fn some_node(&mut self) -> usize {
        self.rng.index(self.nodes.len())
    }

    fn plan(&mut self, fault: Fault) {
        let when = self.rng.below(self.profile.length);
        self.schedule_at(when, Event::Fault(fault));
    }

    fn later(&mut self, most: Micros, fault: Fault) {
        let wait = self.rng.range(50 * MS, most);
        self.schedule(wait, Event::Fault(fault));
    }

    pub fn strike(&mut self, fault: Fault) {
        if self.healed && !matches!(fault, Fault::Start(..)) {
            return;
        }
        self.note(|_| format!("fault {fault:?}"));
        match fault {
            Fault::Cut(a, b) => {
                self.link_mut(a, b).cut = true;
                self.disconnect(a, b);
                self.later(20 * SECOND, Fault::Mend(a, b));
            }
            Fault::Mend(a, b) => self.mend(a, b),
            Fault::Crash(at) if self.nodes[at].engine.is_some() => {
                self.kill(at);
                self.later(10 * SECOND, Fault::Start(at, false));
            }
            Fault::PowerCut(at) if self.nodes[at].engine.is_some() => self.cut_power(at),
            Fault::LoseIndex(at) if self.nodes[at].engine.is_some() => {
                self.kill(at);
                let incarnation = Incarnation(self.fresh_id());
                self.nodes[at].index = Index::new(incarnation);
                self.nodes[at].author = NodeId(self.nodes[at].author.0 + AUTHORS);
                self.ledger.lost_index = true;
                self.later(10 * SECOND, Fault::Start(at, true));
            }
            Fault::Start(at, joining) if self.nodes[at].engine.is_none() => {
                self.power_on(at, joining);
            }
            Fault::Join(at) => self.join(at),
            Fault::Overflow(at) if self.nodes[at].engine.is_some() => {
                let node = &mut self.nodes[at];
                node.hints.clear();
                node.unwatched.clear();
                self.feed(at, vec![Feed::Plain(Input::Scan(RelPath::root()))]);
            }
            Fault::FailingDisk(at) => {
                self.nodes[at].failing = true;
                self.later(10 * SECOND, Fault::GoodDisk(at));
            }
            Fault::GoodDisk(at) => self.nodes[at].failing = false,
            Fault::ClockJump(at) => {
                const NS: i64 = 1_000_000_000;
                let jump = *self.rng.pick(&[-NS, NS, 3600 * NS, -3600 * NS, 86_400 * NS]);
                self.nodes[at].skew_ns += jump;
            }
            _ => {}
        }
    }

    fn mend(&mut self, a: usize, b: usize) {
        self.link_mut(a, b).cut = false;
        let wait = self.rng.below(SECOND);
        self.schedule(wait, Event::Connect { a, b });
    }

    /// The machine goes off: commits that were not synced may be lost, and open files stay as
    /// they are.
    fn cut_power(&mut self, at: usize) {
        self.kill(at);
        let incarnation = Incarnation(self.fresh_id());
        let node = &mut self.nodes[at];
        let lost = self.rng.index(node.index.unsynced() + 1);
        node.index.lose(lost);
        node.index.begin_life(incarnation);
        node.visible.clear();
        node.author = NodeId(node.author.0 + AUTHORS);
        let writers = std::mem::take(&mut node.writers);
        for writer in writers.values() {
            if let Some(inode) = node.disk.inode_mut(writer.inode) {
                inode.writers -= 1;
                self.ledger.abandoned.extend(inode.content().map(|content| content.id));
            }
            node.disk.collect(writer.inode);
        }
        node.powered = false;
        self.note(|_| format!("n{at} lost {lost} commits"));
        self.later(10 * SECOND, Fault::Start(at, false));
    }

    /// A new node comes with something of another one's, and something of its own, in place.
    fn join(&mut self, at: usize) {
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

    /// Everything works again.
    pub fn heal(&mut self) {
        self.note(|_| "healed".to_owned());
        self.healed = true;
        for at in 0..self.nodes.len() {
            self.nodes[at].failing = false;
            if !self.nodes[at].powered && self.nodes[at].life == 0 {
                self.join(at);
            }
        }
        let pairs: Vec<_> = self.links.keys().copied().collect();
        for (a, b) in pairs {
            self.mend(a, b);
        }
    }
}
