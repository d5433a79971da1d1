//! Which snapshots stay: pinning, removing, taking a removal back, and what a schedule of retention says.
//!
//! A removed snapshot's manifest is put aside, and its objects stay until they are collected. The last
//! snapshot that can be restored is never removed, nor is a pinned one.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::BTreeMap;
use std::fs;

use jiff::Timestamp;

use super::files::{failed, sync_folder};
use super::manifest::{Manifest, SnapshotId};
use super::mark::Mark;
use super::repository::{Lock, MARKS, REMOVED, Repository, RepositoryError, SNAPSHOTS};
use crate::engine::{Candidate, Retention, Verdict};

/// Why a snapshot stays, or does not come back.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// It is in use as the last resort.
    #[error("it is the last snapshot that can be restored")]
    Last,
    /// Its objects may be gone.
    #[error("it was removed for good")]
    Gone,
    /// Somebody wants it to stay.
    #[error("it is pinned")]
    Pinned,
    /// The repository.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

impl Repository {
    /// When the folders last changed that tell which snapshots there are.
    #[must_use]
    pub fn changed(&self) -> Vec<Option<std::time::SystemTime>> {
        let changed = |name| self.path().join(name).metadata().ok()?.modified().ok();
        [SNAPSHOTS, REMOVED, MARKS].into_iter().map(changed).collect()
    }

    /// What was decided of a snapshot.
    ///
    /// # Errors
    /// [`RepositoryError::Io`], [`RepositoryError::Format`].
    pub fn mark(&self, id: SnapshotId) -> Result<Mark, RepositoryError> {
        let path = self.path().join(MARKS).join(id.to_string());
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Mark::default());
            }
            Err(error) => return Err(failed("read", &path)(error)),
        };
        let name = path.display().to_string();
        Mark::decode(&text).map_err(|source| RepositoryError::Format { name, source })
    }

    /// What was decided of all snapshots of which anything was.
    ///
    /// # Errors
    /// [`RepositoryError::Io`], [`RepositoryError::Format`].
    pub fn marks(&self) -> Result<BTreeMap<SnapshotId, Mark>, RepositoryError> {
        let ids = self.ids_in(MARKS)?.into_iter();
        ids.map(|id| Ok((id, self.mark(id)?))).collect()
    }

    /// Notes what was decided, and does it.
    ///
    /// # Errors
    /// [`RepositoryError::Io`]: it may be half done, and [`settle`](Self::settle) does the rest.
    pub fn set_mark(&self, lock: &Lock, id: SnapshotId, mark: Mark) -> Result<(), RepositoryError> {
        let path = self.path().join(MARKS).join(id.to_string());
        self.replace(lock, mark.encode().as_bytes(), &path)?;
        self.settle_one(id, mark)
    }

    /// Does what marks say and a crash has left undone.
    ///
    /// # Errors
    /// [`RepositoryError::Io`], [`RepositoryError::Format`].
    pub fn settle(&self, _lock: &Lock) -> Result<(), RepositoryError> {
        for (id, mark) in self.marks()? {
            self.settle_one(id, mark)?;
        }
        Ok(())
    }

    fn settle_one(&self, id: SnapshotId, mark: Mark) -> Result<(), RepositoryError> {
        let [from, to] = if mark.removed { [SNAPSHOTS, REMOVED] } else { [REMOVED, SNAPSHOTS] };
        let [from, to] = [from, to].map(|folder| self.path().join(folder));
        let name = id.to_string();
        match fs::rename(from.join(&name), to.join(&name)) {
            Ok(()) => {
                sync_folder(&to)?;
                sync_folder(&from)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(failed("move the manifest to", &to)(error)),
        }
    }

    /// Removes a snapshot. Its objects stay until they are collected.
    ///
    /// # Errors
    /// [`KeepError`].
    pub fn remove(&self, lock: &Lock, id: SnapshotId, now_ns: u64) -> Result<(), KeepError> {
        let mark = self.mark(id)?;
        if mark.pinned {
            return Err(KeepError::Pinned);
        }
        let (snapshots, _) = self.snapshots()?;
        let restorable = |(_, manifest): &&(SnapshotId, Manifest)| manifest.is_restorable();
        let last = snapshots.iter().rfind(restorable).or_else(|| snapshots.last());
        if last.is_some_and(|(last, _)| *last == id) {
            return Err(KeepError::Last);
        }
        Ok(self.set_mark(lock, id, changed(mark, now_ns, |mark| mark.removed = true))?)
    }

    /// Takes a removal back.
    ///
    /// # Errors
    /// [`KeepError::Gone`], [`KeepError::Repository`].
    pub fn undelete(&self, lock: &Lock, id: SnapshotId, now_ns: u64) -> Result<(), KeepError> {
        if !self.ids_in(REMOVED)?.contains(&id) {
            return Err(KeepError::Gone);
        }
        let mark = self.mark(id)?;
        Ok(self.set_mark(lock, id, changed(mark, now_ns, |mark| mark.removed = false))?)
    }

    /// Pins a snapshot, or lets go of it.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub fn pin(
        &self,
        lock: &Lock,
        id: SnapshotId,
        pinned: bool,
        now_ns: u64,
    ) -> Result<(), RepositoryError> {
        let mark = self.mark(id)?;
        self.set_mark(lock, id, changed(mark, now_ns, |mark| mark.pinned = pinned))
    }

    /// What a schedule of retention says of each snapshot, the oldest first.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub fn judge(
        &self,
        retention: &Retention,
        now_ns: u64,
    ) -> Result<Vec<(SnapshotId, Manifest, Verdict)>, RepositoryError> {
        let (snapshots, _) = self.snapshots()?;
        let mut candidates = Vec::new();
        for (id, manifest) in &snapshots {
            candidates.push(Candidate {
                taken: time(manifest.taken_ns),
                pinned: self.mark(*id)?.pinned,
                restorable: manifest.is_restorable(),
            });
        }
        let verdicts = retention.decide(time(now_ns), &candidates);
        Ok(snapshots.into_iter().zip(verdicts).map(|((id, of), is)| (id, of, is)).collect())
    }
}

/// The mark that follows another one: later, even if the clock was set back.
fn changed(mark: Mark, now_ns: u64, change: impl FnOnce(&mut Mark)) -> Mark {
    let mut mark = Mark { changed_ns: now_ns.max(mark.changed_ns.saturating_add(1)), ..mark };
    change(&mut mark);
    mark
}

fn time(ns: u64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(ns)).unwrap_or(Timestamp::MAX)
}
