//! What is where a snapshot is put back: whether it is right already, and what the snapshot does not have.
//!
//! It changes nothing but what it deletes, and that only when it is told to. What is left at all events is
//! for the caller to say.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, statat, unlinkat};
use rustix::io::Errno;

use super::restore::{Change, Job, RestoreError, failed, is};
use super::tree::{Item, Node};
use crate::model::{ContentId, RelPath};

/// What is at the place of an entry.
pub(super) enum There {
    Nothing,
    Same,
    /// The same but for mode, owner or times.
    Touched,
    Other,
    /// A file that was changed after the snapshot.
    Newer,
    Dir,
}

impl Job<'_> {
    /// What is in a directory that is in use, and not in the snapshot.
    pub(super) fn extra(&mut self, handle: &OwnedFd, path: &RelPath, nodes: &[Node]) {
        let Some(how) = &self.choice.in_place else { return };
        let delete = how.delete;
        let names = match names(handle) {
            Ok(names) => names,
            Err(error) => return self.fail(path, error),
        };
        for name in names {
            if nodes.binary_search_by(|node| (*node.name).cmp(&name)).is_ok() {
                continue;
            }
            let Ok(below) = path.join(&name) else { continue };
            if self.is_left(&below) {
                continue;
            }
            let change = if delete { Change::Deleted } else { Change::Extra };
            (self.each)(&below, change, 0);
            if !delete {
                self.done.extra += 1;
            } else if self.choice.dry {
                self.done.deleted += 1;
            } else if let Err(error) = self.delete(handle, &below) {
                self.fail(&below, error);
            }
        }
    }

    /// Takes a directory away that is in the place of a file: an empty one, or any if so told.
    pub(super) fn clear(
        &mut self,
        at: Option<&OwnedFd>,
        path: &RelPath,
    ) -> Result<(), RestoreError> {
        let (Some(how), Some(at)) = (&self.choice.in_place, at) else {
            return Err(RestoreError::InTheWay);
        };
        if !how.delete && !names(&self.open_dir(path)?)?.is_empty() {
            return Err(RestoreError::InTheWay);
        }
        if self.choice.dry {
            return Ok(());
        }
        let before = self.done.deleted;
        self.delete(at, path)?;
        if self.done.deleted == before {
            return Err(RestoreError::InTheWay);
        }
        Ok(())
    }

    /// Deletes what is at a path, with all that is below it and not to be left.
    fn delete(&mut self, at: &OwnedFd, path: &RelPath) -> Result<(), RestoreError> {
        let stat = match statat(at, path.name(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(failed("look at what is there")(error)),
        };
        if !is(&stat, rustix::fs::FileType::Directory) {
            unlinkat(at, path.name(), AtFlags::empty()).map_err(failed("delete the file"))?;
            self.done.deleted += 1;
            return Ok(());
        }
        let dir = self.open_dir(path)?;
        let mut left = false;
        for name in names(&dir)? {
            let Ok(below) = path.join(&name) else { continue };
            if self.is_left(&below) {
                left = true;
            } else if let Err(error) = self.delete(&dir, &below) {
                self.fail(&below, error);
                left = true;
            }
        }
        if !left {
            let removed = unlinkat(at, path.name(), AtFlags::REMOVEDIR);
            removed.map_err(failed("delete the directory"))?;
            self.done.deleted += 1;
        }
        Ok(())
    }

    /// Whether what is there is what should be. For a file that nobody uses size and times tell: then a run
    /// before this one made it.
    pub(super) fn there(&self, at: &OwnedFd, node: &Node) -> Result<There, RestoreError> {
        let stat = match statat(at, &*node.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(There::Nothing),
            Err(error) => return Err(failed("look at what is there")(error)),
        };
        let how = self.choice.in_place.as_ref();
        let mtime = node.meta.mtime;
        let same_time = stat.st_mtime == mtime.secs && u64::from(mtime.nanos) == stat.st_mtime_nsec;
        let same_mode = stat.st_mode & 0o7777 == node.meta.mode
            && (!self.privileged
                || is_owner(stat.st_uid, node.meta.uid) && is_owner(stat.st_gid, node.meta.gid));
        let is_same = match &node.item {
            _ if is(&stat, rustix::fs::FileType::Directory) => return Ok(There::Dir),
            Item::File { size, content, group, .. } => {
                let same_size = is(&stat, rustix::fs::FileType::RegularFile)
                    && u64::try_from(stat.st_size) == Ok(*size);
                let linked = group.is_some_and(|group| self.links.contains_key(&group));
                let reads = how.is_some_and(|how| how.read || !same_time);
                same_size
                    && !linked
                    && if reads { self.holds(at, node, *content)? } else { same_time }
            }
            Item::Symlink { target } => {
                let found = rustix::fs::readlinkat(at, &*node.name, Vec::new());
                same_time && found.is_ok_and(|found| found.as_bytes() == &**target)
            }
            Item::Dir(_) => false,
        };
        let newer = |than: u64| {
            let nanos = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
            nanos > i128::from(than)
        };
        Ok(match is_same {
            true if same_time && same_mode => There::Same,
            _ if how.and_then(|how| how.keep_newer_than).is_some_and(newer) => There::Newer,
            true if how.is_some() => There::Touched,
            _ => There::Other,
        })
    }

    fn open_at(&self, at: &OwnedFd, name: &[u8]) -> Result<OwnedFd, RestoreError> {
        let flags = OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        openat(at, name, flags, Mode::empty()).map_err(failed("open what is there"))
    }

    fn holds(&self, at: &OwnedFd, node: &Node, wanted: ContentId) -> Result<bool, RestoreError> {
        let mut file = std::fs::File::from(self.open_at(at, &node.name)?);
        let mut hasher = blake3::Hasher::new();
        io::copy(&mut file, &mut hasher)
            .map_err(|source| RestoreError::Io { doing: "read what is there", source })?;
        Ok(*hasher.finalize().as_bytes() == wanted.0)
    }
}

/// Whether an owner is the wanted one, if that is known.
fn is_owner(is: u32, wanted: u32) -> bool {
    wanted == u32::MAX || is == wanted
}

/// The names in a directory.
fn names(dir: &OwnedFd) -> Result<Vec<Box<[u8]>>, RestoreError> {
    let entries = Dir::read_from(dir).map_err(failed("list the directory"))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("list the directory"))?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.into());
        }
    }
    Ok(names)
}
