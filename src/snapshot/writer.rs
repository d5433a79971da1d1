//! Writing objects and the manifest that needs them. Several threads may put at once.
//!
//! After an error nothing more is written: what was put is garbage, and the next writer goes on
//! from what is in finished packs.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::manifest::{Manifest, SnapshotId};
use super::object::{Kind, ObjectId};
use super::pack::{Encoded, PackWriter, ReadError};
use super::repository::{Lock, Objects, Repository, RepositoryError};

/// Objects on their way into a repository.
pub struct Writer<'a> {
    repository: &'a Repository,
    lock: Lock,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    pack: Option<(PathBuf, PackWriter)>,
    /// What is in the pack, and where.
    put: HashMap<(Kind, ObjectId), u64>,
    added: u64,
    broken: bool,
}

impl<'a> Writer<'a> {
    /// Begins to write.
    ///
    /// # Errors
    /// [`RepositoryError::Busy`], [`RepositoryError::Io`].
    pub fn begin(repository: &'a Repository) -> Result<Self, RepositoryError> {
        let lock = repository.lock()?;
        Ok(Self { repository, lock, inner: Mutex::default() })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The repository it writes to.
    #[must_use]
    pub fn repository(&self) -> &'a Repository {
        self.repository
    }

    /// Its right to write.
    #[must_use]
    pub fn lock(&self) -> &Lock {
        &self.lock
    }

    /// Bytes that were added so far.
    #[must_use]
    pub fn added(&self) -> u64 {
        self.inner().added
    }

    /// Whether the object is there, or was put.
    ///
    /// # Errors
    /// [`RepositoryError::Catalog`].
    pub fn has(&self, kind: Kind, id: ObjectId) -> Result<bool, RepositoryError> {
        Ok(self.inner().put.contains_key(&(kind, id)) || self.repository.has(kind, id)?)
    }

    /// Puts an object, unless it is there.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub fn put(&self, kind: Kind, object: &[u8]) -> Result<ObjectId, RepositoryError> {
        let id = ObjectId::of(kind, object);
        if self.has(kind, id)? {
            return Ok(id);
        }
        let damaged = |reason| {
            let pack = PathBuf::from("the memory of this machine");
            RepositoryError::Damaged { kind, id, pack, reason }
        };
        let encoded = Encoded::of(kind, id, object).map_err(|error| match error {
            ReadError::Damaged(reason) => damaged(reason),
            ReadError::Io(_) => damaged("it cannot be encoded"),
        })?;
        let mut inner = self.inner();
        if inner.broken {
            return Err(RepositoryError::Broken);
        }
        if inner.put.contains_key(&(kind, id)) {
            return Ok(id);
        }
        inner.broken = true;
        self.append(&mut inner, &encoded)?;
        inner.broken = false;
        Ok(id)
    }

    fn append(&self, inner: &mut Inner, object: &Encoded) -> Result<(), RepositoryError> {
        let (path, pack) = match &mut inner.pack {
            Some(pack) => pack,
            none => {
                let (path, file) = self.repository.temporary()?;
                let pack = PackWriter::begin(file).map_err(writing(&path))?;
                none.insert((path, pack))
            }
        };
        let offset = pack.append(object).map_err(writing(path))?;
        inner.added += object.head.length();
        inner.put.insert((object.head.kind, object.head.id), offset);
        if pack.is_full() { self.finish_pack(inner) } else { Ok(()) }
    }

    fn finish_pack(&self, inner: &mut Inner) -> Result<(), RepositoryError> {
        let Some((path, pack)) = inner.pack.take() else { return Ok(()) };
        let name = pack.finish().map_err(writing(&path))?;
        self.repository.add_pack(&path, &name, &pack.records)?;
        inner.put.clear();
        Ok(())
    }

    /// Makes durable what was put.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub fn flush(&self) -> Result<(), RepositoryError> {
        let mut inner = self.inner();
        if inner.broken {
            return Err(RepositoryError::Broken);
        }
        inner.broken = true;
        self.finish_pack(&mut inner)?;
        inner.broken = false;
        Ok(())
    }

    /// Makes durable what was put, and then the manifest that needs it. That is the snapshot.
    ///
    /// # Errors
    /// [`RepositoryError`]: there is no snapshot.
    pub fn commit(&self, manifest: &Manifest) -> Result<SnapshotId, RepositoryError> {
        self.flush()?;
        self.repository.add_snapshot(manifest)
    }
}

impl Objects for Writer<'_> {
    fn get(&self, kind: Kind, id: ObjectId) -> Result<Vec<u8>, RepositoryError> {
        let inner = self.inner();
        match (inner.put.get(&(kind, id)), &inner.pack) {
            (Some(&offset), Some((path, pack))) => {
                pack.read(offset, (kind, id)).map_err(|error| match error {
                    ReadError::Damaged(reason) => {
                        RepositoryError::Damaged { kind, id, pack: path.clone(), reason }
                    }
                    ReadError::Io(source) => {
                        RepositoryError::Io { doing: "read", path: path.clone(), source }
                    }
                })
            }
            _ => {
                drop(inner);
                self.repository.get(kind, id)
            }
        }
    }
}

fn writing(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> RepositoryError {
    let path = path.to_owned();
    move |source| RepositoryError::Io { doing: "write", path, source }
}
