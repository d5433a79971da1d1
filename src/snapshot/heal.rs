//! Puts damaged packs aside, so that what they had can be stored anew.
//!
//! What of a pack is whole is durable in another one before the pack goes. Its bytes are moved, never
//! removed: they are in `quarantine` then, for people.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::catalog::PackName;
use super::collect::Rest;
use super::files::{failed, sync_folder};
use super::object::{Kind, ObjectId};
use super::pack;
use super::repository::{Lock, Objects as _, QUARANTINE, Repository, RepositoryError, SNAPSHOTS};

/// What was put aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quarantined {
    /// Packs.
    pub packs: u64,
    /// Manifests.
    pub manifests: u64,
}

impl Repository {
    /// Packs in which something is that is no record. Objects are not read: they are checked by who
    /// reads them.
    ///
    /// # Errors
    /// A pack cannot be read at all.
    fn faulty_packs(&self) -> Result<Vec<PackName>, RepositoryError> {
        let mut faulty = Vec::new();
        for name in self.packs()? {
            let path = self.pack_path(&name);
            let file = fs::File::open(&path).map_err(failed("open", &path))?;
            if !pack::scan(&file, false).map_err(failed("read", &path))?.damaged.is_empty() {
                faulty.push(name);
            }
        }
        Ok(faulty)
    }

    /// The same, by their files.
    ///
    /// # Errors
    /// A pack cannot be read at all.
    pub fn damaged_packs(&self) -> Result<Vec<PathBuf>, RepositoryError> {
        Ok(self.faulty_packs()?.iter().map(|name| self.pack_path(name)).collect())
    }

    /// Puts aside every pack in which one of these objects is damaged, and every manifest that cannot be
    /// read. What was damaged is missing afterwards, and can be put again.
    ///
    /// # Errors
    /// [`RepositoryError`]: nothing that is whole was lost, and it can be tried again.
    pub fn quarantine(
        &self,
        lock: &Lock,
        damaged: &[(Kind, ObjectId)],
    ) -> Result<Quarantined, RepositoryError> {
        let mut done = Quarantined::default();
        let mut packs: BTreeSet<_> = self.faulty_packs()?.into_iter().collect();
        for &(kind, id) in damaged {
            let place = self.catalog().find(kind, id)?;
            if let (Some(place), false) = (place, self.is_whole(kind, id)?) {
                packs.insert(place.pack);
            }
        }
        let mut rest = Rest::new(self, lock);
        for name in &packs {
            let objects = self.catalog().of_pack(name)?;
            for (kind, id, offset, _) in objects {
                if self.is_whole(kind, id)? {
                    rest.copy(name, (kind, id), offset)?;
                }
            }
        }
        rest.finish()?;
        for name in &packs {
            let path = self.pack_path(name);
            self.put_aside(&path)?;
            done.packs += 1;
        }
        if done.packs > 0 {
            // Another pack may have what was damaged in the one that the catalog named.
            self.rebuild_catalog(lock)?;
        }
        for id in self.ids_in(SNAPSHOTS)? {
            if let Err(RepositoryError::Format { .. }) = self.manifest(id) {
                self.put_aside(&self.path().join(SNAPSHOTS).join(id.to_string()))?;
                done.manifests += 1;
            }
        }
        Ok(done)
    }

    /// Whether an object can be read as it was. What could not be read for another reason than damage may
    /// be whole: nothing is put aside then.
    fn is_whole(&self, kind: Kind, id: ObjectId) -> Result<bool, RepositoryError> {
        match self.get(kind, id) {
            Ok(_) => Ok(true),
            Err(RepositoryError::Damaged { .. } | RepositoryError::Missing { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Where damaged files are.
    #[must_use]
    pub fn quarantine_path(&self) -> PathBuf {
        self.path().join(QUARANTINE)
    }

    fn put_aside(&self, path: &Path) -> Result<(), RepositoryError> {
        let aside = self.quarantine_path();
        let name = path.file_name().expect("a file's path");
        let to = aside.join(name);
        fs::rename(path, &to).map_err(failed("move into quarantine", path))?;
        sync_folder(&aside)?;
        sync_folder(path.parent().expect("in a folder"))
    }
}

#[cfg(test)]
mod tests;
