//! Takes snapshots: asks the indexes of the mounts what there is, and stores it.
//!
//! What changed since the last snapshot of this node is all that is looked at; where the last one is not known
//! any more, everything is. Nothing here writes into a mount. The control threads answer in pages and go on
//! meanwhile: what changes under a snapshot is caught up with before it is committed.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

use super::actor::Event;
use super::ask::Question;
use super::taking::Far;
use super::{ActorHandle, Shared, chain};
use crate::control::types::{Refusal, RefusalKind, SnapshotReply, SnapshotRequest, timestamp};
use crate::disk;
use crate::model::{Entry, Record, RelPath, Sequence};
use crate::snapshot::{
    Contents, Cut, Manifest, MountTree, RepositoryError, SnapshotId, TakeError, Taken, Writer,
    take, take_changes,
};

/// Records that are asked for at a time.
const PAGE: usize = 4096;

/// Changes since the last snapshot beyond which everything is looked at.
const CHANGES_MAX: usize = 200_000;

/// How often what changed meanwhile is caught up with: a mount that never rests is taken as it is then.
const PASSES_MAX: usize = 5;

/// Paths that are told of those that kept changing.
const CHANGING_TOLD: usize = 100;

/// Where the repository of a node is.
pub(super) fn folder(state: &Path) -> PathBuf {
    state.join("repository")
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub(super) enum SnapshotError {
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    #[error("mount \"{0}\" is being closed")]
    Closed(String),
}

/// A control thread does not answer any more.
#[derive(Debug, thiserror::Error)]
#[error("the mount is being closed")]
struct Closed;

/// Takes a snapshot of these mounts.
///
/// # Errors
/// Why there is none; what was stored is of use to the next one.
pub(super) fn create(
    shared: &Shared,
    mounts: &[(String, Arc<ActorHandle>)],
    request: SnapshotRequest,
) -> Result<SnapshotReply, Refusal> {
    let taken = try_create(shared, mounts, request);
    taken.map_err(|error| {
        let kind = match &error {
            SnapshotError::Repository(RepositoryError::Busy(_)) => RefusalKind::State,
            SnapshotError::Closed(_) => RefusalKind::Unavailable,
            SnapshotError::Repository(_) => RefusalKind::Failed,
        };
        Refusal::new(kind, format!("cannot take a snapshot: {}", chain(&error)))
    })
}

pub(super) fn try_create(
    shared: &Shared,
    mounts: &[(String, Arc<ActorHandle>)],
    request: SnapshotRequest,
) -> Result<SnapshotReply, SnapshotError> {
    let begin = Instant::now();
    let _turn = shared.backup.turn();
    let repository = shared.backup.repository(&shared.state)?;
    let writer = Writer::begin(&repository)?;
    let taken_ns = now_ns();
    let far = shared.backup.taking.begin();
    let trees = store(&writer, mounts, &far);
    shared.backup.taking.end();
    let trees = trees?;
    let by = shared.names().get(&shared.node).cloned().unwrap_or_default();
    let note = request.note.filter(|note| !note.is_empty());
    let manifest = Manifest { taken_ns, by, note, mounts: trees };
    let id = writer.commit(&manifest)?;
    if request.pin {
        repository.pin(writer.lock(), id, true, taken_ns)?;
    }
    let added_bytes = writer.added();
    drop(writer);
    shared.backup.wake(true);
    Ok(reply(id, &manifest, added_bytes, begin.elapsed()))
}

/// Nanoseconds since 1970.
pub(super) fn now_ns() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}

/// Stores what is in these mounts now, and notes how far that goes. Gives their trees, ordered by name.
pub(super) fn store(
    writer: &Writer<'_>,
    mounts: &[(String, Arc<ActorHandle>)],
    far: &Far,
) -> Result<Vec<MountTree>, SnapshotError> {
    // Of mounts that are not ready now, the last look stays.
    let mut cuts = writer.repository().cuts();
    let mut trees = Vec::new();
    for (name, actor) in mounts {
        let cut = Source { name, actor, writer, far }.take(cuts.get(name))?;
        trees.push(cut.tree.clone());
        cuts.insert(name.clone(), cut);
    }
    writer.flush()?;
    writer.repository().save_cuts(writer.lock(), &cuts)?;
    trees.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(trees)
}

/// Stores everything that is in these mounts now and is not in the repository, whatever was looked at before.
pub(super) fn store_whole(
    writer: &Writer<'_>,
    mounts: &[(String, Arc<ActorHandle>)],
) -> Result<(), SnapshotError> {
    for (name, actor) in mounts {
        drop(Source { name, actor, writer, far: &Far::default() }.whole()?);
    }
    writer.flush()?;
    Ok(())
}

fn reply(id: SnapshotId, manifest: &Manifest, added_bytes: u64, took: Duration) -> SnapshotReply {
    let (files, bytes) = manifest.size();
    let named = |mount: &MountTree| {
        let name = mount.name.clone();
        mount.changing.clone().into_iter().map(move |path| format!("{name}: {path}"))
    };
    let changing = manifest.mounts.iter().flat_map(named);
    let count = manifest.mounts.iter().map(|mount| mount.changing.len() as u64).sum();
    SnapshotReply {
        id: id.to_string(),
        taken: timestamp(UNIX_EPOCH + Duration::from_nanos(manifest.taken_ns)),
        state: if manifest.is_complete() { "complete" } else { "partial" }.to_owned(),
        files,
        bytes,
        added_bytes,
        took_seconds: took.as_secs_f64(),
        changing: changing.take(CHANGING_TOLD).collect(),
        changing_count: count,
    }
}

/// A place in an index.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Of which life of it.
    life: u64,
    /// Its last sequence then.
    head: u64,
}

/// A mount whose records and files are stored.
struct Source<'a> {
    name: &'a str,
    actor: &'a ActorHandle,
    writer: &'a Writer<'a>,
    far: &'a Far,
}

impl Source<'_> {
    fn closed(&self) -> SnapshotError {
        SnapshotError::Closed(self.name.to_owned())
    }

    fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Result<T, Closed> {
        let (reply, answer) = oneshot::channel();
        self.actor.inbox.push(Event::Ask(question(reply)));
        answer.blocking_recv().map_err(|_| Closed)
    }

    /// What changed after a cut, and the cut that it leads to; no changes are told if they are too many, or
    /// of another life of the index.
    fn changes(&self, after: Option<Place>) -> Result<(Place, Option<Vec<Record>>), SnapshotError> {
        let from = after.map(|place| Sequence(place.head));
        let most = CHANGES_MAX;
        let (life, head, records) = self
            .ask(|reply| Question::Since { after: from, most, reply })
            .map_err(|Closed| self.closed())?;
        let place = Place { life: life.0, head: head.0 };
        let same = after.is_some_and(|after| after.life == place.life && after.head <= place.head);
        Ok((place, records.filter(|_| same)))
    }

    fn take(&self, before: Option<&Cut>) -> Result<Cut, SnapshotError> {
        let known = before.map(|cut| Place { life: cut.life, head: cut.head });
        let (mut place, changes) = self.changes(known)?;
        let mut tree = match (before, changes) {
            (Some(before), Some(changes)) => self.update(&before.tree, changes)?,
            _ => self.whole()?.into_mount(self.name.to_owned()),
        };
        for _ in 0..PASSES_MAX {
            let (next, changes) = self.changes(Some(place))?;
            match changes {
                Some(changes) if changes.is_empty() => break,
                Some(changes) => tree = self.update(&tree, changes)?,
                // Another life has begun: everything is looked at the next time.
                None => break,
            }
            place = next;
        }
        Ok(Cut { life: place.life, head: place.head, tree })
    }

    fn update(&self, before: &MountTree, changes: Vec<Record>) -> Result<MountTree, SnapshotError> {
        let mut paths: BTreeMap<RelPath, Option<Entry>> =
            changes.into_iter().map(|record| (record.path, record.entry)).collect();
        // What could not be stored the last time is tried again.
        for path in &before.changing {
            if !paths.contains_key(path) {
                let record = self.ask(|reply| Question::Record(path.clone(), reply));
                let record = record.map_err(|Closed| self.closed())?;
                paths.insert(path.clone(), record.and_then(|record| record.entry));
            }
        }
        if paths.is_empty() {
            return Ok(before.clone());
        }
        let changed = paths.len() as u64;
        self.far.expect(changed);
        let taken = take_changes(self.writer, before, paths, self)?;
        self.far.looked(changed);
        Ok(taken.into_mount(self.name.to_owned()))
    }

    fn whole(&self) -> Result<Taken, SnapshotError> {
        let status = self.ask(Question::Status).map_err(|Closed| self.closed())?;
        self.far.expect(status.0.files);
        let mut page: std::vec::IntoIter<Record> = Vec::new().into_iter();
        let mut before: Option<RelPath> = None;
        let mut ended = false;
        let records = std::iter::from_fn(|| {
            loop {
                if let Some(record) = page.next() {
                    before = Some(record.path.clone());
                    let Some(entry) = record.entry else { continue };
                    self.far.looked(1);
                    return Some(Ok((record.path, entry)));
                }
                if ended {
                    return None;
                }
                let from = before.clone();
                let asked =
                    self.ask(|reply| Question::PageBefore { before: from, most: PAGE, reply });
                match asked {
                    Ok(records) => {
                        ended = records.len() < PAGE;
                        page = records.into_iter();
                    }
                    Err(closed) => {
                        ended = true;
                        return Some(Err(closed));
                    }
                }
            }
        });
        take(self.writer, records, self).map_err(|error| match error {
            TakeError::Repository(error) => error.into(),
            TakeError::Records(Closed) => self.closed(),
        })
    }
}

impl Contents for Source<'_> {
    fn open(&self, path: &RelPath) -> io::Result<Box<dyn Read + '_>> {
        let file = disk::open_content(&self.actor.mount, path).map_err(io::Error::other)?;
        self.far.added(self.writer.added());
        Ok(Box::new(self.far.reading(file)))
    }
}
