//! An opened mount: the handle of its root, its own directories and its identity.
//!
//! In: a path from the configuration. Out: a [`Mount`], which every other file of this module
//! works on. It must never create anything outside `.trefoil`, nor accept a root that is not the
//! one it was opened with.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{
    AtFlags, CWD, FlockOperation, Mode, OFlags, fchmod, flock, fstatvfs, mkdirat, openat, openat2,
    unlinkat,
};
use rustix::io::Errno;

use super::OWN_DIR;
use super::call::{Call, Refused};
use super::look::{Clock, Look};
use super::marker::{self, MarkerId};
use super::times::DirTimes;
use super::walk::CONTAINED;
use super::{metadata, stage};

const OPEN_ROOT: Call = Call::new("open.root", "open the root");
const MKDIR_OWN: Call = Call::new("mkdir.own", "create trefoil's own directory");
const OPEN_OWN: Call = Call::new("open.own", "open trefoil's own directory");
const LOCK: Call = Call::new("lock.own", "lock trefoil's own directory");
const FREE: Call = Call::new("stat.space", "ask for the free space");
const PROBE: Call = Call::new("probe.times", "probe the file system's time stamps");

/// Changes of one file whose times must all differ before time stamps count as fine.
const PROBE_CHANGES: usize = 16;

/// How a mount is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MountOptions {
    /// Owners are kept: the process may change them. Otherwise they are neither read
    /// ([`super::OWNER_UNKNOWN`] stands for them) nor set.
    pub privileged: bool,
    /// `.trefoil` is made if it is not there.
    pub create: bool,
}

/// Why a mount cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The marker is there, but no marker.
    #[error("the marker is damaged")]
    BadMarker,
    /// Another process works on this mount.
    #[error("another trefoil works on this mount")]
    InUse,
    /// The path leads to another directory than when the mount was opened, or to nothing.
    #[error("the root is not the directory it was")]
    Moved,
    /// There is no marker: none was made yet, or the file system is not mounted.
    #[error("there is no marker")]
    NoMarker,
    /// `.trefoil` belongs to another user, who could change what is staged in it.
    #[error("trefoil's own directory belongs to user {uid}")]
    NotOurs {
        /// The owner.
        uid: u32,
    },
    /// The marker of another mount.
    #[error("the marker is that of another mount, {found}")]
    OtherMarker {
        /// Its id.
        found: MarkerId,
    },
    /// The operating system refused.
    #[error(transparent)]
    Refused(#[from] Refused),
}

/// Work done, counted since the mount was opened. For tests and `status`.
#[derive(Debug, Default)]
pub struct Counters {
    /// Regular files opened to be read.
    pub files_opened: AtomicU64,
    /// Bytes read and hashed.
    pub bytes_hashed: AtomicU64,
    /// Files, links and directories staged.
    pub files_staged: AtomicU64,
    /// Calls of `fsync` and `syncfs`.
    pub syncs: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

/// An opened mount root. All access is relative to its directory handle; several threads may use
/// it. Only one `Mount` for a directory can exist at a time, on the whole machine.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
    pub(crate) root: OwnedFd,
    root_look: Look,
    own: OwnedFd,
    pub(crate) stage: OwnedFd,
    pub(crate) displaced: OwnedFd,
    pub(crate) trash: OwnedFd,
    pub(crate) kept: OwnedFd,
    /// Held for its lock.
    _lock: OwnedFd,
    pub(crate) privileged: bool,
    fine_times: bool,
    unique: AtomicU64,
    in_flight: Mutex<BTreeSet<u64>>,
    pub(crate) dir_times: DirTimes,
    /// Work done so far.
    pub counters: Counters,
}

impl Mount {
    /// Opens the root at `path`, makes `.trefoil` and its folders as far as needed, and clears the
    /// stage of what an earlier run left. Fetched content, whole or in part, stays.
    ///
    /// # Errors
    /// [`MountError::NoMarker`] if `.trefoil` is missing and not to be created.
    pub fn open(path: &Path, options: MountOptions) -> Result<Self, MountError> {
        let root = open_root(path)?;
        let root_look = Look::of(&root)?;
        let own = open_own(&root, &root_look, options.create)?;
        let lock = lock(&own)?;
        let folder = |name: &[u8]| -> Result<OwnedFd, MountError> {
            mkdir_private(own.as_fd(), name)?;
            open_private(own.as_fd(), name)
        };
        folder(b"cookies")?;
        let mount = Self {
            path: path.to_owned(),
            stage: folder(b"stage")?,
            displaced: folder(b"displaced")?,
            trash: folder(b"trash")?,
            kept: folder(b"kept")?,
            root,
            root_look,
            own,
            _lock: lock,
            privileged: options.privileged,
            fine_times: false,
            unique: AtomicU64::new(getrandom::u64().unwrap_or(0) >> 1),
            in_flight: Mutex::default(),
            dir_times: DirTimes::default(),
            counters: Counters::default(),
        };
        stage::clear(&mount)?;
        let fine_times = has_fine_times(mount.stage.as_fd())?;
        Ok(Self { fine_times, ..mount })
    }

    /// Writes the marker of a new mount, making `.trefoil` if needed. Only `init`, `join` and `mark`
    /// do.
    ///
    /// # Errors
    /// [`MountError::OtherMarker`] if the directory is another mount already; it stays so.
    pub fn create_marker(path: &Path, id: MarkerId, name: &str) -> Result<(), MountError> {
        let root = open_root(path)?;
        let own = open_own(&root, &Look::of(&root)?, true)?;
        marker::create(&own, id, name)
    }

    /// The marker's id and name in the directory `path`, if it has one.
    ///
    /// # Errors
    /// [`MountError`], if there is a marker that cannot be read.
    pub fn read_marker(path: &Path) -> Result<Option<(MarkerId, String)>, MountError> {
        let root = open_root(path)?;
        match open_own(&root, &Look::of(&root)?, false) {
            Ok(own) => marker::read(&own),
            Err(MountError::NoMarker) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Checks that the path still leads to this very root, on the same file system, with the
    /// marker `id` in it. A few system calls.
    ///
    /// # Errors
    /// [`MountError`]: nothing may be read as deleted, and nothing applied, until it is right again.
    pub fn check_identity(&self, id: MarkerId) -> Result<(), MountError> {
        let same = |now: &Look, then: &Look| now.dev == then.dev && now.inode == then.inode;
        match Look::of(open_root(&self.path)?)? {
            now if same(&now, &self.root_look) => {}
            _ => return Err(MountError::Moved),
        }
        match Look::at(&self.root, OWN_DIR)? {
            Some(now) if same(&now, &Look::of(&self.own)?) => {}
            Some(_) => return Err(MountError::Moved),
            None => return Err(MountError::NoMarker),
        }
        match marker::read(&self.own)? {
            Some((found, _)) if found == id => Ok(()),
            Some((found, _)) => Err(MountError::OtherMarker { found }),
            None => Err(MountError::NoMarker),
        }
    }

    /// Tells the marker's file from every other, also from a copy of it: its inode, and when that was
    /// made.
    ///
    /// # Errors
    /// What the operating system refused.
    pub fn marker_file(&self) -> Result<String, Refused> {
        marker::file(&self.own)
    }

    /// Bytes that can still be written, and bytes the file system has.
    ///
    /// # Errors
    /// What `statvfs` says.
    pub fn free_space(&self) -> io::Result<(u64, u64)> {
        let stat = FREE.run(|| fstatvfs(&self.root)).map_err(|e| e.source)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok((bytes(stat.f_bavail), bytes(stat.f_blocks)))
    }

    /// The path it was opened with.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The handle of the root, for a watcher.
    #[must_use]
    pub fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Where the watcher's cookie files go.
    #[must_use]
    pub fn cookies(&self) -> PathBuf {
        self.own_path("cookies")
    }

    /// The handle of `.trefoil`.
    pub(crate) fn own(&self) -> &OwnedFd {
        &self.own
    }

    /// A folder of `.trefoil`.
    pub(crate) fn own_path(&self, folder: &str) -> PathBuf {
        self.path.join(".trefoil").join(folder)
    }

    /// Whether `look` is on another file system than the mount, or something is mounted on it.
    pub(crate) fn is_boundary(&self, look: &Look) -> bool {
        look.mount_root || look.dev != self.root_look.dev
    }

    /// The wall clock, for a look that follows.
    pub(crate) fn clock(&self) -> Clock {
        Clock::read(self.fine_times)
    }

    /// A number no other name in `.trefoil` has.
    pub(crate) fn unique(&self) -> u64 {
        self.unique.fetch_add(1, Ordering::Relaxed)
    }

    /// The displaced files that a thread is working on, by their number.
    pub(crate) fn in_flight(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes time stamps count as coarse, as on older kernels.
    #[cfg(test)]
    pub(crate) fn with_coarse_times(self) -> Self {
        Self { fine_times: false, ..self }
    }
}

fn open_root(path: &Path) -> Result<OwnedFd, MountError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match OPEN_ROOT.run(|| openat(CWD, path, flags, Mode::empty())) {
        Ok(fd) => Ok(fd),
        Err(e) => Err(e.into()),
    }
}

fn open_own(root: &OwnedFd, root_look: &Look, create: bool) -> Result<OwnedFd, MountError> {
    if create && mkdir_private(root.as_fd(), OWN_DIR)? {
        // The root's time is mirrored; this directory is not.
        metadata::set_mtime(root.as_fd(), root_look.mtime)?;
    }
    open_private(root.as_fd(), OWN_DIR)
}

/// Makes a directory for trefoil alone; whether it was not there.
fn mkdir_private(parent: impl AsFd, name: &[u8]) -> Result<bool, MountError> {
    let mode = Mode::from_raw_mode(0o700);
    match MKDIR_OWN.run(|| mkdirat(parent.as_fd(), name, mode)) {
        Ok(()) => Ok(true),
        Err(e) if e.errno() == Errno::EXIST => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Opens a directory that is trefoil's alone, without the ACLs and the set-group bit that it may
/// have inherited: what is staged in it must not inherit them again.
fn open_private(parent: impl AsFd, name: &[u8]) -> Result<OwnedFd, MountError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || openat2(parent.as_fd(), name, flags, Mode::empty(), CONTAINED);
    let fd = OPEN_OWN.run(open).map_err(|e| match e.errno() {
        Errno::NOENT => MountError::NoMarker,
        _ => MountError::Refused(e),
    })?;
    let look = Look::of(&fd)?;
    if look.uid != rustix::process::geteuid().as_raw() {
        return Err(MountError::NotOurs { uid: look.uid });
    }
    metadata::remove_acls(fd.as_fd())?;
    if Look::of(&fd)?.permissions() != 0o700 {
        OPEN_OWN.run(|| fchmod(&fd, Mode::from_raw_mode(0o700)))?;
    }
    Ok(fd)
}

fn lock(own: &OwnedFd) -> Result<OwnedFd, MountError> {
    // Not for writing: that would keep the file system from being made read-only.
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || openat(own, b"lock".as_slice(), flags, Mode::from_raw_mode(0o600));
    let fd = LOCK.run(open)?;
    match LOCK.run(|| flock(&fd, FlockOperation::NonBlockingLockExclusive)) {
        Ok(()) => Ok(fd),
        Err(e) if e.errno() == Errno::WOULDBLOCK => Err(MountError::InUse),
        Err(e) => Err(e.into()),
    }
}

/// Whether each change after a look gets a time of its own (Linux 6.13 and later, on most file
/// systems): then equal times mean no change, and no signature is racy.
fn has_fine_times(stage: impl AsFd) -> Result<bool, MountError> {
    let name = b"probe".as_slice();
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = PROBE.run(|| openat(stage.as_fd(), name, flags, Mode::from_raw_mode(0o600)))?;
    let mut last = Look::of(&fd)?.ctime;
    let mut fine = true;
    for i in 0..PROBE_CHANGES {
        let mode = if i % 2 == 0 { 0o400 } else { 0o600 };
        PROBE.run(|| fchmod(&fd, Mode::from_raw_mode(mode)))?;
        let now = Look::of(&fd)?.ctime;
        fine &= now > last;
        last = now;
    }
    PROBE.run(|| unlinkat(stage.as_fd(), name, AtFlags::empty()))?;
    Ok(fine)
}
