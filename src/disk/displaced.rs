//! Inodes that were displaced from their path, and the second look at them.
//!
//! In: what is displaced, with what it was expected to be. Out: [`LateWrite`]s. A writer may have
//! had the file open: what it writes afterwards would be lost with it. Everything needed is in the
//! name of the displaced file, so that a crash loses nothing. It must never remove what is not
//! exactly the version that was expected.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{
    AtFlags, Mode, OFlags, RenameFlags, openat, readlinkat, renameat_with, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::call::{Call, Refused};
use super::look::{Look, Type};
use super::mount::Mount;
use super::sys::{Writer, writer_of};
use super::trash::{self, TrashNote};
use super::{scan, stage};
use crate::model::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX};
use crate::model::{Mtime, RelPath, Signature};

const OPEN: Call = Call::new("open.displaced", "open a displaced directory");
const SPILL: Call = Call::new("rename.spill", "move out of a displaced directory");
const SIDECAR: Call = Call::new("symlink.displaced", "note the path of a displaced file");
const PROBE: Call = Call::new("open.probe", "open a file to ask for its writers");
const READ_SIDECAR: Call = Call::new("read.sidecar", "read the path of a displaced file");
const UNLINK: Call = Call::new("unlink.displaced", "remove a displaced file");
const UNLINK_SIDECAR: Call = Call::new("unlink.sidecar", "remove the path of a displaced file");

/// Displaced files looked at in one call; what is still open, or not taken yet, counts each time.
const LOOKS_MAX: usize = 65_536;
/// Stands for a path that does not fit into the name: it is in symbolic links beside it, which are
/// as durable as a name.
pub(crate) const LONG: &[u8] = b"%long";
/// What every file system takes as a link's target: xfs 1,024 bytes, ext4 less than a block.
const SIDECAR_BYTES: usize = 1000;

/// What becomes of a displaced file after the second look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Drop,
    Trash(TrashNote),
    /// Only if it could not be moved at once: it is handed out like a late write.
    Keep,
}

/// A displaced file that somebody wrote to, or that was not the version expected and could not be
/// put back. It is reported until the caller removes the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LateWrite {
    /// Where it was.
    pub path: RelPath,
    /// Where it is: to be moved away or copied and removed.
    pub file: PathBuf,
}

/// A place in `displaced/`, taken by one thread until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot<'m> {
    mount: &'m Mount,
    unique: u64,
    pub(crate) name: Vec<u8>,
}

/// What the name of a displaced file tells.
#[derive(Debug, PartialEq, Eq)]
struct Label {
    fate: Fate,
    secs: u64,
    unique: u64,
    /// The mark of what was staged to replace it. If this is what lies here, it is not needed.
    staged: u64,
    inode: u64,
    size: u64,
    mtime: Mtime,
}

impl<'m> Slot<'m> {
    pub(crate) fn new(
        mount: &'m Mount,
        fate: Fate,
        staged: Option<&Look>,
        expected: &Signature,
        path: &RelPath,
    ) -> Result<Self, Refused> {
        let label = Label {
            fate,
            secs: mount.clock().unix_seconds(),
            unique: mount.unique(),
            staged: staged.map_or(0, version_mark),
            inode: expected.inode,
            size: expected.size,
            mtime: expected.mtime,
        };
        mount.in_flight().insert(label.unique);
        let mut slot = Self { mount, unique: label.unique, name: label.encode() };
        let escaped = escape(path.as_bytes());
        if slot.name.len() + escaped.len() <= NAME_BYTES_MAX {
            slot.name.extend_from_slice(&escaped);
        } else {
            slot.name.extend_from_slice(LONG);
            note_path(&mount.displaced, label.unique, path)?;
        }
        Ok(slot)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let gone = Look::at(&self.mount.displaced, &self.name).is_ok_and(|look| look.is_none());
        if gone && self.name.ends_with(LONG) {
            remove_sidecars(&self.mount.displaced, self.unique);
        }
        self.mount.in_flight().remove(&self.unique);
    }
}

/// Looks again at what was displaced at least `older_than` ago: removes it, or moves it to the
/// trash, unless it is still open for writing. Returns what was written to meanwhile, oldest
/// first. At most 65,536 files are looked at; what the operating system refuses is left for the
/// next call.
#[must_use]
pub fn look_again(mount: &Mount, older_than: Duration) -> Vec<LateWrite> {
    let (names, in_flight) = {
        // Held while listing: no slot is taken or left meanwhile.
        let in_flight = mount.in_flight();
        (scan::names(&mount.displaced, LOOKS_MAX), in_flight.clone())
    };
    let names = names.unwrap_or_else(|e| {
        tracing::warn!(error = &e as &dyn std::error::Error, "cannot look again");
        Vec::new()
    });
    remove_stray_sidecars(mount, &names, &in_flight);
    let now = mount.clock().unix_seconds();
    let mut late = Vec::new();
    for name in names {
        let Some((label, path)) = Label::decode(&name) else { continue };
        // A time from the future was a clock set back since: it does not keep the file for ever.
        let age = if label.secs > now { u64::MAX } else { now - label.secs };
        if age < older_than.as_secs() || in_flight.contains(&label.unique) {
            continue;
        }
        match judge(mount, &name, &label, path) {
            Ok(Some(write)) => late.push((label.secs, label.unique, write)),
            Ok(None) => {}
            Err(e) => {
                tracing::warn!(error = &e as &dyn std::error::Error, "cannot look again");
            }
        }
    }
    late.sort_by_key(|(secs, unique, _)| (*secs, *unique));
    late.into_iter().map(|(_, _, write)| write).collect()
}

fn judge(
    mount: &Mount,
    name: &[u8],
    label: &Label,
    path: &[u8],
) -> Result<Option<LateWrite>, Refused> {
    let dir = &mount.displaced;
    let Some(look) = Look::at(dir, name)? else {
        return Ok(None);
    };
    let path = noted_path(dir, label.unique, path);
    let Some(path) = path.and_then(|bytes| RelPath::parse(&bytes).ok()) else {
        // Without its path it can only be kept, for a person to look at.
        return Ok(None);
    };
    if look.is_dir() {
        return spill(mount, name, &path).map(|()| None);
    }
    let ours = version_mark(&look) == label.staged;
    if !ours {
        if look.file_type() == Type::File && has_writer(dir, name) {
            return Ok(None);
        }
        if label.fate == Fate::Keep || !label.describes(&look) {
            return Ok(Some(LateWrite { path, file: file_path(mount, name) }));
        }
    }
    match label.fate {
        Fate::Trash(note) if !ours => trash::put(mount, dir, name, &path, label.secs, &note)?,
        _ => stage::remove_any(dir, name)?,
    }
    remove_sidecars(dir, label.unique);
    Ok(None)
}

/// What lies here on its way to the trash.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) name: Box<[u8]>,
    pub(crate) path: RelPath,
    pub(crate) secs: u64,
    pub(crate) note: TrashNote,
}

/// What the second look will move to the trash, as far as nobody writes to it until then.
pub(crate) fn waiting(mount: &Mount) -> Result<Vec<Waiting>, Refused> {
    let dir = &mount.displaced;
    let mut waiting = Vec::new();
    for name in scan::names(dir, LOOKS_MAX)? {
        let Some((label, escaped)) = Label::decode(&name) else { continue };
        let (Fate::Trash(note), Ok(Some(look))) = (label.fate, Look::at(dir, &name)) else {
            continue;
        };
        let path = noted_path(dir, label.unique, escaped);
        let path = path.and_then(|bytes| RelPath::parse(&bytes).ok());
        if let (Some(path), true) = (path, label.describes(&look)) {
            waiting.push(Waiting { name, path, secs: label.secs, note });
        }
    }
    Ok(waiting)
}

/// Whether somebody has it open for writing, as far as can be known.
pub(crate) fn has_writer(dir: &OwnedFd, name: &[u8]) -> bool {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |flags| PROBE.run(|| openat(dir, name, flags, Mode::empty()));
    match open(flags | OFlags::NOATIME).or_else(|_| open(flags)) {
        Ok(file) => writer_of(&file) == Writer::Yes,
        // Without a handle to ask with nothing is known yet: it is asked again. Who may not read it
        // can never tell.
        Err(e) => matches!(e.errno(), Errno::MFILE | Errno::NFILE | Errno::NOMEM),
    }
}

/// Removes a displaced directory. It was empty when it was displaced; had something been put into
/// it in that moment, each child becomes a displaced file of its own, never expected by anybody.
fn spill(mount: &Mount, name: &[u8], path: &RelPath) -> Result<(), Refused> {
    let dir = &mount.displaced;
    match UNLINK.run(|| unlinkat(dir, name, AtFlags::REMOVEDIR)) {
        Err(e) if matches!(e.errno(), Errno::NOTEMPTY | Errno::EXIST) => {}
        other => return other,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let from = OPEN.run(|| openat(dir, name, flags, Mode::empty()))?;
    for child in scan::names(&from, LOOKS_MAX)? {
        let Ok(path) = path.join(&child) else { continue };
        let never = Mtime::default();
        let nothing = Signature {
            inode: 0,
            size: 0,
            mode: 0,
            mtime: never,
            ctime: never,
            links: 0,
            racy: true,
        };
        let slot = Slot::new(mount, Fate::Keep, None, &nothing, &path)?;
        let flags = RenameFlags::NOREPLACE;
        SPILL.run(|| renameat_with(&from, &*child, dir, &*slot.name, flags))?;
    }
    UNLINK.run(|| unlinkat(dir, name, AtFlags::REMOVEDIR))
}

/// Tells one version of one inode from every other: an inode number alone does not, since the
/// number of a file that was replaced is given to the next new one.
fn version_mark(look: &Look) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for number in [look.inode, look.size, look.mtime.secs.cast_unsigned()] {
        hasher.update(&number.to_le_bytes());
    }
    hasher.update(&look.mtime.nanos.to_le_bytes());
    let mut mark = [0; 8];
    hasher.finalize_xof().fill(&mut mark);
    u64::from_le_bytes(mark)
}

fn file_path(mount: &Mount, name: &[u8]) -> PathBuf {
    mount.own_path("displaced").join(std::ffi::OsStr::from_bytes(name))
}

impl Label {
    fn encode(&self) -> Vec<u8> {
        let fate = match self.fate {
            Fate::Drop => 'd',
            Fate::Trash(_) => 'T',
            Fate::Keep => 'k',
        };
        let mut name = format!(
            "{fate}-{:x}-{:x}-{:x}-{:x}-{:x}-{:x}-{:x}-",
            self.secs,
            self.unique,
            self.staged,
            self.inode,
            self.size,
            self.mtime.secs.cast_unsigned(),
            self.mtime.nanos
        );
        if let Fate::Trash(note) = &self.fate {
            name.push_str(&note.encode());
        }
        name.into_bytes()
    }

    /// The label, and the escaped path behind it.
    fn decode(name: &[u8]) -> Option<(Self, &[u8])> {
        let mut fields = name.splitn(9, |&b| b == b'-');
        let fate = *fields.next()?.first()?;
        let mut number = || {
            let digits = std::str::from_utf8(fields.next()?).ok()?;
            u64::from_str_radix(digits, 16).ok()
        };
        let label = Self {
            fate: Fate::Drop,
            secs: number()?,
            unique: number()?,
            staged: number()?,
            inode: number()?,
            size: number()?,
            mtime: Mtime { secs: number()?.cast_signed(), nanos: u32::try_from(number()?).ok()? },
        };
        let rest = fields.next()?;
        let (fate, path) = match fate {
            b'd' => (Fate::Drop, rest),
            // As written before there were notes.
            b't' => (Fate::Trash(TrashNote::unknown(label.unique)), rest),
            b'T' => {
                let (note, path) = TrashNote::decode(rest)?;
                (Fate::Trash(note), path)
            }
            b'k' => (Fate::Keep, rest),
            _ => return None,
        };
        Some((Self { fate, ..label }, path))
    }

    fn describes(&self, look: &Look) -> bool {
        let size = if look.file_type() == Type::File { look.size } else { 0 };
        (self.inode, self.size, self.mtime) == (look.inode, size, look.mtime)
    }
}

/// The path as one name: a slash as `%2F`, a percent sign as `%25`, all else as it is.
pub(crate) fn escape(path: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(path.len());
    for &b in path {
        match b {
            b'/' => escaped.extend_from_slice(b"%2F"),
            b'%' => escaped.extend_from_slice(b"%25"),
            _ => escaped.push(b),
        }
    }
    escaped
}

pub(crate) fn unescape(escaped: &[u8]) -> Option<Vec<u8>> {
    let mut path = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((&b, after)) = rest.split_first() {
        rest = after;
        if b != b'%' {
            path.push(b);
            continue;
        }
        let (code, after) = rest.split_at_checked(2)?;
        path.push(match code {
            b"2F" => b'/',
            b"25" => b'%',
            _ => return None,
        });
        rest = after;
    }
    Some(path)
}

fn sidecar(unique: u64, i: usize) -> Vec<u8> {
    format!("path-{unique:x}-{i}").into_bytes()
}

/// Notes a path in symbolic links in `dir`, for a name that ends with [`LONG`].
pub(crate) fn note_path(dir: &OwnedFd, unique: u64, path: &RelPath) -> Result<(), Refused> {
    for (i, piece) in path.as_bytes().chunks(SIDECAR_BYTES).enumerate() {
        let name = sidecar(unique, i);
        SIDECAR.run(|| symlinkat(piece, dir, &*name))?;
    }
    Ok(())
}

/// The bytes of the path that is escaped at the end of a name in `dir`, or noted beside it.
pub(crate) fn noted_path(dir: &OwnedFd, unique: u64, escaped: &[u8]) -> Option<Vec<u8>> {
    if escaped != LONG {
        return unescape(escaped);
    }
    let mut path = Vec::new();
    for i in 0..=PATH_BYTES_MAX / SIDECAR_BYTES {
        let name = sidecar(unique, i);
        match READ_SIDECAR.run(|| readlinkat(dir, &*name, Vec::new())) {
            Ok(piece) => path.extend_from_slice(piece.as_bytes()),
            Err(_) => break,
        }
    }
    (!path.is_empty()).then_some(path)
}

pub(crate) fn remove_sidecars(dir: &OwnedFd, unique: u64) {
    for i in 0..=PATH_BYTES_MAX / SIDECAR_BYTES {
        let name = sidecar(unique, i);
        if UNLINK_SIDECAR.run(|| unlinkat(dir, &*name, AtFlags::empty())).is_err() {
            break;
        }
    }
}

/// Removes the noted paths of displaced files that the caller has taken away since.
fn remove_stray_sidecars(mount: &Mount, names: &[Box<[u8]>], in_flight: &BTreeSet<u64>) {
    if names.len() >= LOOKS_MAX {
        return; // not all names are known
    }
    let long = |name: &[u8]| {
        let (label, path) = Label::decode(name)?;
        (path == LONG).then_some(label.unique)
    };
    let used: BTreeSet<u64> = names.iter().filter_map(|name| long(name)).collect();
    for name in names {
        if let Some(unique) = sidecar_of(name)
            && !used.contains(&unique)
            && !in_flight.contains(&unique)
            && let Err(e) = stage::remove_any(&mount.displaced, name)
        {
            tracing::warn!(error = &e as &dyn std::error::Error, "cannot remove a noted path");
        }
    }
}

/// Whose path a name notes.
pub(crate) fn sidecar_of(name: &[u8]) -> Option<u64> {
    let rest = std::str::from_utf8(name.strip_prefix(b"path-")?).ok()?;
    u64::from_str_radix(rest.split_once('-')?.0, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NodeId;

    #[test]
    fn a_label_survives_its_name() {
        let note = TrashNote {
            id: u64::MAX,
            by: NodeId(7),
            keep_secs: 7 * 24 * 3600,
            removed: Some(false),
        };
        for fate in [Fate::Drop, Fate::Keep, Fate::Trash(note)] {
            let label = Label { fate, ..label() };
            let path = b"a-b/c%2F\n\xff";
            let name = [label.encode(), escape(path)].concat();
            let (decoded, escaped) = Label::decode(&name).unwrap();
            assert_eq!(label, decoded);
            assert_eq!(Some(path.to_vec()), unescape(escaped));
        }
    }

    #[test]
    fn a_label_of_an_older_release_is_read() {
        let (label, path) = Label::decode(b"t-a-b-0-1-2-3-4-d%2Fa").unwrap();
        assert_eq!((Fate::Trash(TrashNote::unknown(11)), &b"d%2Fa"[..]), (label.fate, path));
    }

    fn label() -> Label {
        Label {
            fate: Fate::Drop,
            secs: 1_700_000_000,
            unique: u64::MAX >> 1,
            staged: 12,
            inode: u64::MAX,
            size: 10 << 30,
            mtime: Mtime { secs: -1, nanos: 999_999_999 },
        }
    }
}
