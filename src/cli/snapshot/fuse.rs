//! What the kernel asks of a mount of snapshots, answered by the browser.
//!
//! It translates questions and answers, and decides nothing. What cannot be read is an input/output error for
//! whoever reads, and a warning with the path and the object in the log. It has no way to write: the mount
//! is read-only, and what would write is not there.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::error::Error as _;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry,
    ReplyOpen, ReplyXattr, Request,
};
use tokio::sync::oneshot;

use crate::model::Mtime;
use crate::snapshot::{Attr, BrowseError, Browser, LOOK_AGAIN_AFTER, ROOT, Type};

/// How long the kernel need not ask again for what never changes.
const LASTING: Duration = Duration::from_secs(3600);

/// Capabilities that are taken where the kernel has them: several questions at a time in one directory, and access
/// control lists that hold for whoever is let in.
const WANTED: [InitFlags; 2] = [InitFlags::FUSE_PARALLEL_DIROPS, InitFlags::FUSE_POSIX_ACL];

/// The file system.
pub(super) struct Fuse {
    browser: Browser,
    began: Instant,
    /// Told when the kernel has let go of it.
    ended: Option<oneshot::Sender<()>>,
}

impl Fuse {
    pub(super) fn new(browser: Browser, ended: oneshot::Sender<()>) -> Self {
        Self { browser, began: Instant::now(), ended: Some(ended) }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }
}

/// What the caller is told.
fn told(error: BrowseError) -> Errno {
    match error {
        BrowseError::Nothing => Errno::ENOENT,
        BrowseError::Stale => Errno::ESTALE,
        BrowseError::Unreadable { path, source } => {
            let reason = source.source().map(ToString::to_string);
            tracing::warn!(%path, error = %source, reason, "cannot read");
            Errno::EIO
        }
    }
}

const fn file_type(kind: Type) -> FileType {
    match kind {
        Type::Dir => FileType::Directory,
        Type::File => FileType::RegularFile,
        Type::Symlink => FileType::Symlink,
    }
}

fn time(mtime: Mtime) -> SystemTime {
    let seconds = Duration::from_secs(mtime.secs.unsigned_abs());
    let whole = match mtime.secs {
        0.. => UNIX_EPOCH.checked_add(seconds),
        _ => UNIX_EPOCH.checked_sub(seconds),
    };
    let nanos = Duration::from_nanos(mtime.nanos.into());
    whole.and_then(|whole| whole.checked_add(nanos)).unwrap_or(UNIX_EPOCH)
}

/// The answer for `stat`, and for how long it is good.
fn answer(attr: &Attr) -> (FileAttr, Duration) {
    let time = time(attr.mtime);
    let file = FileAttr {
        ino: INodeNo(attr.number),
        size: attr.size,
        blocks: attr.size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(attr.kind),
        perm: u16::try_from(attr.mode & 0o7777).expect("twelve bits"),
        nlink: attr.links,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    };
    (file, if attr.is_lasting { LASTING } else { LOOK_AGAIN_AFTER })
}

/// Answers with as much as was asked for; with 0, how much there is.
fn attribute(value: &[u8], size: u32, reply: ReplyXattr) {
    match u32::try_from(value.len()) {
        Ok(length) if size == 0 => reply.size(length),
        Ok(length) if length <= size => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}

impl Filesystem for Fuse {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for capability in WANTED {
            // An older kernel is slower, or goes by modes alone.
            config.add_capabilities(capability).ok();
        }
        Ok(())
    }

    fn destroy(&mut self) {
        if let Some(ended) = self.ended.take() {
            // Nobody may be waiting any more.
            ended.send(()).ok();
        }
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.browser.lookup(parent.0, name.as_bytes(), self.now()) {
            Ok(attr) => {
                let (attr, good_for) = answer(&attr);
                reply.entry(&good_for, &attr, Generation(0));
            }
            Err(error) => reply.error(told(error)),
        }
    }

    fn forget(&self, _: &Request, number: INodeNo, lookups: u64) {
        self.browser.forget(number.0, lookups);
    }

    fn getattr(&self, _: &Request, number: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.browser.attr(number.0, self.now()) {
            Ok(attr) => {
                let (attr, good_for) = answer(&attr);
                reply.attr(&good_for, &attr);
            }
            Err(error) => reply.error(told(error)),
        }
    }

    fn readlink(&self, _: &Request, number: INodeNo, reply: ReplyData) {
        match self.browser.target(number.0, self.now()) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(told(error)),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // A number is never of another content.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.browser.read(number.0, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(told(error)),
        }
    }

    fn opendir(&self, _: &Request, number: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let cached = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
        let is_lasting = number.0 != ROOT;
        reply.opened(FileHandle(0), if is_lasting { cached } else { FopenFlags::empty() });
    }

    fn readdir(
        &self,
        _: &Request,
        number: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = self.browser.list(number.0, offset, self.now(), &mut |entry| {
            let (number, kind) = (INodeNo(entry.number), file_type(entry.kind));
            let is_full = reply.add(number, entry.next, kind, OsStr::from_bytes(entry.name));
            !is_full
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(told(error)),
        }
    }

    fn getxattr(&self, _: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let attributes = match self.browser.attributes(number.0) {
            Ok(attributes) => attributes,
            Err(error) => return reply.error(told(error)),
        };
        match attributes.iter().find(|(found, _)| **found == *name.as_bytes()) {
            Some((_, value)) => attribute(value, size, reply),
            None => reply.error(Errno::NO_XATTR),
        }
    }

    fn listxattr(&self, _: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        match self.browser.attributes(number.0) {
            Ok(attributes) => {
                let names = attributes.iter().flat_map(|(name, _)| [&**name, b"\0"]);
                attribute(&names.collect::<Vec<_>>().concat(), size, reply);
            }
            Err(error) => reply.error(told(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_told_to_the_nanosecond() {
        for (secs, nanos) in [(0, 0), (1, 5), (-1, 1), (-86_400, 999_999_999), (i64::MIN, 0)] {
            let told = time(Mtime { secs, nanos });
            let (since, before) = match told.duration_since(UNIX_EPOCH) {
                Ok(since) => (since, Duration::ZERO),
                Err(error) => (Duration::ZERO, error.duration()),
            };
            let nanoseconds = |time: Duration| i128::try_from(time.as_nanos()).unwrap();
            let expected = i128::from(secs) * 1_000_000_000 + i128::from(nanos);
            assert_eq!(expected, nanoseconds(since) - nanoseconds(before));
        }
    }
}
