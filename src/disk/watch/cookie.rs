//! Cookies: a file is given a new name, and when the kernel tells of it, everything before was told.
//!
//! In: the root. Out: one empty file a watcher in `.trefoil/cookies` below it, renamed from number
//! to number: a rename costs the file system no inode. Follows no symbolic link and touches nothing
//! else.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, mkdirat, open, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::WatchError;
use crate::disk::call::{Call, Refused};

const CLEAR: Call = Call::new("clear.cookies", "clear the cookie directory");
const CREATE: Call = Call::new("create.cookie", "make a cookie file");
const MKDIR: Call = Call::new("mkdir.cookies", "make the cookie directory");
const OPEN: Call = Call::new("open.cookies", "open the cookie directory");
const RENAME: Call = Call::new("rename.cookie", "rename a cookie file");

/// The directory below the root, component by component.
pub(super) const DIR: [&str; 2] = [".trefoil", "cookies"];

/// Watchers made by this process: two on one root must not take the other's cookies for theirs.
static WATCHERS: AtomicU64 = AtomicU64::new(0);

/// One watcher's cookies.
pub(super) struct Cookies {
    dir: OwnedFd,
    prefix: String,
    numbers: AtomicU64,
    /// The number the file is named by, if it was made.
    current: Mutex<Option<u64>>,
}

impl Cookies {
    /// Makes the directory if need be and removes cookies that a crash left behind.
    pub(super) fn open(root: &Path) -> Result<Self, WatchError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut dir = OPEN.run(|| open(root, flags, Mode::empty())).map_err(refused)?;
        for name in DIR {
            match MKDIR.run(|| mkdirat(&dir, name, Mode::RWXU)) {
                Err(error) if error.errno() != Errno::EXIST => return Err(refused(error)),
                _ => {}
            }
            let flags = flags | OFlags::NOFOLLOW;
            dir = OPEN.run(|| openat(&dir, name, flags, Mode::empty())).map_err(refused)?;
        }
        let process = format!("sync-{}-", std::process::id());
        CLEAR.run(|| remove_left_behind(&dir, &process)).map_err(refused)?;
        let watcher = WATCHERS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{process}{watcher}-");
        Ok(Self { dir, prefix, numbers: AtomicU64::new(0), current: Mutex::new(None) })
    }

    /// What the name of every cookie of this watcher begins with, before its number.
    pub(super) fn prefix(&self) -> &[u8] {
        self.prefix.as_bytes()
    }

    /// A number not used before.
    pub(super) fn next(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Names the file by this number, making it if it is not there.
    pub(super) fn put(&self, number: u64) -> Result<(), WatchError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = current.take() {
            let rename = || renameat(&self.dir, self.name(old), &self.dir, self.name(number));
            match RENAME.run(rename) {
                Ok(()) => {
                    *current = Some(number);
                    return Ok(());
                }
                Err(error) if error.errno() == Errno::NOENT => {}
                Err(error) => return Err(refused(error)),
            }
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        CREATE.run(|| openat(&self.dir, self.name(number), flags, mode)).map_err(refused)?;
        *current = Some(number);
        Ok(())
    }

    fn name(&self, number: u64) -> String {
        format!("{}{number}", self.prefix)
    }
}

impl Drop for Cookies {
    fn drop(&mut self) {
        let current = self.current.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = current.take() {
            // What stays behind is removed at the next start.
            let _removed = unlinkat(&self.dir, self.name(number), AtFlags::empty());
        }
    }
}

fn remove_left_behind(dir: &OwnedFd, process: &str) -> rustix::io::Result<()> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let bytes = name.to_bytes();
        if bytes.starts_with(b"sync-") && !bytes.starts_with(process.as_bytes()) {
            match unlinkat(dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

fn refused(refused: Refused) -> WatchError {
    WatchError::Cookie { doing: refused.call.doing, source: refused.source }
}
