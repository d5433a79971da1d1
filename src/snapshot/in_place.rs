//! What is where a snapshot is put back: whether it is right already, and what the snapshot does not have.
//!
//! It changes nothing but what it deletes, and that only when it is told to. What is left at all events is
//! for the caller to say.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, statat, unlinkat};
use rustix::io::Errno;

use super::restore::{Change, Job, RestoreError, failed, is};
use super::tree::Node;
use crate::model::RelPath;

impl Job<'_> {
    /// What is in a directory that is in use, and not in the snapshot.
    pub(super) fn extra(&mut self, handle: &OwnedFd, path: &RelPath, nodes: &[Node]) {
        let Some(how) = &self.place.choice.in_place else { return };
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
            if self.is_left(&below) || is_special(handle, &name) {
                continue;
            }
            let change = if delete { Change::Deleted } else { Change::Extra };
            (self.each)(&below, change, 0);
            if !delete {
                self.done.extra += 1;
            } else if self.place.choice.dry {
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
        let (Some(how), Some(at)) = (&self.place.choice.in_place, at) else {
            return Err(RestoreError::InTheWay);
        };
        if !how.delete && !names(&self.place.open_dir(path)?)?.is_empty() {
            return Err(RestoreError::InTheWay);
        }
        if self.place.choice.dry {
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
        let dir = self.place.open_dir(path)?;
        let mut left = false;
        for name in names(&dir)? {
            let Ok(below) = path.join(&name) else { continue };
            if self.is_left(&below) || is_special(&dir, &name) {
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
}

/// Whether it is a FIFO, a socket or a device: these are not mirrored, and no snapshot says anything of them.
fn is_special(at: &OwnedFd, name: &[u8]) -> bool {
    use rustix::fs::FileType::{BlockDevice, CharacterDevice, Fifo, Socket};
    let stat = statat(at, name, AtFlags::SYMLINK_NOFOLLOW);
    let special = [BlockDevice, CharacterDevice, Fifo, Socket];
    stat.is_ok_and(|stat| special.into_iter().any(|kind| is(&stat, kind)))
}

/// The names in a directory.
pub(super) fn names(dir: &OwnedFd) -> Result<Vec<Box<[u8]>>, RestoreError> {
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
