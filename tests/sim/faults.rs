//! What goes wrong: cuts, crashes, lost indexes, failing disks, clocks that jump.

use trefoil::engine::Input;
use trefoil::model::{Incarnation, RelPath};

use crate::index::Index;
use crate::mirror::Feed;
use crate::world::{Event, MS, Micros, SECOND, World};

/// How often each node is told in the end that what it holds is meant so.
const WORDS: u64 = 30;

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
    /// The daemon is killed in the middle of the applies that come next.
    CrashAtApply(usize),
    /// While the daemon is down, someone changes what it had just made visible.
    Meddle(usize, RelPath),
    Pause(usize),
    Unpause(usize),
    Halt(usize),
    Unhalt(usize),
    /// The daemon is down for long.
    Away(usize),
    /// Tombstones that nobody waits for go.
    Tidy(usize),
    Remove(usize),
    Replace(usize),
    /// A person says what becomes of the deletions that are held.
    Decide(usize),
    /// A copy of the machine is made, and put back later.
    BackUp(usize),
    PutBack(usize),
    /// How far the index is, is noted.
    Note(usize),
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
        let kinds: [(u64, Make); 15] = [
            (profile.crashes, Fault::Crash),
            (profile.power_cuts, Fault::PowerCut),
            (profile.index_losses, Fault::LoseIndex),
            (profile.overflows, Fault::Overflow),
            (profile.disk_faults, Fault::FailingDisk),
            (profile.clock_jumps, Fault::ClockJump),
            (profile.more.crashes_at_apply, Fault::CrashAtApply),
            (profile.more.pauses, Fault::Pause),
            (profile.more.halts, Fault::Halt),
            (profile.more.away, Fault::Away),
            (if profile.more.kept > 0 { 8 } else { 0 }, Fault::Tidy),
            (profile.more.removals, Fault::Remove),
            (profile.more.replacements, Fault::Replace),
            (if profile.more.budget.is_some() { 8 } else { 0 }, Fault::Decide),
            (profile.more.backups, Fault::BackUp),
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

    pub fn later(&mut self, most: Micros, fault: Fault) {
        let wait = self.rng.range(50 * MS, most);
        self.schedule(wait, Event::Fault(fault));
    }

    pub fn strike(&mut self, fault: Fault) {
        if self.healed && !matches!(fault, Fault::Start(..) | Fault::Tidy(_) | Fault::Decide(_)) {
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
            Fault::LoseIndex(at) if self.nodes[at].engine.is_some() => self.lose_index(at),
            // Without its mount a daemon waits.
            Fault::Start(at, joining) if self.nodes[at].halted => {
                self.later(SECOND, Fault::Start(at, joining));
            }
            Fault::Start(at, _) if self.nodes[at].removed => {}
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
                // Never to the very tick of an earlier write, which nothing could tell from it.
                let odd = i64::try_from(self.rng.below(1_000_000)).expect("in range");
                self.nodes[at].skew_ns += jump + odd;
            }
            Fault::CrashAtApply(at) => self.nodes[at].dies_in = Some(self.rng.below(4)),
            Fault::Meddle(at, path) => self.meddle(at, &path),
            Fault::Pause(at) => {
                self.pause(at, true);
                self.later(20 * SECOND, Fault::Unpause(at));
            }
            Fault::Unpause(at) => self.pause(at, false),
            Fault::Halt(at) if self.nodes[at].engine.is_some() && !self.nodes[at].halted => {
                self.halt(at);
                self.later(20 * SECOND, Fault::Unhalt(at));
            }
            Fault::Unhalt(at) => self.unhalt(at),
            Fault::Away(at) if self.nodes[at].engine.is_some() => {
                self.kill(at);
                self.later(80 * SECOND, Fault::Start(at, false));
            }
            Fault::Tidy(at) if self.nodes[at].engine.is_some() => self.tidy(at),
            Fault::Remove(at) => self.remove_node(at),
            Fault::Replace(at) => self.replace_node(at),
            Fault::Decide(at) if self.nodes[at].engine.is_some() => self.decide(at),
            Fault::BackUp(at) if self.nodes[at].engine.is_some() => self.back_up(at),
            Fault::PutBack(at) => self.put_back(at),
            Fault::Note(at) if self.nodes[at].engine.is_some() => self.nodes[at].note_index(),
            _ => {}
        }
    }

    fn lose_index(&mut self, at: usize) {
        self.kill(at);
        let incarnation = Incarnation(self.fresh_id());
        self.nodes[at].index = Index::new(incarnation);
        self.nodes[at].next_author();
        self.ledger.lost_index = true;
        self.later(10 * SECOND, Fault::Start(at, true));
    }

    /// In the end all is meant so.
    fn decide(&mut self, at: usize) {
        let held = self.nodes[at].engine.as_ref().and_then(|engine| engine.held(usize::MAX));
        let Some(held) = held else { return };
        self.note(|_| format!("n{at} holds {:?}", held.paths));
        if self.healed || self.rng.chance(60) {
            self.feed(at, vec![Feed::Plain(Input::Approved)]);
            return;
        }
        self.feed(at, vec![Feed::Plain(Input::Reverted)]);
    }

    fn pause(&mut self, at: usize, paused: bool) {
        if self.nodes[at].paused != paused {
            self.nodes[at].paused = paused;
            self.stop_or_go(at);
        }
    }

    /// The file system goes away: nothing is read, written or heard of there.
    fn halt(&mut self, at: usize) {
        self.nodes[at].halted = true;
        self.stop_or_go(at);
    }

    /// It is back, and may have changed meanwhile.
    fn unhalt(&mut self, at: usize) {
        if self.nodes[at].halted {
            self.nodes[at].halted = false;
            self.nodes[at].scan_cut = false;
            self.stop_or_go(at);
            self.feed(at, vec![Feed::Plain(Input::Scan(RelPath::root()))]);
        }
    }

    fn stop_or_go(&mut self, at: usize) {
        let stopped = self.nodes[at].paused || self.nodes[at].halted;
        self.feed(at, vec![Feed::Plain(Input::Stopped(stopped))]);
    }

    fn mend(&mut self, a: usize, b: usize) {
        self.link_mut(a, b).cut = false;
        let wait = self.rng.below(SECOND);
        self.schedule(wait, Event::Connect { a, b });
    }

    /// Everything works again.
    pub fn heal(&mut self) {
        self.note(|_| "healed".to_owned());
        self.healed = true;
        for at in 0..self.nodes.len() {
            self.nodes[at].failing = false;
            self.nodes[at].dies_in = None;
            self.pause(at, false);
            self.unhalt(at);
            if self.profile.more.kept > 0 {
                self.later(30 * SECOND, Fault::Tidy(at));
            }
            if self.profile.more.budget.is_some() {
                (1..=WORDS)
                    .for_each(|n| self.schedule(n * 10 * SECOND, Event::Fault(Fault::Decide(at))));
            }
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
