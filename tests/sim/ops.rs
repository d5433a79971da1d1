//! What applications do on a node's disk, and what its watcher says of it.

use trefoil::engine::{Class, HintKind};
use trefoil::model::{ContentId, RelPath};

use crate::disk::{Body, Content, Inode, kernel_time};
use crate::profile::Writers;
use crate::world::{Event, MS, Micros, SECOND, World, path};

const NAMES: [&str; 8] = ["a", "b", "c", "v.bar", "w.conf", "x.flag", "y.der", "z.loc"];
const DIRS: [&str; 4] = ["", "d", "d/e", "g"];

/// An application that has a file open.
#[derive(Debug, Clone)]
pub struct Writer {
    pub inode: u64,
    pub since: Micros,
    path: RelPath,
    content: Content,
    before: Option<ContentId>,
    left: u32,
    end_in: u64,
}

impl World {
    pub fn plan_operations(&mut self) {
        // Bursts and pauses.
        let mut when = 0;
        for _ in 0..self.profile.operations {
            let most = if self.rng.chance(60) { 100 * MS } else { 2 * self.average() };
            when = (when + self.rng.below(most)).min(self.profile.length - 1);
            self.schedule_at(when, Event::Op);
        }
        for at in 0..self.nodes.len() {
            if self.nodes[at].powered {
                self.lay_out(at);
            }
        }
    }

    /// Makes the directory that is a node's own, if each has one.
    pub fn lay_out(&mut self, at: usize) {
        if self.profile.writers == Writers::Owners {
            self.make_dir(at, &owned(at, ""));
        }
    }

    fn average(&self) -> u64 {
        self.profile.length / self.profile.operations + MS
    }

    fn some_path(&mut self, at: usize, dir_percent: u64) -> RelPath {
        let mut text = (*self.rng.pick(&DIRS)).to_owned();
        if text.is_empty() || !self.rng.chance(dir_percent) {
            let name = *self.rng.pick(&NAMES);
            text = if text.is_empty() { name.to_owned() } else { format!("{text}/{name}") };
        }
        match self.profile.writers {
            Writers::Free => path(&text),
            Writers::Owners => owned(at, &text),
        }
    }

    pub fn operate(&mut self) {
        let at = self.rng.index(self.nodes.len());
        if !self.nodes[at].powered || self.nodes[at].halted {
            return;
        }
        let dirs = if self.profile.dirs { 25 } else { 0 };
        let target = self.some_path(at, dirs);
        let what = self.rng.below(100);
        let destructive = self.profile.destructive;
        match what {
            0..30 => self.replace(at, &target),
            30..52 => self.open(at, &target),
            52..60 => {
                let dir = self.some_path(at, 100);
                self.make_dir(at, &dir);
            }
            60..72 if destructive => self.remove(at, &target),
            72..76 if destructive => {
                let dir = self.some_path(at, 100);
                self.remove_all(at, &dir);
            }
            76..84 if destructive => {
                let to = self.some_path(at, dirs);
                self.rename(at, &target, &to);
            }
            84..90 => self.change_mode(at, &target),
            90..94 => self.set_time(at, &target),
            94..97 => self.symlink(at, &target),
            _ => self.replace(at, &target),
        }
    }

    /// Makes the directories above a path; says whether they are there.
    fn make_parents(&mut self, at: usize, target: &RelPath) -> bool {
        let Some(parent) = target.parent() else { return false };
        self.nodes[at].disk.is_dir(&parent)
            || self.make_parents(at, &parent) && self.make_dir(at, &parent)
    }

    fn make_dir(&mut self, at: usize, dir: &RelPath) -> bool {
        if self.nodes[at].disk.at(dir).is_some() || !self.make_parents(at, dir) {
            return false;
        }
        let time = self.kernel_time(at);
        let node = &mut self.nodes[at];
        node.disk.make(dir, Body::Dir, 0o755, time);
        node.disk.touch_parent(dir, time);
        self.note(|_| format!("n{at} mkdir {dir}"));
        let late = self.profile.inotify;
        self.hint(at, dir, if late { HintKind::Moved } else { HintKind::Created });
        if late && self.nodes[at].engine.is_some() {
            self.nodes[at].unwatched.insert(dir.clone());
        }
        true
    }

    fn new_content(&mut self, at: usize) -> Content {
        let number = self.fresh_id();
        Content::of(&format!("{at}:{number}"))
    }

    /// A new file is renamed over the path.
    pub fn replace(&mut self, at: usize, target: &RelPath) {
        if !self.make_parents(at, target) || self.nodes[at].disk.is_dir(target) {
            return;
        }
        let time = self.kernel_time(at);
        let content = self.new_content(at);
        let before = self.nodes[at].disk.at(target).and_then(Inode::content).map(|c| c.id);
        let held = self.content_and_time(at, target);
        self.follows(content.id, before);
        self.supersede(at, target);
        let disk = &mut self.nodes[at].disk;
        if disk.at(target).is_some() {
            disk.unlink(target, time);
        }
        let inode = disk.make(target, Body::File(content), 0o644, time);
        disk.touch_parent(target, time);
        self.unsynced(at, inode, held);
        self.note(|_| format!("n{at} replace {target} {:?}", content.id));
        self.hint(at, target, HintKind::Moved);
        self.finished(at, target, content.id);
    }

    /// A writer opens the path, truncates it and goes on later.
    fn open(&mut self, at: usize, target: &RelPath) {
        if !self.make_parents(at, target) || self.nodes[at].disk.is_dir(target) {
            return;
        }
        let time = self.kernel_time(at);
        let content = self.new_content(at);
        let before = self.nodes[at].disk.at(target).and_then(Inode::content).map(|c| c.id);
        let held = self.content_and_time(at, target);
        self.follows(content.id, before);
        let kind = match self.nodes[at].disk.at(target).map(|inode| inode.body.clone()) {
            Some(Body::File(_)) => {
                self.supersede(at, target);
                let inode = self.nodes[at].disk.at_mut(target).expect("there");
                inode.body = Body::File(Content::empty());
                (inode.mtime, inode.ctime) = (time, time);
                HintKind::Written
            }
            Some(_) => return,
            None => {
                let disk = &mut self.nodes[at].disk;
                disk.make(target, Body::File(Content::empty()), 0o644, time);
                disk.touch_parent(target, time);
                HintKind::Created
            }
        };
        let inode = self.nodes[at].disk.number(target).expect("there");
        self.nodes[at].disk.inode_mut(inode).expect("there").writers += 1;
        self.unsynced(at, inode, held);
        self.note(|_| format!("n{at} open {target} for {:?}", content.id));
        self.hint(at, target, kind);
        let left = u32::try_from(self.rng.below(3)).expect("small");
        let end_in = if self.rng.chance(10) { 40 * SECOND } else { self.rng.below(2 * SECOND) };
        let (since, path) = (self.now, target.clone());
        let writer = Writer { inode, since, path, content, before, left, end_in };
        let number = self.fresh_id();
        self.nodes[at].writers.insert(number, writer);
        let wait = self.rng.below(500 * MS);
        self.schedule(wait, Event::Write { node: at, writer: number });
    }

    pub fn write_on(&mut self, at: usize, number: u64) {
        let Some(mut writer) = self.nodes[at].writers.remove(&number) else { return };
        let time = self.kernel_time(at);
        let names = self.nodes[at].disk.names_of(writer.inode);
        let last = writer.left == 0;
        let content = if last { writer.content } else { self.new_content(at) };
        self.follows(content.id, writer.before);
        let inode = self.nodes[at].disk.inode_mut(writer.inode).expect("open");
        // What it had so far may have been taken while it was open, and be somewhere else by now.
        if let Some(before) = inode.content() {
            self.ledger.superseded.entry(before.id).or_default().insert(at);
        }
        inode.body = Body::File(content);
        (inode.mtime, inode.ctime) = (time, time);
        self.unsynced(at, writer.inode, None);
        let inode = self.nodes[at].disk.inode_mut(writer.inode).expect("open");
        if last {
            inode.writers -= 1;
            let still_open = inode.writers > 0;
            self.nodes[at].disk.collect(writer.inode);
            self.note(|_| format!("n{at} close {} {:?}", writer.path, content.id));
            match names.first() {
                Some(name) => {
                    self.hint(at, name, HintKind::Closed);
                    if !still_open {
                        self.finished(at, name, content.id);
                    }
                }
                None => self.late_write(at, &writer.path, content.id),
            }
            return;
        }
        if let Some(name) = names.first() {
            self.hint(at, name, HintKind::Written);
        }
        writer.left -= 1;
        let wait = if writer.left == 0 { writer.end_in } else { self.rng.below(SECOND) };
        self.nodes[at].writers.insert(number, writer);
        self.schedule(wait, Event::Write { node: at, writer: number });
    }

    /// The disk looks at displaced files a while longer, and keeps what is still written to them.
    fn late_write(&mut self, at: usize, target: &RelPath, content: ContentId) {
        self.nodes[at].conflicts.push((target.clone(), content));
    }

    pub fn remove(&mut self, at: usize, target: &RelPath) {
        let disk = &self.nodes[at].disk;
        let Some(inode) = disk.at(target) else { return };
        if inode.is_dir() && !disk.is_empty(target) {
            return;
        }
        let time = self.kernel_time(at);
        self.supersede(at, target);
        self.nodes[at].disk.unlink(target, time);
        self.nodes[at].disk.touch_parent(target, time);
        self.note(|_| format!("n{at} remove {target}"));
        self.hint(at, target, HintKind::Gone);
        self.removed(at, target);
    }

    fn remove_all(&mut self, at: usize, dir: &RelPath) {
        if !self.nodes[at].disk.is_dir(dir) {
            return;
        }
        for path in self.nodes[at].disk.below(dir).into_iter().rev() {
            self.remove(at, &path);
        }
        self.remove(at, dir);
    }

    fn rename(&mut self, at: usize, old: &RelPath, new: &RelPath) {
        let disk = &self.nodes[at].disk;
        if disk.at(old).is_none() || old == new || new.is_below(old) || old.is_below(new) {
            return;
        }
        let clash = match disk.at(new).map(Inode::is_dir) {
            Some(true) => !disk.is_dir(old) || !disk.is_empty(new),
            Some(false) => disk.is_dir(old),
            None => !disk.has_parent(new),
        };
        if clash {
            return;
        }
        let time = self.kernel_time(at);
        self.supersede(at, new);
        self.moving(at, old);
        let disk = &mut self.nodes[at].disk;
        if disk.at(new).is_some() {
            disk.unlink(new, time);
        }
        disk.rename(old, new, time);
        disk.touch_parent(old, time);
        disk.touch_parent(new, time);
        self.note(|_| format!("n{at} rename {old} to {new}"));
        self.hint(at, old, HintKind::Gone);
        self.hint(at, new, HintKind::Moved);
        self.moved(at, new);
    }

    fn change_mode(&mut self, at: usize, target: &RelPath) {
        let time = self.kernel_time(at);
        let mode = *self.rng.pick(&[0o600, 0o640, 0o700, 0o755]);
        let Some(inode) = self.nodes[at].disk.at_mut(target) else { return };
        if matches!(inode.body, Body::Link(_)) {
            return;
        }
        (inode.mode, inode.ctime) = (mode, time);
        self.note(|_| format!("n{at} chmod {target} {mode:o}"));
        self.edited(at, target);
        self.hint(at, target, HintKind::Attributes);
    }

    fn set_time(&mut self, at: usize, target: &RelPath) {
        let (wall_ns, skew_ns) = (self.wall_ns(at), self.nodes[at].skew_ns);
        let back = self.rng.below(1_000_000 * SECOND) * 1000;
        let Some(inode) = self.nodes[at].disk.at_mut(target) else { return };
        (inode.mtime, inode.ctime) =
            (kernel_time(wall_ns - back, skew_ns), kernel_time(wall_ns, skew_ns));
        self.note(|_| format!("n{at} touch {target}"));
        self.edited(at, target);
        self.hint(at, target, HintKind::Attributes);
    }

    fn symlink(&mut self, at: usize, target: &RelPath) {
        if !self.make_parents(at, target) || self.nodes[at].disk.at(target).is_some() {
            return;
        }
        let time = self.kernel_time(at);
        let number = self.fresh_id();
        let body = Body::Link(format!("to-{number}").into_bytes().into());
        let disk = &mut self.nodes[at].disk;
        disk.make(target, body, 0o777, time);
        disk.touch_parent(target, time);
        self.note(|_| format!("n{at} symlink {target}"));
        self.hint(at, target, HintKind::Created);
        self.cleared(target);
    }

    pub fn is_local(&self, path: &RelPath) -> bool {
        self.policy.class(path) == Class::Local
    }
}

fn owned(at: usize, text: &str) -> RelPath {
    if text.is_empty() { path(&format!("n{at}")) } else { path(&format!("n{at}/{text}")) }
}
