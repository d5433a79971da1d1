//! Gives back the space of what no snapshot needs any more.
//!
//! In two phases: a removed snapshot's manifest goes when it was removed long enough ago; then packs go of
//! which nothing is needed, and those of which little is are written anew. What is needed is found by reading
//! every tree first: if one of them cannot be read, nothing is collected, since what it needs is not known.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::catalog::PackName;
use super::files::{failed, sync_folder};
use super::pack::{self, PackWriter};
use super::repository::{Lock, Objects as _, REMOVED, Repository, RepositoryError, SNAPSHOTS};
use super::walk::{self, Key};

/// How long a removal can be taken back.
pub const UNDELETE_FOR: Duration = Duration::from_secs(24 * 3600);

/// A pack is written anew when less than this part of it is needed, in percent.
const REWRITE_BELOW: u64 = 50;

/// What was given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Snapshots that cannot be undeleted any more.
    pub snapshots: u64,
    /// Packs that are gone.
    pub packs: u64,
    /// Of these, packs of which the rest was written anew.
    pub rewritten: u64,
    /// Bytes that the repository is smaller by.
    pub freed_bytes: u64,
}

impl Repository {
    /// Gives back what no snapshot needs, nor the next look; with `dry`, only says what that would be.
    ///
    /// # Errors
    /// [`RepositoryError`]: what is needed is there all the same.
    pub fn collect(
        &self,
        lock: &Lock,
        now_ns: u64,
        dry: bool,
    ) -> Result<Collected, RepositoryError> {
        let mut done = Collected::default();
        let (mut needed, mut over) = (HashSet::new(), Vec::new());
        for id in self.ids_in(REMOVED)? {
            let until = self.mark(id)?.changed_ns.saturating_add(nanos(UNDELETE_FOR));
            if until > now_ns {
                self.need(&self.manifest_in(REMOVED, id)?.mounts, &mut needed)?;
            } else {
                over.push(id);
            }
        }
        for id in self.ids_in(SNAPSHOTS)? {
            self.need(&self.manifest(id)?.mounts, &mut needed)?;
        }
        for cut in self.cuts().into_values() {
            self.need(&[cut.tree], &mut needed)?;
        }
        done.snapshots = over.len() as u64;
        for id in over.into_iter().filter(|_| !dry) {
            let path = self.path().join(REMOVED).join(id.to_string());
            fs::remove_file(&path).map_err(failed("remove", &path))?;
        }
        sync_folder(&self.path().join(REMOVED))?;
        let mut rest = Rest::new(self, lock);
        let mut gone = Vec::new();
        for name in self.packs()? {
            let path = self.pack_path(&name);
            let bytes = path.metadata().map_err(failed("look at", &path))?.len();
            let objects = self.catalog().of_pack(&name)?;
            let is_needed = |&(kind, id, _, _): &_| needed.contains(&walk::key(kind, id));
            let live: Vec<_> = objects.into_iter().filter(is_needed).collect();
            let live_bytes: u64 = live.iter().map(|&(.., stored)| stored).sum();
            if live_bytes * 100 >= bytes * REWRITE_BELOW {
                continue;
            }
            done.packs += 1;
            done.rewritten += u64::from(live_bytes > 0);
            done.freed_bytes += bytes - live_bytes.min(bytes);
            if !dry {
                for (kind, id, offset, _) in live {
                    rest.copy(&name, (kind, id), offset)?;
                }
                gone.push(name);
            }
        }
        rest.finish()?;
        // Only now everything that is needed is durable somewhere else.
        for name in gone {
            self.drop_pack(lock, &name)?;
        }
        Ok(done)
    }

    fn need(
        &self,
        mounts: &[super::MountTree],
        needed: &mut HashSet<Key>,
    ) -> Result<(), RepositoryError> {
        mounts.iter().try_for_each(|mount| walk::needed(self, mount.root, needed))
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Objects of packs that go, on their way into new ones.
pub(super) struct Rest<'a> {
    repository: &'a Repository,
    lock: &'a Lock,
    pack: Option<(PathBuf, PackWriter)>,
}

impl<'a> Rest<'a> {
    pub(super) fn new(repository: &'a Repository, lock: &'a Lock) -> Self {
        Self { repository, lock, pack: None }
    }

    /// As it is stored, after a look that it is whole.
    pub(super) fn copy(
        &mut self,
        from: &PackName,
        wanted: (super::Kind, super::ObjectId),
        offset: u64,
    ) -> Result<(), RepositoryError> {
        // It is checked as for a reader, so that no damage is carried on under a new name.
        self.repository.get(wanted.0, wanted.1)?;
        let from = self.repository.pack_path(from);
        let file = fs::File::open(&from).map_err(failed("open", &from))?;
        let object = pack::Encoded::copied(&file, offset).map_err(failed("read", &from))?;
        let (path, pack) = match &mut self.pack {
            Some(pack) => pack,
            none => {
                let (path, file) = self.repository.temporary()?;
                let pack = PackWriter::begin(file).map_err(failed("write", &path))?;
                none.insert((path, pack))
            }
        };
        pack.append(&object).map_err(failed("write", path))?;
        if pack.is_full() { self.finish() } else { Ok(()) }
    }

    pub(super) fn finish(&mut self) -> Result<(), RepositoryError> {
        let Some((path, pack)) = self.pack.take() else { return Ok(()) };
        let name = pack.finish().map_err(failed("write", &path))?;
        self.repository.replace_pack(self.lock, &path, &name, &pack.records)
    }
}

#[cfg(test)]
mod tests;
