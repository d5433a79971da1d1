//! One file of a snapshot, put where it belongs. Several threads may do so at once in one directory.
//!
//! It never follows a symbolic link, deletes nothing that it has not made, and shows a file only when it is
//! whole.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, Mode, OFlags, linkat, openat, renameat, statat, symlinkat, unlinkat};
use rustix::io::Errno;

use super::object::{Kind, ObjectId};
use super::repository::{Objects as _, Repository};
use super::restore::{Choice, RestoreError, TEMPORARY, failed, is};
use super::tree::{Item, Node, Stored};
use super::walk;
use crate::disk::{self, copy, metadata};
use crate::model::{ContentId, LinkGroup, RelPath};

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

/// What became of a file.
pub(super) struct Put {
    /// What was there before.
    pub(super) there: There,
    /// Bytes that were written.
    pub(super) bytes: u64,
}

/// Where files go, and where from.
pub(super) struct Place<'a> {
    pub(super) repository: &'a Repository,
    pub(super) root: OwnedFd,
    /// Where files are made, if not where they are to be.
    pub(super) stage: Option<OwnedFd>,
    pub(super) privileged: bool,
    pub(super) choice: &'a Choice<'a>,
    /// Where the first name of each group of hard links is.
    pub(super) links: HashMap<LinkGroup, RelPath>,
}

impl Place<'_> {
    /// Whatever somebody has planted on the way is not followed.
    pub(super) fn open_dir(&self, path: &RelPath) -> Result<OwnedFd, RestoreError> {
        Ok(disk::walk::open_dir_readable(&self.root, path.as_bytes())?)
    }

    /// Puts these files in their places, with so many threads. Gives what became of each.
    pub(super) fn put_all(
        &self,
        at: &OwnedFd,
        files: &[(RelPath, Node)],
        threads: usize,
    ) -> Vec<Result<Put, RestoreError>> {
        let next = AtomicUsize::new(0);
        let results = Mutex::new(Vec::with_capacity(files.len()));
        let work = |temp: &str| {
            // What a run before this one left, even if there is nothing to do for this name now.
            let (Ok(()) | Err(_)) = remove(self.stage.as_ref().unwrap_or(at), temp);
            while let Some((i, (_, node))) = {
                let i = next.fetch_add(1, Ordering::Relaxed);
                files.get(i).map(|file| (i, file))
            } {
                let result = self.put(Some(at), node, temp);
                results.lock().unwrap_or_else(PoisonError::into_inner).push((i, result));
            }
        };
        std::thread::scope(|scope| {
            for thread in 1..threads {
                let work = &work;
                scope.spawn(move || work(&format!("{TEMPORARY}-{thread}")));
            }
            work(TEMPORARY);
        });
        let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        results.sort_by_key(|(i, _)| *i);
        results.into_iter().map(|(_, result)| result).collect()
    }

    /// Puts a file in its place, under the name `temp` until it is whole, unless it is there or nothing is to be
    /// changed.
    pub(super) fn put(
        &self,
        at: Option<&OwnedFd>,
        node: &Node,
        temp: &str,
    ) -> Result<Put, RestoreError> {
        let there = match at {
            Some(at) => self.there(at, node)?,
            None => There::Nothing,
        };
        let at = at.filter(|_| !self.choice.dry);
        let mut bytes = 0;
        match (&there, &node.item, at) {
            (There::Same | There::Newer | There::Dir, ..) | (There::Touched, _, None) => {}
            (There::Touched, _, Some(at)) => {
                let file = self.open_at(at, &node.name)?;
                metadata::set(file.as_fd(), &node.meta, false, self.privileged)?;
            }
            (_, Item::Symlink { target }, Some(at)) => self.symlink(at, node, target, temp)?,
            (_, Item::File { size, content, stored, sparse, group }, Some(at)) => {
                if !self.link(at, node, *group, temp)? {
                    self.write(at, node, (*content, *size), *stored, *sparse, temp)?;
                    bytes = *size;
                }
            }
            (..) => bytes = node.size(),
        }
        Ok(Put { there, bytes })
    }

    /// Whether what is there is what should be. For a file that nobody uses size and times tell: then a run
    /// before this one made it.
    fn there(&self, at: &OwnedFd, node: &Node) -> Result<There, RestoreError> {
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
                let first = group.and_then(|group| self.links.get(&group));
                let linked = match first {
                    Some(first) => self.inode(first)? != Some(stat.st_ino),
                    None => false,
                };
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
            true if same_time && same_mode && self.has_attributes(at, node)? => There::Same,
            _ if how.and_then(|how| how.keep_newer_than).is_some_and(newer) => There::Newer,
            // A link's own metadata cannot be set through its name.
            true if how.is_some() && matches!(node.item, Item::File { .. }) => There::Touched,
            _ => There::Other,
        })
    }

    /// Whether a file that is in use has the attributes that it should; of others `stat` is believed.
    fn has_attributes(&self, at: &OwnedFd, node: &Node) -> Result<bool, RestoreError> {
        if self.choice.in_place.is_none() || !matches!(node.item, Item::File { .. }) {
            return Ok(true);
        }
        let file = self.open_at(at, &node.name)?;
        Ok(metadata::read_xattrs(file.as_fd())? == node.meta.xattrs)
    }

    /// The inode of a name that was put before.
    fn inode(&self, path: &RelPath) -> Result<Option<u64>, RestoreError> {
        let dir = self.open_dir(&path.parent().unwrap_or_else(RelPath::root))?;
        let stat = statat(&dir, path.name(), AtFlags::SYMLINK_NOFOLLOW);
        Ok(stat.ok().map(|stat| stat.st_ino))
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

    fn symlink(
        &self,
        at: &OwnedFd,
        node: &Node,
        target: &[u8],
        temp: &str,
    ) -> Result<(), RestoreError> {
        let stage = self.stage.as_ref().unwrap_or(at);
        remove(stage, temp)?;
        symlinkat(target, stage, temp).map_err(failed("make the link"))?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let link = openat(stage, temp, flags, Mode::empty()).map_err(failed("open the link"))?;
        metadata::set(link.as_fd(), &node.meta, true, self.privileged)?;
        show(stage, at, node, temp)
    }

    /// Makes another name of a file of the same group, if one is there already.
    fn link(
        &self,
        at: &OwnedFd,
        node: &Node,
        group: Option<LinkGroup>,
        temp: &str,
    ) -> Result<bool, RestoreError> {
        let Some(first) = group.and_then(|group| self.links.get(&group)) else { return Ok(false) };
        let dir = self.open_dir(&first.parent().unwrap_or_else(RelPath::root))?;
        let stage = self.stage.as_ref().unwrap_or(at);
        remove(stage, temp)?;
        match linkat(&dir, first.name(), stage, temp, AtFlags::empty()) {
            Ok(()) => show(stage, at, node, temp).map(|()| true),
            // Too many links, or none at all on this file system.
            Err(Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP) => Ok(false),
            Err(error) => Err(failed("make another name of the file")(error)),
        }
    }

    fn write(
        &self,
        at: &OwnedFd,
        node: &Node,
        (content, size): (ContentId, u64),
        stored: Stored,
        sparse: bool,
        temp: &str,
    ) -> Result<(), RestoreError> {
        let stage = self.stage.as_ref().unwrap_or(at);
        remove(stage, temp)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let file = openat(stage, temp, flags, Mode::from_raw_mode(0o600));
        let file = file.map_err(failed("make the file"))?;
        match stored {
            Stored::Empty => {}
            Stored::Whole => {
                let bytes = self.repository.get(Kind::Data, ObjectId::from(content))?;
                copy::write_at(&file, 0, &bytes, sparse)?;
            }
            Stored::Pieces(id) => self.write_pieces(file.as_fd(), id, (content, size), sparse)?,
        }
        if sparse {
            copy::set_size(&file, size)?;
        }
        metadata::set(file.as_fd(), &node.meta, true, self.privileged)?;
        show(stage, at, node, temp)
    }

    fn write_pieces(
        &self,
        file: BorrowedFd<'_>,
        id: ObjectId,
        (content, size): (ContentId, u64),
        sparse: bool,
    ) -> Result<(), RestoreError> {
        let mut hasher = blake3::Hasher::new();
        let mut offset = 0;
        for (length, id) in walk::pieces(self.repository, id, size)? {
            let bytes = self.repository.get(Kind::Data, id)?;
            if bytes.len() as u64 != u64::from(length) {
                return Err(RestoreError::Content);
            }
            hasher.update(&bytes);
            copy::write_at(file, offset, &bytes, sparse)?;
            offset += u64::from(length);
        }
        if *hasher.finalize().as_bytes() == content.0 { Ok(()) } else { Err(RestoreError::Content) }
    }
}

fn remove(at: &OwnedFd, temp: &str) -> Result<(), RestoreError> {
    match unlinkat(at, temp, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(failed("remove what is left of a file that was being restored")(error)),
    }
}

fn show(stage: &OwnedFd, at: &OwnedFd, node: &Node, temp: &str) -> Result<(), RestoreError> {
    renameat(stage, temp, at, &*node.name).map_err(failed("rename the file to its name"))?;
    // Of two names of one file neither is renamed.
    if matches!(node.item, Item::File { group: Some(_), .. }) {
        remove(stage, temp)
    } else {
        Ok(())
    }
}

/// Whether an owner is the wanted one, if that is known.
pub(super) fn is_owner(is: u32, wanted: u32) -> bool {
    wanted == u32::MAX || is == wanted
}
