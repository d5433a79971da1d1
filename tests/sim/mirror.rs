//! Carries out an engine's outputs on the modelled disk, index and network, as the daemon does.
//! It is longer than 500 lines because it mirrors one loop of the daemon, output by output.

use trefoil::engine::clock::Now;
use trefoil::engine::{
    Announced, Class, Considered, Displaced, Engine, Hint, HintKind, Input, Outcome, Output, Seen,
};
use trefoil::model::{
    ContentId, Entry, Found, Kind, Lane, NodeId, Record, RelPath, Sequence, Signature,
};

use crate::disk::{Body, Content, Inode};
use crate::node::Node;
use crate::trace::show;
use crate::world::{Event, MS, SECOND, World};

/// Paths below a directory that is gone which are looked at at a time.
const SWEPT_MAX: usize = 3;

/// Work for the disk or the network that was handed out.
#[derive(Debug, Clone)]
pub enum Task {
    Read { path: RelPath, even_if_open: bool, known: Option<Signature> },
    List(RelPath),
    Fetch { path: RelPath, content: ContentId, peers: Vec<NodeId> },
}

/// An apply of the group.
#[derive(Debug, Clone)]
pub struct Job {
    pub record: Record,
    pub ours: Option<Record>,
    pub signature: Option<Signature>,
    pub displaced: Displaced,
    pub even_if_open: bool,
}

/// What comes to the control thread; completed with what the index says when its turn comes.
#[derive(Debug, Clone)]
pub enum Feed {
    Hints(Vec<Hint>),
    Seen {
        path: RelPath,
        found: Found,
    },
    /// What a listing saw.
    Listing {
        dir: RelPath,
        /// Nothing if the mount was away: then it says nothing.
        seen: Option<Vec<(RelPath, Signature)>>,
        task: Task,
    },
    Announced(Box<Announcement>),
    Progress {
        peer: NodeId,
        lane: Lane,
        sequence: Sequence,
    },
    Fetched {
        path: RelPath,
        content: ContentId,
        result: Result<(), String>,
    },
    Applied {
        path: RelPath,
        outcome: Outcome,
    },
    Journaled {
        record: Record,
        visible: bool,
    },
    Plain(Input),
    Tick,
}

#[derive(Debug, Clone)]
pub struct Announcement {
    pub peer: NodeId,
    pub lane: Lane,
    pub sequence: Sequence,
    pub after: Option<Sequence>,
    pub record: Record,
    pub content: bool,
}

impl World {
    /// One batch of inputs, its outputs, and its commit.
    pub fn feed(&mut self, at: usize, feeds: Vec<Feed>) {
        let Some(mut engine) = self.nodes[at].engine.take() else { return };
        let now = self.clock(at);
        for feed in feeds {
            for input in self.complete(at, feed) {
                self.note_input(at, &input);
                engine.handle(now, input);
                self.carry_out(at, &mut engine, now);
            }
        }
        if self.nodes[at].scanning && !self.nodes[at].scan_cut && engine.is_scanned() {
            self.nodes[at].scanning = false;
            self.nodes[at].index.joining = false;
            engine.handle(now, Input::Scanned);
            self.carry_out(at, &mut engine, now);
        }
        self.commit(at, &engine);
        let next = engine.next_tick_ms();
        self.check_bounds(at, &engine);
        self.nodes[at].engine = Some(engine);
        if self.nodes[at].outdated {
            self.begin_anew(at);
            return;
        }
        self.schedule_tick(at, next);
        self.start_applying(at);
        for other in 0..self.nodes.len() {
            if other != at {
                self.pump(at, other);
            }
        }
        self.ask_again(at);
    }

    /// Links anew those whose announcements were let go, now or when it is time.
    fn ask_again(&mut self, at: usize) {
        let now = self.clock(at);
        for other in (0..self.nodes.len()).filter(|&other| other != at) {
            let id = self.nodes[other].id;
            let engine = self.nodes[at].engine.as_ref().filter(|_| self.is_up(at, other));
            let Some(asks_at) = engine.and_then(|engine| engine.asks_at_ms(id)) else { continue };
            if engine.is_some_and(|engine| engine.asks_again(now, id)) {
                let (a, b) = (at.min(other), at.max(other));
                self.note(|_| format!("n{at} asks n{other} again"));
                self.disconnect(a, b);
                self.connect(a, b);
            } else {
                self.schedule_tick(at, Some(asks_at));
            }
        }
    }

    fn schedule_tick(&mut self, at: usize, next: Option<u64>) {
        let Some(next) = next else { return };
        let next = next.max(self.now / MS + 1);
        let node = &mut self.nodes[at];
        if node.tick_at.is_none_or(|tick| tick > next) {
            node.tick_at = Some(next);
            let life = node.life;
            self.schedule_at(next * MS, Event::Tick { node: at, life, at_ms: next });
        }
    }

    fn commit(&mut self, at: usize, engine: &Engine) {
        for (&peer, &incarnation) in &self.nodes[at].heard.clone() {
            let id = self.nodes[peer].id;
            self.nodes[at].index.set_cursors(id, incarnation, engine.done(id));
            self.nodes[at].index.set_arrived(id, incarnation, engine.received(id));
        }
        self.nodes[at].index.commit();
    }

    fn complete(&mut self, at: usize, feed: Feed) -> Vec<Input> {
        let one = match feed {
            Feed::Hints(hints) => {
                let told = hints.iter().map(|hint| (hint.path.clone(), self.now));
                self.nodes[at].hinted.extend(told);
                Input::Hinted(hints)
            }
            Feed::Seen { path, found } => Input::Seen(Box::new(self.seen(at, path, found))),
            Feed::Listing { dir, seen, task } => return self.listed(at, dir, seen, &task),
            Feed::Announced(announcement) => {
                let Announcement { peer, lane, sequence, after, record, content } = *announcement;
                let ours = self.nodes[at].index.record(&record.path).cloned();
                let theirs = record;
                let announced = Announced { peer, lane, sequence, after, theirs, content, ours };
                Input::Announced(Box::new(announced))
            }
            Feed::Progress { peer, lane, sequence } => Input::Progress { peer, lane, sequence },
            Feed::Fetched { path, content, result } => Input::Fetched { path, content, result },
            Feed::Applied { path, outcome } => {
                self.nodes[at].index.forget_apply(&path);
                Input::Applied { path, outcome }
            }
            Feed::Journaled { record, visible } => {
                if visible {
                    self.nodes[at].index.forget_apply(&record.path);
                }
                Input::Journaled { record, visible }
            }
            Feed::Plain(input) => input,
            Feed::Tick => Input::Tick,
        };
        vec![one]
    }

    fn seen(&self, at: usize, path: RelPath, found: Found) -> Seen {
        let index = &self.nodes[at].index;
        let ours = index.record(&path).cloned();
        let parent_live = path.parent().is_some_and(|parent| index.is_live_dir(&parent));
        let has_children = index.live_below(&path).next().is_some();
        let group = match &found {
            Found::Entry { signature, .. } => index
                .rows
                .values()
                .filter(|row| row.signature.is_some_and(|s| s.inode == signature.inode))
                .filter(|row| row.record.is_live())
                .find_map(|row| row.record.entry.as_ref().and_then(Entry::group)),
            _ => None,
        };
        let gone = ours.as_ref().filter(|_| found == Found::Absent);
        let elsewhere = gone.is_some_and(|ours| index.is_elsewhere(ours));
        let files = index.files();
        Seen { path, found, ours, parent_live, has_children, group, elsewhere, files }
    }

    /// Compares a listing with the index: new, changed and missing paths are hinted.
    fn listed(
        &mut self,
        at: usize,
        dir: RelPath,
        seen: Option<Vec<(RelPath, Signature)>>,
        task: &Task,
    ) -> Vec<Input> {
        let Some(seen) = seen else { return vec![Input::Listed(dir)] };
        let index = &self.nodes[at].index;
        let differs = |path: &RelPath, signature: &Signature| {
            let row = index.rows.get(path).filter(|row| row.record.is_live());
            let known = row.and_then(|row| row.signature);
            known.is_none_or(|known| known.racy || !known.unchanged(signature))
        };
        let there: std::collections::BTreeSet<_> = seen.iter().map(|(path, _)| path).collect();
        // What is below a directory that is missing is left to the look at that.
        let listed = |path: &RelPath| path.parent().is_some_and(|p| p == dir || there.contains(&p));
        let missing = index.live_below(&dir).map(|row| row.record.path.clone());
        // The end of a whole scan also looks for those whose directory is not known.
        let orphan = |path: &RelPath| {
            let live = path.parent().is_some_and(|p| p.is_root() || index.is_live_dir(&p));
            dir.is_root() && !live
        };
        let missing = missing.filter(|p| !there.contains(p) && (listed(p) || orphan(p)));
        let gone = missing.map(|path| Hint { path, kind: HintKind::Gone });
        let changed = seen.iter().filter(|(path, signature)| differs(path, signature));
        let changed = changed.map(|(p, _)| Hint { path: p.clone(), kind: HintKind::Differs });
        let hints = gone.chain(changed).collect();
        let mut inputs = vec![Input::Hinted(hints)];
        if let Task::List(_) = task {
            inputs.push(Input::Listed(dir));
        }
        inputs
    }

    fn carry_out(&mut self, at: usize, engine: &mut Engine, now: Now) {
        while let Some(output) = engine.poll_output() {
            self.note_output(at, &output);
            match output {
                Output::Read { path, even_if_open } => {
                    self.check_read(at, &path, even_if_open);
                    let row = self.nodes[at].index.rows.get(&path);
                    let row = row.filter(|row| row.record.is_live());
                    let known = row.and_then(|row| row.signature).filter(|s| !s.racy);
                    self.hand_out(at, Task::Read { path, even_if_open, known });
                }
                Output::Outdated(peer) => self.outdated(at, peer),
                Output::Guard(classes) => self.nodes[at].index.held_classes = classes,
                Output::List(dir) => self.hand_out(at, Task::List(dir)),
                Output::Sweep(dir) => {
                    let live = self.nodes[at].index.live_below(&dir);
                    let mut paths: Vec<_> = live.map(|row| row.record.path.clone()).collect();
                    paths.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
                    for path in paths.into_iter().take(SWEPT_MAX) {
                        self.note_input(at, &Input::Swept(path.clone()));
                        engine.handle(now, Input::Swept(path));
                    }
                }
                Output::Consider { path, children_max } => {
                    let considered = self.considered(at, path, children_max);
                    engine.handle(now, Input::Considered(Box::new(considered)));
                }
                Output::Store { record, signature, from } => {
                    self.check_store(at, &record, from);
                    let policy = self.policy.clone();
                    let node = &mut self.nodes[at];
                    let was = node.index.store(&policy, record, signature, from, now);
                    if let Some((lane, old)) = was {
                        let new = node.index.head;
                        node.out.values_mut().for_each(|out| out.moved(lane, old, new));
                    }
                }
                Output::Refresh { path, signature } => {
                    self.nodes[at].index.refresh(&path, signature);
                }
                Output::Fetch { path, content, peers, .. } => {
                    self.hand_out(at, Task::Fetch { path, content, peers });
                }
                Output::Apply { record, ours, displaced, even_if_open } => {
                    if self.nodes[at].paused || self.nodes[at].halted {
                        self.fail(format!("n{at} goes on while it is stopped: {}", show(&record)));
                    }
                    let node = &mut self.nodes[at];
                    let signature = node.index.rows.get(&record.path).and_then(|row| row.signature);
                    node.index.note_apply(record.clone());
                    node.group.push_back(Job { record, ours, signature, displaced, even_if_open });
                }
                Output::Finished(path) => {
                    self.nodes[at].shelf.retain(|(other, _)| *other != path);
                    self.nodes[at].index.forget_apply(&path);
                }
            }
        }
    }

    fn considered(&self, at: usize, path: RelPath, children_max: usize) -> Considered {
        let index = &self.nodes[at].index;
        let ours = index.record(&path).cloned();
        let parent_live = path.parent().is_some_and(|parent| index.is_live_dir(&parent));
        let is_child = |row: &&crate::index::Row| row.record.path.parent().as_ref() == Some(&path);
        let children = index.live_below(&path).filter(is_child).take(children_max).count();
        Considered { path, ours, parent_live, children }
    }

    pub fn hand_out(&mut self, at: usize, task: Task) {
        let slow = self.rng.chance(5);
        let wait = if slow { self.rng.below(3 * SECOND) } else { self.rng.below(30 * MS) };
        let life = self.nodes[at].life;
        self.schedule(wait, Event::Look { node: at, life, task });
    }

    pub fn look(&mut self, at: usize, task: Task) {
        let wall_ns = self.wall_ns(at);
        let node = &mut self.nodes[at];
        let feed = match task {
            Task::Read { path, even_if_open, known } => {
                let open = node.disk.at(&path).filter(|inode| inode.writers > 0);
                let open = open.and_then(Inode::content).map(|content| content.id);
                let found = if node.halted {
                    Found::Unstable
                } else {
                    look_at(node, &path, even_if_open, known, wall_ns)
                };
                let failed = node.failing && self.rng.chance(30);
                let reason = || Found::Failed("cannot open: input/output error".to_owned());
                if let (Some(content), Found::Entry { .. }) = (open, &found) {
                    self.taken_open(content);
                }
                if failed {
                    self.ledger.unreadable.insert((at, path.clone()));
                }
                Feed::Seen { path, found: if failed { reason() } else { found } }
            }
            Task::List(ref dir) => {
                node.scan_cut |= node.halted;
                let seen = (!node.halted).then(|| list(node, &self.policy, dir, wall_ns));
                Feed::Listing { dir: dir.clone(), seen, task }
            }
            Task::Fetch { path, content, peers } => self.fetch(at, path, content, &peers),
        };
        // A barrier's look is answered after what the watcher had noticed by then.
        if let Feed::Seen { path, .. } = &feed
            && self.policy.class(path) == Class::Barrier
        {
            self.flush_hints(at);
        }
        let wait = if self.rng.chance(5) { SECOND } else { 20 * MS };
        let wait = self.rng.below(wait);
        let life = self.nodes[at].life;
        self.schedule(wait, Event::Answer { node: at, life, feeds: vec![feed] });
    }

    fn fetch(&mut self, at: usize, path: RelPath, content: ContentId, peers: &[NodeId]) -> Feed {
        let told = peers.iter().filter_map(|&id| self.node_of(id));
        let anybody = (0..self.nodes.len()).filter(|_| peers.is_empty());
        let mut from = told.chain(anybody).filter(|&other| self.is_up(at, other));
        let has = |other: usize| self.nodes[other].disk.holds(content);
        // Files that are here are tried first, and then one of the others.
        let result = if has(at) || from.next().is_some_and(has) {
            self.nodes[at].shelf.insert((path.clone(), content));
            Ok(())
        } else {
            Err("cannot fetch: who was asked does not have it".to_owned())
        };
        Feed::Fetched { path, content, result }
    }

    fn start_applying(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        if !node.applying && !node.group.is_empty() {
            node.applying = true;
            self.schedule_apply(at);
        }
    }

    fn schedule_apply(&mut self, at: usize) {
        let slow = self.rng.chance(4);
        let wait = if slow { self.rng.below(SECOND) } else { self.rng.below(8 * MS) };
        let life = self.nodes[at].life;
        self.schedule(wait, Event::Apply { node: at, life });
    }

    /// Does one apply; the outcomes of a group come back together.
    pub fn apply_next(&mut self, at: usize) {
        let Some(job) = self.nodes[at].group.pop_front() else { return };
        let outcome = self.apply(at, &job);
        self.note(|_| {
            let text = match &outcome {
                Outcome::Done(_) => "done".to_owned(),
                other => format!("{other:?}"),
            };
            format!("n{at} applied {} {text}", show(&job.record))
        });
        if matches!(outcome, Outcome::Done(_)) {
            self.nodes[at].visible.insert(job.record.path.clone(), job.record.version.clone());
        }
        if matches!(outcome, Outcome::Done(_)) && self.dies(at, &job.record.path) {
            return;
        }
        let path = job.record.path;
        self.nodes[at].done.push(Feed::Applied { path, outcome });
        let node = &mut self.nodes[at];
        if node.group.is_empty() || node.done.len() >= 8 {
            let feeds = std::mem::take(&mut node.done);
            // Outcomes come back in the order of the applies.
            node.answer_at = node.answer_at.max(self.now + self.rng.below(30 * MS));
            let (life, when) = (node.life, node.answer_at);
            self.schedule_at(when, Event::Answer { node: at, life, feeds });
        }
        self.nodes[at].applying = !self.nodes[at].group.is_empty();
        if self.nodes[at].applying {
            self.schedule_apply(at);
        }
    }

    fn apply(&mut self, at: usize, job: &Job) -> Outcome {
        let wall_ns = self.wall_ns(at);
        if self.nodes[at].halted {
            return Outcome::Failed("cannot rename: the mount is away".to_owned());
        }
        if self.nodes[at].failing && self.rng.chance(40) {
            return Outcome::Failed("cannot rename: no space left on device".to_owned());
        }
        if let Some(refusal) = refusal(&self.nodes[at], job, wall_ns) {
            return refusal;
        }
        self.check_apply(at, job);
        let time = self.kernel_time(at);
        let path = &job.record.path;
        let Some(entry) = &job.record.entry else {
            if self.nodes[at].disk.at(path).is_some() {
                let content = self.nodes[at].disk.at(path).and_then(Inode::content).map(|c| c.id);
                if let Some(content) = content.filter(|_| job.displaced == Displaced::Keep) {
                    self.check_deletion(at, path, content);
                }
                self.displace(at, path, job.displaced);
            }
            self.echo(at, path, HintKind::Gone);
            return Outcome::Done(None);
        };
        let node = &mut self.nodes[at];
        let in_place = node.disk.entry(path).is_some_and(|old| old.same_kind_content(entry));
        if !in_place {
            if node.disk.at(path).is_some() {
                self.displace(at, path, job.displaced);
            }
            let disk = &mut self.nodes[at].disk;
            disk.make(path, body_of(entry), entry.meta.mode, time);
        }
        let inode = self.nodes[at].disk.at_mut(path).expect("made");
        (inode.mode, inode.mtime, inode.ctime) = (entry.meta.mode, entry.meta.mtime, time);
        let kind = if in_place { HintKind::Attributes } else { HintKind::Moved };
        self.echo(at, path, kind);
        Outcome::Done(self.nodes[at].disk.signature(path, wall_ns))
    }

    /// Takes away what an apply replaces. A writer that still has it open is seen later.
    fn displace(&mut self, at: usize, path: &RelPath, displaced: Displaced) {
        let time = self.kernel_time(at);
        let node = &mut self.nodes[at];
        let content = node.disk.at(path).and_then(Inode::content).map(|content| content.id);
        node.disk.unlink(path, time);
        let Some(content) = content else { return };
        match displaced {
            Displaced::Keep => node.conflicts.push((path.clone(), content)),
            Displaced::Trash => node.trash.push((path.clone(), content)),
            Displaced::Drop => {}
        }
        if displaced == Displaced::Keep {
            self.check_conflict(at, path, content);
        }
    }

    /// The watcher may see what we do ourselves.
    fn echo(&mut self, at: usize, path: &RelPath, kind: HintKind) {
        if self.rng.chance(self.profile.echo_percent) {
            self.hint(at, path, kind);
        }
    }

    pub fn hint(&mut self, at: usize, path: &RelPath, kind: HintKind) {
        let node = &mut self.nodes[at];
        if node.engine.is_none()
            || node.halted
            || node.unwatched.iter().any(|dir| path.is_below(dir))
        {
            return;
        }
        let dir = path.parent().and_then(|dir| node.disk.number(&dir));
        let hint = (Hint { path: path.clone(), kind }, dir);
        if self.rng.chance(10) {
            node.hints.push(hint.clone());
        }
        if node.hints.last() != Some(&hint) {
            node.hints.push(hint);
        }
        self.schedule_flush(at);
    }

    fn schedule_flush(&mut self, at: usize) {
        if self.nodes[at].flushing {
            return;
        }
        self.nodes[at].flushing = true;
        let slow = self.rng.chance(3);
        let wait = if slow { self.rng.below(SECOND) } else { self.rng.below(10 * MS) };
        let life = self.nodes[at].life;
        self.schedule(wait, Event::Flush { node: at, life });
    }

    pub fn flush_hints(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.unwatched.clear();
        let queue = std::mem::take(&mut node.hints);
        let told = queue.into_iter().filter_map(|(hint, dir)| self.resolved(at, hint, dir));
        let hints: Vec<_> = told.collect();
        if !hints.is_empty() {
            self.feed(at, vec![Feed::Hints(hints)]);
        }
    }

    /// Where a directory's event is of when it is read: fanotify tells its directory, which may be
    /// elsewhere by then; if it is removed, this leads nowhere.
    fn resolved(&mut self, at: usize, hint: Hint, dir: Option<u64>) -> Option<Hint> {
        let Some(dir) = dir.filter(|_| !self.profile.inotify) else { return Some(hint) };
        let known = self.rng.chance(50);
        let now = self.nodes[at].disk.names_of(dir).pop()?;
        let moved = now.join(hint.path.name()).ok().filter(|_| !known);
        Some(Hint { path: moved.unwrap_or(hint.path), kind: hint.kind })
    }
}

/// Whether the disk holds what the apply assumes, and all that it needs.
fn refusal(node: &Node, job: &Job, wall_ns: u64) -> Option<Outcome> {
    let path = &job.record.path;
    let there = node.disk.at(path);
    let ours = job.ours.as_ref().and_then(|ours| ours.entry.as_ref());
    match (ours, there) {
        (None, None) => {}
        (Some(ours), Some(inode)) => {
            let now = node.disk.entry(path).expect("there");
            let known = job.signature.filter(|known| !known.racy);
            let same = if ours.is_dir() && inode.is_dir() {
                // By what was seen there: a crash may have left half of a change.
                let seen = job.signature.map_or(ours.meta.mode, |known| known.mode & 0o7777);
                seen == now.meta.mode
            } else if let Some(known) = known {
                node.disk.signature(path, wall_ns).is_some_and(|s| known.unchanged(&s))
            } else {
                ours.same_kind_content(&now) && ours.meta == now.meta
            };
            if !same {
                return Some(Outcome::Changed);
            }
        }
        _ => return Some(Outcome::Changed),
    }
    if there.is_some_and(|inode| inode.writers > 0) && !job.even_if_open {
        return Some(Outcome::Busy);
    }
    if job.record.is_live() && !node.disk.has_parent(path) {
        return Some(Outcome::ParentMissing);
    }
    let stays_dir = job.record.is_dir();
    if there.is_some_and(Inode::is_dir) && !stays_dir && !node.disk.is_empty(path) {
        return Some(Outcome::NotEmpty);
    }
    let entry = job.record.entry.as_ref()?;
    let (content, size) = entry.content()?;
    let in_place = node.disk.entry(path).is_some_and(|now| now.same_kind_content(entry));
    let shelved = size == 0 || node.shelf.contains(&(path.clone(), content));
    (!in_place && !shelved).then_some(Outcome::ContentMissing)
}

fn body_of(entry: &Entry) -> Body {
    match &entry.kind {
        Kind::Dir => Body::Dir,
        Kind::File { size, content, .. } => Body::File(Content { id: *content, size: *size }),
        Kind::Symlink { target } => Body::Link(target.clone()),
    }
}

fn look_at(
    node: &Node,
    path: &RelPath,
    even_if_open: bool,
    known: Option<Signature>,
    wall_ns: u64,
) -> Found {
    let Some(inode) = node.disk.at(path) else { return Found::Absent };
    let signature = node.disk.signature(path, wall_ns).expect("there");
    if inode.writers > 0 && !even_if_open {
        return Found::Busy;
    }
    if known.is_some_and(|known| known.unchanged(&signature)) {
        return Found::Unchanged;
    }
    let entry = node.disk.entry(path).expect("there");
    Found::Entry { entry, signature, content: None }
}

fn list(
    node: &Node,
    policy: &trefoil::engine::Policy,
    dir: &RelPath,
    wall_ns: u64,
) -> Vec<(RelPath, Signature)> {
    let below = node.disk.below(dir).into_iter();
    let seen = below.filter_map(|path| Some((node.disk.signature(&path, wall_ns)?, path)));
    seen.filter(|(_, path)| !policy.skips(path)).map(|(s, path)| (path, s)).collect()
}
