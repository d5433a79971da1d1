//! Durability: what was staged before it becomes visible, what was changed before it is `Done`.
//!
//! In: handles of staged files; paths of changed directories and files. Out: nothing, once they
//! are on the disk. Few are synced one by one, many with one `syncfs`, which also writes out what
//! applications wrote.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, fsync, openat, syncfs};

use super::call::{Call, Refused};
use super::mount::{Counters, Mount};
use super::walk;

const OPEN: Call = Call::new("open.sync", "open to make it durable");
const SYNC_CHANGED: Call = Call::new("sync.changed", "make the changes durable");
const SYNC_STAGE: Call = Call::new("sync.stage", "make the stage durable");

/// Staged files synced one by one: the latency of one small file matters most.
const STAGED_ONE_BY_ONE_MAX: usize = 2;
/// Changed directories and files synced one by one.
const CHANGED_ONE_BY_ONE_MAX: usize = 8;

/// The staged files of a group.
#[derive(Debug, Default)]
pub(crate) struct StageSync {
    few: Vec<OwnedFd>,
    many: bool,
}

impl StageSync {
    /// Adds a staged file with content. What has none (empty files, directories, links) is only
    /// metadata, which a journal keeps in order with the rename that follows.
    pub(crate) fn add(&mut self, file: OwnedFd) {
        if self.few.len() < STAGED_ONE_BY_ONE_MAX && !self.many {
            self.few.push(file);
        } else {
            self.many = true;
            self.few.clear();
        }
    }

    pub(crate) fn run(self, mount: &Mount) -> Result<(), Refused> {
        if self.many {
            return sync_all(mount, SYNC_STAGE);
        }
        self.few.iter().try_for_each(|file| sync_one(mount, file, SYNC_STAGE))
    }
}

/// Makes the entries of `dirs`, the inodes at `paths` and, if `own`, trefoil's own directories
/// durable.
pub(crate) fn changed(
    mount: &Mount,
    dirs: &[Box<[u8]>],
    paths: &[&[u8]],
    own: bool,
) -> Result<(), Refused> {
    if dirs.len() + paths.len() > CHANGED_ONE_BY_ONE_MAX {
        return sync_all(mount, SYNC_CHANGED);
    }
    for dir in dirs {
        let Ok(fd) = walk::open_dir_readable(&mount.root, dir) else {
            return sync_all(mount, SYNC_CHANGED);
        };
        sync_one(mount, &fd, SYNC_CHANGED)?;
    }
    for path in paths {
        let Some(fd) = open(mount, path) else {
            return sync_all(mount, SYNC_CHANGED);
        };
        sync_one(mount, &fd, SYNC_CHANGED)?;
    }
    if own {
        sync_one(mount, &mount.displaced, SYNC_CHANGED)?;
        sync_one(mount, &mount.kept, SYNC_CHANGED)?;
    }
    Ok(())
}

/// Opens a file or a directory to sync it; nothing if that is not allowed, or for a link.
fn open(mount: &Mount, path: &[u8]) -> Option<OwnedFd> {
    let path = crate::model::RelPath::parse(path).ok()?;
    let Some((dir, name)) = path.split() else {
        return walk::open_dir_readable(&mount.root, &[]).ok();
    };
    let dir = walk::open_dir(&mount.root, dir).ok()?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    OPEN.run(|| openat(&dir, name, flags, Mode::empty())).ok()
}

fn sync_one(mount: &Mount, fd: impl AsFd, call: Call) -> Result<(), Refused> {
    Counters::add(&mount.counters.syncs, 1);
    call.run(|| fsync(fd.as_fd()))
}

/// Makes everything durable that was ever written to the mount's file system.
///
/// # Errors
/// What the operating system refused.
pub fn everything(mount: &Mount) -> Result<(), Refused> {
    sync_all(mount, SYNC_CHANGED)
}

fn sync_all(mount: &Mount, call: Call) -> Result<(), Refused> {
    Counters::add(&mount.counters.syncs, 1);
    call.run(|| syncfs(&mount.root))
}
