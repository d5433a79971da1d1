//! Where the directories of events are: from file handle to path below the root.
//!
//! In: a directory's file handle, as the kernel gives it. Out: its path now, or that it is none of
//! ours. Answers are remembered, bounded, until a directory is renamed. Most events of a shared
//! file system are foreign: for them this is one hash lookup.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, fstat, open, openat, readlinkat};
use rustix::io::Errno;

use super::{Skip, cookie, fanotify_sys};
use crate::disk::call::Call;
use crate::model::RelPath;

const BY_HANDLE: Call = Call::new("open.handle", "open a directory by its handle");
const UPWARDS: Call = Call::new("open.upwards", "open the directory above");

/// Remembered handles, in each of two generations.
const GENERATION_MAX: usize = 8192;

/// Where a directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Below the root or the root itself.
    Inside(RelPath),
    /// A skipped directory: it is mirrored, its content is not.
    Skipped(RelPath),
    /// Below a skipped directory, or `.trefoil` and below it.
    Hidden,
    /// The directory of the cookies.
    Cookies,
    /// At or below this path, too deep for the kernel to name.
    Deep(RelPath),
    /// Outside the root.
    Outside,
}

/// See the module.
pub(super) struct Handles {
    root: OwnedFd,
    root_path: Vec<u8>,
    skip: Skip,
    young: HashMap<Box<[u8]>, Place>,
    old: HashMap<Box<[u8]>, Place>,
}

/// A directory's handle within an event: the file system, the handle's type and its bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Handle<'a> {
    /// All of it, as it lies in the event.
    pub(super) key: &'a [u8],
    pub(super) kind: i32,
    pub(super) bytes: &'a [u8],
}

impl Handles {
    pub(super) fn new(root: &Path, skip: Skip) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(root, flags, Mode::empty())?;
        let root_path = path_of(&root)?;
        Ok(Self { root, root_path, skip, young: HashMap::new(), old: HashMap::new() })
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// How many directories' places were asked for and are remembered.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether `name` is a component of the root's path: without it the root may be elsewhere.
    pub(super) fn leads_to_root(&self, name: &[u8]) -> bool {
        self.root_path.split(|&b| b == b'/').any(|component| component == name)
    }

    /// Forgets everything: a directory was renamed, and with it all below it.
    pub(super) fn forget(&mut self) {
        self.young.clear();
        self.old.clear();
    }

    /// Where the directory is now; nothing if it was removed.
    ///
    /// # Errors
    /// What keeps us from telling, such as too many open files.
    pub(super) fn resolve(&mut self, handle: Handle<'_>) -> io::Result<Option<Place>> {
        if let Some(place) = self.young.get(handle.key) {
            return Ok(Some(place.clone()));
        }
        let place = match self.old.remove(handle.key) {
            Some(place) => place,
            None => match self.look_up(handle)? {
                Some(place) => place,
                None => return Ok(None),
            },
        };
        if self.young.len() >= GENERATION_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(handle.key.into(), place.clone());
        Ok(Some(place))
    }

    fn look_up(&self, handle: Handle<'_>) -> io::Result<Option<Place>> {
        let open = || fanotify_sys::open_by_handle(self.root.as_fd(), handle.kind, handle.bytes);
        let mut dir = match BY_HANDLE.run_io(open).map_err(|e| e.source) {
            Ok(dir) => dir,
            Err(error) if error.raw_os_error() == Some(libc::ESTALE) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut deep = false;
        let path = loop {
            match path_of(&dir) {
                Ok(path) => break path,
                // The kernel names paths up to PATH_MAX; an ancestor it can name must do.
                Err(Errno::NAMETOOLONG) => deep = true,
                Err(error) => return Err(error.into()),
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let open = || openat(&dir, "..", flags, Mode::empty());
            dir = UPWARDS.run(open).map_err(|e| e.source)?;
        };
        if path.ends_with(b" (deleted)") && fstat(&dir)?.st_nlink == 0 {
            return Ok(None);
        }
        Ok(Some(match self.below_root(&path) {
            None => Place::Outside,
            Some(path) => self.classify(path, deep),
        }))
    }

    fn below_root(&self, path: &[u8]) -> Option<RelPath> {
        let rest = path.strip_prefix(&self.root_path[..])?;
        let rest = match rest.strip_prefix(b"/") {
            Some(rest) => rest,
            None if rest.is_empty() || self.root_path == b"/" => rest,
            None => return None,
        };
        RelPath::parse(rest).ok()
    }

    fn classify(&self, path: RelPath, deep: bool) -> Place {
        let [state, cookies] = cookie::DIR.map(str::as_bytes);
        if path.components().next() == Some(state) {
            let is_cookies = path.components().skip(1).eq([cookies]);
            return if is_cookies { Place::Cookies } else { Place::Hidden };
        }
        let mut at = Some(path.clone());
        while let Some(dir) = at {
            at = dir.parent();
            if !dir.is_root() && (self.skip)(&dir) {
                return if dir == path { Place::Skipped(path) } else { Place::Hidden };
            }
        }
        if deep { Place::Deep(path) } else { Place::Inside(path) }
    }
}

/// The path of an open directory as this process sees it, in the mount it was opened through.
pub(super) fn path_of(dir: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let link = format!("/proc/self/fd/{}", dir.as_raw_fd());
    readlinkat(CWD, link, Vec::new()).map(std::ffi::CString::into_bytes)
}
