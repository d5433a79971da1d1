//! Carries out what the engine decides, and decides nothing.
//!
//! Every input goes through [`Actor::input`]; every output is one arm of [`Actor::carry_out`].

use std::collections::BTreeMap;
use std::sync::Arc;

use super::actor::Actor;
use super::workers::{Group, Job, Look};
use super::{conflicts, moves, trash};
use crate::disk::{self, ApplyRequest, KeptId, Source};
use crate::engine::clock::Now;
use crate::engine::{Considered, Displaced, Hint, HintKind, Input, Outcome, Output, Policy, Seen};
use crate::index::{IndexError, Row, Token};
use crate::model::{
    ContentId, Entry, Found, Kind, Lane, LinkGroup, NodeId, Record, RelPath, Signature, limits,
};

/// What one turn has collected and hands out at its end.
#[derive(Default)]
pub(super) struct Turn {
    pub reads: Vec<Look>,
    pub requests: Vec<(ApplyRequest, Token)>,
    /// Rows stored in this turn, with the content of small files read here.
    pub fresh: Vec<(Row, Option<Arc<[u8]>>)>,
    /// Listings that were compared and not let go yet.
    pub listings: usize,
    /// Losers were moved aside.
    pub kept: bool,
    /// Applies came back.
    pub applied: bool,
    /// Content of the path that is being looked at.
    seen: Option<(ContentId, Arc<[u8]>)>,
    live_dirs: BTreeMap<RelPath, bool>,
}

/// Files that a look is handed out in one piece.
const LOOKS_PER_JOB: usize = 32;

/// Paths below a directory that is gone which are looked at at a time.
const SWEPT_MAX: usize = 8192;

/// Local files that are tried as a source of content.
const COPY_CANDIDATES: usize = 4;

impl Actor {
    /// Has the engine decide, and carries out what follows.
    pub(super) fn input(&mut self, input: Input) -> Result<(), IndexError> {
        let now = self.now();
        self.engine.handle(now, input);
        while let Some(output) = self.engine.poll_output() {
            self.carry_out(now, output)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, now: Now, output: Output) -> Result<(), IndexError> {
        match output {
            Output::Apply { record, ours, displaced, even_if_open } => {
                self.apply(record, ours, displaced, even_if_open)
            }
            Output::Consider { path, children_max } => self.consider(now, path, children_max),
            Output::Fetch { path, content, size, peers, lane } => {
                self.fetch(path, content, size, peers, lane)
            }
            Output::Finished(path) => {
                self.shelf.drop(&path);
                if self.unsettled.remove(&path) {
                    self.index.unjournal(&path)?;
                }
                if let Some(audit) = &mut self.audit {
                    audit.finished(&path);
                }
                Ok(())
            }
            Output::Guard(classes) => {
                let names: Vec<_> = classes.iter().map(|class| class.name()).collect();
                let names = names.join(", ");
                match names.as_str() {
                    "" => tracing::info!(mount = self.place.name, "no deletion is held any more"),
                    classes => tracing::error!(
                        mount = self.place.name,
                        classes,
                        "more was deleted than the budget allows: held, see `trefoil status`"
                    ),
                }
                self.index.set_held_classes(&classes)
            }
            Output::List(dir) => {
                self.walking.push_back(dir.clone());
                // The thread ends only after this one.
                drop(self.workers.walks.send(dir));
                Ok(())
            }
            Output::Outdated(peer) => {
                let than = format!("an edit of this node that {} has", self.name_of(peer));
                Err(IndexError::Old { than })
            }
            Output::Read { path, even_if_open } => {
                let known = self.index.row(&path)?.and_then(|row| row.signature);
                let origin = self.moves.found(&path);
                self.turn.reads.push(Look { path, known, origin, even_if_open });
                Ok(())
            }
            Output::Refresh { path, signature } => {
                self.index.begin()?;
                self.index.refresh(&path, signature)
            }
            Output::Store { record, signature, from } => self.store(&record, signature, from),
            Output::Sweep(dir) => {
                for path in self.index.live_below(&dir, SWEPT_MAX)? {
                    self.engine.handle(now, Input::Swept(path));
                }
                Ok(())
            }
        }
    }

    fn consider(&mut self, now: Now, path: RelPath, children_max: usize) -> Result<(), IndexError> {
        let ours = self.index.row(&path)?.map(|row| row.record);
        let parent_live = self.is_parent_live(&path)?;
        let children = if ours.as_ref().is_some_and(Record::is_dir) {
            self.index.count_children(&path, children_max)?
        } else {
            0
        };
        let considered = Considered { path, ours, parent_live, children };
        self.engine.handle(now, Input::Considered(Box::new(considered)));
        Ok(())
    }

    fn is_parent_live(&mut self, path: &RelPath) -> Result<bool, IndexError> {
        let Some(parent) = path.parent() else { return Ok(true) };
        if let Some(&live) = self.turn.live_dirs.get(&parent) {
            return Ok(live);
        }
        let live = self.index.is_live_dir(&parent)?;
        self.turn.live_dirs.insert(parent, live);
        Ok(live)
    }

    fn store(
        &mut self,
        record: &Record,
        signature: Option<Signature>,
        from: Option<NodeId>,
    ) -> Result<(), IndexError> {
        if let (None, Some(audit)) = (from, &mut self.audit) {
            audit.stored(&record.path);
        }
        let class = self.place.policy.class(&record.path);
        let lane = if from.is_some() { Lane::Forward } else { Policy::lane(class) };
        self.index.begin()?;
        let wall_ns = self.now().wall_ns;
        let (row, was) = self.index.store(record, signature, lane, from, wall_ns)?;
        if let Some((lane, old)) = was {
            let outs = self.peers.values_mut().filter_map(|peer| peer.out.as_mut());
            outs.for_each(|out| out.moved(lane, old, row.sequence));
        }
        if !matches!(&record.entry, Some(Entry { kind: Kind::File { .. }, .. })) {
            self.turn.live_dirs.clear();
        }
        let is_file = record.entry.as_ref().is_some_and(|entry| entry.content().is_some());
        let linked = signature.filter(|signature| is_file && signature.links > 1);
        if let (None, Some(signature)) = (from, linked) {
            self.hint_links(record, signature)?;
        }
        let content = record.entry.as_ref().and_then(Entry::content);
        let seen = self.turn.seen.as_ref().filter(|(id, _)| content.is_some_and(|c| c.0 == *id));
        let bytes = seen.map(|(_, bytes)| bytes.clone());
        self.turn.fresh.push((row, bytes));
        Ok(())
    }

    /// The other names of a file that changed have changed with it.
    fn hint_links(&mut self, record: &Record, signature: Signature) -> Result<(), IndexError> {
        let rows = self.index.with_inode(signature.inode)?.into_iter();
        let differ = |row: &Row| {
            row.record.path != record.path
                && !match (&row.record.entry, &record.entry) {
                    (Some(a), Some(b)) => a.same(b),
                    _ => false,
                }
        };
        let hint = |row: Row| Hint { path: row.record.path, kind: HintKind::Differs };
        let hints: Vec<_> = rows.filter(differ).map(hint).collect();
        if !hints.is_empty() {
            self.note_told(&hints);
            let now = self.now();
            self.engine.handle(now, Input::Hinted(hints));
        }
        Ok(())
    }

    /// What a look at a path found.
    pub(super) fn seen(&mut self, path: RelPath, found: Found) -> Result<(), IndexError> {
        // What is found while the mount is not there says nothing about its files.
        let found = if self.is_halted() { Found::Unstable } else { found };
        let row = self.index.row(&path)?;
        let group = self.group(&path, &found, row.as_ref())?;
        let ours = row.map(|row| row.record);
        let has_children = match &ours {
            Some(ours) if ours.is_dir() => self.index.count_children(&path, 1)? > 0,
            _ => false,
        };
        let parent_live = self.is_parent_live(&path)?;
        if let Found::Entry { entry, content: Some(bytes), .. } = &found {
            self.turn.seen = entry.content().map(|(id, _)| (id, bytes.clone()));
        }
        let elsewhere = self.is_elsewhere(&found, ours.as_ref())?;
        let files = self.index.totals().files;
        let seen = Seen { path, found, ours, parent_live, has_children, group, elsewhere, files };
        self.input(Input::Seen(Box::new(seen)))?;
        self.turn.seen = None;
        Ok(())
    }

    /// Whether the content of a file that is gone is live at another path, or it has none.
    fn is_elsewhere(&self, found: &Found, ours: Option<&Record>) -> Result<bool, IndexError> {
        let entry = ours.and_then(|ours| ours.entry.as_ref()).filter(|_| *found == Found::Absent);
        let Some((content, size)) = entry.and_then(Entry::content) else { return Ok(false) };
        Ok(size == 0 || self.index.with_content(content, 2)?.len() > 1)
    }

    /// The hard link group of the inode that was found.
    fn group(
        &self,
        path: &RelPath,
        found: &Found,
        row: Option<&Row>,
    ) -> Result<Option<LinkGroup>, IndexError> {
        let Found::Entry { signature, entry, .. } = found else { return Ok(None) };
        if signature.links < 2 || entry.content().is_none() {
            return Ok(None);
        }
        let of = |row: &Row| row.record.entry.as_ref().and_then(Entry::group);
        let rows = self.index.with_inode(signature.inode)?;
        let others = rows.iter().filter(|row| row.record.path != *path);
        let own = row.filter(|row| row.signature.is_some_and(|s| s.inode == signature.inode));
        Ok(others.filter_map(of).min().or_else(|| own.and_then(of)))
    }

    fn apply(
        &mut self,
        record: Record,
        ours: Option<Record>,
        displaced: Displaced,
        even_if_open: bool,
    ) -> Result<(), IndexError> {
        let path = record.path.clone();
        let signature = self.index.row(&path)?.and_then(|row| row.signature);
        let source = self.source(&record, ours.as_ref())?;
        let displaced = match displaced {
            Displaced::Drop => disk::Displaced::Drop,
            Displaced::Trash => disk::Displaced::Trash(trash::note(
                &self.place,
                &path,
                ours.as_ref().map(|ours| ours.version.stamp),
                record.version.stamp.node,
                !record.is_live(),
            )),
            Displaced::Keep => {
                self.turn.kept = true;
                disk::Displaced::Keep(self.announce_loser(ours.as_ref()))
            }
        };
        let token = self.index.journal(&record)?;
        let expected = ours.and_then(|ours| ours.entry).zip(signature);
        let target = record.entry;
        if let Some(entry) = target.as_ref().filter(|entry| entry.group().is_some()) {
            self.linking.insert(path.clone(), entry.clone());
        }
        let request = ApplyRequest { path, target, expected, source, displaced, even_if_open };
        self.turn.requests.push((request, token));
        Ok(())
    }

    /// Notes a loser where the conflict store will look for its name.
    fn announce_loser(&self, loser: Option<&Record>) -> KeptId {
        match loser {
            Some(loser) => {
                let why = conflicts::Why::Concurrent;
                conflicts::announce(&self.shared, &self.place.name, loser, why)
            }
            None => conflicts::unnamed(),
        }
    }

    fn source(&self, record: &Record, ours: Option<&Record>) -> Result<Source, IndexError> {
        let Some(entry) = &record.entry else { return Ok(Source::None) };
        let Some((content, size)) = entry.content() else { return Ok(Source::None) };
        if let Some(group) = entry.group()
            && let Some(row) = self.index.link_of(record, group)?
        {
            return Ok(Source::LinkTo(row.record.path));
        }
        // Applies are carried out in order: a name that is on its way is there by then.
        let coming =
            |(path, other): &(&RelPath, &Entry)| **path != record.path && other.same(entry);
        if entry.group().is_some()
            && let Some((path, _)) = self.linking.iter().find(coming)
        {
            return Ok(Source::LinkTo(path.clone()));
        }
        let ours = ours.and_then(|ours| ours.entry.as_ref());
        if ours.is_some_and(|ours| ours.same_kind_content(entry)) {
            return Ok(Source::None);
        }
        if size == 0 {
            return Ok(Source::Inline(Arc::default()));
        }
        Ok(self.shelf.find(&record.path, content).map_or(Source::Staged, Source::Inline))
    }

    /// Applies came back.
    pub(super) fn applied(
        &mut self,
        outcomes: Vec<(RelPath, disk::Outcome)>,
    ) -> Result<(), IndexError> {
        self.applying -= outcomes.len();
        self.turn.applied = true;
        for (path, outcome) in outcomes {
            self.index.unjournal(&path)?;
            self.linking.remove(&path);
            let outcome = match outcome {
                disk::Outcome::Busy => Outcome::Busy,
                disk::Outcome::Changed => Outcome::Changed,
                disk::Outcome::ContentMissing => Outcome::ContentMissing,
                disk::Outcome::Done { signature } => {
                    self.refresh_links(&path, signature)?;
                    Outcome::Done(signature)
                }
                disk::Outcome::Failed { reason, .. } => Outcome::Failed(reason),
                disk::Outcome::NotEmpty => Outcome::NotEmpty,
                disk::Outcome::ParentMissing => Outcome::ParentMissing,
            };
            self.input(Input::Applied { path, outcome })?;
        }
        if std::mem::take(&mut self.turn.kept) {
            self.shared.import_kept(&self.place.name);
        }
        Ok(())
    }

    /// Another name changes what `stat` says of all names of a file.
    fn refresh_links(
        &mut self,
        path: &RelPath,
        signature: Option<Signature>,
    ) -> Result<(), IndexError> {
        let Some(signature) = signature.filter(|signature| signature.links > 1) else {
            return Ok(());
        };
        self.index.begin()?;
        for row in self.index.with_inode(signature.inode)? {
            let is_file = row.record.entry.as_ref().is_some_and(|e| e.content().is_some());
            if is_file && row.record.path != *path {
                self.index.refresh(&row.record.path, signature)?;
            }
        }
        Ok(())
    }

    fn fetch(
        &mut self,
        path: RelPath,
        content: ContentId,
        size: u64,
        peers: Vec<NodeId>,
        lane: Lane,
    ) -> Result<(), IndexError> {
        let rows = self.index.with_content(content, COPY_CANDIDATES)?;
        let from: Vec<_> = rows.into_iter().map(|row| row.record.path).collect();
        self.plan_fetch(&path, peers, lane);
        if self.comes_from_here(&path, &from) {
            return self.input(Input::Fetched { path, content, result: Ok(()) });
        }
        if from.is_empty() {
            return self.copied(path, content, size, false);
        }
        drop(self.workers.jobs.send(Job::Copy { path, content, size, from }));
        Ok(())
    }

    /// Local files were tried as a source.
    pub(super) fn copied(
        &mut self,
        path: RelPath,
        content: ContentId,
        size: u64,
        done: bool,
    ) -> Result<(), IndexError> {
        if done {
            return self.input(Input::Fetched { path, content, result: Ok(()) });
        }
        self.fetch_from_peer(path, content, size);
        Ok(())
    }

    /// Commits the turn and hands out what it has collected.
    pub(super) fn end_turn(&mut self) -> Result<(), IndexError> {
        self.note_done()?;
        if self.scanned && !self.index.is_scanned()? && self.engine.is_scanned() {
            self.input(Input::Scanned)?;
            self.index.set_scanned()?;
        }
        self.index.commit()?;
        self.turn.live_dirs.clear();
        let requests = std::mem::take(&mut self.turn.requests);
        if std::mem::take(&mut self.turn.applied) && self.applying == 0 {
            self.boot.clear();
        }
        self.applying += requests.len();
        for requests in self.groups(requests, limits::APPLY_GROUP_MAX) {
            drop(self.workers.groups.send(Group { requests }));
        }
        let reads = moves::in_pairs(std::mem::take(&mut self.turn.reads));
        let mut reads = reads.into_iter().peekable();
        while reads.peek().is_some() {
            let looks = reads.by_ref().take(LOOKS_PER_JOB).collect();
            drop(self.workers.jobs.send(Job::Read(looks)));
        }
        self.ask_again();
        self.send_fresh()?;
        self.pump_all()?;
        self.send_done();
        self.tell_state(false);
        self.check_waiters()?;
        // Until the engine is through with what they hinted, no more directories are listed.
        while self.turn.listings > 0 && self.engine.pending().0 < limits::DIRTY_MAX {
            self.turn.listings -= 1;
            self.workers.gate.leave();
        }
        Ok(())
    }
}
