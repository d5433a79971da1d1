//! Putting a snapshot's tree back into a directory.
//!
//! In: a tree, a directory, and which paths of it. Out: files that are what the snapshot says, or errors that
//! name them. It must never follow a symbolic link, or show half a file: each is made under a name of its own
//! and renamed. It deletes nothing unless it is told to, and then only below the paths that were chosen. Run
//! again after it was cut off, it goes on: what is there already is left.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, linkat, mkdirat, openat, renameat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::in_place::There;
use super::object::{Kind, ObjectId};
use super::repository::{Objects as _, Repository, RepositoryError};
use super::tree::{Item, Node, Stored, TreeRef};
use super::walk;
use crate::disk::{self, DiskError, Refused, copy, metadata};
use crate::model::{ContentId, LinkGroup, Meta, RelPath};

#[cfg(test)]
mod tests;

/// The name under which a file is made.
const TEMPORARY: &str = ".trefoil-restore";

/// Why an entry was not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The repository does not have it as it was.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// A directory on the way is no directory any more.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The operating system refused.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The operating system refused.
    #[error("cannot {doing}")]
    Io {
        /// A verb, as in "make the directory".
        doing: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The pieces are not the whole that they should be.
    #[error("its pieces do not make up the content that it had")]
    Content,
    /// Something of another type is in its place.
    #[error(
        "something else is in its place: move it away, restore to another directory, or, in place, say --delete"
    )]
    InTheWay,
}

pub(super) fn failed(doing: &'static str) -> impl FnOnce(Errno) -> RestoreError {
    move |errno| RestoreError::Io { doing, source: errno.into() }
}

/// What was restored.
#[derive(Debug, Default)]
pub struct Restored {
    /// Files and links that were made where nothing was.
    pub made: u64,
    /// Files and links that took the place of others.
    pub replaced: u64,
    /// Files that got mode, owner or times back.
    pub touched: u64,
    /// What was deleted, as the snapshot does not have it.
    pub deleted: u64,
    /// Bytes of files that were written.
    pub bytes: u64,
    /// Files and links that were there as they should be.
    pub unchanged: u64,
    /// What is there and not in the snapshot, and was left.
    pub extra: u64,
    /// Files that were left because they are newer than the snapshot.
    pub newer: u64,
    /// Files that were left because nobody has named them.
    pub left: u64,
    /// What could not be restored, each with its path.
    pub failed: Vec<(RelPath, RestoreError)>,
}

impl Restored {
    /// Files and links that were made.
    #[must_use]
    pub fn files(&self) -> u64 {
        self.made + self.replaced
    }
}

/// What happens to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is made where nothing is.
    Made,
    /// It takes the place of another file.
    Replaced,
    /// It gets its mode, owner and times back.
    Touched,
    /// It is deleted.
    Deleted,
    /// It is not in the snapshot, and is left.
    Extra,
}

/// How a directory that is in use gets back what it had.
pub struct InPlace<'a> {
    /// A directory on the same file system, outside of what people see, where files are made.
    pub stage: &'a Path,
    /// What the snapshot does not have is deleted.
    pub delete: bool,
    /// A file that was changed after this moment (nanoseconds since 1970) is left.
    pub keep_newer_than: Option<u64>,
    /// Files are read to see whether they are what they should be, even if size and time say so.
    pub read: bool,
    /// Paths that are never touched.
    pub leave: &'a dyn Fn(&RelPath) -> bool,
}

/// Which part of a tree is restored, and how.
#[derive(Default)]
pub struct Choice<'a> {
    /// What is at and below these; everything, if there are none.
    pub only: &'a [RelPath],
    /// The directory is in use.
    pub in_place: Option<InPlace<'a>>,
    /// Nothing is changed: it is only told what would be.
    pub dry: bool,
}

/// Puts the tree of a mount into a directory, which is made if it is not there. `each` is told of
/// everything that is changed, with the bytes that are written for it.
///
/// # Errors
/// The directory cannot be used; what concerns one entry is in [`Restored::failed`].
pub fn restore(
    repository: &Repository,
    root: TreeRef,
    to: &Path,
    choice: &Choice<'_>,
    each: &mut dyn FnMut(&RelPath, Change, u64),
) -> Result<Restored, (PathBuf, RestoreError)> {
    let named = |error| (to.to_owned(), error);
    if !choice.dry {
        match rustix::fs::mkdir(to, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(named(failed("make the directory")(error))),
        }
    }
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let dir = openat(CWD, to, flags, Mode::empty());
    let dir = dir.map_err(failed("open the directory")).map_err(named)?;
    let stage = match &choice.in_place {
        Some(InPlace { stage, .. }) if !choice.dry => {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(stage);
            let at = |error| (stage.to_path_buf(), error);
            made.map_err(|source| RestoreError::Io { doing: "make the directory", source })
                .map_err(at)?;
            let dir = openat(CWD, *stage, flags, Mode::empty());
            Some(dir.map_err(failed("open the directory")).map_err(at)?)
        }
        _ => None,
    };
    let privileged = rustix::process::geteuid().is_root();
    let done = Restored::default();
    let links = HashMap::new();
    let mut job = Job { repository, root: dir, stage, privileged, choice, done, links, each };
    job.dir(&RelPath::root(), root, true);
    Ok(job.done)
}

pub(super) struct Job<'a> {
    pub(super) repository: &'a Repository,
    pub(super) root: OwnedFd,
    /// Where files are made, if not where they are to be.
    pub(super) stage: Option<OwnedFd>,
    pub(super) privileged: bool,
    pub(super) choice: &'a Choice<'a>,
    pub(super) done: Restored,
    /// Where the first name of each group of hard links is.
    pub(super) links: HashMap<LinkGroup, RelPath>,
    pub(super) each: &'a mut dyn FnMut(&RelPath, Change, u64),
}

impl Job<'_> {
    /// Whether the path, or something below it, is to be restored.
    fn is_on_the_way(&self, path: &RelPath) -> bool {
        self.is_wanted(path) || self.choice.only.iter().any(|only| only.is_below(path))
    }

    pub(super) fn is_wanted(&self, path: &RelPath) -> bool {
        let only = self.choice.only;
        only.is_empty() || only.iter().any(|only| only == path || path.is_below(only))
    }

    pub(super) fn is_left(&self, path: &RelPath) -> bool {
        self.choice.in_place.as_ref().is_some_and(|how| (how.leave)(path))
    }

    /// What is in a directory, which is there unless nothing is to be changed.
    fn dir(&mut self, path: &RelPath, tree: TreeRef, exists: bool) {
        let nodes = match walk::entries(self.repository, tree) {
            Ok(nodes) => nodes,
            Err(error) => return self.fail(path, error.into()),
        };
        let handle = match exists.then(|| self.open_dir(path)).transpose() {
            Ok(handle) => handle,
            Err(error) => return self.fail(path, error),
        };
        if let (Some(handle), true) = (&handle, self.is_wanted(path)) {
            self.extra(handle, path, &nodes);
        }
        for node in nodes {
            let Ok(below) = path.join(&node.name) else { continue };
            if !self.is_on_the_way(&below) {
                continue;
            }
            if self.is_left(&below) {
                self.done.left += 1;
                continue;
            }
            let done = match node.item {
                Item::Dir(tree) => self.dir_below(handle.as_ref(), &below, &node, tree),
                _ => self.file(handle.as_ref(), &below, &node),
            };
            if let Err(error) = done {
                self.fail(&below, error);
            }
        }
    }

    fn dir_below(
        &mut self,
        at: Option<&OwnedFd>,
        path: &RelPath,
        node: &Node,
        tree: TreeRef,
    ) -> Result<(), RestoreError> {
        let exists = match at {
            Some(at) if !self.choice.dry => {
                self.make_dir(at, path, &node.name)?;
                true
            }
            Some(at) => match statat(at, &*node.name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => is(&stat, rustix::fs::FileType::Directory),
                Err(Errno::NOENT) => false,
                Err(error) => return Err(failed("look at the directory")(error)),
            },
            None => false,
        };
        self.dir(path, tree, exists);
        match at {
            // Its time moved with what was made in it.
            Some(at) if self.is_wanted(path) && !self.choice.dry => {
                self.finish_dir(at, &node.name, &node.meta)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn fail(&mut self, path: &RelPath, error: RestoreError) {
        self.done.failed.push((path.clone(), error));
    }

    /// Whatever somebody has planted on the way is not followed.
    pub(super) fn open_dir(&self, path: &RelPath) -> Result<OwnedFd, RestoreError> {
        Ok(disk::walk::open_dir_readable(&self.root, path.as_bytes())?)
    }

    fn make_dir(&mut self, at: &OwnedFd, path: &RelPath, name: &[u8]) -> Result<(), RestoreError> {
        match mkdirat(at, name, Mode::from_raw_mode(0o700)) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => match statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if is(&stat, rustix::fs::FileType::Directory) => Ok(()),
                Ok(_) if self.choice.in_place.is_some() => {
                    unlinkat(at, name, AtFlags::empty())
                        .map_err(failed("take the file away that is in its place"))?;
                    let made = mkdirat(at, name, Mode::from_raw_mode(0o700));
                    made.map_err(failed("make the directory"))?;
                    self.done.replaced += 1;
                    (self.each)(path, Change::Replaced, 0);
                    Ok(())
                }
                Ok(_) => Err(RestoreError::InTheWay),
                Err(error) => Err(failed("look at the directory")(error)),
            },
            Err(error) => Err(failed("make the directory")(error)),
        }
    }

    fn finish_dir(&self, at: &OwnedFd, name: &[u8], meta: &Meta) -> Result<(), RestoreError> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let dir = openat(at, name, flags, Mode::empty()).map_err(failed("open the directory"))?;
        let stat = rustix::fs::fstat(&dir).map_err(failed("look at the directory"))?;
        let same = stat.st_mode & 0o7777 == meta.mode
            && stat.st_mtime == meta.mtime.secs
            && stat.st_mtime_nsec == u64::from(meta.mtime.nanos)
            && (stat.st_uid, stat.st_gid) == (meta.uid, meta.gid);
        if same && self.choice.in_place.is_some() {
            return Ok(());
        }
        Ok(metadata::set(dir.as_fd(), meta, false, self.privileged)?)
    }

    fn file(
        &mut self,
        at: Option<&OwnedFd>,
        path: &RelPath,
        node: &Node,
    ) -> Result<(), RestoreError> {
        let there = match at {
            Some(at) => self.there(at, node)?,
            None => There::Nothing,
        };
        let change = match there {
            There::Same => {
                self.note_link(path, node);
                self.done.unchanged += 1;
                return Ok(());
            }
            There::Newer => {
                self.done.newer += 1;
                return Ok(());
            }
            There::Dir => {
                self.clear(at, path)?;
                Change::Replaced
            }
            There::Nothing => Change::Made,
            There::Touched => Change::Touched,
            There::Other => Change::Replaced,
        };
        let mut bytes = 0;
        match (&node.item, at.filter(|_| !self.choice.dry)) {
            (_, Some(at)) if change == Change::Touched => {
                let flags = OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
                let file = openat(at, &*node.name, flags, Mode::empty());
                let file = file.map_err(failed("open the file"))?;
                metadata::set(file.as_fd(), &node.meta, true, self.privileged)?;
                self.note_link(path, node);
            }
            (Item::Symlink { target }, Some(at)) => self.symlink(at, node, target)?,
            (Item::File { size, content, stored, sparse, group }, Some(at)) => {
                if !self.link(at, node, *group)? {
                    self.write(at, node, (*content, *size), *stored, *sparse)?;
                    bytes = *size;
                }
                self.note_link(path, node);
            }
            (Item::File { size, .. }, None) if change != Change::Touched => bytes = *size,
            _ => {}
        }
        self.done.bytes += bytes;
        match change {
            Change::Made => self.done.made += 1,
            Change::Touched => self.done.touched += 1,
            _ => self.done.replaced += 1,
        }
        (self.each)(path, change, bytes);
        Ok(())
    }

    fn note_link(&mut self, path: &RelPath, node: &Node) {
        if let Item::File { group: Some(group), .. } = node.item {
            self.links.entry(group).or_insert_with(|| path.clone());
        }
    }

    fn symlink(&self, at: &OwnedFd, node: &Node, target: &[u8]) -> Result<(), RestoreError> {
        let stage = self.stage.as_ref().unwrap_or(at);
        remove_temporary(stage)?;
        symlinkat(target, stage, TEMPORARY).map_err(failed("make the link"))?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let link =
            openat(stage, TEMPORARY, flags, Mode::empty()).map_err(failed("open the link"))?;
        metadata::set(link.as_fd(), &node.meta, true, self.privileged)?;
        show(stage, at, node)
    }

    /// Makes another name of a file of the same group, if one is there already.
    fn link(
        &self,
        at: &OwnedFd,
        node: &Node,
        group: Option<LinkGroup>,
    ) -> Result<bool, RestoreError> {
        let Some(first) = group.and_then(|group| self.links.get(&group)) else { return Ok(false) };
        let dir = self.open_dir(&first.parent().unwrap_or_else(RelPath::root))?;
        let stage = self.stage.as_ref().unwrap_or(at);
        remove_temporary(stage)?;
        match linkat(&dir, first.name(), stage, TEMPORARY, AtFlags::empty()) {
            Ok(()) => show(stage, at, node).map(|()| true),
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
    ) -> Result<(), RestoreError> {
        let stage = self.stage.as_ref().unwrap_or(at);
        remove_temporary(stage)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let file = openat(stage, TEMPORARY, flags, Mode::from_raw_mode(0o600));
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
        show(stage, at, node)
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

pub(super) fn is(stat: &rustix::fs::Stat, kind: rustix::fs::FileType) -> bool {
    rustix::fs::FileType::from_raw_mode(stat.st_mode) == kind
}

fn remove_temporary(at: &OwnedFd) -> Result<(), RestoreError> {
    match unlinkat(at, TEMPORARY, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(failed("remove what is left of a file that was being restored")(error)),
    }
}

fn show(stage: &OwnedFd, at: &OwnedFd, node: &Node) -> Result<(), RestoreError> {
    renameat(stage, TEMPORARY, at, &*node.name).map_err(failed("rename the file to its name"))?;
    // Of two names of one file neither is renamed.
    remove_temporary(stage)
}
