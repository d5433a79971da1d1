//! What applications did, independent of the engine; and whether each step of a node keeps the
//! promises. What is left at the end is judged in `judge`.

use std::collections::{BTreeMap, BTreeSet};

use trefoil::engine::{Class, Engine};
use trefoil::model::{ContentId, Entry, NodeId, Record, RelPath, Stamp, Version};

use crate::disk::Inode;
use crate::mirror::Job;
use crate::node::Node;
use crate::profile::Writers;
use crate::trace::show;
use crate::world::{AUTHORS, MS, Micros, SECOND, World};

/// How long nothing may be told of a file before it is read while somebody has it open.
const QUIET: Micros = SECOND - MS;

/// How long a file may be open before it is read all the same.
const STALE: Micros = 30 * SECOND - MS;

/// What was on a node's disk when it finished a barrier: its own writes by path.
#[derive(Debug)]
struct Before {
    node: usize,
    writes: Vec<(RelPath, ContentId)>,
}

#[derive(Debug)]
pub struct Write {
    pub node: usize,
    pub path: RelPath,
}

/// The history, as the applications made it.
#[derive(Debug, Default)]
pub struct Ledger {
    pub finished: BTreeMap<ContentId, Write>,
    /// Who put content where it is: wrote it there, or renamed it.
    placed: BTreeMap<(ContentId, RelPath), usize>,
    /// What a write replaced, on the disk where it was made.
    previous: BTreeMap<ContentId, ContentId>,
    /// Content that someone who had it before him replaced or removed.
    pub superseded: BTreeMap<ContentId, BTreeSet<usize>>,
    /// What was replaced, removed or moved away, and by whom.
    pub destroyed: BTreeMap<(ContentId, RelPath), BTreeSet<usize>>,
    /// Where a symbolic link was replaced, removed or moved away.
    unlinked: BTreeSet<RelPath>,
    /// Content whose metadata or place was changed: a concurrent removal does not win.
    pub edited: BTreeSet<ContentId>,
    /// Paths that something was removed from.
    gone: BTreeSet<RelPath>,
    /// Where someone removed something, and what.
    removed_at: BTreeSet<(usize, RelPath)>,
    /// What each edit made of its path.
    edits: BTreeMap<Stamp, Option<Entry>>,
    deletions: BTreeMap<RelPath, Vec<Version>>,
    barriers: BTreeMap<ContentId, Before>,
    /// Barriers that came to a node as a copy by hand, which may lack what they were written after:
    /// as that node's own edit they say nothing of it.
    pub copied: BTreeSet<(ContentId, NodeId)>,
    /// Content that was never finished, left by a power cut.
    pub abandoned: BTreeSet<ContentId>,
    taken_open: BTreeSet<ContentId>,
    /// What another node has of what somebody wrote.
    arrived: BTreeSet<(RelPath, ContentId)>,
    /// Where a look failed: nothing waits for such a file.
    pub unreadable: BTreeSet<(usize, RelPath)>,
    /// Content that was at a derived path: a loser is dropped there.
    pub derived: BTreeSet<ContentId>,
    /// The edits that announced content, by content and path.
    stamps: BTreeMap<(ContentId, RelPath), BTreeSet<Stamp>>,
    pub lost_index: bool,
    /// An index was put back.
    pub put_back: bool,
    pub applied: u64,
}

impl Ledger {
    /// A power cut took what was written: it was not finished.
    pub fn unfinish(&mut self, content: ContentId) {
        self.finished.remove(&content);
        self.abandoned.insert(content);
    }

    fn destroy(&mut self, at: usize, content: ContentId, path: &RelPath) {
        self.destroyed.entry((content, path.clone())).or_default().insert(at);
    }

    /// Whether the edit `won` was deleted and came back in a circle that was decided with the deletion in
    /// view: another edit had won over the deletion, which it had not seen, and lost to this one.
    pub fn won_in_a_circle(&self, path: &RelPath, won: &Version) -> bool {
        let deletions = self.deletions.get(path).map(Vec::as_slice).unwrap_or_default();
        let of_path = self.stamps.iter().filter(|((_, at), _)| at == path);
        let edits: BTreeSet<_> = of_path.flat_map(|(_, stamps)| stamps).copied().collect();
        deletions.iter().any(|deletion| {
            won.vector.contains(deletion.stamp)
                && deletion.seen.contains(won.stamp)
                && edits.iter().any(|edit| *edit != won.stamp && !deletion.seen.contains(*edit))
        })
    }

    /// Whether the path was deleted twice, and neither had seen the other. Then two edits may each win
    /// over the deletion of the other one, and one of them stays: what a record says of its past does
    /// not tell that both are gone.
    pub fn was_deleted_in_a_circle(&self, path: &RelPath) -> bool {
        let deletions = self.deletions.get(path).map(Vec::as_slice).unwrap_or_default();
        let saw = |a: &Version, b: &Version| a.seen.contains(b.stamp);
        let apart = |a: &Version| deletions.iter().any(|b| !saw(a, b) && !saw(b, a));
        deletions.iter().any(apart)
    }
}

impl World {
    pub fn content_at(&self, at: usize, path: &RelPath) -> Option<ContentId> {
        self.nodes[at].disk.at(path).and_then(Inode::content).map(|content| content.id)
    }

    /// An application is about to replace or remove what is at the path.
    pub fn supersede(&mut self, at: usize, path: &RelPath) {
        if let Some(content) = self.content_at(at, path) {
            self.ledger.superseded.entry(content).or_default().insert(at);
            self.ledger.destroy(at, content, path);
        } else if self.nodes[at].disk.at(path).is_some() {
            self.ledger.unlinked.insert(path.clone());
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
        // A change of its metadata makes a rival even of what the edit came after.
        let edited = &self.ledger.edited;
        let is_rival = |(one, there): &(ContentId, RelPath)| {
            there == path && (!before.contains(one) || edited.contains(one))
        };
        let is_link = self.ledger.unlinked.contains(path);
        if !is_link && !self.ledger.destroyed.keys().any(is_rival) {
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

    pub fn removed(&mut self, at: usize, path: &RelPath) {
        self.ledger.removed_at.insert((at, path.clone()));
        self.cleared(path);
    }

    /// There is no file at the path any more.
    pub fn cleared(&mut self, path: &RelPath) {
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
                self.ledger.destroy(at, content, &path);
            } else {
                self.ledger.unlinked.insert(path.clone());
            }
            self.removed(at, &path);
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

    /// A file that somebody has open is only read when nothing was told of it for a second, or when
    /// it lies open for half a minute.
    pub fn check_read(&mut self, at: usize, path: &RelPath, even_if_open: bool) {
        let node = &self.nodes[at];
        let number = node.disk.number(path);
        let open = node.writers.values().filter(|writer| Some(writer.inode) == number);
        let Some(since) = open.map(|writer| writer.since).min().filter(|_| even_if_open) else {
            return;
        };
        let told = node.hinted.get(path).copied().unwrap_or_default();
        if self.now < told + QUIET && self.now < since + STALE {
            self.fail(format!("n{at} reads what is being written: {path}"));
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

    /// Only what an application did is announced: what it finished, or left open for long, and what
    /// it removed.
    pub fn check_store(&mut self, at: usize, record: &Record, from: Option<NodeId>) {
        let stamp = record.version.stamp;
        if stamp.node == self.nodes[at].author {
            let removed = self.ledger.removed_at.contains(&(at, record.path.clone()));
            if !record.is_live() && !removed {
                self.fail(format!("n{at} says that someone removed {}", record.path));
            }
            if !record.is_live() {
                let deletions = self.ledger.deletions.entry(record.path.clone()).or_default();
                deletions.push(record.version.clone());
            }
            let put_back = self.nodes[at].put_back;
            let known = self.ledger.edits.entry(stamp).or_insert_with(|| record.entry.clone());
            if put_back {
                // What it had made before with this stamp nobody else has, or it would differ.
                known.clone_from(&record.entry);
            }
        }
        let Some((content, _)) = record.entry.as_ref().and_then(Entry::content) else { return };
        if from.is_some() && !record.version.weak {
            self.ledger.arrived.insert((record.path.clone(), content));
        }
        if from.is_some() {
            return;
        }
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
        // Whoever reads sees what someone had made, content and metadata: not something of two edits.
        let whole = self.ledger.edits.get(&job.record.version.stamp);
        if whole.is_none_or(|entry| !job.record.is_dir() && *entry != job.record.entry) {
            self.fail(format!("n{at} shows what nobody made: {} {whole:?}", show(&job.record)));
            return;
        }
        // What a person wants back is made anew as it was, and counts as never removed.
        if self.nodes[at].index.record(path) == Some(&job.record) {
            let content = job.record.entry.as_ref().and_then(Entry::content);
            self.ledger.edited.extend(content.map(|(content, _)| content));
            return;
        }
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
            let author = job.record.version.stamp.node;
            let teller = self.nodes.iter().position(|node| node.author == author);
            self.check_barrier(at, path, content.filter(|&content| !copied(content)), teller);
        }
    }

    fn check_barrier(
        &mut self,
        at: usize,
        barrier: &RelPath,
        content: Option<ContentId>,
        teller: Option<usize>,
    ) {
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
            // A node that comes as another one tells what it finds on its disk, as far as it can.
            let tells = |at: &usize| at == node || teller == Some(*at);
            let mut unreadable = self.ledger.unreadable.iter().filter(|(at, _)| tells(at));
            unreadable.any(|(_, failed)| failed == path || path.is_below(failed))
        };
        let moved = |path: &RelPath, content: ContentId| {
            self.ledger.destroyed.contains_key(&(content, path.clone()))
        };
        // It has lost against another edit of its path that had not seen it, wherever that was decided:
        // it is not late. That happens without anyone else writing there when its author has lost his
        // index: what he finds then loses against what he had announced before.
        let decided = |path: &RelPath, content: ContentId| {
            let Some(stamps) = self.ledger.stamps.get(&(content, path.clone())) else {
                return false;
            };
            let version = |node: &'_ Node| Some(node.index.record(path)?.version.clone());
            let here = version(&self.nodes[at]);
            let arrived = |stamp| here.as_ref().is_some_and(|v| v.vector.contains(stamp));
            let lost = |v: Version, stamp| v.vector.contains(stamp) && !v.seen.contains(stamp);
            let lost = |stamp| self.nodes.iter().filter_map(version).any(|v| lost(v, stamp));
            stamps.iter().any(|&stamp| arrived(stamp) || lost(stamp))
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

    /// What was written at a path in the place of what is there, has arrived on another node, and has
    /// neither been replaced nor removed by anyone since.
    pub fn should_be_in_place_of(&self, there: ContentId, path: &RelPath) -> Option<ContentId> {
        let ledger = &self.ledger;
        if ledger.edited.contains(&there) || there == ContentId::empty() {
            return None;
        }
        let mut at_path = ledger.arrived.iter().filter(|(other, _)| other == path);
        let newer = |content: &ContentId| {
            ledger.finished.contains_key(content)
                && !ledger.superseded.contains_key(content)
                && !ledger.destroyed.contains_key(&(*content, path.clone()))
                && self.comes_before(there, *content)
        };
        at_path.find(|(_, content)| newer(content)).map(|&(_, content)| content)
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
        if local + wants > 200 {
            self.fail(format!("n{at} has too much to do: {local} {wants}"));
        }
        // Both halves of a share, urgent ones besides, and a message of each kind: some records and
        // the directories they would overtake.
        let most = 3 * self.profile.share() + 40;
        let of = |other: &Node| engine.load(other.id);
        if let Some(load) = self.nodes.iter().map(of).find(|&load| load > most) {
            self.fail(format!("n{at} has {load} records of a peer under way"));
        }
    }
}

/// Whose edits are by this author.
fn node_of_author(author: NodeId) -> NodeId {
    NodeId(author.0 % AUTHORS)
}
