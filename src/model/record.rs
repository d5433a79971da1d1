//! A path with what is known of it.

use super::{Entry, RelPath, Version};

/// An entry with its version, or a tombstone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Where, relative to the mount.
    pub path: RelPath,
    /// What is there; nothing for a tombstone.
    pub entry: Option<Entry>,
    /// Which edit this is, and which it has seen.
    pub version: Version,
}

impl Record {
    /// Whether something is at the path.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.entry.is_some()
    }

    /// Whether a directory is at the path.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.entry.as_ref().is_some_and(Entry::is_dir)
    }
}
