//! Where displaced files stay: the trash for days, `kept/` until the conflict store takes them.
//!
//! In: a file in `displaced/`. Out: the same file in the trash or in `kept/`. It must never
//! replace a file that is there already.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, mkdirat, openat, renameat_with, unlinkat};
use rustix::io::Errno;

use super::call::{Call, Refused};
use super::look::{Look, Type};
use super::mount::Mount;
use super::{copy, displaced, metadata, scan, stage};
use crate::model::RelPath;
use crate::model::limits::CONTENT_BUFFER_BYTES;

const COPY: Call = Call::new("copy.shared", "copy a file that has other names");
const KEEP: Call = Call::new("rename.keep", "keep the displaced file");
const MKDIR: Call = Call::new("mkdir.trash", "create a day in the trash");
const OPEN: Call = Call::new("open.trash", "open a day in the trash");
const RENAME: Call = Call::new("rename.trash", "move to the trash");
const UNLINK: Call = Call::new("unlink.trash", "remove from the trash");

const SECONDS_PER_DAY: u64 = 24 * 60 * 60;
/// Bytes of a path in a name in the trash: the end of it, for a person.
const NAME_PATH_BYTES_MAX: usize = 200;

/// Names a file that is kept. Given by the caller, safe as a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeptId(Box<str>);

impl KeptId {
    /// 1 to 128 letters, digits, `-`, `_` and `.`, not beginning with a dot.
    #[must_use]
    pub fn parse(id: &str) -> Option<Self> {
        let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let fits = (1..=128).contains(&id.len()) && !id.starts_with('.');
        (fits && id.bytes().all(safe)).then(|| Self(id.into()))
    }

    /// As it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for KeptId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The files that were kept and not taken yet, sorted by id. The caller moves them to the conflict
/// store, or copies and removes them.
///
/// # Errors
/// What the operating system refused.
pub fn kept(mount: &Mount) -> io::Result<Vec<(KeptId, PathBuf)>> {
    let names = scan::names(&mount.kept, usize::MAX).map_err(|e| e.source)?;
    let id = |name: &[u8]| KeptId::parse(std::str::from_utf8(name).ok()?);
    let mut ids: Vec<_> = names.iter().filter_map(|name| id(name)).collect();
    ids.sort_unstable();
    let folder = mount.own_path("kept");
    Ok(ids.into_iter().map(|id| (id.clone(), folder.join(id.as_str()))).collect())
}

/// Removes what went to the trash more than `days` days before `now_unix_s`; how many files.
///
/// # Errors
/// What the operating system refused; the rest stays.
pub fn expire_trash(mount: &Mount, now_unix_s: u64, days: u64) -> io::Result<u64> {
    let oldest = (now_unix_s / SECONDS_PER_DAY).saturating_sub(days);
    let mut removed = 0;
    for day in scan::names(&mount.trash, usize::MAX).map_err(|e| e.source)? {
        let number = std::str::from_utf8(&day).ok().and_then(|d| d.parse::<u64>().ok());
        if number.is_none_or(|number| number >= oldest) {
            continue;
        }
        removed += remove_day(mount, &day).map_err(|e| e.source)?;
    }
    Ok(removed)
}

/// Moves `name` in `from` to the trash of the day of `secs`.
pub(crate) fn put(
    mount: &Mount,
    from: &OwnedFd,
    name: &[u8],
    path: &RelPath,
    secs: u64,
) -> Result<(), Refused> {
    let day = open_day(mount, secs)?;
    let trashed = trash_name(mount, path);
    if is_shared(from, name)? {
        return copy_shared(mount, from, name, &day, &trashed);
    }
    RENAME.run(|| renameat_with(from, name, &day, &*trashed, RenameFlags::NOREPLACE))
}

/// Moves `name` in `from` to `kept/`.
pub(crate) fn keep(mount: &Mount, from: &OwnedFd, name: &[u8], id: &KeptId) -> Result<(), Refused> {
    if is_shared(from, name)? {
        return copy_shared(mount, from, name, &mount.kept, id.as_str().as_bytes());
    }
    KEEP.run(|| renameat_with(from, name, &mount.kept, id.as_str(), RenameFlags::NOREPLACE))
}

/// Whether it is a file with other names, by which it can still be changed.
fn is_shared(dir: &OwnedFd, name: &[u8]) -> Result<bool, Refused> {
    let look = Look::at(dir, name)?;
    Ok(look.is_some_and(|look| look.file_type() == Type::File && look.links > 1))
}

/// Copies a file that can still be changed by another name, with its metadata, and removes this
/// name of it.
fn copy_shared(
    mount: &Mount,
    from: &OwnedFd,
    name: &[u8],
    to: &OwnedFd,
    to_name: &[u8],
) -> Result<(), Refused> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let source = COPY.run(|| openat(from, name, flags, Mode::empty()))?;
    let look = Look::of(&source)?;
    let (staged, file) = stage::create(mount)?;
    let copied = copy_bytes(&source, &file, look.size)
        .and_then(|()| metadata::read(source.as_fd(), &look, mount.privileged))
        .and_then(|meta| metadata::set(file.as_fd(), &meta, true, mount.privileged))
        .and_then(|()| {
            let flags = RenameFlags::NOREPLACE;
            COPY.run(|| renameat_with(&mount.stage, &*staged, to, to_name, flags))
        });
    if let Err(e) = copied {
        stage::remove_any(&mount.stage, staged.as_bytes())?;
        return Err(e);
    }
    UNLINK.run(|| unlinkat(from, name, AtFlags::empty()))
}

fn copy_bytes(from: &OwnedFd, to: &OwnedFd, size: u64) -> Result<(), Refused> {
    let mut buffer = vec![0; CONTENT_BUFFER_BYTES];
    let mut at = 0;
    while at < size {
        let n = COPY.run(|| rustix::io::pread(from, &mut *buffer, at))?;
        if n == 0 {
            break;
        }
        copy::write_at(to, at, &buffer[..n], true)?;
        at += n as u64;
    }
    copy::set_size(to, at)
}

fn open_day(mount: &Mount, secs: u64) -> Result<OwnedFd, Refused> {
    let day = (secs / SECONDS_PER_DAY).to_string();
    match MKDIR.run(|| mkdirat(&mount.trash, &*day, Mode::from_raw_mode(0o700))) {
        Err(e) if e.errno() != Errno::EXIST => return Err(e),
        _ => {}
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    OPEN.run(|| openat(&mount.trash, &*day, flags, Mode::empty()))
}

fn trash_name(mount: &Mount, path: &RelPath) -> Vec<u8> {
    let escaped = displaced::escape(path.as_bytes());
    let from = escaped.len().saturating_sub(NAME_PATH_BYTES_MAX);
    let mut name = format!("{:x}-", mount.unique()).into_bytes();
    name.extend_from_slice(&escaped[from..]);
    name
}

fn remove_day(mount: &Mount, day: &[u8]) -> Result<u64, Refused> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = OPEN.run(|| openat(&mount.trash, day, flags, Mode::empty()))?;
    let names = scan::names(&dir, usize::MAX)?;
    for name in &names {
        UNLINK.run(|| unlinkat(&dir, &**name, AtFlags::empty()))?;
    }
    UNLINK.run(|| unlinkat(&mount.trash, day, AtFlags::REMOVEDIR))?;
    Ok(names.len() as u64)
}
