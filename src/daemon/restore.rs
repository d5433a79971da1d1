//! Puts things from the trash of this node back into a mount, as edits made here.
//!
//! In: where they lie and where they go, from a command, here or on another node. Out: how each ended.
//! They are applied like what comes from a peer, then looked at like what an application wrote: so
//! they are mirrored as any other edit. It must never replace what is at a path unless it was told
//! to, and what it replaces goes to the trash.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::actor::Event;
use super::ask::Question;
use super::trash::RESTORE;
use super::verify::{ask, call, closing, encode, garbled, within};
use super::{ActorHandle, Shared};
use crate::control::types::{
    Refusal, RefusalKind, TrashOutcome, TrashRestoreReply, TrashRestoreRequest, TrashRestored,
    TrashTarget,
};
use crate::disk::{self, ApplyRequest, Displaced, Source, TrashNote, TrashPlace};
use crate::engine::{Hint, HintKind};
use crate::model::{Entry, Found, Kind, Mtime, NodeId, RelPath};

/// Things restored at a time at most: one durability point.
pub(super) const ITEMS_MAX: usize = 256;

/// How long a node may take, and how many bytes it copies in a second more.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
const BYTES_PER_SECOND: u64 = 4 << 20;

/// What is asked of another node.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Request {
    mount: String,
    to_mount: String,
    replace: bool,
    items: Vec<TrashTarget>,
}

/// Answers another node. May block.
pub(super) fn answer(shared: &Shared, body: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let request: Request = serde_json::from_slice(body).map_err(|_| "bad request".to_owned())?;
    let results = restore_here(shared, &request)?;
    Ok(vec![encode(&TrashRestoreReply { results })])
}

/// Has the node do it in whose trash the things lie.
pub(super) async fn restore(
    shared: &Arc<Shared>,
    request: TrashRestoreRequest,
) -> Result<TrashRestoreReply, Refusal> {
    let TrashRestoreRequest { node, mount, to_mount, replace, items } = request;
    let names = shared.names();
    let id = names.iter().find(|(_, name)| **name == node).map(|(id, _)| *id);
    let unknown = || Refusal::new(RefusalKind::NotFound, format!("there is no node \"{node}\""));
    let id = id.ok_or_else(unknown)?;
    if items.len() > ITEMS_MAX {
        let text = format!("cannot restore more than {ITEMS_MAX} things at a time");
        return Err(Refusal::new(RefusalKind::Invalid, text));
    }
    let bytes = items.iter().fold(0, |sum: u64, item| sum.saturating_add(item.bytes));
    let limit = ANSWER_LIMIT + Duration::from_secs(bytes / BYTES_PER_SECOND);
    let asked = Request { mount, to_mount, replace, items };
    let (looking, here) = (shared.clone(), id == shared.node);
    let work = tokio::task::spawn_blocking(move || match here {
        true => (restore_here(&looking, &asked), asked),
        false => (Ok(there_here(&looking, &asked)), asked),
    });
    let done = match work.await {
        Ok((Ok(known), asked)) if !here => elsewhere(shared, id, asked, known, limit).await,
        Ok((done, _)) => done,
        Err(_) => Err("restoring failed".to_owned()),
    };
    let failed = |error| {
        let text = format!("cannot restore from the trash of {node}: {error}");
        let hint = format!("run the same command on {node}");
        Refusal::new(RefusalKind::Failed, text).with_hint(hint)
    };
    Ok(TrashRestoreReply { results: done.map_err(failed)? })
}

/// What ends already because of what is on this node: the other one may not know of it yet.
fn there_here(shared: &Shared, asked: &Request) -> Vec<TrashRestored> {
    let actor = shared.actor(&asked.to_mount).filter(|_| !asked.replace);
    let look = |item: &TrashTarget| {
        let bytes = data_encoding::HEXLOWER.decode(item.path_bytes.as_bytes()).ok()?;
        let path = RelPath::parse(&bytes).ok()?;
        let there = disk::peek(&actor.as_ref()?.mount, &path).ok()??;
        let time = jiff::Timestamp::new(there.mtime.secs, there.mtime.nanos.cast_signed()).ok();
        let same =
            there.kind == item.kind && there.bytes == item.bytes && time == Some(item.modified);
        let outcome = match same || (there.kind, &*item.kind) == ("directory", "directory") {
            true => TrashOutcome::Same,
            false => TrashOutcome::Exists,
        };
        let reason = (!same).then(|| format!("a {} is there", there.kind));
        Some(TrashRestored { path: path.to_string(), outcome, reason })
    };
    let unknown =
        || TrashRestored { path: String::new(), outcome: TrashOutcome::Gone, reason: None };
    asked.items.iter().map(|item| look(item).unwrap_or_else(unknown)).collect()
}

/// Has another node do what is not done by what is `known` here.
async fn elsewhere(
    shared: &Shared,
    id: NodeId,
    mut asked: Request,
    mut known: Vec<TrashRestored>,
    limit: Duration,
) -> Result<Vec<TrashRestored>, String> {
    let open: Vec<_> = (0..known.len()).filter(|&at| known[at].path.is_empty()).collect();
    if open.is_empty() {
        return Ok(known);
    }
    asked.items = open.iter().filter_map(|&at| asked.items.get(at).cloned()).collect();
    let pieces = within(limit, call(shared, id, RESTORE, &asked)).await?;
    let [reply] = &pieces[..] else { return Err(garbled()) };
    let reply: TrashRestoreReply = serde_json::from_slice(reply).map_err(|_| garbled())?;
    if reply.results.len() != open.len() {
        return Err(garbled());
    }
    open.into_iter().zip(reply.results).for_each(|(at, result)| known[at] = result);
    Ok(known)
}

/// One thing, until it is applied.
enum Step {
    /// It has ended already.
    Ended(TrashOutcome, Option<String>),
    /// Request of this number.
    Asked(usize),
}

/// What is restored in one go, into one mount.
struct Work {
    from: Arc<ActorHandle>,
    to: Arc<ActorHandle>,
    replace: bool,
    requests: Vec<ApplyRequest>,
    /// Directories that are there once the requests are done.
    made: BTreeSet<RelPath>,
    /// Where removed directories lie, looked up once one is missing.
    dirs: Option<BTreeMap<Vec<u8>, TrashPlace>>,
}

fn restore_here(shared: &Shared, request: &Request) -> Result<Vec<TrashRestored>, String> {
    let open = |name: &str| {
        let actor = shared.actor(name).ok_or_else(|| format!("mount \"{name}\" is not open"))?;
        let marker = disk::MarkerId(shared.members().mount_id(name).0);
        match actor.mount.check_identity(marker) {
            Ok(()) => Ok(actor),
            Err(error) => Err(format!("mount \"{name}\": {}", super::chain(&error))),
        }
    };
    let mut work = Work {
        from: open(&request.mount)?,
        to: open(&request.to_mount)?,
        replace: request.replace,
        requests: Vec::new(),
        made: BTreeSet::new(),
        dirs: None,
    };
    let mut steps = Vec::new();
    for item in request.items.iter().take(ITEMS_MAX) {
        let bytes = data_encoding::HEXLOWER.decode(item.path_bytes.as_bytes()).ok();
        let path = bytes.and_then(|bytes| RelPath::parse(&bytes).ok()).ok_or("bad request")?;
        let place = data_encoding::HEXLOWER.decode(item.place.as_bytes()).ok();
        let place = place.and_then(|bytes| TrashPlace::parse(&bytes)).ok_or("bad request")?;
        let step = work
            .prepare(&path, &place)
            .unwrap_or_else(|reason| Step::Ended(TrashOutcome::Failed, Some(reason)));
        steps.push((path, step));
    }
    let outcomes = disk::apply_group(&work.to.mount, &work.requests, |_| {});
    // Made directories first: their children are told of only after them.
    let hint =
        |request: &ApplyRequest| Hint { path: request.path.clone(), kind: HintKind::Differs };
    work.to.inbox.push(Event::Hinted(work.requests.iter().map(hint).collect()));
    let told = |(path, step): (RelPath, Step)| {
        let (outcome, reason) = match step {
            Step::Ended(outcome, reason) => (outcome, reason),
            Step::Asked(at) => ended(&outcomes[at]),
        };
        TrashRestored { path: path.to_string(), outcome, reason }
    };
    Ok(steps.into_iter().map(told).collect())
}

fn ended(outcome: &disk::Outcome) -> (TrashOutcome, Option<String>) {
    let failed = |reason: &str| (TrashOutcome::Failed, Some(reason.to_owned()));
    match outcome {
        disk::Outcome::Done { .. } => (TrashOutcome::Restored, None),
        disk::Outcome::Changed => {
            (TrashOutcome::Exists, Some("it was changed in that moment".to_owned()))
        }
        disk::Outcome::Busy => failed("a program has it open for writing"),
        disk::Outcome::ContentMissing => failed("its content was not staged"),
        disk::Outcome::NotEmpty => failed("a directory that is not empty is there"),
        disk::Outcome::ParentMissing => failed("its directory could not be made"),
        disk::Outcome::Failed { reason, .. } => failed(reason),
    }
}

impl Work {
    /// Stages one thing and asks for it to be placed.
    fn prepare(&mut self, path: &RelPath, place: &TrashPlace) -> Result<Step, String> {
        if path.is_root() {
            return Err("the mount itself is not restored".to_owned());
        }
        let lies = disk::peek_trashed(&self.from.mount, place).map_err(|e| e.reason())?;
        let Some(lies) = lies else { return Ok(Step::Ended(TrashOutcome::Gone, None)) };
        let there = disk::peek(&self.to.mount, path).map_err(|e| super::chain(&e))?;
        if let Some(there) = there {
            let same = lies == there || lies.kind == "directory" && there.kind == "directory";
            if same || self.made.contains(path) {
                return Ok(Step::Ended(TrashOutcome::Same, None));
            }
            if !self.replace {
                let reason = format!("a {} is there", there.kind);
                return Ok(Step::Ended(TrashOutcome::Exists, Some(reason)));
            }
        } else if self.made.contains(path) {
            return Ok(Step::Ended(TrashOutcome::Restored, None));
        }
        let expected = if there.is_some() { Some(self.current(path)?) } else { None };
        self.make_parents(path)?;
        let taken = disk::take_trashed(&self.from.mount, place, &self.to.mount);
        let Some((target, source)) = taken.map_err(|e| e.reason())? else {
            return Ok(Step::Ended(TrashOutcome::Gone, None));
        };
        let displaced = match &expected {
            Some(_) => Displaced::Trash(self.note(path)?),
            None => Displaced::Drop,
        };
        if target.is_dir() {
            self.made.insert(path.clone());
        }
        Ok(self.ask(path, target, expected, source, displaced))
    }

    fn ask(
        &mut self,
        path: &RelPath,
        target: Entry,
        expected: Option<(Entry, crate::model::Signature)>,
        source: Source,
        displaced: Displaced,
    ) -> Step {
        self.requests.push(ApplyRequest {
            path: path.clone(),
            target: Some(target),
            expected,
            source,
            displaced,
            even_if_open: true,
        });
        Step::Asked(self.requests.len() - 1)
    }

    /// What is there now, to be replaced.
    fn current(&self, path: &RelPath) -> Result<(Entry, crate::model::Signature), String> {
        let request = disk::ReadRequest { path, known: None, moved: None, even_if_open: true };
        match disk::read(&self.to.mount, &request) {
            Found::Entry { entry, .. } if entry.is_dir() => {
                Err("a directory is there; it is not replaced".to_owned())
            }
            Found::Entry { entry, signature, .. } => Ok((entry, signature)),
            Found::Special(what) => Err(format!("{what} is there; it is not replaced")),
            Found::Failed(reason) => Err(reason),
            _ => Err("it was changed in that moment; try again".to_owned()),
        }
    }

    /// What is written down of what is there now.
    fn note(&self, path: &RelPath) -> Result<TrashNote, String> {
        let note = ask(&self.to, |reply| Question::Replaced(path.clone(), reply));
        note.blocking_recv().map_err(|_| closing())
    }

    /// Has missing directories made: as they were, if they are in the trash, else like the one above.
    fn make_parents(&mut self, path: &RelPath) -> Result<(), String> {
        let mut missing = Vec::new();
        let mut above = path.parent();
        while let Some(dir) = above.filter(|dir| !dir.is_root() && !self.made.contains(dir)) {
            match disk::peek(&self.to.mount, &dir).map_err(|e| super::chain(&e))? {
                Some(there) if there.kind == "directory" => break,
                Some(there) => return Err(format!("{dir} is a {}", there.kind)),
                None => missing.push(dir.clone()),
            }
            above = dir.parent();
        }
        for dir in missing.into_iter().rev() {
            let target = match self.removed_dir(&dir)? {
                Some(entry) => entry,
                None => self.like_above(&dir)?,
            };
            self.made.insert(dir.clone());
            let _asked: Step = self.ask(&dir, target, None, Source::None, Displaced::Drop);
        }
        Ok(())
    }

    fn removed_dir(&mut self, dir: &RelPath) -> Result<Option<Entry>, String> {
        if self.dirs.is_none() {
            let mut all = disk::trashed(&self.from.mount).map_err(|e| e.reason())?;
            all.sort_by_key(|one| one.secs);
            let mut dirs = BTreeMap::new();
            for one in all.into_iter().filter(|one| one.is_whole && one.removed == Some(true)) {
                let peek = disk::peek_trashed(&self.from.mount, &one.place);
                if peek.is_ok_and(|peek| peek.is_some_and(|peek| peek.kind == "directory")) {
                    dirs.insert(one.path, one.place);
                }
            }
            self.dirs = Some(dirs);
        }
        let place = self.dirs.as_ref().and_then(|dirs| dirs.get(dir.as_bytes()));
        let Some(place) = place else { return Ok(None) };
        let taken = disk::take_trashed(&self.from.mount, place, &self.to.mount);
        Ok(taken.map_err(|e| e.reason())?.map(|(entry, _)| entry))
    }

    /// A directory with mode, owner and attributes of the one it is in, made now.
    fn like_above(&self, dir: &RelPath) -> Result<Entry, String> {
        let above = dir.parent().unwrap_or_else(RelPath::root);
        let asked = self.requests.iter().rev().find(|request| request.path == above);
        let mut meta = match asked.and_then(|request| request.target.clone()) {
            Some(entry) => entry.meta,
            None => {
                let request = disk::ReadRequest {
                    path: &above,
                    known: None,
                    moved: None,
                    even_if_open: true,
                };
                match disk::read(&self.to.mount, &request) {
                    Found::Entry { entry, .. } => entry.meta,
                    _ => return Err(format!("{above} cannot be looked at")),
                }
            }
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let secs = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        meta.mtime = Mtime { secs, nanos: now.subsec_nanos() };
        Ok(Entry { kind: Kind::Dir, meta })
    }
}
