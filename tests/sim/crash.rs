//! What a machine loses when its daemon is killed or its power goes, and what happens to its files
//! while nobody looks.

use trefoil::model::{Incarnation, Mtime, RelPath};

use crate::disk::{Body, Content};
use crate::faults::Fault;
use crate::profile::Writers;
use crate::world::{Event, Micros, SECOND, World};

/// After this long the kernel has written what was not synced.
const WRITEBACK: Micros = 30 * SECOND;

/// What a file was before it was written without a sync.
#[derive(Debug, Clone)]
pub struct Unsynced {
    since: Micros,
    /// Content and time of what the path held; nothing for a new one.
    before: Option<(Content, Mtime)>,
}

impl World {
    /// The daemon is gone; its machine and disk stay.
    pub fn kill(&mut self, at: usize) {
        for other in (0..self.nodes.len()).filter(|&other| other != at) {
            self.disconnect(at, other);
        }
        let node = &mut self.nodes[at];
        node.engine = None;
        node.life += 1;
        node.shelf.clear();
        node.hints.clear();
        node.flushing = false;
        node.unwatched.clear();
        node.group.clear();
        node.done.clear();
        node.applying = false;
        node.out.clear();
        node.heard.clear();
        node.tick_at = None;
        node.reached = None;
    }

    /// Kills the daemon in the middle of its applies, if it was to be. Says whether it did.
    pub fn dies(&mut self, at: usize, path: &RelPath) -> bool {
        let Some(left) = self.nodes[at].dies_in else { return false };
        self.nodes[at].dies_in = left.checked_sub(1);
        if left > 0 {
            return false;
        }
        self.note(|_| format!("n{at} killed after {path}"));
        self.kill(at);
        // Nobody else writes in a directory that has an owner.
        if self.profile.writers == Writers::Free && self.rng.chance(70) {
            self.later(SECOND, Fault::Meddle(at, path.clone()));
        }
        self.schedule(2 * SECOND, Event::Fault(Fault::Start(at, false)));
        true
    }

    /// Removes or replaces what was made visible in the moment of a crash.
    pub fn meddle(&mut self, at: usize, path: &RelPath) {
        if self.nodes[at].engine.is_some() || !self.nodes[at].powered || self.nodes[at].halted {
            return;
        }
        if self.rng.chance(60) {
            self.remove(at, path);
        } else {
            self.replace(at, path);
        }
    }

    /// The machine goes off: commits that were not synced may be lost, and what applications wrote,
    /// and open files stay as they are.
    pub fn cut_power(&mut self, at: usize) {
        // That the links end is not noted any more.
        let told = self.nodes[at].index.told.clone();
        self.kill(at);
        let node = &mut self.nodes[at];
        node.index.told = told;
        let lost = self.rng.index(node.index.unsynced() + 1);
        node.index.lose(lost);
        node.visible.clear();
        node.powered = false;
        self.begin_life(at);
        self.close_writers(at);
        self.note(|_| format!("n{at} lost {lost} commits"));
        self.tear(at);
        self.later(10 * SECOND, Fault::Start(at, false));
    }

    /// The index goes on as another life.
    pub fn begin_life(&mut self, at: usize) {
        let incarnation = Incarnation(self.fresh_id());
        let now_ms = self.clock(at).monotonic_ms;
        self.nodes[at].index.begin_life(incarnation, now_ms);
        self.nodes[at].next_author();
    }

    /// Open files stay as they are.
    pub fn close_writers(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        for writer in std::mem::take(&mut node.writers).values() {
            if let Some(inode) = node.disk.inode_mut(writer.inode) {
                inode.writers -= 1;
                self.ledger.abandoned.extend(inode.content().map(|content| content.id));
            }
            node.disk.collect(writer.inode);
        }
    }

    /// An application has written, and not synced.
    pub fn unsynced(&mut self, at: usize, inode: u64, before: Option<(Content, Mtime)>) {
        if self.profile.more.torn_percent == 0 {
            return;
        }
        let since = self.now;
        let unsynced = &mut self.nodes[at].unsynced;
        unsynced.entry(inode).or_insert(Unsynced { since, before }).since = since;
    }

    /// Files that were not synced are empty, as before, or not there; what is as before may have the
    /// new time. Their writes do not count as finished.
    fn tear(&mut self, at: usize) {
        let percent = self.profile.more.torn_percent;
        let time = self.kernel_time(at);
        for (number, Unsynced { since, before }) in std::mem::take(&mut self.nodes[at].unsynced) {
            let names = self.nodes[at].disk.names_of(number);
            let (Some(name), true) = (names.first(), self.now < since + WRITEBACK) else {
                continue;
            };
            if !self.rng.chance(percent) {
                continue;
            }
            let inode = self.nodes[at].disk.inode_mut(number).expect("named");
            let Some(was) = inode.content() else { continue };
            self.ledger.unfinish(was.id);
            match (before, self.rng.below(3)) {
                (Some((content, mtime)), 0) => {
                    // Of a file that is as long as before, the journal may have the new time.
                    if content.size != was.size {
                        inode.mtime = mtime;
                    }
                    inode.body = Body::File(content);
                    self.ledger.abandoned.insert(content.id);
                }
                (None, 0) => {
                    self.nodes[at].disk.unlink(name, time);
                    self.removed(at, name);
                }
                _ => {
                    inode.body = Body::File(Content::empty());
                    self.ledger.abandoned.insert(Content::empty().id);
                }
            }
            self.note(|_| format!("n{at} tore {name}"));
        }
    }

    /// What is at a path, for what comes in its place.
    pub fn content_and_time(&self, at: usize, path: &RelPath) -> Option<(Content, Mtime)> {
        let inode = self.nodes[at].disk.at(path)?;
        Some((inode.content()?, inode.mtime))
    }
}
