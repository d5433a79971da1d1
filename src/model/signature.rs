//! What `stat` said of a file when its content was last known.

use super::Mtime;

/// Tells cheaply whether a file may have changed: equal signatures mean the same file with the
/// same content, unless the signature is `racy`. Never leaves the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Signature {
    /// Inode number.
    pub inode: u64,
    /// Size in bytes; zero for what is not a regular file.
    pub size: u64,
    /// Mode with the file type bits.
    pub mode: u32,
    /// Modification time.
    pub mtime: Mtime,
    /// Change time: moves with any change of content or metadata, and cannot be set back.
    pub ctime: Mtime,
    /// Names of this inode.
    pub links: u32,
    /// Looked at so soon after its last change that another change may carry the same times:
    /// the content has to be read again before it is believed.
    pub racy: bool,
}

impl Signature {
    /// Whether nothing can have changed between both. `racy` is not compared.
    #[must_use]
    pub fn unchanged(&self, now: &Self) -> bool {
        Self { racy: false, ..*self } == Self { racy: false, ..*now }
    }
}
