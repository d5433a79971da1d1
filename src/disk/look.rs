//! One look at an inode: what `statx` says, as a value.
//!
//! In: a directory handle and a name, or a handle alone. Out: a [`Look`]. It must never follow a
//! symbolic link or trigger an automount.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::call::{Call, Refused};
use crate::model::{Mtime, Signature};

const LOOK: Call = Call::new("stat.look", "look at it");

/// With coarse kernel time stamps two changes this close may carry the same time: the clock that
/// stamps files ticks every 10 ms at worst.
const RACY_NANOS: i128 = 20_000_000;
/// The same where the file system keeps whole seconds only.
const RACY_WHOLE_SECONDS_NANOS: i128 = 2_000_000_000;

/// What is at the end of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Dir,
    File,
    Symlink,
    /// "a FIFO", "a socket", "a device".
    Special(&'static str),
}

/// What `statx` said of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) dev: (u32, u32),
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) blocks: u64,
    /// With the type bits.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Mtime,
    pub(crate) ctime: Mtime,
    pub(crate) links: u32,
    /// Something is mounted here.
    pub(crate) mount_root: bool,
}

impl Look {
    /// Looks at `name` in `dir`; nothing if it is not there.
    pub(crate) fn at(dir: impl AsFd, name: &[u8]) -> Result<Option<Self>, Refused> {
        match look(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(look) => Ok(Some(look)),
            Err(e) if matches!(e.errno(), Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Looks at an open inode.
    pub(crate) fn of(fd: impl AsFd) -> Result<Self, Refused> {
        look(fd, b"", AtFlags::EMPTY_PATH)
    }

    pub(crate) fn file_type(&self) -> Type {
        match self.mode & libc::S_IFMT {
            libc::S_IFDIR => Type::Dir,
            libc::S_IFREG => Type::File,
            libc::S_IFLNK => Type::Symlink,
            libc::S_IFIFO => Type::Special("a FIFO"),
            libc::S_IFSOCK => Type::Special("a socket"),
            _ => Type::Special("a device"),
        }
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.file_type() == Type::Dir
    }

    /// Permission bits without the type.
    pub(crate) fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }

    /// Whether less is allocated than the size says.
    pub(crate) fn is_sparse(&self) -> bool {
        self.blocks.saturating_mul(512).saturating_add(4096) <= self.size
    }

    /// As a signature; `racy` as seen at the time `clock`, read before this look.
    pub(crate) fn signature(&self, clock: Clock) -> Signature {
        let file = self.file_type() == Type::File;
        Signature {
            inode: self.inode,
            size: if file { self.size } else { 0 },
            mode: self.mode,
            mtime: self.mtime,
            ctime: self.ctime,
            links: self.links,
            racy: clock.is_racy(self.ctime, self.mtime),
        }
    }

    /// Whether content and times are those of `other`: the same version of the same inode,
    /// however often it was renamed or linked.
    pub(crate) fn is_version(&self, other: &Signature) -> bool {
        let size = if self.file_type() == Type::File { self.size } else { 0 };
        self.inode == other.inode
            && size == other.size
            && self.mode == other.mode
            && self.mtime == other.mtime
    }
}

/// The wall clock when it was read, and whether it can tell two changes apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    nanos: i128,
    /// The file system gives each change after a look a time stamp of its own.
    fine: bool,
}

impl Clock {
    /// Reads the wall clock.
    pub(crate) fn read(fine: bool) -> Self {
        let now = clock_gettime(ClockId::Realtime);
        Self { nanos: nanos(now.tv_sec, now.tv_nsec), fine }
    }

    /// Seconds since 1970, 0 before it.
    pub(crate) fn unix_seconds(self) -> u64 {
        u64::try_from(self.nanos / 1_000_000_000).unwrap_or(0)
    }

    fn is_racy(self, ctime: Mtime, mtime: Mtime) -> bool {
        let whole_seconds = ctime.nanos == 0 && mtime.nanos == 0;
        let window = match (whole_seconds, self.fine) {
            (true, _) => RACY_WHOLE_SECONDS_NANOS,
            (false, true) => return false,
            (false, false) => RACY_NANOS,
        };
        (self.nanos - nanos(ctime.secs, i64::from(ctime.nanos))).abs() <= window
    }
}

fn nanos(secs: i64, nanos: i64) -> i128 {
    i128::from(secs) * 1_000_000_000 + i128::from(nanos)
}

fn look(fd: impl AsFd, name: &[u8], flags: AtFlags) -> Result<Look, Refused> {
    let flags = flags | AtFlags::NO_AUTOMOUNT;
    let stat = LOOK.run(|| statx(fd.as_fd(), name, flags, StatxFlags::BASIC_STATS))?;
    let time = |t: rustix::fs::StatxTimestamp| Mtime { secs: t.tv_sec, nanos: t.tv_nsec };
    Ok(Look {
        dev: (stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        mode: u32::from(stat.stx_mode),
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        mtime: time(stat.stx_mtime),
        ctime: time(stat.stx_ctime),
        links: stat.stx_nlink,
        mount_root: stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
    })
}
