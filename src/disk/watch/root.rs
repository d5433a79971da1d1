//! Tells whether a mount's root is still the directory it was.
//!
//! In: the root's path. Out: a reason once another directory, or none, is there. Unmounting makes
//! no event, and a removed or renamed root goes on telling events that no path leads to.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::disk::call::Call;
use crate::disk::walk;
use crate::model::RelPath;

const LOOK: Call = Call::new("stat.root", "look at the root");

/// The root as it was at the start.
pub(super) struct RootCheck {
    path: PathBuf,
    /// Held open, so that no other directory can get its inode number.
    root: File,
}

impl RootCheck {
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let root = File::open(&path)?;
        Ok(Self { path, root })
    }

    /// Whether there is a directory at a path below the root, however long the path is.
    pub(super) fn has_dir(&self, path: &RelPath) -> bool {
        walk::open_dir(&self.root, path.as_bytes()).is_ok()
    }

    /// Looks.
    ///
    /// # Errors
    /// Why the root is not what it was, for a person.
    pub(super) fn look(&self) -> Result<(), String> {
        let identity = |found: Metadata| (found.dev(), found.ino());
        let now = LOOK.run_io(|| std::fs::metadata(&self.path)).map_err(|error| error.source);
        let now = now.map(identity);
        let then = self.root.metadata().map(identity);
        match now.and_then(|now| Ok(now == then?)) {
            Ok(true) => Ok(()),
            Ok(false) => Err("another directory is in the root's place".into()),
            Err(error) => Err(format!("the root is gone: {error}")),
        }
    }
}
