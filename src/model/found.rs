//! What a look at a path found.

use std::sync::Arc;

use super::{Entry, Signature};

/// What a look at a path found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// Nothing is there (or a parent is missing, or is no directory).
    Absent,
    /// Someone has the file open for writing: it is not finished.
    Busy,
    /// Read to the end without a change in between.
    Entry {
        /// With [`super::LinkGroup`] `None`: only the index knows groups.
        entry: Entry,
        /// From the look after reading.
        signature: Signature,
        /// The content, if it is a file of at most [`super::limits::INLINE_BYTES_MAX`] bytes.
        content: Option<Arc<[u8]>>,
    },
    /// It cannot be read: the reason, as "cannot open: permission denied".
    Failed(String),
    /// Something that is not mirrored: "a FIFO", "a socket", "a device", "a mount point".
    Special(&'static str),
    /// Not changed since the known signature was taken; nothing was opened.
    Unchanged,
    /// It changed while it was read.
    Unstable,
}
