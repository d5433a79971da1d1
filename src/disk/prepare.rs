//! The unseen half of a change: decides how it is made, and stages what will become visible.
//!
//! In: an [`ApplyRequest`]. Out: a [`Plan`], with an [`Item`] in the stage that has its content and
//! all its metadata. It must never touch the path itself.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, RenameFlags, mkdirat, openat, renameat_with, symlinkat};

use super::apply::{ApplyRequest, Moved, Outcome, Source};
use super::call::{Call, Refused};
use super::look::Look;
use super::mount::Mount;
use super::sync::StageSync;
use super::{DiskError, OWNER_UNKNOWN, copy, metadata, stage};
use crate::model::limits::SYMLINK_BYTES_MAX;
use crate::model::{ContentId, Entry, Kind, Meta, Mtime, RelPath, Signature};

const GIVE_BACK: Call = Call::new("rename.unused", "put unused content back");
const MKDIR: Call = Call::new("mkdir.stage", "create a directory in the stage");
const OPEN: Call = Call::new("open.item", "open what was staged");
const SYMLINK: Call = Call::new("symlink.stage", "create a link in the stage");

/// How a change is made.
#[derive(Debug)]
pub(crate) enum Plan {
    /// Nothing may be there.
    Absent,
    /// What is there goes.
    Delete,
    /// Only metadata differs.
    InPlace,
    /// A further name of a file.
    Link(RelPath),
    /// A file comes from another path.
    Move(Box<Moved>),
    /// This takes the place.
    Put(Item),
    /// It has ended already.
    Settled(Outcome),
}

/// Something in the stage that is ready to be made visible.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) name: String,
    pub(crate) look: Look,
    /// Taken out of the stage's whole content, to which it returns if it is not used.
    content: Option<ContentId>,
    /// What can only be set when it is in place.
    pub(crate) afterwards: Option<Meta>,
}

impl Item {
    pub(crate) fn new(name: String, look: Look) -> Self {
        Self { name, look, content: None, afterwards: None }
    }

    /// Whether `look` is this item, as it was staged.
    pub(crate) fn is(&self, look: &Look) -> bool {
        let same = self.look.inode == look.inode && self.look.mode == look.mode;
        same && (look.is_dir() || self.look.size == look.size && self.look.mtime == look.mtime)
    }

    /// Content that could not be synced is not used again: the next sync may say that it is
    /// durable, though what failed was never written.
    pub(crate) fn distrust(&mut self) {
        self.content = None;
    }

    /// Removes the unused item, which is called `name` in `dir`. Fetched content goes back to
    /// where the next attempt finds it.
    pub(crate) fn discard(&self, mount: &Mount, dir: &OwnedFd, name: &[u8]) {
        discard(mount, dir, name, self.content);
    }
}

fn discard(mount: &Mount, dir: &OwnedFd, name: &[u8], content: Option<ContentId>) {
    let given_back = content.is_some_and(|content| {
        give_back(mount, dir, name, content)
            .inspect_err(|e| tracing::debug!(error = %e.reason(), "content not given back"))
            .is_ok()
    });
    if !given_back && let Err(e) = stage::remove_any(dir, name) {
        tracing::warn!(error = &e as &dyn std::error::Error, "cannot clear the stage");
    }
}

/// Decides how to make the change, and stages what it needs.
///
/// # Errors
/// The outcome, when it ends here; then nothing is left in the stage.
pub(crate) fn prepare(
    mount: &Mount,
    request: &ApplyRequest,
    uses: &mut HashMap<ContentId, usize>,
    syncs: &mut StageSync,
) -> Result<Plan, Outcome> {
    let expected = request.expected.as_ref();
    let Some(target) = &request.target else {
        return Ok(if expected.is_some() { Plan::Delete } else { Plan::Absent });
    };
    if let (Kind::File { .. }, Source::LinkTo(other)) = (&target.kind, &request.source) {
        return Ok(Plan::Link(other.clone()));
    }
    if let (None, Kind::File { .. }, Source::Moved(moved)) =
        (expected, &target.kind, &request.source)
    {
        return Ok(Plan::Move(moved.clone()));
    }
    if expected.is_some_and(|expected| fits_in_place(expected, target)) {
        return Ok(Plan::InPlace);
    }
    let meta = effective_meta(target, expected);
    match &target.kind {
        Kind::Dir => put_dir(mount, &meta),
        Kind::File { .. } => put_file(mount, request, target, &meta, uses, syncs),
        Kind::Symlink { target } => put_symlink(mount, target, &meta),
    }
}

/// Whether the inode that is there can stay: its content is right, and it is no other path's too.
fn fits_in_place((was, signature): &(Entry, Signature), target: &Entry) -> bool {
    let shared = signature.links > 1
        && target.content().is_some()
        && (target.group().is_none() || was.group().is_some() && was.group() != target.group());
    was.same_kind_content(target) && !shared
}

/// The target's metadata, with the owner that is there where the origin knows none.
pub(crate) fn effective_meta(target: &Entry, expected: Option<&(Entry, Signature)>) -> Meta {
    let mut meta = target.meta.clone();
    if let Some((was, _)) = expected {
        if meta.uid == OWNER_UNKNOWN {
            meta.uid = was.meta.uid;
        }
        if meta.gid == OWNER_UNKNOWN {
            meta.gid = was.meta.gid;
        }
    }
    meta
}

fn put_dir(mount: &Mount, meta: &Meta) -> Result<Plan, Outcome> {
    let name = stage::new_name(mount);
    MKDIR.run(|| mkdirat(&mount.stage, &*name, Mode::from_raw_mode(0o700)))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = OPEN.run(|| openat(&mount.stage, &*name, flags, Mode::empty()));
    if mount.privileged || meta.mode & 0o200 != 0 {
        return dress(mount, name, fd, meta, None);
    }
    // Moving a directory to another one needs permission to write to it.
    let movable = Meta { mode: meta.mode | 0o200, ..meta.clone() };
    let mut plan = dress(mount, name, fd, &movable, None)?;
    if let Plan::Put(item) = &mut plan {
        item.afterwards = Some(meta.clone());
    }
    Ok(plan)
}

fn put_symlink(mount: &Mount, target: &[u8], meta: &Meta) -> Result<Plan, Outcome> {
    if target.is_empty() || target.len() >= SYMLINK_BYTES_MAX || target.contains(&0) {
        return Err(Outcome::failed("the link's target is not one"));
    }
    let name = stage::new_name(mount);
    SYMLINK.run(|| symlinkat(target, &mount.stage, &*name))?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = OPEN.run(|| openat(&mount.stage, &*name, flags, Mode::empty()));
    dress(mount, name, fd, meta, None)
}

fn put_file(
    mount: &Mount,
    request: &ApplyRequest,
    target: &Entry,
    meta: &Meta,
    uses: &mut HashMap<ContentId, usize>,
    syncs: &mut StageSync,
) -> Result<Plan, Outcome> {
    let Kind::File { size, content, sparse, .. } = target.kind else {
        return Err(Outcome::ContentMissing);
    };
    let wanted = Wanted { content, size, sparse };
    let (name, file, from_whole) = match &request.source {
        Source::Inline(bytes) => inline(mount, bytes, wanted)?,
        Source::Staged => staged(mount, wanted, uses)?,
        Source::None if size == 0 => inline(mount, &[], wanted)?,
        // A file that is one with others gets an inode of its own.
        Source::None => local(mount, &request.path, wanted)?,
        Source::LinkTo(_) | Source::Moved(_) => return Err(Outcome::ContentMissing),
    };
    let duplicate = file.try_clone();
    let plan = dress(mount, name, Ok(file), meta, from_whole.then_some(content))?;
    if let (true, Plan::Put(item)) = (size > 0, &plan) {
        match duplicate {
            Ok(file) => syncs.add(file),
            Err(e) => {
                item.discard(mount, &mount.stage, item.name.as_bytes());
                return Err(OPEN.failed(e).into());
            }
        }
    }
    Ok(plan)
}

#[derive(Debug, Clone, Copy)]
struct Wanted {
    content: ContentId,
    size: u64,
    sparse: bool,
}

/// A file in the stage: its name, and whether it was taken from the whole content there.
type StagedFile = (String, OwnedFd, bool);

fn inline(mount: &Mount, bytes: &[u8], wanted: Wanted) -> Result<StagedFile, Outcome> {
    if bytes.len() as u64 != wanted.size || ContentId::of(bytes) != wanted.content {
        return Err(Outcome::ContentMissing);
    }
    fill(mount, |file| {
        copy::write_at(file, 0, bytes, wanted.sparse)?;
        if wanted.sparse {
            copy::set_size(file, wanted.size)?;
        }
        Ok(true)
    })
}

/// The whole content from the stage: itself for the last who needs it, a copy before.
fn staged(
    mount: &Mount,
    wanted: Wanted,
    uses: &mut HashMap<ContentId, usize>,
) -> Result<StagedFile, Outcome> {
    let left = uses.entry(wanted.content).or_insert(1);
    *left = left.saturating_sub(1);
    if *left > 0 {
        let whole = stage::open_staged(mount, wanted.content).map_err(reached)?;
        let whole = whole.ok_or(Outcome::ContentMissing)?;
        return fill_from(mount, &whole, wanted);
    }
    let whole = stage::take_whole(mount, wanted.content)?;
    let (name, file) = whole.ok_or(Outcome::ContentMissing)?;
    let fits = Look::of(&file).and_then(|look| {
        let fits = look.size == wanted.size;
        if fits && wanted.sparse && !look.is_sparse() {
            copy::punch_zeros(&file, wanted.size)?;
        }
        Ok(fits)
    });
    match fits {
        Ok(true) => Ok((name, file, true)),
        other => {
            stage::remove_any(&mount.stage, name.as_bytes())?;
            Err(other.err().map_or(Outcome::ContentMissing, Outcome::from))
        }
    }
}

fn local(mount: &Mount, path: &RelPath, wanted: Wanted) -> Result<StagedFile, Outcome> {
    let file = stage::open_content(mount, path).map_err(reached)?;
    fill_from(mount, file, wanted)
}

fn fill_from(mount: &Mount, from: impl AsFd, wanted: Wanted) -> Result<StagedFile, Outcome> {
    let Wanted { content, size, sparse } = wanted;
    fill(mount, |file| copy::copy_verified(mount, &from, file, (content, size), sparse))
}

/// Makes a file in the stage and lets `f` fill it; it stays only if that says so.
fn fill(
    mount: &Mount,
    f: impl FnOnce(&OwnedFd) -> Result<bool, Refused>,
) -> Result<StagedFile, Outcome> {
    let (name, file) = stage::create(mount)?;
    match f(&file) {
        Ok(true) => Ok((name, file, false)),
        other => {
            stage::remove_any(&mount.stage, name.as_bytes())?;
            Err(other.err().map_or(Outcome::ContentMissing, Outcome::from))
        }
    }
}

/// Gives what was staged its metadata.
fn dress(
    mount: &Mount,
    name: String,
    fd: Result<OwnedFd, Refused>,
    meta: &Meta,
    content: Option<ContentId>,
) -> Result<Plan, Outcome> {
    let dressed = fd.and_then(|fd| {
        metadata::set(fd.as_fd(), meta, true, mount.privileged)?;
        Look::of(&fd)
    });
    match dressed {
        Ok(look) => Ok(Plan::Put(Item { content, ..Item::new(name, look) })),
        Err(e) => {
            discard(mount, &mount.stage, name.as_bytes(), content);
            Err(e.into())
        }
    }
}

fn reached(error: DiskError) -> Outcome {
    match error {
        DiskError::Missing => Outcome::ContentMissing,
        DiskError::MountPoint | DiskError::Reserved => Outcome::failed(&error.to_string()),
        DiskError::Refused(refused) => refused.into(),
    }
}

fn give_back(mount: &Mount, dir: &OwnedFd, name: &[u8], content: ContentId) -> Result<(), Refused> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = OPEN.run(|| openat(dir, name, flags, Mode::empty()))?;
    let plain = Meta {
        mode: 0o600,
        uid: OWNER_UNKNOWN,
        gid: OWNER_UNKNOWN,
        mtime: now(mount),
        xattrs: Vec::new(),
    };
    metadata::set(fd.as_fd(), &plain, false, mount.privileged)?;
    let whole = stage::whole_name(content);
    let flags = RenameFlags::NOREPLACE;
    GIVE_BACK.run(|| renameat_with(dir, name, &mount.stage, &*whole, flags))
}

/// Content in the stage expires by its time.
fn now(mount: &Mount) -> Mtime {
    let secs = i64::try_from(mount.clock().unix_seconds()).unwrap_or(i64::MAX);
    Mtime { secs, nanos: 0 }
}
