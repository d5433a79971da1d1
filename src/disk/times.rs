//! Modification times of directories while their children are changed.
//!
//! The time of a directory is mirrored like any other metadata, so changing a child on behalf of a
//! peer must leave it as it was. In: a directory's inode and its time before the change. Out: the
//! time to put back. Several groups may work in one directory: the time from before the first of
//! them counts. It does no I/O.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::Mtime;

/// The directories whose children are being changed, by inode.
#[derive(Debug, Default)]
pub(crate) struct DirTimes(Mutex<HashMap<u64, Held>>);

#[derive(Debug)]
struct Held {
    mtime: Mtime,
    groups: usize,
}

impl DirTimes {
    /// Remembers `mtime`, unless another group holds the directory already.
    pub(crate) fn hold(&self, inode: u64, mtime: Mtime) {
        let mut held = self.lock();
        held.entry(inode).or_insert(Held { mtime, groups: 0 }).groups += 1;
    }

    /// Lets go and says which time belongs to the directory.
    pub(crate) fn release(&self, inode: u64) -> Option<Mtime> {
        let mut all = self.lock();
        let held = all.get_mut(&inode)?;
        held.groups = held.groups.saturating_sub(1);
        let mtime = held.mtime;
        if held.groups == 0 {
            all.remove(&inode);
        }
        Some(mtime)
    }

    /// Gives a held directory a new time, which is put back instead of the old one.
    pub(crate) fn set(&self, inode: u64, mtime: Mtime) {
        if let Some(held) = self.lock().get_mut(&inode) {
            held.mtime = mtime;
        }
    }

    /// The time that a held directory will have again.
    pub(crate) fn held(&self, inode: u64) -> Option<Mtime> {
        self.lock().get(&inode).map(|held| held.mtime)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
