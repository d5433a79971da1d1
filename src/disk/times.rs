//! Modification times of directories while their children are changed.
//!
//! The time of a directory is mirrored like any other metadata, so changing a child on behalf of a
//! peer must leave it as it was. In: a directory's inode and how to look at it and to set it. Out:
//! the time to put back. Several groups may work in one directory: the time from before the first
//! of them counts. It must never take a time for a directory's own while another group holds it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
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
    /// Holds the directory `inode`, whose time `look` tells, unless another group held it already:
    /// then its time is not its own. No directory is let go meanwhile.
    pub(crate) fn hold<E>(
        &self,
        inode: u64,
        look: impl FnOnce() -> Result<Mtime, E>,
    ) -> Result<(), E> {
        let mut all = self.lock();
        match all.entry(inode) {
            Entry::Occupied(mut held) => held.get_mut().groups += 1,
            Entry::Vacant(free) => {
                free.insert(Held { mtime: look()?, groups: 1 });
            }
        }
        Ok(())
    }

    /// Lets go, after `restore` gave the directory the time that belongs to it. No directory is
    /// looked at meanwhile.
    pub(crate) fn release(&self, inode: u64, restore: impl FnOnce(Mtime)) {
        let mut all = self.lock();
        let Some(held) = all.get_mut(&inode) else { return };
        restore(held.mtime);
        held.groups = held.groups.saturating_sub(1);
        if held.groups == 0 {
            all.remove(&inode);
        }
    }

    /// Gives a held directory a new time, which is put back instead of the old one.
    pub(crate) fn set(&self, inode: u64, mtime: Mtime) {
        if let Some(held) = self.lock().get_mut(&inode) {
            held.mtime = mtime;
        }
    }

    /// Looks at the directory `inode`, with the time that it will have again if it is held.
    pub(crate) fn look<T>(&self, inode: u64, look: impl FnOnce() -> T) -> (T, Option<Mtime>) {
        let all = self.lock();
        (look(), all.get(&inode).map(|held| held.mtime))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Held>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
