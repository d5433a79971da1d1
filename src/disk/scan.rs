//! The children of one directory, without opening them.
//!
//! In: a directory. Out: its children with their signatures, sorted. It must never take a
//! directory that could not be listed for an empty one.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags, RawDir, openat};

use super::call::{Call, Refused};
use super::look::Look;
use super::mount::Mount;
use super::{DiskError, OWN_DIR, walk};
use crate::model::{Mtime, RelPath, Signature};

const REOPEN: Call = Call::new("open.list", "open the directory to list it");
const LIST: Call = Call::new("read.dir", "list the directory");

/// Bytes of names read at a time.
const LIST_BUFFER_BYTES: usize = 64 << 10;

/// A child of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// One component.
    pub name: Box<[u8]>,
    /// From a look at it. Racy and otherwise zero if the look was refused: a read says why.
    pub signature: Signature,
    /// A directory to go into: not one that something is mounted on.
    pub is_dir: bool,
}

/// The children of `dir`, sorted by name, without trefoil's own directory. Nothing if it is no
/// directory any more. Children that vanish meanwhile may be missing.
///
/// # Errors
/// [`DiskError`], when it is there but cannot be listed to the end: its children are unknown.
pub fn list(mount: &Mount, dir: &RelPath) -> Result<Option<Vec<Listed>>, DiskError> {
    let fd = match walk::open_dir_readable(&mount.root, dir.as_bytes()) {
        Ok(fd) => fd,
        Err(DiskError::Missing) => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut listed = Vec::new();
    for_each_name(&fd, |name, inode, file_type| {
        if !(dir.is_root() && name == OWN_DIR)
            && let Some(child) = look(mount, &fd, name, inode, file_type)
        {
            listed.push(child);
        }
        true
    })?;
    listed.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(Some(listed))
}

/// At most `names_max` names in one of trefoil's own directories, in no order.
pub(crate) fn names(dir: &OwnedFd, names_max: usize) -> Result<Vec<Box<[u8]>>, Refused> {
    let fresh = REOPEN.run(|| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(dir, b".".as_slice(), flags, Mode::empty())
    })?;
    let mut names = Vec::new();
    for_each_name(&fresh, |name, _, _| {
        names.push(name.into());
        names.len() < names_max
    })?;
    Ok(names)
}

/// Calls `f` with name, inode and type of each child until it returns false.
pub(crate) fn for_each_name(
    dir: &OwnedFd,
    mut f: impl FnMut(&[u8], u64, FileType) -> bool,
) -> Result<(), Refused> {
    let mut buffer = [MaybeUninit::uninit(); LIST_BUFFER_BYTES];
    let mut names = RawDir::new(dir, &mut buffer);
    loop {
        if names.is_buffer_empty() {
            // The call itself is made in `next`, whose entry borrows the buffer.
            LIST.run(|| Ok(()))?;
        }
        let Some(entry) = names.next() else { return Ok(()) };
        let entry = entry.map_err(|e| LIST.failed(e.into()))?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." && !f(name, entry.ino(), entry.file_type()) {
            return Ok(());
        }
    }
}

fn look(
    mount: &Mount,
    dir: &OwnedFd,
    name: &[u8],
    inode: u64,
    file_type: FileType,
) -> Option<Listed> {
    let clock = mount.clock();
    let (signature, is_dir) = match Look::at(dir, name) {
        Ok(Some(look)) => (look.signature(clock), look.is_dir() && !mount.is_boundary(&look)),
        Ok(None) => return None,
        Err(_) => (unknown(inode), file_type == FileType::Directory),
    };
    Some(Listed { name: name.into(), signature, is_dir })
}

fn unknown(inode: u64) -> Signature {
    let never = Mtime::default();
    Signature { inode, size: 0, mode: 0, mtime: never, ctime: never, links: 0, racy: true }
}
