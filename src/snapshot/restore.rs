//! Putting a snapshot's tree back into a directory.
//!
//! In: a tree, a directory, and which paths of it. Out: files that are what the snapshot says, or errors that
//! name them. It must never delete anything, follow a symbolic link, or show half a file: each is made under
//! a name of its own and renamed. Run again after it was cut off, it goes on: what is there already is left.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, linkat, mkdirat, openat, renameat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

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
    #[error("something else is in its place: move it away, or restore to another directory")]
    InTheWay,
}

fn failed(doing: &'static str) -> impl FnOnce(Errno) -> RestoreError {
    move |errno| RestoreError::Io { doing, source: errno.into() }
}

/// What was restored.
#[derive(Debug, Default)]
pub struct Restored {
    /// Files and links that were made.
    pub files: u64,
    /// Bytes of files that were written.
    pub bytes: u64,
    /// Files and links that were there as they should be.
    pub unchanged: u64,
    /// What could not be restored, each with its path.
    pub failed: Vec<(RelPath, RestoreError)>,
}

/// Puts the tree of a mount into a directory, which is made if it is not there: all of it, or what is at and
/// below `only`. `each` is told of the bytes of each file that is done.
///
/// # Errors
/// The directory cannot be used; what concerns one entry is in [`Restored::failed`].
pub fn restore(
    repository: &Repository,
    root: TreeRef,
    to: &Path,
    only: &[RelPath],
    each: &mut dyn FnMut(u64),
) -> Result<Restored, (PathBuf, RestoreError)> {
    let named = |error| (to.to_owned(), error);
    match rustix::fs::mkdir(to, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(named(failed("make the directory")(error))),
    }
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let dir = openat(CWD, to, flags, Mode::empty());
    let dir = dir.map_err(failed("open the directory")).map_err(named)?;
    let privileged = rustix::process::geteuid().is_root();
    let done = Restored::default();
    let links = HashMap::new();
    let mut job = Job { repository, root: dir, privileged, only, done, links, each };
    job.dir(&RelPath::root(), root);
    Ok(job.done)
}

struct Job<'a> {
    repository: &'a Repository,
    root: OwnedFd,
    privileged: bool,
    only: &'a [RelPath],
    done: Restored,
    /// Where the first name of each group of hard links is.
    links: HashMap<LinkGroup, RelPath>,
    each: &'a mut dyn FnMut(u64),
}

impl Job<'_> {
    /// Whether the path, or something below it, is to be restored.
    fn is_on_the_way(&self, path: &RelPath) -> bool {
        self.is_wanted(path) || self.only.iter().any(|only| only.is_below(path))
    }

    fn is_wanted(&self, path: &RelPath) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == path || path.is_below(only))
    }

    /// What is in a directory that is there.
    fn dir(&mut self, path: &RelPath, tree: TreeRef) {
        let nodes = match walk::entries(self.repository, tree) {
            Ok(nodes) => nodes,
            Err(error) => return self.fail(path, error.into()),
        };
        let handle = match self.open_dir(path) {
            Ok(handle) => handle,
            Err(error) => return self.fail(path, error),
        };
        for node in nodes {
            let Ok(below) = path.join(&node.name) else { continue };
            if !self.is_on_the_way(&below) {
                continue;
            }
            let (name, meta) = (node.name.clone(), node.meta.clone());
            if let Item::Dir(tree) = node.item {
                match self.make_dir(&handle, &name) {
                    Ok(()) => {
                        self.dir(&below, tree);
                        // Its time moved with what was made in it.
                        if self.is_wanted(&below)
                            && let Err(error) = self.finish_dir(&handle, &name, &meta)
                        {
                            self.fail(&below, error);
                        }
                    }
                    Err(error) => self.fail(&below, error),
                }
            } else if let Err(error) = self.file(&handle, &below, &node) {
                self.fail(&below, error);
            }
        }
    }

    fn fail(&mut self, path: &RelPath, error: RestoreError) {
        self.done.failed.push((path.clone(), error));
    }

    /// Whatever somebody has planted on the way is not followed.
    fn open_dir(&self, path: &RelPath) -> Result<OwnedFd, RestoreError> {
        Ok(disk::walk::open_dir_readable(&self.root, path.as_bytes())?)
    }

    fn make_dir(&self, at: &OwnedFd, name: &[u8]) -> Result<(), RestoreError> {
        match mkdirat(at, name, Mode::from_raw_mode(0o700)) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => match statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if is(&stat, rustix::fs::FileType::Directory) => Ok(()),
                Ok(_) => Err(RestoreError::InTheWay),
                Err(error) => Err(failed("look at the directory")(error)),
            },
            Err(error) => Err(failed("make the directory")(error)),
        }
    }

    fn finish_dir(&self, at: &OwnedFd, name: &[u8], meta: &Meta) -> Result<(), RestoreError> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
        let dir = openat(at, name, flags, Mode::empty()).map_err(failed("open the directory"))?;
        Ok(metadata::set(dir.as_fd(), meta, false, self.privileged)?)
    }

    fn file(&mut self, at: &OwnedFd, path: &RelPath, node: &Node) -> Result<(), RestoreError> {
        if self.is_there(at, node)? {
            self.note_link(path, node);
            self.done.unchanged += 1;
            return Ok(());
        }
        match &node.item {
            Item::Symlink { target } => self.symlink(at, node, target)?,
            Item::File { size, content, stored, sparse, group } => {
                if !self.link(at, node, *group)? {
                    self.write(at, node, (*content, *size), *stored, *sparse)?;
                    self.done.bytes += size;
                    (self.each)(*size);
                }
                self.note_link(path, node);
            }
            Item::Dir(_) => {}
        }
        self.done.files += 1;
        Ok(())
    }

    fn note_link(&mut self, path: &RelPath, node: &Node) {
        if let Item::File { group: Some(group), .. } = node.item {
            self.links.entry(group).or_insert_with(|| path.clone());
        }
    }

    /// Whether what is there is what should be, as far as `stat` tells: then a run before this one made it.
    fn is_there(&self, at: &OwnedFd, node: &Node) -> Result<bool, RestoreError> {
        let stat = match statat(at, &*node.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(false),
            Err(error) => return Err(failed("look at what is there")(error)),
        };
        let mtime = node.meta.mtime;
        let same_time = stat.st_mtime == mtime.secs && u64::from(mtime.nanos) == stat.st_mtime_nsec;
        let same_mode = stat.st_mode & 0o7777 == node.meta.mode;
        match &node.item {
            _ if is(&stat, rustix::fs::FileType::Directory) => Err(RestoreError::InTheWay),
            Item::File { size, group, .. } => Ok(is(&stat, rustix::fs::FileType::RegularFile)
                && u64::try_from(stat.st_size) == Ok(*size)
                && same_time
                && same_mode
                && group.is_none_or(|group| !self.links.contains_key(&group))),
            Item::Symlink { target } => {
                let found = rustix::fs::readlinkat(at, &*node.name, Vec::new());
                Ok(same_time && found.is_ok_and(|found| found.as_bytes() == &**target))
            }
            Item::Dir(_) => Ok(false),
        }
    }

    fn symlink(&self, at: &OwnedFd, node: &Node, target: &[u8]) -> Result<(), RestoreError> {
        remove_temporary(at)?;
        symlinkat(target, at, TEMPORARY).map_err(failed("make the link"))?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let link = openat(at, TEMPORARY, flags, Mode::empty()).map_err(failed("open the link"))?;
        metadata::set(link.as_fd(), &node.meta, true, self.privileged)?;
        show(at, node)
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
        remove_temporary(at)?;
        match linkat(&dir, first.name(), at, TEMPORARY, AtFlags::empty()) {
            Ok(()) => show(at, node).map(|()| true),
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
        remove_temporary(at)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        let file = openat(at, TEMPORARY, flags, Mode::from_raw_mode(0o600));
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
        show(at, node)
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

fn is(stat: &rustix::fs::Stat, kind: rustix::fs::FileType) -> bool {
    rustix::fs::FileType::from_raw_mode(stat.st_mode) == kind
}

fn remove_temporary(at: &OwnedFd) -> Result<(), RestoreError> {
    match unlinkat(at, TEMPORARY, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(failed("remove what is left of a file that was being restored")(error)),
    }
}

fn show(at: &OwnedFd, node: &Node) -> Result<(), RestoreError> {
    renameat(at, TEMPORARY, at, &*node.name).map_err(failed("rename the file to its name"))?;
    // Of two names of one file neither is renamed.
    remove_temporary(at)
}
