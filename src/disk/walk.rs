//! From a path to the directory it is in, never leaving the mount.
//!
//! In: the mount's root handle and a path. Out: a handle of a directory, for calls relative to it.
//! It must never follow a symbolic link, cross into another file system or enter `.trefoil`.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::call::{Call, Refused};
use super::{DiskError, OWN_DIR};
use crate::model::RelPath;

const OPEN_DIR: Call = Call::new("open.dir", "open the directory");

/// Bytes of a path given to the kernel at once: below PATH_MAX (4,096) with its NUL.
const PIECE_BYTES_MAX: usize = 4000;

/// How everything below a mount is resolved.
pub(crate) const CONTAINED: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// A handle for the directory `path` below `root`, good for calls relative to it only (`O_PATH`).
pub(crate) fn open_dir(root: impl AsFd, path: &[u8]) -> Result<OwnedFd, DiskError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    open_dir_with(root, path, flags)
}

/// The same, readable and for `fsync`.
pub(crate) fn open_dir_readable(root: impl AsFd, path: &[u8]) -> Result<OwnedFd, DiskError> {
    let parent = open_dir(root, path)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    step(parent, b".", flags)
}

fn open_dir_with(root: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, DiskError> {
    if is_reserved(path) {
        return Err(DiskError::Reserved);
    }
    if path.is_empty() {
        return step(root, b".", flags);
    }
    let mut rest = path;
    let mut at: Option<OwnedFd> = None;
    while !rest.is_empty() {
        let (piece, after) = split_piece(rest);
        at = Some(match &at {
            Some(fd) => step(fd, piece, flags)?,
            None => step(root.as_fd(), piece, flags)?,
        });
        rest = after;
    }
    at.ok_or(DiskError::Missing)
}

/// Whether `path` is trefoil's own directory or below it.
pub(crate) fn is_reserved(path: &[u8]) -> bool {
    path.split(|&b| b == b'/').next() == Some(OWN_DIR)
}

/// The directory and the last name of `path`.
///
/// # Errors
/// [`DiskError::Reserved`] also for the root, which is in no directory below the mount.
pub(crate) fn split(path: &RelPath) -> Result<(&[u8], &[u8]), DiskError> {
    if is_reserved(path.as_bytes()) {
        return Err(DiskError::Reserved);
    }
    path.split().ok_or(DiskError::Reserved)
}

fn step(dir: impl AsFd, piece: &[u8], flags: OFlags) -> Result<OwnedFd, DiskError> {
    let flags = flags | OFlags::CLOEXEC;
    let open = || openat2(dir.as_fd(), piece, flags, Mode::empty(), CONTAINED);
    OPEN_DIR.run(open).map_err(not_there)
}

/// Tells "it is not there" and "another file system" from a real refusal.
fn not_there(refused: Refused) -> DiskError {
    match refused.errno() {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP => DiskError::Missing,
        Errno::XDEV => DiskError::MountPoint,
        _ => DiskError::Refused(refused),
    }
}

/// The longest run of whole components that the kernel takes at once, and what follows it.
fn split_piece(path: &[u8]) -> (&[u8], &[u8]) {
    if path.len() <= PIECE_BYTES_MAX {
        return (path, &[]);
    }
    // A name has at most 255 bytes, so there is a slash; without one the kernel refuses.
    match path[..=PIECE_BYTES_MAX].iter().rposition(|&b| b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (path, &[]),
    }
}
