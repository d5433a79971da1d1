//! The folder with packs and manifests: opening it, finding objects, committing snapshots.
//!
//! The order of what is made durable is all that keeps a snapshot: packs first, then the rename of its
//! manifest. It must never change or remove what another process may be reading, and never believe
//! the catalog over the packs.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::catalog::{Catalog, PackName, Place};
use super::files::{
    FIRST_LINE, FORMAT, TMP, check_format, failed, sync_folder, temporary, write_once,
};
use super::manifest::{MANIFEST_BYTES_MAX, Manifest, SnapshotId};
use super::object::{Kind, ObjectId};
use super::pack::{self, ReadError};
use super::tree::FormatError;

#[cfg(test)]
mod tests;

const PACKS: &str = "packs";
pub(super) const SNAPSHOTS: &str = "snapshots";
pub(super) const REMOVED: &str = "removed";
pub(super) const MARKS: &str = "marks";
pub(super) const QUARANTINE: &str = "quarantine";
const FOLDERS: [&str; 6] = [PACKS, SNAPSHOTS, REMOVED, MARKS, QUARANTINE, TMP];

/// How long a command waits for another one to end.
const LOCK_WAIT: Duration = Duration::from_secs(20);

/// How often it looks.
const LOCK_LOOK: Duration = Duration::from_millis(50);

const EIO: i32 = rustix::io::Errno::IO.raw_os_error();

/// Packs that are kept open.
const OPEN_PACKS: usize = 32;

/// Why the repository cannot be used, or an object or a snapshot not be read.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// Something could not be written before: what comes after it would lack it.
    #[error("writing to the repository has failed before")]
    Broken,
    /// Another process writes to it.
    #[error("{0} is being written to by another process")]
    Busy(PathBuf),
    /// SQLite refused.
    #[error("cannot use the catalog")]
    Catalog(#[from] rusqlite::Error),
    /// An object is not what was written.
    #[error("{kind} {id} in {pack}: {reason}")]
    Damaged {
        /// What it is.
        kind: Kind,
        /// Which.
        id: ObjectId,
        /// The pack's file.
        pack: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// A manifest or an object says something that the format does not have.
    #[error("{name}: {source}")]
    Format {
        /// The file, or the object.
        name: String,
        /// What is wrong.
        source: FormatError,
    },
    /// The operating system refused.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// A verb, as in "open".
        doing: &'static str,
        /// What.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// No pack has it.
    #[error("{kind} {id} is in no pack")]
    Missing {
        /// What it is.
        kind: Kind,
        /// Which.
        id: ObjectId,
    },
    /// It was made by a release that knows more.
    #[error("{0} was made by a later release: {1}")]
    Newer(PathBuf, String),
    /// There is no repository.
    #[error("{0} is no repository: it has no file `format`")]
    None(PathBuf),
}

/// A repository that can be read.
pub struct Repository {
    path: PathBuf,
    catalog: Mutex<Catalog>,
    /// Open packs, those used last behind.
    open: Mutex<VecDeque<(PackName, Arc<File>)>>,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Where objects are had from.
pub trait Objects {
    /// An object. It is what was stored, or this fails.
    ///
    /// # Errors
    /// [`RepositoryError::Missing`], [`RepositoryError::Damaged`], [`RepositoryError::Io`].
    fn get(&self, kind: Kind, id: ObjectId) -> Result<Vec<u8>, RepositoryError>;
}

/// The right to write to a repository; given up when dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "open as long as it is held")] File);

impl Repository {
    /// Makes an empty repository, unless there is one.
    ///
    /// # Errors
    /// [`RepositoryError::Io`].
    pub fn create(path: &Path) -> Result<(), RepositoryError> {
        let folder = |path: &Path| {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(failed("make", path))
        };
        folder(path)?;
        for name in FOLDERS {
            folder(&path.join(name))?;
        }
        let format = path.join(FORMAT);
        if format.try_exists().map_err(failed("look at", &format))? {
            return Ok(());
        }
        let mut id = [0; 16];
        getrandom::fill(&mut id)
            .map_err(|error| failed("get random numbers for", path)(io::Error::other(error)))?;
        let id = data_encoding::HEXLOWER.encode(&id);
        let text = format!("{FIRST_LINE}\nid {id}\nneeds\n");
        write_once(path, text.as_bytes(), &format)
    }

    /// Opens a repository, and takes the catalog for what it is: what it lacks of the packs is read.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub fn open(path: &Path) -> Result<Self, RepositoryError> {
        check_format(path)?;
        let catalog = match Catalog::open(&path.join("catalog.db")) {
            Ok(catalog) => catalog,
            Err(_) => Catalog::in_memory()?,
        };
        let repository =
            Self { path: path.to_owned(), catalog: Mutex::new(catalog), open: Mutex::default() };
        repository.take_in_packs()?;
        Ok(repository)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gets the right to write. What others left half written is removed.
    ///
    /// # Errors
    /// [`RepositoryError::Busy`], [`RepositoryError::Io`].
    pub fn lock(&self) -> Result<Lock, RepositoryError> {
        let path = self.path.join("lock");
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(failed("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(RepositoryError::Busy(self.path.clone()));
            }
            Err(error) => return Err(failed("lock", &path)(error.into())),
        }
        let tmp = self.path.join(TMP);
        for entry in fs::read_dir(&tmp).map_err(failed("list", &tmp))? {
            let left = entry.map_err(failed("list", &tmp))?.path();
            fs::remove_file(&left).map_err(failed("remove", &left))?;
        }
        Ok(Lock(file))
    }

    /// The same, after waiting a while for whoever has it.
    ///
    /// # Errors
    /// [`RepositoryError::Busy`], [`RepositoryError::Io`].
    pub fn wait_lock(&self) -> Result<Lock, RepositoryError> {
        let until = Instant::now() + LOCK_WAIT;
        loop {
            match self.lock() {
                Err(RepositoryError::Busy(_)) if Instant::now() < until => {
                    std::thread::sleep(LOCK_LOOK);
                }
                other => return other,
            }
        }
    }

    pub(super) fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the catalog to what the packs say.
    pub(super) fn take_in_packs(&self) -> Result<(), RepositoryError> {
        let there = self.packs()?;
        let mut catalog = self.catalog();
        let mut known: BTreeSet<PackName> = catalog.packs()?.into_iter().collect();
        if known.iter().any(|name| !there.contains(name)) {
            // What was in it may be in others as well, which the catalog does not say.
            for name in std::mem::take(&mut known) {
                catalog.forget(&name)?;
            }
        }
        for name in there.iter().filter(|name| !known.contains(*name)) {
            let path = self.pack_path(name);
            let file = File::open(&path).map_err(failed("open", &path))?;
            let scanned = pack::scan(&file, false).map_err(failed("read", &path))?;
            let record = |(head, at): (pack::Head, u64)| (head.kind, head.id, at, head.length());
            catalog.add(name, scanned.records.into_iter().map(record))?;
        }
        Ok(())
    }

    /// Makes the catalog anew from the packs.
    ///
    /// # Errors
    /// [`RepositoryError`]: it is made anew by whoever opens the repository next.
    pub fn rebuild_catalog(&self, _lock: &Lock) -> Result<(), RepositoryError> {
        let known = self.catalog().packs()?;
        known.iter().try_for_each(|name| self.catalog().forget(name))?;
        self.take_in_packs()
    }

    /// The packs that are there.
    ///
    /// # Errors
    /// [`RepositoryError::Io`].
    pub(super) fn packs(&self) -> Result<BTreeSet<PackName>, RepositoryError> {
        let packs = self.path.join(PACKS);
        let mut found = BTreeSet::new();
        for folder in fs::read_dir(&packs).map_err(failed("list", &packs))? {
            let folder = folder.map_err(failed("list", &packs))?.path();
            for entry in fs::read_dir(&folder).map_err(failed("list", &folder))? {
                let name = entry.map_err(failed("list", &folder))?.file_name();
                let name = name.to_str().and_then(SnapshotId::parse);
                found.extend(name.map(|name| name.0));
            }
        }
        Ok(found)
    }

    pub(super) fn pack_path(&self, name: &PackName) -> PathBuf {
        let name = data_encoding::HEXLOWER.encode(name);
        self.path.join(PACKS).join(&name[..2]).join(name)
    }

    fn pack(&self, name: &PackName) -> Result<Arc<File>, RepositoryError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let found = open.iter().position(|(other, _)| other == name);
        let entry = match found.and_then(|at| open.remove(at)) {
            Some(entry) => entry,
            None => {
                let path = self.pack_path(name);
                let file = File::open(&path).map_err(failed("open", &path))?;
                (*name, Arc::new(file))
            }
        };
        let file = entry.1.clone();
        open.push_back(entry);
        if open.len() > OPEN_PACKS {
            open.pop_front();
        }
        Ok(file)
    }

    /// Whether some pack has the object.
    ///
    /// # Errors
    /// [`RepositoryError::Catalog`].
    pub fn has(&self, kind: Kind, id: ObjectId) -> Result<bool, RepositoryError> {
        Ok(self.catalog().find(kind, id)?.is_some())
    }

    /// The snapshots that are there, those taken last behind. What is in the folder and is none is told
    /// as an error of its own.
    ///
    /// # Errors
    /// The folder cannot be listed.
    #[expect(clippy::type_complexity, reason = "two lists")]
    pub fn snapshots(
        &self,
    ) -> Result<(Vec<(SnapshotId, Manifest)>, Vec<RepositoryError>), RepositoryError> {
        let (mut found, mut wrong) = (Vec::new(), Vec::new());
        for id in self.ids_in(SNAPSHOTS)? {
            match self.manifest(id) {
                Ok(manifest) => found.push((id, manifest)),
                Err(error) => wrong.push(error),
            }
        }
        found.sort_by_key(|(id, manifest)| (manifest.taken_ns, *id));
        Ok((found, wrong))
    }

    /// The files in a folder that are named by a snapshot's id. Repositories of before have no folder for
    /// marks.
    pub(super) fn ids_in(&self, folder: &str) -> Result<BTreeSet<SnapshotId>, RepositoryError> {
        let folder = self.path.join(folder);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            Err(error) => return Err(failed("list", &folder)(error)),
        };
        let mut found = BTreeSet::new();
        for entry in entries {
            let name = entry.map_err(failed("list", &folder))?.file_name();
            found.extend(name.to_str().and_then(SnapshotId::parse));
        }
        Ok(found)
    }

    /// A snapshot's manifest.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub fn manifest(&self, id: SnapshotId) -> Result<Manifest, RepositoryError> {
        self.manifest_in(SNAPSHOTS, id)
    }

    /// The manifest of a snapshot that is there, or was removed.
    pub(super) fn manifest_in(
        &self,
        folder: &str,
        id: SnapshotId,
    ) -> Result<Manifest, RepositoryError> {
        let path = self.path.join(folder).join(id.to_string());
        let name = || path.display().to_string();
        let file = File::open(&path).map_err(failed("open", &path))?;
        let mut text = String::new();
        file.take(MANIFEST_BYTES_MAX).read_to_string(&mut text).map_err(failed("read", &path))?;
        let manifest = Manifest::decode(&text)
            .map_err(|source| RepositoryError::Format { name: name(), source })?;
        if manifest.id() != id {
            let source = FormatError("it is not the manifest of its name");
            return Err(RepositoryError::Format { name: name(), source });
        }
        Ok(manifest)
    }

    /// A file to write to, which nobody sees.
    pub(super) fn temporary(&self) -> Result<(PathBuf, File), RepositoryError> {
        temporary(&self.path)
    }

    /// Puts a finished pack in its place.
    pub(super) fn add_pack(
        &self,
        from: &Path,
        name: &PackName,
        records: &[(pack::Head, u64)],
    ) -> Result<(), RepositoryError> {
        let path = self.pack_path(name);
        let folder = path.parent().expect("in a folder of its own");
        if !folder.try_exists().map_err(failed("look at", folder))? {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(failed("make", folder))?;
            sync_folder(&self.path.join(PACKS))?;
        }
        fs::rename(from, &path).map_err(failed("rename a pack to", &path))?;
        sync_folder(folder)?;
        let record = |(head, at): &(pack::Head, u64)| (head.kind, head.id, *at, head.length());
        self.catalog().add(name, records.iter().map(record))?;
        Ok(())
    }

    /// The same of a pack with objects of others, which are to be had there from now on.
    pub(super) fn replace_pack(
        &self,
        _lock: &Lock,
        from: &Path,
        name: &PackName,
        records: &[(pack::Head, u64)],
    ) -> Result<(), RepositoryError> {
        self.add_pack(from, name, records)?;
        let record = |(head, at): &(pack::Head, u64)| (head.kind, head.id, *at, head.length());
        Ok(self.catalog().move_to(name, records.iter().map(record))?)
    }

    /// Removes a pack of which nothing is needed.
    pub(super) fn drop_pack(&self, _lock: &Lock, name: &PackName) -> Result<(), RepositoryError> {
        self.catalog().forget(name)?;
        self.open.lock().unwrap_or_else(PoisonError::into_inner).retain(|(open, _)| open != name);
        let path = self.pack_path(name);
        fs::remove_file(&path).map_err(failed("remove", &path))?;
        sync_folder(path.parent().expect("in a folder of its own"))
    }

    /// Writes a file that may be there.
    pub(super) fn replace(
        &self,
        _lock: &Lock,
        bytes: &[u8],
        to: &Path,
    ) -> Result<(), RepositoryError> {
        let folder = to.parent().expect("in a folder");
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(failed("make", folder))?;
        write_once(&self.path, bytes, to)
    }

    /// The commit: everything that the manifest needs is durable already.
    pub(super) fn add_snapshot(&self, manifest: &Manifest) -> Result<SnapshotId, RepositoryError> {
        let id = manifest.id();
        let path = self.path.join(SNAPSHOTS).join(id.to_string());
        write_once(&self.path, manifest.encode().as_bytes(), &path)?;
        Ok(id)
    }

    /// Objects, and the bytes they take.
    ///
    /// # Errors
    /// [`RepositoryError::Catalog`].
    pub fn totals(&self) -> Result<(u64, u64), RepositoryError> {
        Ok(self.catalog().totals()?)
    }
}

impl Objects for Repository {
    fn get(&self, kind: Kind, id: ObjectId) -> Result<Vec<u8>, RepositoryError> {
        let find = || self.catalog().find(kind, id)?.ok_or(RepositoryError::Missing { kind, id });
        let Place { mut pack, mut offset, .. } = find()?;
        let file = match self.pack(&pack) {
            Err(RepositoryError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                // Its pack was written anew, or somebody has taken it away.
                self.take_in_packs()?;
                Place { pack, offset, .. } = find()?;
                self.pack(&pack)?
            }
            other => other?,
        };
        pack::read(&file, offset, (kind, id)).map_err(|error| match error {
            ReadError::Damaged(reason) => {
                RepositoryError::Damaged { kind, id, pack: self.pack_path(&pack), reason }
            }
            // A sector that went bad is damage like any other: what is in it can be had elsewhere.
            ReadError::Io(source) if source.raw_os_error() == Some(EIO) => {
                let reason = "the disk cannot read it";
                RepositoryError::Damaged { kind, id, pack: self.pack_path(&pack), reason }
            }
            ReadError::Io(source) => failed("read", &self.pack_path(&pack))(source),
        })
    }
}
