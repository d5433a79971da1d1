//! The visible half of a change: compares what is at the path, swaps, and looks at what came out.
//!
//! In: requests with their plans, in order. Out: their outcomes. Whatever is found displaced that
//! is not the expected version goes back, or stays in `displaced/` where the second look finds it.
//! It must never unlink anything at its path: what goes is first moved away, then looked at.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, linkat, openat, renameat_with, unlinkat};
use rustix::io::Errno;

use super::apply::{ApplyRequest, Displaced, Outcome};
use super::call::{Call, Refused};
use super::displaced::{Fate, Slot, has_writer};
use super::look::{Look, Type};
use super::mount::Mount;
use super::parents::{Parent, Parents};
use super::prepare::{Item, Plan, effective_meta};
use super::{DiskError, OWNER_UNKNOWN, metadata, settle, stage, sync, trash, walk};
use crate::model::{Entry, Kind, Meta, RelPath, Signature};

const CREATE: Call = Call::new("rename.create", "rename to the target");
const DISPLACE: Call = Call::new("rename.displace", "move the target away");
const EXCHANGE: Call = Call::new("rename.apply", "rename over the target");
const LINK: Call = Call::new("link.stage", "link to the other name");
const OPEN: Call = Call::new("open.inplace", "open to set metadata");
const READY: Call = Call::new("rename.ready", "move from the stage");
const RMDIR: Call = Call::new("rmdir.apply", "remove the directory");
const UNDO: Call = Call::new("rename.undo", "put the target back");

/// Makes the changes of one group visible.
#[derive(Debug)]
pub(crate) struct Placer<'m> {
    pub(super) mount: &'m Mount,
    parents: Parents<'m>,
    /// Inodes that got a further name: their signatures are taken again at the end.
    linked: HashSet<u64>,
    /// Paths whose metadata was changed in place.
    in_place: Vec<RelPath>,
    displaced: bool,
}

impl<'m> Placer<'m> {
    pub(crate) fn new(mount: &'m Mount) -> Self {
        Self {
            mount,
            parents: Parents::new(mount),
            linked: HashSet::new(),
            in_place: Vec::new(),
            displaced: false,
        }
    }

    /// Makes one change.
    pub(crate) fn place(&mut self, request: &ApplyRequest, plan: Plan) -> Outcome {
        let outcome = match plan {
            Plan::Settled(outcome) => Ok(outcome),
            Plan::Absent => self.absent(request),
            Plan::Delete => self.delete(request),
            Plan::InPlace => self.in_place(request),
            Plan::Link(other) => self.link(request, &other),
            Plan::Move(moved) => self.relocate(request, &moved),
            Plan::Put(item) => self.put(request, &item),
        };
        outcome.unwrap_or_else(|outcome| outcome)
    }

    /// Restores directory times, verifies that the directories are where they were, and makes
    /// everything durable.
    pub(crate) fn finish(mut self, requests: &[ApplyRequest], outcomes: &mut [Outcome]) {
        let touched: Vec<bool> =
            requests.iter().map(|r| self.parents.is_touched(r.path.as_bytes())).collect();
        let dirs = self.parents.settle();
        let pairs = requests.iter().zip(outcomes.iter_mut()).zip(touched);
        for ((request, outcome), touched) in pairs {
            let parent = request.path.split().map_or(&[][..], |(dir, _)| dir);
            if outcome.is_done() && dirs.moved.iter().any(|dir| **dir == *parent) {
                *outcome = Outcome::Changed;
            }
            let Outcome::Done { signature: Some(signature) } = outcome else { continue };
            if touched || self.linked.contains(&signature.inode) {
                match self.look_once_more(&request.path, signature) {
                    Some(now) => *signature = now,
                    None => {
                        *outcome = Outcome::Changed;
                        continue;
                    }
                }
            }
            // A child that was made meanwhile moved the time: the next look must not pass over it.
            let target = request.target.as_ref().filter(|target| target.is_dir());
            signature.racy |= target.is_some_and(|target| target.meta.mtime != signature.mtime);
        }
        let in_place: Vec<&[u8]> = self.in_place.iter().map(RelPath::as_bytes).collect();
        if let Err(e) = sync::changed(self.mount, &dirs.changed, &in_place, self.displaced) {
            for outcome in outcomes.iter_mut().filter(|outcome| outcome.is_done()) {
                *outcome = Outcome::Failed { reason: e.reason(), no_space: e.is_no_space() };
            }
        }
    }

    /// The signature after all of the group, if it is still the same version.
    fn look_once_more(&self, path: &RelPath, then: &Signature) -> Option<Signature> {
        let clock = self.mount.clock();
        let look = match path.split() {
            None => Look::of(&self.mount.root).ok()?,
            Some((dir, name)) => {
                let dir = walk::open_dir(&self.mount.root, dir).ok()?;
                Look::at(&dir, name).ok()??
            }
        };
        let same = look.inode == then.inode
            && look.mode == then.mode
            && (look.is_dir() || look.is_version(then));
        same.then(|| Signature { racy: then.racy, ..look.signature(clock) })
    }

    fn absent(&mut self, request: &ApplyRequest) -> Result<Outcome, Outcome> {
        let (parent, name) = match self.parent(&request.path) {
            Ok(found) => found,
            Err(Outcome::ParentMissing) => return Ok(Outcome::Done { signature: None }),
            Err(e) => return Err(e),
        };
        match Look::at(&parent.fd, name)? {
            None => Ok(Outcome::Done { signature: None }),
            Some(_) => Err(Outcome::Changed),
        }
    }

    fn put(&mut self, request: &ApplyRequest, item: &Item) -> Result<Outcome, Outcome> {
        let placed = match &request.expected {
            None => self.create(request, item),
            Some(expected) => return self.replace(request, item, expected),
        };
        if placed.is_err() {
            item.discard(self.mount, &self.mount.stage, item.name.as_bytes());
        }
        placed
    }

    fn create(&mut self, request: &ApplyRequest, item: &Item) -> Result<Outcome, Outcome> {
        let (parent, name) = self.parent(&request.path)?;
        self.touch(&parent)?;
        let (stage, flags) = (&self.mount.stage, RenameFlags::NOREPLACE);
        CREATE.run(|| renameat_with(stage, &*item.name, &parent.fd, name, flags)).map_err(|e| {
            match e.errno() {
                Errno::EXIST => Outcome::Changed,
                // A directory that was removed after it was opened takes no names.
                Errno::NOENT | Errno::NOTDIR => Outcome::ParentMissing,
                _ => e.into(),
            }
        })?;
        // From here on an error must not discard the item: it is visible.
        Ok(self.confirm(&parent.fd, name, item))
    }

    fn replace(
        &mut self,
        request: &ApplyRequest,
        item: &Item,
        expected: &(Entry, Signature),
    ) -> Result<Outcome, Outcome> {
        let mount = self.mount;
        let discard = |outcome: Outcome| {
            item.discard(mount, &mount.stage, item.name.as_bytes());
            outcome
        };
        let (parent, name) = self.parent(&request.path).map_err(discard)?;
        self.check(&parent, name, request, expected).map_err(discard)?;
        let fate = fate(&request.displaced);
        let slot = Slot::new(mount, fate, Some(&item.look), &expected.1, &request.path)
            .map_err(|e| discard(e.into()))?;
        self.touch(&parent).map_err(discard)?;
        let flags = RenameFlags::NOREPLACE;
        READY
            .run(|| renameat_with(&mount.stage, &*item.name, &mount.displaced, &*slot.name, flags))
            .map_err(|e| discard(e.into()))?;
        let flags = RenameFlags::EXCHANGE;
        if let Err(e) =
            EXCHANGE.run(|| renameat_with(&mount.displaced, &*slot.name, &parent.fd, name, flags))
        {
            item.discard(mount, &mount.displaced, &slot.name);
            return Err(match e.errno() {
                Errno::NOENT | Errno::NOTDIR => Outcome::Changed,
                _ => e.into(),
            });
        }
        let settled = self.look_at_displaced(&slot, request, expected);
        if let Err(outcome) = settled {
            settle::give_back(mount, &slot, &parent.fd, name, item);
            return Err(outcome);
        }
        if item.look.is_dir() || expected.0.is_dir() {
            self.parents.forget(request.path.as_bytes());
        }
        Ok(self.confirm(&parent.fd, name, item))
    }

    fn delete(&mut self, request: &ApplyRequest) -> Result<Outcome, Outcome> {
        let gone = Outcome::Done { signature: None };
        let Some(expected) = &request.expected else { return self.absent(request) };
        let (parent, name) = match self.parent(&request.path) {
            Err(Outcome::ParentMissing) => return Ok(gone),
            other => other?,
        };
        if Look::at(&parent.fd, name)?.is_none() {
            return Ok(gone);
        }
        let look = self.check(&parent, name, request, expected)?;
        self.touch(&parent)?;
        if look.is_dir() {
            self.remove_dir(&parent, name)?;
            self.parents.forget(request.path.as_bytes());
            if let Displaced::Trash(note) = &request.displaced
                && let Err(e) = trash::put_dir(self.mount, &request.path, &expected.0.meta, note)
            {
                tracing::warn!(error = &e as &dyn std::error::Error, "directory not remembered");
            }
            return Ok(gone);
        }
        let mount = self.mount;
        let fate = fate(&request.displaced);
        let slot = Slot::new(mount, fate, None, &expected.1, &request.path)?;
        let flags = RenameFlags::NOREPLACE;
        match DISPLACE.run(|| renameat_with(&parent.fd, name, &mount.displaced, &*slot.name, flags))
        {
            Err(e) if e.errno() == Errno::NOENT => return Ok(gone),
            other => other?,
        }
        let settled = self.look_at_displaced(&slot, request, expected);
        if let Err(outcome) = settled {
            put_back(mount, &slot, &parent.fd, name);
            return Err(outcome);
        }
        Ok(gone)
    }

    fn remove_dir(&self, parent: &Parent, name: &[u8]) -> Result<(), Outcome> {
        RMDIR.run(|| unlinkat(&parent.fd, name, AtFlags::REMOVEDIR)).or_else(|e| match e.errno() {
            Errno::NOENT => Ok(()),
            Errno::NOTEMPTY | Errno::EXIST => Err(Outcome::NotEmpty),
            Errno::NOTDIR => Err(Outcome::Changed),
            _ => Err(e.into()),
        })
    }

    fn in_place(&mut self, request: &ApplyRequest) -> Result<Outcome, Outcome> {
        let (Some(target), Some(expected)) = (&request.target, &request.expected) else {
            return Err(Outcome::Changed);
        };
        let mount = self.mount;
        let fd = if request.path.is_root() {
            walk::open_dir(&mount.root, &[]).map_err(unreachable)?
        } else {
            let (parent, name) = self.parent(&request.path)?;
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            OPEN.run(|| openat(&parent.fd, name, flags, Mode::empty())).map_err(|e| {
                match e.errno() {
                    Errno::NOENT => Outcome::Changed,
                    _ => e.into(),
                }
            })?
        };
        let before = Look::of(&fd)?;
        if !request.path.is_root() && mount.is_boundary(&before) {
            return Err(unreachable(DiskError::MountPoint));
        }
        // What a crash left half done is a directory with the owner that it is to have.
        let half = (Entry { meta: target.meta.clone(), ..expected.0.clone() }, expected.1);
        let is = |was| matches(&before, was, mount.privileged, mount);
        if !(is(expected) || before.is_dir() && is(&half)) {
            return Err(Outcome::Changed);
        }
        let meta = effective_meta(target, Some(expected));
        if let Err(e) = metadata::set(fd.as_fd(), &meta, false, mount.privileged) {
            // A part of it would be taken for an edit made here.
            let was = Meta { mtime: before.mtime, ..expected.0.meta.clone() };
            if let Err(e) = metadata::set(fd.as_fd(), &was, false, mount.privileged) {
                tracing::warn!(error = %e.reason(), "cannot put metadata back");
            }
            return Err(e.into());
        }
        if before.is_dir() {
            mount.dir_times.set(before.inode, meta.mtime);
        }
        self.in_place.push(request.path.clone());
        let clock = mount.clock();
        let after = Look::of(&fd)?;
        if !after.is_dir() && (after.size != before.size || after.mtime != meta.mtime) {
            return Err(Outcome::Changed);
        }
        let mut signature = after.signature(clock);
        // Setting the time would hide a write that came just before it.
        signature.racy |= after.file_type() == Type::File && before.mtime != meta.mtime;
        Ok(Outcome::Done { signature: Some(signature) })
    }

    fn link(&mut self, request: &ApplyRequest, other: &RelPath) -> Result<Outcome, Outcome> {
        let Some(target) = &request.target else { return Err(Outcome::ContentMissing) };
        let mount = self.mount;
        let (dir, other_name) = match self.parent(other) {
            Err(Outcome::ParentMissing) => return Err(Outcome::ContentMissing),
            found => found?,
        };
        let found = Look::at(&dir.fd, other_name)?.filter(|look| is_target(look, target));
        let found = found.ok_or(Outcome::ContentMissing)?;
        if let Some(expected) = &request.expected
            && expected.1.inode == found.inode
        {
            // It is a name of that file already.
            let (parent, name) = self.parent(&request.path)?;
            let clock = mount.clock();
            let look = self.check(&parent, name, request, expected)?;
            return Ok(Outcome::Done { signature: Some(look.signature(clock)) });
        }
        let staged = stage::new_name(mount);
        LINK.run(|| linkat(&dir.fd, other_name, &mount.stage, &*staged, AtFlags::empty()))
            .map_err(|e| match e.errno() {
                Errno::NOENT => Outcome::ContentMissing,
                _ => e.into(),
            })?;
        let look = Look::at(&mount.stage, staged.as_bytes());
        let item =
            Item::new(staged, *look.as_ref().ok().and_then(Option::as_ref).unwrap_or(&found));
        if look.is_err() || item.look.inode != found.inode || !is_target(&item.look, target) {
            item.discard(mount, &mount.stage, item.name.as_bytes());
            return Err(look.map_or_else(Outcome::from, |_| Outcome::ContentMissing));
        }
        self.linked.insert(item.look.inode);
        self.put(request, &item)
    }

    /// Looks at what is to be displaced or changed, before anything is touched.
    pub(super) fn check(
        &self,
        parent: &Parent,
        name: &[u8],
        request: &ApplyRequest,
        expected: &(Entry, Signature),
    ) -> Result<Look, Outcome> {
        let look = Look::at(&parent.fd, name)?.ok_or(Outcome::Changed)?;
        if self.mount.is_boundary(&look) {
            return Err(unreachable(DiskError::MountPoint));
        }
        if !matches(&look, expected, self.mount.privileged, self.mount) {
            return Err(Outcome::Changed);
        }
        let file = look.file_type() == Type::File;
        if file && !request.even_if_open && has_writer(&parent.fd, name) {
            return Err(Outcome::Busy);
        }
        Ok(look)
    }

    /// Looks at what was displaced and, if it is the expected version, does with it what the policy
    /// says.
    fn look_at_displaced(
        &mut self,
        slot: &Slot<'_>,
        request: &ApplyRequest,
        expected: &(Entry, Signature),
    ) -> Result<(), Outcome> {
        let look = settle::judge(self.mount, slot, request, expected)?;
        settle::settle(self.mount, slot, &look, &request.displaced)?;
        self.displaced |= !look.is_dir() && request.displaced != Displaced::Drop;
        Ok(())
    }

    /// The signature of what was just placed, if it is still there, once nothing is left to set.
    pub(super) fn confirm(&self, dir: &OwnedFd, name: &[u8], item: &Item) -> Outcome {
        let confirmed = || -> Result<Option<Signature>, Refused> {
            let clock = self.mount.clock();
            let Some(look) = Look::at(dir, name)?.filter(|look| item.is(look)) else {
                return Ok(None);
            };
            let Some(meta) = &item.afterwards else { return Ok(Some(look.signature(clock))) };
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = OPEN.run(|| openat(dir, name, flags, Mode::empty()))?;
            if !item.is(&Look::of(&fd)?) {
                return Ok(None);
            }
            metadata::set(fd.as_fd(), meta, true, self.mount.privileged)?;
            Ok(Some(Look::of(&fd)?.signature(clock)))
        };
        match confirmed() {
            Ok(Some(signature)) => Outcome::Done { signature: Some(signature) },
            Ok(None) => Outcome::Changed,
            Err(e) => e.into(),
        }
    }

    pub(super) fn parent<'p>(
        &mut self,
        path: &'p RelPath,
    ) -> Result<(std::rc::Rc<Parent>, &'p [u8]), Outcome> {
        let (dir, name) = walk::split(path).map_err(unreachable)?;
        let parent = self.parents.get(dir).map_err(unreachable)?;
        Ok((parent, name))
    }

    pub(super) fn touch(&mut self, parent: &Parent) -> Result<(), Outcome> {
        self.parents.touch(parent).map_err(unreachable)
    }
}

fn unreachable(error: DiskError) -> Outcome {
    match error {
        DiskError::Missing => Outcome::ParentMissing,
        DiskError::MountPoint | DiskError::Reserved => Outcome::failed(&error.to_string()),
        DiskError::Refused(refused) => refused.into(),
    }
}

/// Puts what was displaced back. If something new is there by now, both stay: this one for the second
/// look.
pub(super) fn put_back(mount: &Mount, slot: &Slot<'_>, dir: &OwnedFd, name: &[u8]) {
    let flags = RenameFlags::NOREPLACE;
    if let Err(e) = UNDO.run(|| renameat_with(&mount.displaced, &*slot.name, dir, name, flags)) {
        tracing::warn!(error = %e.reason(), "left for a second look");
    }
}

pub(super) fn fate(policy: &Displaced) -> Fate {
    match policy {
        Displaced::Drop => Fate::Drop,
        Displaced::Keep(_) => Fate::Keep,
        Displaced::Trash(note) => Fate::Trash(*note),
    }
}

/// Whether `look` is what was expected. Times, links and size of a directory move all the time.
fn matches(look: &Look, expected: &(Entry, Signature), privileged: bool, mount: &Mount) -> bool {
    let (entry, signature) = expected;
    if !entry.is_dir() {
        return !look.is_dir() && signature.unchanged(&look.signature(mount.clock()));
    }
    let owner = |want: u32, is: u32| !privileged || want == OWNER_UNKNOWN || want == is;
    look.is_dir()
        && look.mode == signature.mode
        && owner(entry.meta.uid, look.uid)
        && owner(entry.meta.gid, look.gid)
}

/// Whether `look` can be a further name of `target`.
fn is_target(look: &Look, target: &Entry) -> bool {
    let Kind::File { size, .. } = target.kind else { return false };
    look.file_type() == Type::File
        && look.size == size
        && look.mtime == target.meta.mtime
        && look.permissions() == target.meta.mode
}
