//! Putting a snapshot's tree back into a directory.
//!
//! In: a tree, a directory, and which paths of it. Out: files that are what the snapshot says, or errors that
//! name them. It must never follow a symbolic link, or show half a file: each is made under a name of its own
//! and renamed. It deletes nothing unless it is told to, and then only below the paths that were chosen. Run
//! again after it was cut off, it goes on: what is there already is left.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, statat, unlinkat};
use rustix::io::Errno;

use super::put::{Place, Put, There, is_owner};
use super::repository::{Repository, RepositoryError};
use super::tree::{Item, Node, TreeRef};
use super::walk;
use crate::disk::{DiskError, Refused, metadata};
use crate::model::{Meta, RelPath};

#[cfg(test)]
mod tests;

/// The name under which a file is made.
pub(super) const TEMPORARY: &str = ".trefoil-restore";

/// Files of a directory that are worth a thread.
const FILES_A_THREAD: usize = 64;

/// Threads that make files: most of the time is the kernel's.
const THREADS_MAX: usize = 4;

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
    pub leave: &'a (dyn Fn(&RelPath) -> bool + Sync),
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
    let place = Place { repository, root: dir, stage, privileged, choice, links };
    let mut job = Job { place, done, each };
    job.dir(&RelPath::root(), root, true);
    Ok(job.done)
}

pub(super) struct Job<'a> {
    pub(super) place: Place<'a>,
    pub(super) done: Restored,
    pub(super) each: &'a mut dyn FnMut(&RelPath, Change, u64),
}

impl Job<'_> {
    /// Whether the path, or something below it, is to be restored.
    fn is_on_the_way(&self, path: &RelPath) -> bool {
        self.is_wanted(path) || self.place.choice.only.iter().any(|only| only.is_below(path))
    }

    pub(super) fn is_wanted(&self, path: &RelPath) -> bool {
        let only = self.place.choice.only;
        only.is_empty() || only.iter().any(|only| only == path || path.is_below(only))
    }

    pub(super) fn is_left(&self, path: &RelPath) -> bool {
        self.place.choice.in_place.as_ref().is_some_and(|how| (how.leave)(path))
    }

    /// What is in a directory, which is there unless nothing is to be changed.
    fn dir(&mut self, path: &RelPath, tree: TreeRef, exists: bool) {
        let nodes = match walk::entries(self.place.repository, tree) {
            Ok(nodes) => nodes,
            Err(error) => return self.fail(path, error.into()),
        };
        let handle = match exists.then(|| self.place.open_dir(path)).transpose() {
            Ok(handle) => handle,
            Err(error) => return self.fail(path, error),
        };
        if let (Some(handle), true) = (&handle, self.is_wanted(path)) {
            self.extra(handle, path, &nodes);
        }
        let (mut files, mut dirs) = (Vec::new(), Vec::new());
        for node in nodes {
            let Ok(below) = path.join(&node.name) else { continue };
            if !self.is_on_the_way(&below) {
                continue;
            }
            if self.is_left(&below) {
                self.done.left += 1;
                continue;
            }
            match node.item {
                Item::Dir(tree) => dirs.push((below, node, tree)),
                _ => files.push((below, node)),
            }
        }
        self.files(handle.as_ref(), files);
        for (below, node, tree) in dirs {
            if let Err(error) = self.dir_below(handle.as_ref(), &below, &node, tree) {
                self.fail(&below, error);
            }
        }
    }

    /// The files of a directory: several at a time, but for names of one file, which need the first.
    fn files(&mut self, at: Option<&OwnedFd>, files: Vec<(RelPath, Node)>) {
        let grouped = |node: &Node| matches!(node.item, Item::File { group: Some(_), .. });
        let (linked, single): (Vec<_>, Vec<_>) = files.into_iter().partition(|f| grouped(&f.1));
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = threads.min(THREADS_MAX).min(single.len() / FILES_A_THREAD);
        if let (Some(at), true) = (at, threads > 1) {
            let results = self.place.put_all(at, &single, threads);
            for ((path, node), result) in single.iter().zip(results) {
                self.file(Some(at), path, node, Some(result));
            }
        } else {
            single.iter().for_each(|(path, node)| self.file(at, path, node, None));
        }
        linked.iter().for_each(|(path, node)| self.file(at, path, node, None));
    }

    /// Puts a file in its place, unless that was done, and counts it.
    fn file(
        &mut self,
        at: Option<&OwnedFd>,
        path: &RelPath,
        node: &Node,
        result: Option<Result<Put, RestoreError>>,
    ) {
        let put = |job: &Self| job.place.put(at, node, TEMPORARY);
        let mut result = result.unwrap_or_else(|| put(self));
        let mut in_place_of_dir = false;
        if matches!(result, Ok(Put { there: There::Dir, .. })) {
            in_place_of_dir = true;
            result = self.clear(at, path).and_then(|()| match self.place.choice.dry {
                true => Ok(Put { there: There::Other, bytes: node.size() }),
                false => put(self),
            });
        }
        let Put { there, bytes } = match result {
            Ok(put) => put,
            Err(error) => return self.fail(path, error),
        };
        let change = match there {
            There::Same => {
                self.note_link(path, node);
                self.done.unchanged += 1;
                return;
            }
            There::Newer => {
                self.done.newer += 1;
                return;
            }
            There::Nothing if !in_place_of_dir => Change::Made,
            There::Touched => Change::Touched,
            There::Nothing | There::Other | There::Dir => Change::Replaced,
        };
        if !self.place.choice.dry {
            self.note_link(path, node);
        }
        self.done.bytes += bytes;
        match change {
            Change::Made => self.done.made += 1,
            Change::Touched => self.done.touched += 1,
            _ => self.done.replaced += 1,
        }
        (self.each)(path, change, bytes);
    }

    fn dir_below(
        &mut self,
        at: Option<&OwnedFd>,
        path: &RelPath,
        node: &Node,
        tree: TreeRef,
    ) -> Result<(), RestoreError> {
        let exists = match at {
            Some(at) if !self.place.choice.dry => {
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
            Some(at) if self.is_wanted(path) && !self.place.choice.dry => {
                self.finish_dir(at, &node.name, &node.meta)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn fail(&mut self, path: &RelPath, error: RestoreError) {
        self.done.failed.push((path.clone(), error));
    }

    fn make_dir(&mut self, at: &OwnedFd, path: &RelPath, name: &[u8]) -> Result<(), RestoreError> {
        match mkdirat(at, name, Mode::from_raw_mode(0o700)) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => match statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if is(&stat, rustix::fs::FileType::Directory) => Ok(()),
                Ok(_) if self.place.choice.in_place.is_some() => {
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
            && is_owner(stat.st_uid, meta.uid)
            && is_owner(stat.st_gid, meta.gid);
        if same
            && self.place.choice.in_place.is_some()
            && metadata::read_xattrs(dir.as_fd())? == meta.xattrs
        {
            return Ok(());
        }
        Ok(metadata::set(dir.as_fd(), meta, false, self.place.privileged)?)
    }

    fn note_link(&mut self, path: &RelPath, node: &Node) {
        if let Item::File { group: Some(group), .. } = node.item {
            self.place.links.entry(group).or_insert_with(|| path.clone());
        }
    }
}

pub(super) fn is(stat: &rustix::fs::Stat, kind: rustix::fs::FileType) -> bool {
    rustix::fs::FileType::from_raw_mode(stat.st_mode) == kind
}
