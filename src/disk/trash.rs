//! Where displaced files stay: the trash for days, `kept/` until the conflict store takes them.
//!
//! In: a file in `displaced/`. Out: the same file in the trash or in `kept/`. All that is known of
//! it is in its name, so that neither a crash nor a lost index loses where it was. It must never
//! replace a file that is there already.
//!
//! A name in `trash/DAY/`: `v2-UNIQUE-SECS-ID-BY-KEEP-WHAT-PATH`, numbers in hexadecimal, the path
//! escaped, or `%long` and noted in symbolic links beside it. Before, it was `UNIQUE-` and the end of
//! the path. [`super::trashed()`] reads them.
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
use crate::model::limits::{CONTENT_BUFFER_BYTES, NAME_BYTES_MAX};
use crate::model::{Meta, NodeId, RelPath};

const COPY: Call = Call::new("copy.shared", "copy a file that has other names");
const KEEP: Call = Call::new("rename.keep", "keep the displaced file");
const MKDIR: Call = Call::new("mkdir.trash", "create a day in the trash");
const OPEN: Call = Call::new("open.trash", "open a day in the trash");
const RENAME: Call = Call::new("rename.trash", "move to the trash");
const UNLINK: Call = Call::new("unlink.trash", "remove from the trash");

pub(crate) const SECONDS_PER_DAY: u64 = 24 * 60 * 60;
/// For what was put there before names said how long it stays.
pub(crate) const KEEP_SECS: u64 = 7 * SECONDS_PER_DAY;
pub(crate) const MARK: &[u8] = b"v2-";

/// What is written down of something that goes to the trash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrashNote {
    /// Names it in commands: the same on every node that displaced the same edit of a path.
    pub id: u64,
    /// Who replaced or removed it, as a node and its life; 0 if that is not known.
    pub by: NodeId,
    /// How long it stays, in seconds.
    pub keep_secs: u64,
    /// Whether it was removed; otherwise overwritten.
    pub removed: Option<bool>,
}

impl TrashNote {
    /// Of what was displaced before there were notes.
    pub(crate) fn unknown(id: u64) -> Self {
        Self { id, by: NodeId(0), keep_secs: KEEP_SECS, removed: None }
    }

    /// Four fields, each with a dash behind it.
    pub(crate) fn encode(&self) -> String {
        let what = match self.removed {
            Some(true) => 'r',
            Some(false) => 'o',
            None => 'u',
        };
        format!("{:x}-{:x}-{:x}-{what}-", self.id, self.by.0, self.keep_secs)
    }

    /// The note, and what is behind it.
    pub(crate) fn decode(text: &[u8]) -> Option<(Self, &[u8])> {
        let mut fields = text.splitn(5, |&b| b == b'-');
        let (id, by, keep_secs) =
            (number(fields.next()?)?, number(fields.next()?)?, number(fields.next()?)?);
        let removed = match fields.next()? {
            b"r" => Some(true),
            b"o" => Some(false),
            _ => None,
        };
        Some((Self { id, by: NodeId(by), keep_secs, removed }, fields.next()?))
    }
}

/// A number in hexadecimal.
pub(crate) fn number(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

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

/// Removes what was in the trash for as long as its name says, at `now_unix_s`; how many files.
///
/// # Errors
/// What the operating system refused; the rest stays.
pub fn expire_trash(mount: &Mount, now_unix_s: u64) -> io::Result<u64> {
    let mut removed = 0;
    for day in scan::names(&mount.trash, usize::MAX).map_err(|e| e.source)? {
        let number = std::str::from_utf8(&day).ok().and_then(|d| d.parse::<u64>().ok());
        if let Some(number) = number {
            removed += expire_day(mount, &day, number, now_unix_s).map_err(|e| e.source)?;
        }
    }
    Ok(removed)
}

/// How long something is in the trash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Term {
    /// When it came here, in seconds since 1970.
    pub(crate) secs: u64,
    /// When it expires.
    pub(crate) until_secs: u64,
    /// Its number, if its path may be noted beside it.
    pub(crate) unique: Option<u64>,
}

/// What a name in a day of the trash tells. Nothing for a noted path.
pub(crate) fn term(day: u64, name: &[u8]) -> Option<Term> {
    if displaced::sidecar_of(name).is_some() {
        return None;
    }
    let told = || {
        let mut fields = name.strip_prefix(MARK)?.splitn(3, |&b| b == b'-');
        let (unique, secs) = (number(fields.next()?)?, number(fields.next()?)?);
        let (note, _) = TrashNote::decode(fields.next()?)?;
        let until_secs = secs.saturating_add(note.keep_secs);
        Some(Term { secs, until_secs, unique: Some(unique) })
    };
    let secs = day.saturating_mul(SECONDS_PER_DAY);
    let until_secs = secs.saturating_add(SECONDS_PER_DAY).saturating_add(KEEP_SECS);
    Some(told().unwrap_or(Term { secs, until_secs, unique: None }))
}

fn expire_day(mount: &Mount, day: &[u8], number: u64, now: u64) -> Result<u64, Refused> {
    let dir = open_folder(mount, day)?;
    let (mut removed, mut left) = (0, 0);
    let names = scan::names(&dir, usize::MAX)?;
    for name in &names {
        match term(number, name) {
            None => {}
            Some(term) if term.until_secs >= now => left += 1,
            Some(term) => {
                stage::remove_any(&dir, name)?;
                term.unique.iter().for_each(|&unique| displaced::remove_sidecars(&dir, unique));
                removed += 1;
            }
        }
    }
    if left > 0 || now < number.saturating_add(2).saturating_mul(SECONDS_PER_DAY) {
        return Ok(removed);
    }
    // Paths that a crash left without their file.
    for name in scan::names(&dir, usize::MAX)? {
        stage::remove_any(&dir, &name)?;
    }
    UNLINK.run(|| unlinkat(&mount.trash, day, AtFlags::REMOVEDIR))?;
    Ok(removed)
}

/// Moves `name` in `from` to the trash of the day of `secs`.
pub(crate) fn put(
    mount: &Mount,
    from: &OwnedFd,
    name: &[u8],
    path: &RelPath,
    secs: u64,
    note: &TrashNote,
) -> Result<(), Refused> {
    let day = open_day(mount, secs)?;
    let trashed = new_name(mount, &day, path, secs, note)?;
    if is_shared(from, name)? {
        return copy_shared(mount, from, name, &day, &trashed);
    }
    RENAME.run(|| renameat_with(from, name, &day, &*trashed, RenameFlags::NOREPLACE))
}

/// Remembers a directory that was removed, so that a tree can be restored with its modes and owners.
pub(crate) fn put_dir(
    mount: &Mount,
    path: &RelPath,
    meta: &Meta,
    note: &TrashNote,
) -> Result<(), Refused> {
    let secs = mount.clock().unix_seconds();
    let day = open_day(mount, secs)?;
    let name = new_name(mount, &day, path, secs, note)?;
    MKDIR.run(|| mkdirat(&day, &*name, Mode::from_raw_mode(0o700)))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = OPEN.run(|| openat(&day, &*name, flags, Mode::empty()))?;
    metadata::set(fd.as_fd(), meta, true, mount.privileged)
}

fn new_name(
    mount: &Mount,
    day: &OwnedFd,
    path: &RelPath,
    secs: u64,
    note: &TrashNote,
) -> Result<Vec<u8>, Refused> {
    let unique = mount.unique();
    let mut name = MARK.to_vec();
    name.extend_from_slice(format!("{unique:x}-{secs:x}-{}", note.encode()).as_bytes());
    let escaped = displaced::escape(path.as_bytes());
    if name.len() + escaped.len() <= NAME_BYTES_MAX {
        name.extend_from_slice(&escaped);
    } else {
        name.extend_from_slice(displaced::LONG);
        displaced::note_path(day, unique, path)?;
    }
    Ok(name)
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
    open_folder(mount, day.as_bytes())
}

/// Opens a day that is there.
pub(crate) fn open_folder(mount: &Mount, day: &[u8]) -> Result<OwnedFd, Refused> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    OPEN.run(|| openat(&mount.trash, day, flags, Mode::empty()))
}
