//! What applications did, independent of the engine; and whether the nodes kept the promises.

use std::collections::{BTreeMap, BTreeSet};

use trefoil::engine::{Class, Engine, Hint, Input, Output};
use trefoil::model::{ContentId, Entry, Found, Kind, NodeId, Record, RelPath, Stamp, limits};

use crate::disk::Inode;
use crate::mirror::{Job, show, show_entry};
use crate::profile::Writers;
use crate::world::{AUTHORS, World};

/// What was on a node's disk when it finished a barrier: its own writes by path.
#[derive(Debug)]
struct Before {
    node: usize,
    writes: Vec<(RelPath, ContentId)>,
}

#[derive(Debug)]
struct Write {
    node: usize,
    path: RelPath,
}

/// The history, as the applications made it.
#[derive(Debug, Default)]
pub struct Ledger {
    finished: BTreeMap<ContentId, Write>,
    /// Who put content where it is: wrote it there, or renamed it.
    placed: BTreeMap<(ContentId, RelPath), usize>,
    /// What a write replaced, on the disk where it was made.
    previous: BTreeMap<ContentId, ContentId>,
    /// Content that someone who had it before him replaced or removed.
    superseded: BTreeMap<ContentId, BTreeSet<usize>>,
    destroyed: BTreeSet<(ContentId, RelPath)>,
    /// Content whose metadata or place was changed: a concurrent removal does not win.
    edited: BTreeSet<ContentId>,
    /// Paths that something was removed from.
    gone: BTreeSet<RelPath>,
    barriers: BTreeMap<ContentId, Before>,
    /// Barriers that came to a node as a copy by hand, which may lack what they were written after:
    /// as that node's own edit they say nothing of it.
    pub copied: BTreeSet<(ContentId, NodeId)>,
    /// Content that was never finished, left by a power cut.
    pub abandoned: BTreeSet<ContentId>,
    taken_open: BTreeSet<ContentId>,
    /// Where a look failed: nothing waits for such a file.
    pub unreadable: BTreeSet<(usize, RelPath)>,
    /// Content that was at a derived path: a loser is dropped there.
    derived: BTreeSet<ContentId>,
    /// The edits that announced content, by content and path.
    stamps: BTreeMap<(ContentId, RelPath), BTreeSet<Stamp>>,
    pub lost_index: bool,
    pub applied: u64,
}

impl World {
    fn content_at(&self, at: usize, path: &RelPath) -> Option<ContentId> {
        self.nodes[at].disk.at(path).and_then(Inode::content).map(|content| content.id)
    }

    /// An application is about to replace or remove what is at the path.
    pub fn supersede(&mut self, at: usize, path: &RelPath) {
        if let Some(content) = self.content_at(at, path) {
            self.ledger.superseded.entry(content).or_default().insert(at);
            self.ledger.destroyed.insert((content, path.clone()));
        }
    }

    /// A deletion takes away an edit as its loser. It may only if someone had removed that edit, or a
    /// rival of it that may have won over it; what the edit came after is no rival.
    pub fn check_deletion(&mut self, at: usize, path: &RelPath, content: ContentId) {
        let profile = &self.profile;
        let calm = !profile.dirs && !profile.late_joiner && profile.power_cuts == 0;
        if !calm || self.ledger.lost_index {
            return;
        }
        let mut before = BTreeSet::new();
        let mut older = self.ledger.previous.get(&content);
        while let Some(one) = older.filter(|one| before.insert(**one)) {
            older = self.ledger.previous.get(one);
        }
        let is_rival = |(one, there): &(ContentId, RelPath)| there == path && !before.contains(one);
        if !self.ledger.destroyed.iter().any(is_rival) {
            self.fail(format!(
                "n{at}: a deletion that had not seen it won over {path} {content:?}"
            ));
        }
    }

    /// A new content replaces another one.
    pub fn follows(&mut self, new: ContentId, old: Option<ContentId>) {
        self.ledger.previous.extend(old.map(|old| (new, old)));
    }

    pub fn finished(&mut self, at: usize, path: &RelPath, content: ContentId) {
        if self.is_local(path) {
            return;
        }
        if self.policy.class(path) == Class::Barrier {
            let own = |path: &RelPath| {
                let inode = self.nodes[at].disk.at(path).filter(|inode| inode.writers == 0)?;
                let content = inode.content()?.id;
                let placed = self.ledger.placed.get(&(content, path.clone()))?;
                let class = self.policy.class(path);
                let exempt = match class {
                    Class::Barrier | Class::Local => true,
                    // A loser of a conflict is dropped.
                    Class::Derived => !self.has_no_conflicts(),
                    _ => false,
                };
                let counts = *placed == at && !exempt;
                counts.then(|| (path.clone(), content))
            };
            let writes = self.nodes[at].disk.paths().filter_map(own).collect();
            self.ledger.barriers.insert(content, Before { node: at, writes });
        }
        self.ledger.placed.insert((content, path.clone()), at);
        self.ledger.finished.insert(content, Write { node: at, path: path.clone() });
    }

    pub fn removed(&mut self, _at: usize, path: &RelPath) {
        self.ledger.gone.insert(path.clone());
    }

    pub fn edited(&mut self, at: usize, path: &RelPath) {
        self.ledger.edited.extend(self.content_at(at, path));
    }

    /// Something is about to be renamed with everything below it.
    pub fn moving(&mut self, at: usize, old: &RelPath) {
        for path in self.nodes[at].disk.below(old).into_iter().chain([old.clone()]) {
            if let Some(content) = self.content_at(at, &path) {
                self.ledger.edited.insert(content);
                self.ledger.destroyed.insert((content, path.clone()));
            }
            self.ledger.gone.insert(path);
        }
    }

    /// What was renamed is there: to the mirror it is new, or gone.
    pub fn moved(&mut self, at: usize, new: &RelPath) {
        for path in self.nodes[at].disk.below(new).into_iter().chain([new.clone()]) {
            let Some(inode) = self.nodes[at].disk.at(&path) else { continue };
            let Some(content) = inode.content().map(|content| content.id) else { continue };
            if self.policy.class(&path) == Class::Derived {
                self.ledger.derived.insert(content);
            }
            if inode.writers == 0 {
                self.ledger.placed.insert((content, path.clone()), at);
            }
            if self.is_local(&path) {
                self.ledger.superseded.entry(content).or_default().insert(at);
            } else if inode.writers == 0 && !self.ledger.finished.contains_key(&content) {
                self.ledger.finished.insert(content, Write { node: at, path: path.clone() });
            }
        }
    }

    pub fn taken_open(&mut self, content: ContentId) {
        self.ledger.taken_open.insert(content);
    }

    /// Whether there is but one who writes below each directory, and nobody forgot anything.
    fn has_no_conflicts(&self) -> bool {
        let profile = &self.profile;
        profile.writers == Writers::Owners
            && !self.ledger.lost_index
            && !profile.late_joiner
            && profile.power_cuts == 0
    }

    pub fn check_conflict(&mut self, at: usize, path: &RelPath, content: ContentId) {
        if self.has_no_conflicts() {
            self.fail(format!("n{at} saw a conflict where there is none: {path} {content:?}"));
        }
    }

    /// Only what an application finished is announced, or what it left open for long.
    pub fn check_store(&mut self, at: usize, record: &Record, from: Option<NodeId>) {
        let content = record.entry.as_ref().and_then(Entry::content);
        let Some((content, _)) = content.filter(|_| from.is_none()) else { return };
        let stamps = self.ledger.stamps.entry((content, record.path.clone())).or_default();
        stamps.insert(record.version.stamp);
        let ledger = &self.ledger;
        let known = ledger.finished.contains_key(&content)
            || ledger.taken_open.contains(&content)
            || ledger.abandoned.contains(&content);
        if !known {
            self.fail(format!("n{at} announced what is not finished: {}", show(record)));
        }
    }

    /// Called before an apply changes the disk.
    pub fn check_apply(&mut self, at: usize, job: &Job) {
        self.ledger.applied += 1;
        let path = &job.record.path;
        let own = format!("n{at}");
        // A directory may be kept by someone who knew of its removal, but not yet of the new one.
        let kept = job.record.is_dir() && self.nodes[at].disk.is_dir(path);
        let ours = path.components().next() == Some(own.as_bytes());
        if self.has_no_conflicts() && ours && !kept {
            self.fail(format!("n{at} applied in its own directory: {}", show(&job.record)));
        }
        if self.policy.class(path) == Class::Barrier {
            let content = job.record.entry.as_ref().and_then(Entry::content);
            let content = content.map(|(content, _)| content);
            let node = node_of_author(job.record.version.stamp.node);
            let copied = |content| self.ledger.copied.contains(&(content, node));
            self.check_barrier(at, path, content.filter(|&content| !copied(content)));
        }
    }

    fn check_barrier(&mut self, at: usize, barrier: &RelPath, content: Option<ContentId>) {
        if self.profile.power_cuts > 0 {
            // What was announced, and forgotten when the power went, is a new edit afterwards.
            return;
        }
        let before = content.and_then(|content| self.ledger.barriers.get(&content));
        let Some(Before { node, writes }) = before else { return };
        let replaced = |content: &ContentId| {
            let mut lost = self.nodes.iter().flat_map(|node| &node.conflicts);
            lost.any(|(_, lost)| lost == content)
                || self.ledger.superseded.get(content).is_some_and(|by| by.contains(node))
        };
        let unread = |path: &RelPath| {
            let mut unreadable = self.ledger.unreadable.iter().filter(|(at, _)| at == node);
            unreadable.any(|(_, failed)| failed == path || path.is_below(failed))
        };
        let moved = |path: &RelPath, content: ContentId| {
            self.ledger.destroyed.contains(&(content, path.clone()))
        };
        // It has arrived, and lost against another edit of its path: it is not late. That happens
        // without anyone else writing there when its author has lost his index: what he finds then
        // loses against what he had announced before.
        let decided = |path: &RelPath, content: ContentId| {
            let record = self.nodes[at].index.record(path);
            let stamps = self.ledger.stamps.get(&(content, path.clone()));
            let vector = record.map(|record| &record.version.vector);
            vector.zip(stamps).is_some_and(|(v, stamps)| stamps.iter().any(|s| v.contains(*s)))
        };
        let counts = |(path, content): &&(RelPath, ContentId)| {
            !replaced(content)
                && !unread(path)
                && !moved(path, *content)
                && !decided(path, *content)
        };
        let mut writes = writes.iter().filter(counts);
        let late = writes.find(|(path, content)| match self.content_at(at, path) {
            // Old content may have won by a concurrent change of its metadata.
            Some(there) => {
                self.comes_before(there, *content) && !self.ledger.edited.contains(&there)
            }
            None => {
                let mut gone = self.ledger.gone.iter();
                let gone = gone.any(|gone| gone == path || path.is_below(gone));
                let clash = path.parent().is_some_and(|dir| !self.nodes[at].disk.is_dir(&dir))
                    && self.profile.dirs;
                !gone && !clash && self.nodes[at].disk.at(path).is_none()
            }
        });
        if let Some((path, content)) = late {
            let text = format!("n{at} shows {barrier} of n{node} before {path} {content:?}");
            self.fail(text);
        }
    }

    /// Whether `old` is something that `new` was made from.
    fn comes_before(&self, old: ContentId, new: ContentId) -> bool {
        let mut at = new;
        for _ in 0..self.ledger.previous.len() {
            match self.ledger.previous.get(&at) {
                Some(&previous) if previous == old => return true,
                Some(&previous) => at = previous,
                None => return false,
            }
        }
        false
    }

    pub fn check_bounds(&mut self, at: usize, engine: &Engine) {
        let (local, wants) = engine.pending();
        if local + wants > 200 || wants > limits::WANTS_MAX {
            self.fail(format!("n{at} has too much to do: {local} {wants}"));
        }
    }

    pub fn note_input(&mut self, at: usize, input: &Input) {
        if self.traces.is_some() {
            let text = match input {
                Input::Hinted(hints) if hints.is_empty() => return,
                Input::Tick => return,
                Input::Announced(a) => {
                    let (peer, lane, sequence) = (a.peer, a.lane, a.sequence.0 % 1_000_000_000_000);
                    let after = a.after.map(|after| after.0 % 1_000_000_000_000);
                    let theirs = show(&a.theirs);
                    format!("announced by {peer:?} {lane:?} {sequence} after {after:?}: {theirs}")
                }
                Input::Seen(seen) => match &seen.found {
                    Found::Entry { entry, .. } => {
                        format!("seen {} {}", seen.path, show_entry(entry))
                    }
                    other => format!("seen {} {other:?}", seen.path),
                },
                Input::Applied { path, .. } => format!("applied {path}"),
                Input::Hinted(hints) => {
                    let one = |hint: &Hint| format!("{} {:?} ", hint.path, hint.kind);
                    format!("hinted {}", hints.iter().map(one).collect::<String>())
                }
                Input::Swept(path) => format!("swept {path}"),
                Input::Journaled { record, visible } => {
                    format!("journaled {} visible {visible}", show(record))
                }
                other => format!("{other:?}"),
            };
            self.note(|_| format!("n{at} < {text}"));
        }
    }

    pub fn note_output(&mut self, at: usize, output: &Output) {
        if self.traces.is_some() {
            let text = match output {
                Output::Store { record, from, .. } => {
                    format!("store {} from {from:?}", show(record))
                }
                Output::Apply { record, ours, displaced, .. } => {
                    let ours = ours.as_ref().map(show);
                    format!("apply {} over {ours:?} {displaced:?}", show(record))
                }
                Output::Refresh { path, .. } => format!("refresh {path}"),
                other => format!("{other:?}"),
            };
            self.note(|_| format!("n{at} > {text}"));
        }
    }

    /// After everything has settled.
    pub fn judge(&mut self) {
        if self.failure.is_some() {
            return;
        }
        let verdicts =
            [Self::settled, Self::converged, Self::nothing_lost, Self::nothing_came_back];
        for verdict in verdicts {
            if let Err(reason) = verdict(self) {
                self.fail(reason);
                return;
            }
        }
    }

    fn settled(&self) -> Result<(), String> {
        for (at, node) in self.nodes.iter().enumerate() {
            let Some(engine) = &node.engine else { return Err(format!("n{at} is down")) };
            if engine.pending() != (0, 0) || engine.problems().1 > 0 {
                return Err(format!("stuck: {}", self.describe()));
            }
            if !node.index.journal.is_empty() {
                return Err(format!("n{at} has a journal: {:?}", node.index.journal));
            }
            let ours = self.tree(at);
            let live = node.index.rows.values().filter(|row| row.record.is_live());
            let known: BTreeMap<_, _> = live
                .map(|row| (row.record.path.clone(), plain(row.record.entry.clone())))
                .collect();
            compare(&format!("n{at} disk"), &ours, &format!("n{at} index"), &known)?;
        }
        Ok(())
    }

    fn tree(&self, at: usize) -> BTreeMap<RelPath, Option<Entry>> {
        let disk = &self.nodes[at].disk;
        let mirrored = disk.paths().filter(|path| !self.is_local(path));
        mirrored.map(|path| (path.clone(), plain(disk.entry(path)))).collect()
    }

    fn converged(&self) -> Result<(), String> {
        let first = self.tree(0);
        for at in 1..self.nodes.len() {
            compare("n0", &first, &format!("n{at}"), &self.tree(at))?;
            if self.nodes[at].index.entries != self.nodes[0].index.entries {
                return Err(format!("fingerprints of n0 and n{at} differ"));
            }
        }
        Ok(())
    }

    fn nothing_lost(&self) -> Result<(), String> {
        let mut kept = BTreeSet::new();
        for node in &self.nodes {
            let live = node.disk.paths().filter_map(|path| node.disk.at(path)?.content());
            kept.extend(live.map(|content| content.id));
            kept.extend(node.conflicts.iter().map(|&(_, content)| content));
        }
        for (content, write) in &self.ledger.finished {
            let derived = self.policy.class(&write.path) == Class::Derived
                || self.ledger.derived.contains(content);
            let superseded = self.ledger.superseded.contains_key(content);
            if !kept.contains(content) && !superseded && !derived {
                let Write { node, path } = write;
                return Err(format!("lost: {content:?}, written by n{node} to {path}"));
            }
        }
        Ok(())
    }

    fn nothing_came_back(&self) -> Result<(), String> {
        if self.ledger.lost_index || self.profile.late_joiner || self.profile.power_cuts > 0 {
            return Ok(());
        }
        for path in self.nodes[0].disk.paths() {
            let Some(content) = self.content_at(0, path) else { continue };
            let removed = self.ledger.destroyed.contains(&(content, path.clone()));
            if removed && !self.ledger.edited.contains(&content) && content != ContentId::empty() {
                return Err(format!("came back: {path} {content:?}"));
            }
        }
        Ok(())
    }
}

/// Whose edits are by this author.
fn node_of_author(author: NodeId) -> NodeId {
    NodeId(author.0 % AUTHORS)
}

/// Groups are known to the index only.
fn plain(entry: Option<Entry>) -> Option<Entry> {
    entry.map(|mut entry| {
        if let Kind::File { group, .. } = &mut entry.kind {
            *group = None;
        }
        entry
    })
}

fn compare(
    name_a: &str,
    a: &BTreeMap<RelPath, Option<Entry>>,
    name_b: &str,
    b: &BTreeMap<RelPath, Option<Entry>>,
) -> Result<(), String> {
    let paths: BTreeSet<_> = a.keys().chain(b.keys()).collect();
    for path in paths {
        if a.get(path) != b.get(path) {
            let (one, other) = (a.get(path), b.get(path));
            return Err(format!("{path} differs:\n  {name_a}: {one:?}\n  {name_b}: {other:?}"));
        }
    }
    Ok(())
}
