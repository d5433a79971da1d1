//! Which snapshots are shown: those that are there, looked for anew when somebody looks.
//!
//! In: the ids that are there, and manifests of those that were not known. A snapshot keeps its place in the list
//! for as long as it is there, so that a list that is read in steps has nothing twice and misses nothing that
//! stayed. A manifest that cannot be read is no snapshot, hides no other, and is told once.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::{Source, View};
use crate::model::RelPath;
use crate::snapshot::{RepositoryError, SnapshotId, TreeRef};

/// How long a look at the snapshots that are there is good for.
pub const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A snapshot as a directory.
#[derive(Debug)]
pub(super) struct Shown {
    pub id: SnapshotId,
    pub name: Box<[u8]>,
    /// In nanoseconds since 1970.
    pub taken_ns: u64,
    /// Ordered by name.
    pub mounts: Vec<(Box<[u8]>, TreeRef)>,
    may_be_latest: bool,
}

/// The snapshots that are shown.
#[derive(Debug, Default)]
pub(super) struct Roots {
    /// When they were looked for.
    looked: Option<Duration>,
    /// By their places in the list, which begin with 1.
    shown: BTreeMap<u64, Arc<Shown>>,
    next: u64,
    /// Manifests that cannot be read, which was told.
    wrong: BTreeSet<SnapshotId>,
}

impl Roots {
    /// Looks which snapshots are there, unless that was done just now. Says whether it looked.
    pub(super) fn look(
        &mut self,
        source: &dyn Source,
        view: &View,
        at: Duration,
    ) -> Result<bool, RepositoryError> {
        if self.looked.is_some_and(|looked| at.saturating_sub(looked) < LOOK_AGAIN_AFTER) {
            return Ok(false);
        }
        let ids = source.ids()?;
        self.shown.retain(|_, shown| ids.contains(&shown.id));
        self.wrong.retain(|id| ids.contains(id));
        let known: BTreeSet<_> = self.shown.values().map(|shown| shown.id).collect();
        let mut fresh: Vec<_> =
            ids.difference(&known).filter_map(|&id| self.read(source, view, id)).collect();
        fresh.sort_by_key(|shown| (shown.taken_ns, shown.id));
        for shown in fresh {
            self.next += 1;
            self.shown.insert(self.next, Arc::new(shown));
        }
        self.looked = Some(at);
        Ok(true)
    }

    fn read(&mut self, source: &dyn Source, view: &View, id: SnapshotId) -> Option<Shown> {
        match source.read_manifest(id) {
            Ok(manifest) => {
                self.wrong.remove(&id);
                // A name that is none cannot be shown. No configuration has one.
                let is_name = |name: &[u8]| RelPath::root().join(name).is_ok();
                let mounts = manifest.mounts.iter();
                let mounts = mounts.map(|mount| (mount.name.as_bytes().into(), mount.root));
                Some(Shown {
                    id,
                    name: (view.name)(id, &manifest).into_bytes().into(),
                    taken_ns: manifest.taken_ns,
                    mounts: mounts.filter(|(name, _): &(Box<[u8]>, _)| is_name(name)).collect(),
                    may_be_latest: (view.may_be_latest)(&manifest),
                })
            }
            // Removed in between.
            Err(RepositoryError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                None
            }
            Err(error) => {
                if self.wrong.insert(id) {
                    let reason = error.source().map(ToString::to_string);
                    tracing::warn!(%id, %error, reason, "not a snapshot");
                }
                None
            }
        }
    }

    /// Those from a place in the list on.
    pub(super) fn from(&self, place: u64) -> Vec<(u64, Arc<Shown>)> {
        self.shown.range(place..).map(|(&place, shown)| (place, shown.clone())).collect()
    }

    pub(super) fn named(&self, name: &[u8]) -> Option<Arc<Shown>> {
        self.shown.values().find(|shown| *shown.name == *name).cloned()
    }

    /// The one that `latest` means.
    pub(super) fn latest(&self) -> Option<Arc<Shown>> {
        let candidates = self.shown.values().filter(|shown| shown.may_be_latest);
        candidates.max_by_key(|shown| (shown.taken_ns, shown.id)).cloned()
    }

    /// When the newest was taken.
    pub(super) fn newest_ns(&self) -> u64 {
        self.shown.values().map(|shown| shown.taken_ns).max().unwrap_or_default()
    }
}
