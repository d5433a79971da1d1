//! Looks at one path: what is there, with its content hashed.
//!
//! In: a [`ReadRequest`]. Out: [`Found`]. A file is looked at, read, and looked at again; if it
//! changed in between it is not believed. It must never open a FIFO or a device, never map a file
//! (a truncation would kill the process), and never make a writer wait.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;

use super::call::{Call, Refused};
use super::look::{Clock, Look, Type};
use super::mount::{Counters, Mount};
use super::sys::{Writer, writer_of};
use super::{DiskError, metadata, walk};
use crate::model::limits::{CONTENT_BUFFER_BYTES, INLINE_BYTES_MAX};
use crate::model::{ContentId, Entry, Found, Kind, RelPath, Signature};

const OPEN: Call = Call::new("open.read", "open");
const READ: Call = Call::new("read.content", "read");
const READ_LINK: Call = Call::new("read.link", "read the link");

const MOUNT_POINT: Found = Found::Special("a mount point");

/// Buffers read between two looks at a large file: a change is noticed after 64 MiB, not at the
/// end of 10 GiB.
const BUFFERS_BETWEEN_LOOKS: u32 = 256;

/// What to look at.
#[derive(Debug, Clone, Copy)]
pub struct ReadRequest<'a> {
    /// Where.
    pub path: &'a RelPath,
    /// As it was when its content was last known; if it is still so, nothing is opened.
    pub known: Option<Signature>,
    /// What a file of this signature was at the path where it was before: it is not opened either.
    pub moved: Option<(Signature, &'a Kind)>,
    /// Read it although a writer has it open. If such a file grows meanwhile, the part it had at
    /// first is taken, with a racy signature.
    pub even_if_open: bool,
}

/// Looks at one path.
#[must_use]
pub fn read(mount: &Mount, request: &ReadRequest<'_>) -> Found {
    look(mount, request).unwrap_or_else(|e| match e {
        DiskError::Missing => Found::Absent,
        DiskError::MountPoint => MOUNT_POINT,
        DiskError::Refused(refused) => Found::Failed(refused.reason()),
        DiskError::Reserved => Found::Special("trefoil's own directory"),
    })
}

fn look(mount: &Mount, request: &ReadRequest<'_>) -> Result<Found, DiskError> {
    if request.path.is_root() {
        let fd = walk::open_dir(&mount.root, &[])?;
        let look = Look::of(&fd)?;
        return read_unopened(mount, &fd, &look);
    }
    let (dir, name) = walk::split(request.path)?;
    let dir = walk::open_dir(&mount.root, dir)?;
    let clock = mount.clock();
    let Some(look) = Look::at(&dir, name)? else {
        return Ok(Found::Absent);
    };
    if mount.is_boundary(&look) {
        return Ok(MOUNT_POINT);
    }
    if let Type::Special(what) = look.file_type() {
        return Ok(Found::Special(what));
    }
    if request.known.is_some_and(|known| !known.racy && known.unchanged(&look.signature(clock))) {
        return Ok(Found::Unchanged);
    }
    if let Some((signature, kind)) = request.moved
        && !signature.racy
        && signature.unchanged(&look.signature(clock))
    {
        return read_moved(&dir, name, &look, kind, mount);
    }
    if look.file_type() == Type::File {
        return read_file(mount, &dir, name, request.even_if_open);
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Some(fd) = open(&dir, name, flags)? else {
        return Ok(Found::Absent);
    };
    let now = Look::of(&fd)?;
    if now.file_type() != look.file_type() || mount.is_boundary(&now) {
        return Ok(Found::Unstable);
    }
    read_unopened(mount, &fd, &now)
}

/// A directory or a symbolic link. The look comes before the attributes, so a change in between
/// shows in the next look.
fn read_unopened(mount: &Mount, fd: &OwnedFd, look: &Look) -> Result<Found, DiskError> {
    let clock = mount.clock();
    let (look, kind, mtime) = if look.is_dir() {
        // A time that our own changes gave it is not its time.
        let (look, held) = mount.dir_times.look(look.inode, || Look::of(fd));
        (look?, Kind::Dir, held)
    } else {
        let target = READ_LINK.run(|| readlinkat(fd, b"".as_slice(), Vec::new()))?;
        (*look, Kind::Symlink { target: target.into_bytes().into() }, None)
    };
    let mut meta = metadata::read(fd.as_fd(), &look, mount.privileged)?;
    meta.mtime = mtime.unwrap_or(meta.mtime);
    let signature = look.signature(clock);
    Ok(Found::Entry { entry: Entry { kind, meta }, signature, content: None })
}

/// A file that is at another path than before, and has not changed: only its attributes are read.
fn read_moved(
    dir: &OwnedFd,
    name: &[u8],
    look: &Look,
    kind: &Kind,
    mount: &Mount,
) -> Result<Found, DiskError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Some(fd) = open(dir, name, flags)? else {
        return Ok(Found::Absent);
    };
    let (was, is) = (look.signature(mount.clock()), Look::of(&fd)?.signature(mount.clock()));
    if !was.unchanged(&is) {
        return Ok(Found::Unstable);
    }
    let meta = metadata::read(fd.as_fd(), look, mount.privileged)?;
    Ok(Found::Entry { entry: Entry { kind: kind.clone(), meta }, signature: is, content: None })
}

fn read_file(
    mount: &Mount,
    dir: &OwnedFd,
    name: &[u8],
    even_if_open: bool,
) -> Result<Found, DiskError> {
    let Some(file) = open_file(mount, dir, name)? else {
        return Ok(Found::Absent);
    };
    let before = Look::of(&file)?;
    if before.file_type() != Type::File || mount.is_boundary(&before) {
        return Ok(Found::Unstable);
    }
    if !even_if_open && writer_of(&file) == Writer::Yes {
        return Ok(Found::Busy);
    }
    let meta = metadata::read(file.as_fd(), &before, mount.privileged)?;
    let Some((content, bytes)) = hash_file(mount, &file, &before, even_if_open)? else {
        return Ok(Found::Unstable);
    };
    let clock = mount.clock();
    let after = Look::of(&file)?;
    let Some(signature) = settled(&before, &after, clock, even_if_open) else {
        return Ok(Found::Unstable);
    };
    let sparse = before.is_sparse();
    let kind = Kind::File { size: before.size, content, sparse, group: None };
    Ok(Found::Entry { entry: Entry { kind, meta }, signature, content: bytes })
}

/// The signature of what was read, if it was one version of the file.
fn settled(before: &Look, after: &Look, clock: Clock, may_grow: bool) -> Option<Signature> {
    let (was, is) = (before.signature(clock), after.signature(clock));
    if was.unchanged(&is) {
        return Some(is);
    }
    // A file that is only appended to never settles; what it had at first is taken.
    (may_grow && after.size > before.size).then_some(Signature { racy: true, ..was })
}

/// The id of a content, with its bytes if they are few.
type Hashed = (ContentId, Option<Arc<[u8]>>);

/// Hashes the `before.size` bytes of the file, and keeps them if there are few. Nothing, if it is
/// seen to change.
fn hash_file(
    mount: &Mount,
    file: &OwnedFd,
    before: &Look,
    may_grow: bool,
) -> Result<Option<Hashed>, Refused> {
    let mut hasher = blake3::Hasher::new();
    let mut done: u64 = 0;
    let small = before.size <= INLINE_BYTES_MAX;
    // One byte more than it should have: growth is seen without another call.
    let bytes_max = usize::try_from(before.size).unwrap_or(usize::MAX).saturating_add(1);
    let mut buffer = vec![0; CONTENT_BUFFER_BYTES.min(bytes_max)];
    let mut looked = 0;
    let mut whole = Vec::new();
    loop {
        let n = READ.run(|| rustix::io::read(file, &mut *buffer))?;
        let left = before.size - done;
        let take = n.min(usize::try_from(left).unwrap_or(usize::MAX));
        if n > take && !may_grow {
            return Ok(None);
        }
        hasher.update(&buffer[..take]);
        if small {
            whole.extend_from_slice(&buffer[..take]);
        }
        done += take as u64;
        if n == 0 || n > take {
            break;
        }
        looked += 1;
        if looked % BUFFERS_BETWEEN_LOOKS == 0 && changed(&Look::of(file)?, before, may_grow) {
            return Ok(None);
        }
    }
    Counters::add(&mount.counters.bytes_hashed, done);
    if done != before.size {
        return Ok(None);
    }
    let content = ContentId(*hasher.finalize().as_bytes());
    Ok(Some((content, small.then(|| whole.into()))))
}

fn changed(now: &Look, before: &Look, may_grow: bool) -> bool {
    let grown = may_grow && now.size > before.size;
    !grown && (now.mtime != before.mtime || now.size != before.size)
}

/// Opens a regular file for reading; nothing if it is gone. Should it have become a FIFO since it
/// was looked at, this does not wait for its writer.
pub(crate) fn open_file(
    mount: &Mount,
    dir: &OwnedFd,
    name: &[u8],
) -> Result<Option<OwnedFd>, Refused> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Counters::add(&mount.counters.files_opened, 1);
    match open(dir, name, flags | OFlags::NOATIME) {
        Err(e) if e.errno() == Errno::PERM => open(dir, name, flags),
        other => other,
    }
}

fn open(dir: &OwnedFd, name: &[u8], flags: OFlags) -> Result<Option<OwnedFd>, Refused> {
    match OPEN.run(|| openat(dir, name, flags, Mode::empty())) {
        Ok(fd) => Ok(Some(fd)),
        Err(e) if matches!(e.errno(), Errno::NOENT | Errno::LOOP) => Ok(None),
        Err(e) => Err(e),
    }
}
