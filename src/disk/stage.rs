//! The stage: content that is fetched or copied here before it is made visible.
//!
//! In: bytes as they arrive, or a local file. Out: complete, verified content, named by its hash.
//! `fetch-<hash>` is a part, `whole-<hash>` was verified by this process. It must never take
//! content for complete that was not hashed to its end since the mount was opened.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{
    AtFlags, FlockOperation, Mode, OFlags, RenameFlags, fdatasync, flock, openat, renameat_with,
    unlinkat,
};
use rustix::io::{Errno, pread};

use super::call::{Call, Refused};
use super::look::{Look, Type};
use super::mount::{Counters, Mount, MountError};
use super::{DiskError, copy, read, scan, walk};
use crate::model::limits::CONTENT_BUFFER_BYTES;
use crate::model::{ContentId, RelPath};

const CLEAR: Call = Call::new("clear.stage", "clear the stage");
const COPY: Call = Call::new("read.copy", "read what is here of it");
const FINISH: Call = Call::new("rename.whole", "finish in the stage");
const OPEN: Call = Call::new("open.stage", "open in the stage");
const SERVE: Call = Call::new("read.serve", "read it to serve it");
const SYNC: Call = Call::new("sync.fetched", "make fetched content durable");

const FETCH: &str = "fetch-";
const WHOLE: &str = "whole-";

/// Content of at least this many bytes is written back as soon as it is complete, by the thread
/// that fetched it, so that a group it is applied in does not wait for it.
const SYNC_EARLY_BYTES_MIN: u64 = 1 << 20;

/// Why content is not in the stage.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// Another thread writes the same content.
    #[error("the content is being staged already")]
    Busy,
    /// Complete, but not the content that was asked for: it was removed.
    #[error("the content is not what was announced")]
    Mismatch,
    /// The operating system refused.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// More bytes than the content has; nothing of them was written.
    #[error("more bytes than the content has")]
    TooLong,
    /// Finished too early; what is there stays.
    #[error("bytes of the content are missing")]
    TooShort,
}

/// Content on its way into the stage. Dropped before [`Staged::finish`], it can be resumed.
#[derive(Debug)]
pub struct Staged {
    mount: Arc<Mount>,
    file: OwnedFd,
    content: ContentId,
    size: u64,
    offset: u64,
    hasher: blake3::Hasher,
    holes: bool,
}

impl Staged {
    /// Opens the part of `content` that is here already, hashing it, or begins a new one. If
    /// nothing is missing, [`Staged::offset`] is `size` and only [`Staged::finish`] is left.
    ///
    /// # Errors
    /// [`StageError::Busy`], [`StageError::Refused`].
    pub fn open(mount: &Arc<Mount>, content: ContentId, size: u64) -> Result<Self, StageError> {
        let name = fetch_name(content);
        let file = open_stage(mount, &name, OFlags::RDWR | OFlags::CREATE)?;
        match OPEN.run(|| flock(&file, FlockOperation::NonBlockingLockExclusive)) {
            Err(e) if e.errno() == Errno::WOULDBLOCK => return Err(StageError::Busy),
            other => other?,
        }
        let look = Look::of(&file)?;
        // Another thread may have finished, and renamed, it between the two calls.
        if Look::at(&mount.stage, name.as_bytes())?.is_none_or(|now| now.inode != look.inode) {
            return Err(StageError::Busy);
        }
        let mut hasher = blake3::Hasher::new();
        let mut offset = 0;
        if look.size > size {
            copy::set_size(&file, 0)?;
        } else if look.size > 0 {
            offset = copy::hash_into(mount, &mut hasher, &file, look.size)?;
        }
        // Applications must not run out of space for the sake of what does not fit.
        let free = mount.free_space().map_or(u64::MAX, |(free, _)| free);
        if size - offset > free {
            remove(mount, &name)?;
            return Err(OPEN.failed(Errno::NOSPC.into()).into());
        }
        Ok(Self { mount: mount.clone(), file, content, size, offset, hasher, holes: false })
    }

    /// Leaves blocks of zeros out: for content whose entry says `sparse`.
    #[must_use]
    pub fn with_holes(self, holes: bool) -> Self {
        Self { holes, ..self }
    }

    /// Bytes that are here.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes of the whole.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends.
    ///
    /// # Errors
    /// [`StageError::TooLong`], [`StageError::Refused`]. What was there before stays, unless there is
    /// no space: what does not fit must not take the space of what does.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StageError> {
        let end = self.offset.saturating_add(bytes.len() as u64);
        if end > self.size {
            return Err(StageError::TooLong);
        }
        let written = copy::write_at(&self.file, self.offset, bytes, self.holes);
        if let Err(refused) = written {
            if refused.is_no_space() {
                remove(&self.mount, &fetch_name(self.content))?;
            }
            return Err(refused.into());
        }
        self.hasher.update(bytes);
        self.offset = end;
        Ok(())
    }

    /// Appends bytes of another file.
    ///
    /// # Errors
    /// As [`Staged::write`], and [`StageError::TooShort`] if it has not as many.
    pub fn copy(&mut self, from: &Content, offset: u64, bytes: u64) -> Result<(), StageError> {
        let mut buffer = vec![0; CONTENT_BUFFER_BYTES];
        let (mut at, end) = (offset, offset.saturating_add(bytes));
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let n = COPY.run(|| pread(&from.file, &mut buffer[..most], at))?;
            if n == 0 {
                return Err(StageError::TooShort);
            }
            self.write(&buffer[..n])?;
            at += n as u64;
        }
        Ok(())
    }

    /// Verifies the whole and keeps it under its name.
    ///
    /// # Errors
    /// [`StageError::Mismatch`] removes it; [`StageError::TooShort`] leaves it to be resumed.
    pub fn finish(self) -> Result<(), StageError> {
        if self.offset != self.size {
            return Err(StageError::TooShort);
        }
        let fetch = fetch_name(self.content);
        if *self.hasher.finalize().as_bytes() != self.content.0 {
            remove(&self.mount, &fetch)?;
            return Err(StageError::Mismatch);
        }
        copy::set_size(&self.file, self.size)?;
        finish_whole(&self.mount, &self.file, &fetch, self.content, self.size)?;
        Ok(())
    }
}

/// Whether the whole of `content` is in the stage, verified.
#[must_use]
pub fn exists_complete(mount: &Mount, content: ContentId) -> bool {
    Look::at(&mount.stage, whole_name(content).as_bytes()).is_ok_and(|look| look.is_some())
}

/// Copies the file `from` into the stage, if it still holds exactly `content`. Says whether it did.
///
/// # Errors
/// [`DiskError`], when it is there but could not be read, or not be staged.
pub fn stage_from_local(
    mount: &Mount,
    from: &RelPath,
    content: ContentId,
    size: u64,
) -> Result<bool, DiskError> {
    let file = match open_content(mount, from) {
        Ok(file) => file,
        Err(DiskError::Missing) => return Ok(false),
        Err(e) => return Err(e),
    };
    let look = Look::of(&file)?;
    if look.size != size {
        return Ok(false);
    }
    let (name, staged) = create(mount)?;
    let copied = copy::copy_verified(mount, &file, &staged, (content, size), look.is_sparse());
    if !matches!(copied, Ok(true)) {
        remove(mount, &name)?;
        return Ok(copied?);
    }
    finish_whole(mount, &staged, &name, content, size)?;
    Ok(true)
}

/// Copies `size` bytes of `file` into the stage, whatever they are. Gives their id, under which they
/// are whole there, and how many they were.
pub(crate) fn stage_any(
    mount: &Mount,
    file: &OwnedFd,
    size: u64,
    holes: bool,
) -> Result<(ContentId, u64), Refused> {
    let (name, staged) = create(mount)?;
    let copied = copy::copy_hashed(mount, file, &staged, size, holes);
    let whole = copied.and_then(|(content, bytes)| {
        finish_whole(mount, &staged, &name, content, bytes)?;
        Ok((content, bytes))
    });
    if whole.is_err() {
        remove(mount, &name)?;
    }
    whole
}

/// A file whose content is served.
#[derive(Debug)]
pub struct Content {
    file: OwnedFd,
    at: u64,
}

impl Content {
    /// Its size in bytes now.
    ///
    /// # Errors
    /// What the operating system refused.
    pub fn size(&self) -> Result<u64, Refused> {
        Ok(Look::of(&self.file)?.size)
    }

    /// From the byte `offset` on.
    #[must_use]
    pub fn from(self, offset: u64) -> Self {
        Self { at: offset, ..self }
    }

    /// Parts of it, by offset and length, one after the other.
    #[must_use]
    pub fn ranges(self, ranges: Vec<(u64, u64)>) -> Ranges {
        Ranges { content: self, ranges: ranges.into() }
    }
}

/// Parts of a content, as one stream of bytes. It ends early where the file does.
#[derive(Debug)]
pub struct Ranges {
    content: Content,
    ranges: VecDeque<(u64, u64)>,
}

impl Read for Ranges {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some((at, left)) = self.ranges.front_mut() else { return Ok(0) };
        let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
        self.content.at = *at;
        let n = self.content.read(&mut buffer[..most])?;
        *at += n as u64;
        *left -= n as u64;
        if *left == 0 {
            self.ranges.pop_front();
        }
        Ok(n)
    }
}

impl AsFd for Content {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let at = self.at;
        let n = SERVE.run(|| pread(&self.file, &mut *buffer, at)).map_err(|e| e.source)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// Opens a regular file to serve its content. What is read may change while it is read: the
/// receiver verifies it.
///
/// # Errors
/// [`DiskError::Missing`] if no regular file is there.
pub fn open_content(mount: &Mount, path: &RelPath) -> Result<Content, DiskError> {
    let (dir, name) = walk::split(path)?;
    let dir = walk::open_dir(&mount.root, dir)?;
    match Look::at(&dir, name)? {
        Some(look) if mount.is_boundary(&look) => return Err(DiskError::MountPoint),
        Some(look) if look.file_type() == Type::File => {}
        _ => return Err(DiskError::Missing),
    }
    let file = read::open_file(mount, &dir, name)?.ok_or(DiskError::Missing)?;
    match Look::of(&file)?.file_type() {
        Type::File => Ok(Content { file, at: 0 }),
        _ => Err(DiskError::Missing),
    }
}

/// Opens the whole of `content` in the stage, to serve it; nothing if it is not there.
///
/// # Errors
/// What the operating system refused.
pub fn open_staged(mount: &Mount, content: ContentId) -> Result<Option<Content>, DiskError> {
    match open_stage(mount, &whole_name(content), OFlags::RDONLY) {
        Ok(file) => Ok(Some(Content { file, at: 0 })),
        Err(e) if e.errno() == Errno::NOENT => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Removes content, in whole or in part, that nobody wrote to for `older_than`, and what an apply
/// could not remove when it failed; how many files.
///
/// # Errors
/// What the operating system refused; the rest stays.
pub fn expire_stage(mount: &Mount, older_than: Duration) -> Result<u64, DiskError> {
    expire_before(mount, mount.clock().unix_seconds().saturating_sub(older_than.as_secs()))
}

/// The same for what is older than a time, in seconds since 1970.
pub(super) fn expire_before(mount: &Mount, unix_s: u64) -> Result<u64, DiskError> {
    let oldest = i64::try_from(unix_s).unwrap_or(i64::MAX);
    let mut removed = 0;
    for name in names(mount)? {
        let Some(look) = Look::at(&mount.stage, &name)? else { continue };
        let is_content = name.starts_with(FETCH.as_bytes()) || name.starts_with(WHOLE.as_bytes());
        // The times of modification of an item are those of its target.
        let since = if is_content { look.mtime } else { look.ctime };
        if since.secs < oldest {
            remove_any(&mount.stage, &name)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Clears the stage when a mount is opened. What was verified by an earlier process becomes a part
/// again: it may not have reached the disk.
pub(super) fn clear(mount: &Mount) -> Result<(), MountError> {
    for name in names(mount)? {
        if let Some(hash) = name.strip_prefix(WHOLE.as_bytes()) {
            let fetch = [FETCH.as_bytes(), hash].concat();
            rename(mount, &name, &fetch)?;
        } else if !name.starts_with(FETCH.as_bytes()) {
            remove_any(&mount.stage, &name)?;
        }
    }
    Ok(())
}

/// A new, empty file in the stage with its name; mode 0600.
pub(crate) fn create(mount: &Mount) -> Result<(String, OwnedFd), Refused> {
    let name = new_name(mount);
    let file = open_stage(mount, &name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)?;
    Ok((name, file))
}

/// A name nothing in the stage has.
pub(crate) fn new_name(mount: &Mount) -> String {
    Counters::add(&mount.counters.files_staged, 1);
    format!("new-{:x}", mount.unique())
}

/// Takes the whole of `content` out of the stage under a name of its own; nothing if it is missing.
pub(crate) fn take_whole(
    mount: &Mount,
    content: ContentId,
) -> Result<Option<(String, OwnedFd)>, Refused> {
    let name = new_name(mount);
    match rename(mount, whole_name(content).as_bytes(), name.as_bytes()) {
        Err(e) if e.errno() == Errno::NOENT => return Ok(None),
        other => other?,
    }
    match open_stage(mount, &name, OFlags::RDWR) {
        Ok(file) => Ok(Some((name, file))),
        Err(e) => {
            rename(mount, name.as_bytes(), whole_name(content).as_bytes())?;
            Err(e)
        }
    }
}

/// The name of the whole of `content` in the stage.
pub(crate) fn whole_name(content: ContentId) -> String {
    format!("{WHOLE}{content}")
}

/// Removes a file, a link or an empty directory.
pub(crate) fn remove_any(dir: &OwnedFd, name: &[u8]) -> Result<(), Refused> {
    match CLEAR.run(|| unlinkat(dir, name, AtFlags::empty())) {
        Err(e) if e.errno() == Errno::ISDIR => {
            CLEAR.run(|| unlinkat(dir, name, AtFlags::REMOVEDIR))
        }
        Err(e) if e.errno() == Errno::NOENT => Ok(()),
        other => other,
    }
}

fn fetch_name(content: ContentId) -> String {
    format!("{FETCH}{content}")
}

fn finish_whole(
    mount: &Mount,
    file: &OwnedFd,
    name: &str,
    content: ContentId,
    size: u64,
) -> Result<(), Refused> {
    if size >= SYNC_EARLY_BYTES_MIN {
        Counters::add(&mount.counters.syncs, 1);
        if let Err(e) = SYNC.run(|| fdatasync(file)) {
            // What failed counts as written from now on, and may not be: it is fetched again.
            remove(mount, name)?;
            return Err(e);
        }
    }
    rename(mount, name.as_bytes(), whole_name(content).as_bytes())
}

fn rename(mount: &Mount, from: &[u8], to: &[u8]) -> Result<(), Refused> {
    let (stage, flags) = (&mount.stage, RenameFlags::empty());
    FINISH.run(|| renameat_with(stage, from, stage, to, flags))
}

fn remove(mount: &Mount, name: &str) -> Result<(), Refused> {
    remove_any(&mount.stage, name.as_bytes())
}

fn open_stage(mount: &Mount, name: &str, flags: OFlags) -> Result<OwnedFd, Refused> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    OPEN.run(|| openat(&mount.stage, name, flags, Mode::from_raw_mode(0o600)))
}

fn names(mount: &Mount) -> Result<Vec<Box<[u8]>>, Refused> {
    scan::names(&mount.stage, usize::MAX)
}
