//! What is in the trash of a mount on this node, and taking it out again.
//!
//! In: a mount. Out: what lies in its trash, also what is on its way there; and one of them as an
//! entry whose content is staged, to be applied like any other; the same of a loser of a conflict. It
//! must never change the trash: what is taken out stays in it until it expires.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat};

use super::apply::Source;
use super::call::{Call, Refused};
use super::look::{Look, Type};
use super::mount::Mount;
use super::trash::{MARK, TrashNote, number, term};
use super::{DiskError, displaced, metadata, scan, stage, walk};
use crate::model::{Entry, Kind, Mtime, NodeId, RelPath};

const OPEN: Call = Call::new("open.trashed", "open what is in the trash");
const READ_LINK: Call = Call::new("read.trashed", "read the link in the trash");

/// Bytes of an older name: it has the end of the path if it may be longer.
const OLD_PATH_BYTES_MAX: usize = 200;

/// The folder of what the second look has not moved to the trash yet.
const WAITING: &[u8] = b"displaced";

/// Where something lies in the trash: a folder and a name in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrashPlace {
    folder: Box<[u8]>,
    name: Box<[u8]>,
}

impl TrashPlace {
    /// As it came from another node or a command; nothing if it could lie anywhere else.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let path = RelPath::parse(bytes).ok()?;
        let (folder, name) = path.split()?;
        let is_day = !folder.is_empty() && folder.iter().all(u8::is_ascii_digit);
        let known = is_day || folder == WAITING;
        known.then(|| Self { folder: folder.into(), name: name.into() })
    }

    /// What [`TrashPlace::parse`] reads.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [&*self.folder, b"/", &*self.name].concat()
    }
}

/// Something in the trash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trashed {
    /// Where it lies.
    pub place: TrashPlace,
    /// The bytes of its path, or the end of them.
    pub path: Vec<u8>,
    /// Whether that is all of its path.
    pub is_whole: bool,
    /// Names it in commands.
    pub id: u64,
    /// When it came here, in seconds since 1970.
    pub secs: u64,
    /// When it is removed, in seconds since 1970.
    pub until_secs: u64,
    /// Whether it was removed; otherwise overwritten. Nothing if that is not known.
    pub removed: Option<bool>,
    /// Who did that.
    pub by: Option<NodeId>,
}

/// What a look shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peek {
    /// `file`, `directory`, `symlink`, or what else it is.
    pub kind: &'static str,
    /// Of a file.
    pub bytes: u64,
    /// Its modification time.
    pub mtime: Mtime,
}

/// All that lies in the trash, in no order.
///
/// # Errors
/// What the operating system refused.
pub fn trashed(mount: &Mount) -> Result<Vec<Trashed>, Refused> {
    let mut all = Vec::new();
    for waiting in displaced::waiting(mount)? {
        let place = TrashPlace { folder: WAITING.into(), name: waiting.name };
        let path = waiting.path.as_bytes().to_vec();
        all.push(told(place, path, waiting.secs, &waiting.note));
    }
    for day in scan::names(&mount.trash, usize::MAX)? {
        let text = std::str::from_utf8(&day).ok();
        let Some(number) = text.and_then(|day| day.parse().ok()) else { continue };
        let dir = open_folder(mount, &day)?;
        for name in scan::names(&dir, usize::MAX)? {
            let place = TrashPlace { folder: day.clone(), name };
            all.extend(decode(&dir, number, place));
        }
    }
    Ok(all)
}

fn told(place: TrashPlace, path: Vec<u8>, secs: u64, note: &TrashNote) -> Trashed {
    Trashed {
        place,
        path,
        is_whole: true,
        id: note.id,
        secs,
        until_secs: secs.saturating_add(note.keep_secs),
        removed: note.removed,
        by: Some(note.by).filter(|by| by.0 != 0),
    }
}

fn decode(dir: &OwnedFd, day: u64, place: TrashPlace) -> Option<Trashed> {
    if displaced::sidecar_of(&place.name).is_some() {
        return None;
    }
    match place.name.strip_prefix(MARK) {
        Some(rest) => {
            let mut fields = rest.splitn(3, |&b| b == b'-');
            let (unique, secs) = (number(fields.next()?)?, number(fields.next()?)?);
            let (note, path) = TrashNote::decode(fields.next()?)?;
            let path = displaced::noted_path(dir, unique, path)?;
            Some(told(place, path, secs, &note))
        }
        None => {
            let at = place.name.iter().position(|&b| b == b'-')?;
            let (unique, tail) = (number(&place.name[..at])?, &place.name[at + 1..]);
            let path = displaced::unescape(tail).unwrap_or_else(|| tail.to_vec());
            let is_whole = tail.len() < OLD_PATH_BYTES_MAX;
            let term = term(day, &place.name)?;
            let note = TrashNote::unknown(unique);
            let until_secs = term.until_secs;
            Some(Trashed { is_whole, until_secs, ..told(place, path, term.secs, &note) })
        }
    }
}

fn open_folder(mount: &Mount, folder: &[u8]) -> Result<OwnedFd, Refused> {
    if folder == WAITING {
        return OPEN.run(|| rustix::io::fcntl_dupfd_cloexec(&mount.displaced, 0));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    OPEN.run(|| openat(&mount.trash, folder, flags, Mode::empty()))
}

/// Looks at something in the trash; nothing if it is gone.
///
/// # Errors
/// What the operating system refused.
pub fn peek_trashed(mount: &Mount, place: &TrashPlace) -> Result<Option<Peek>, Refused> {
    let dir = open_folder(mount, &place.folder)?;
    Ok(Look::at(&dir, &place.name)?.map(|look| shown(&look)))
}

/// Looks at a path of the mount; nothing if nothing is there.
///
/// # Errors
/// [`DiskError`], if it cannot be looked at.
pub fn peek(mount: &Mount, path: &RelPath) -> Result<Option<Peek>, DiskError> {
    let (dir, name) = walk::split(path)?;
    match walk::open_dir(&mount.root, dir) {
        Ok(dir) => Ok(Look::at(&dir, name)?.map(|look| shown(&look))),
        Err(DiskError::Missing) => Ok(None),
        Err(error) => Err(error),
    }
}

fn shown(look: &Look) -> Peek {
    let (kind, bytes) = match look.file_type() {
        Type::Dir => ("directory", 0),
        Type::File => ("file", look.size),
        Type::Symlink => ("symlink", 0),
        Type::Special(what) => (what, 0),
    };
    Peek { kind, bytes, mtime: look.mtime }
}

/// Something in the trash of `from` as an entry, its content in the stage of `to`. Nothing if it is
/// gone.
///
/// # Errors
/// What the operating system refused; then nothing is staged.
pub fn take_trashed(
    from: &Mount,
    place: &TrashPlace,
    to: &Arc<Mount>,
) -> Result<Option<(Entry, Source)>, Refused> {
    let dir = open_folder(from, &place.folder)?;
    take(dir.as_fd(), &place.name, to)
}

/// A file or link that was kept anywhere outside of a mount as an entry, its content in the stage of
/// `to`. Nothing if it is gone.
///
/// # Errors
/// What the operating system refused; then nothing is staged.
pub fn take_kept(file: &Path, to: &Arc<Mount>) -> Result<Option<(Entry, Source)>, Refused> {
    take(CWD, file.as_os_str().as_bytes(), to)
}

fn take(
    dir: BorrowedFd<'_>,
    name: &[u8],
    to: &Arc<Mount>,
) -> Result<Option<(Entry, Source)>, Refused> {
    let Some(look) = Look::at(dir, name)? else { return Ok(None) };
    let is_file = look.file_type() == Type::File;
    let kind = if is_file { OFlags::RDONLY | OFlags::NONBLOCK } else { OFlags::PATH };
    let flags = kind | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = OPEN.run(|| openat(dir, name, flags, Mode::empty()))?;
    let look = Look::of(&fd)?;
    let meta = metadata::read(fd.as_fd(), &look, to.privileged)?;
    let (kind, source) = match look.file_type() {
        Type::File => {
            let sparse = look.is_sparse();
            let (content, size) = stage::stage_any(to, &fd, look.size, sparse)?;
            let source = if size == 0 { Source::None } else { Source::Staged };
            (Kind::File { size, content, sparse, group: None }, source)
        }
        Type::Dir => (Kind::Dir, Source::None),
        Type::Symlink | Type::Special(_) => {
            let target = READ_LINK.run(|| readlinkat(&fd, b"".as_slice(), Vec::new()))?;
            (Kind::Symlink { target: target.into_bytes().into() }, Source::None)
        }
    };
    Ok(Some((Entry { kind, meta }, source)))
}
