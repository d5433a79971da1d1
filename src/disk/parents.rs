//! The directories that a group changes: opened once, their times kept, verified at the end.
//!
//! In: directories by path. Out: handles, and in the end which of them had been moved away while
//! the group was at work. It must never leave a directory with the time of our change.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use super::look::Look;
use super::mount::Mount;
use super::{DiskError, metadata, walk};

/// Directory handles kept open by one group; far below the usual limit of open files.
const OPEN_MAX: usize = 64;

/// An opened directory.
#[derive(Debug)]
pub(crate) struct Parent {
    pub(crate) path: Box<[u8]>,
    pub(crate) fd: OwnedFd,
}

/// The directories of one group.
#[derive(Debug)]
pub(crate) struct Parents<'m> {
    mount: &'m Mount,
    open: HashMap<Box<[u8]>, Rc<Parent>>,
    /// Inodes of the directories whose children changed, by path.
    touched: BTreeMap<Box<[u8]>, u64>,
}

/// The directories whose children a group changed.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    pub(crate) changed: Vec<Box<[u8]>>,
    /// Not where they were: what was done in them was done elsewhere.
    pub(crate) moved: Vec<Box<[u8]>>,
}

impl<'m> Parents<'m> {
    pub(crate) fn new(mount: &'m Mount) -> Self {
        Self { mount, open: HashMap::new(), touched: BTreeMap::new() }
    }

    pub(crate) fn get(&mut self, path: &[u8]) -> Result<Rc<Parent>, DiskError> {
        if let Some(parent) = self.open.get(path) {
            return Ok(Rc::clone(parent));
        }
        let fd = walk::open_dir(&self.mount.root, path)?;
        let parent = Rc::new(Parent { path: path.into(), fd });
        if self.open.len() >= OPEN_MAX {
            self.open.clear();
        }
        self.open.insert(path.into(), Rc::clone(&parent));
        Ok(parent)
    }

    /// To be called before a child changes: remembers the directory's time.
    pub(crate) fn touch(&mut self, parent: &Parent) -> Result<(), DiskError> {
        if !self.touched.contains_key(&parent.path) {
            let inode = Look::of(&parent.fd)?.inode;
            self.mount.dir_times.hold(inode, || Look::of(&parent.fd).map(|look| look.mtime))?;
            self.touched.insert(parent.path.clone(), inode);
        }
        Ok(())
    }

    /// Forgets a directory that the group removed or replaced, with everything below it.
    pub(crate) fn forget(&mut self, path: &[u8]) {
        let inside =
            |p: &[u8]| p.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
        self.open.retain(|p, _| !inside(p));
        self.touched.retain(|p, inode| {
            let keep = !inside(p);
            if !keep {
                self.mount.dir_times.release(*inode, |_| {});
            }
            keep
        });
    }

    pub(crate) fn is_touched(&self, path: &[u8]) -> bool {
        self.touched.contains_key(path)
    }

    /// Gives every changed directory its time back.
    pub(crate) fn settle(&mut self) -> Settled {
        self.open.clear();
        let mut settled = Settled::default();
        for (path, inode) in std::mem::take(&mut self.touched) {
            let fd = walk::open_dir(&self.mount.root, &path)
                .ok()
                .filter(|fd| Look::of(fd).is_ok_and(|look| look.inode == inode));
            self.mount.dir_times.release(inode, |mtime| {
                if let Some(Err(e)) = fd.as_ref().map(|fd| metadata::set_mtime(fd.as_fd(), mtime)) {
                    tracing::warn!(error = &e as &dyn std::error::Error, "cannot restore a time");
                }
            });
            if fd.is_none() {
                settled.moved.push(path);
                continue;
            }
            settled.changed.push(path);
        }
        settled
    }
}

impl Drop for Parents<'_> {
    fn drop(&mut self) {
        for inode in self.touched.values() {
            self.mount.dir_times.release(*inode, |_| {});
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "does I/O")]
mod tests {
    use super::super::MountOptions;
    use super::*;

    #[test]
    fn a_directory_that_was_moved_away_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["stays", "goes"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let options = MountOptions { create: true, privileged: false };
        let mount = Mount::open(dir.path(), options).unwrap();
        let mut parents = Parents::new(&mount);
        for name in [&b"stays"[..], b"goes"] {
            let parent = parents.get(name).unwrap();
            parents.touch(&parent).unwrap();
        }
        std::fs::rename(dir.path().join("goes"), dir.path().join("gone")).unwrap();
        let settled = parents.settle();
        assert_eq!(vec![Box::from(&b"stays"[..])], settled.changed);
        assert_eq!(vec![Box::from(&b"goes"[..])], settled.moved);
    }
}
