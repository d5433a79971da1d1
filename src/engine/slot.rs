//! What is going on at one path: a local change not read yet, a peer's record not applied yet.

use std::collections::BTreeMap;

use crate::model::{Lane, NodeId, Record, Sequence, Signature, Stamp};

/// One path with something to do. A path at rest has no slot.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// Something happened here; to be read.
    pub dirty: Option<Dirty>,
    /// A peer's record that was decided for.
    pub want: Option<Want>,
    /// Reading and applying exclude each other: a read that overlaps an apply could take the old
    /// content for a new local edit.
    pub busy: Busy,
}

/// What is out for a path.
#[derive(Debug, Default)]
pub(super) enum Busy {
    #[default]
    No,
    /// A look at the disk, for this.
    Reading(Dirty),
    /// A look-up of our record.
    Considering,
    /// This record is being made visible.
    Applying(Box<Record>),
}

/// A path to read.
#[derive(Debug, Clone)]
pub(super) struct Dirty {
    /// Rank in the order of arrival.
    pub order: u64,
    /// When it was first noted.
    pub first_ms: u64,
    /// When something last happened there.
    pub last_ms: u64,
    /// Not to be read before.
    pub due_ms: u64,
    /// List the directory's children afterwards, whatever is known of it.
    pub list: bool,
    /// Only a child changed: nothing but the directory's time can be new.
    pub touch: bool,
    /// Noted before the first scan of a joining node was complete.
    pub joining: bool,
    /// Found empty once; taken for real when it is still so.
    pub emptied: bool,
    /// A barrier as it was seen while other changes were still unread: it is taken when it is still
    /// so after those.
    pub glimpse: Option<Signature>,
    /// Reads that ended in nothing.
    pub attempts: u32,
}

/// A peer's record that was decided for and is not applied yet.
#[derive(Debug)]
pub(super) struct Want {
    pub record: Record,
    /// Who announced it, on which lane. Empty for one that was found in the journal at start-up.
    pub sources: BTreeMap<(NodeId, Lane), Source>,
    pub content: Content,
    pub retry_ms: u64,
    pub attempts: u32,
    pub waits: Waits,
    /// A directory that shall go was listed, and what is in it is none of ours.
    pub holds_unmirrored: bool,
    /// When a directory that shall go, but has children, is kept.
    pub keep_ms: Option<u64>,
}

/// Where the content of a wanted file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// To be fetched, or not needed.
    Absent,
    Fetching,
    /// Came with the announcement, or was fetched.
    Here,
}

/// What a want waits for. For people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    Nothing,
    /// Its turn after what its origin finished before it.
    Order,
    /// Its directory.
    Parent,
    /// The directory's children to go.
    Children,
    /// A listing of the directory.
    Listing,
    /// Nothing: the listing is there.
    Listed,
}

/// An announcement of a wanted record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    /// The first announcement for this path that is not done yet.
    pub first: Sequence,
    /// The one of the wanted record.
    pub sequence: Sequence,
    /// Visible only after everything up to here.
    pub after: Option<Sequence>,
    /// The edit that was announced; an older one says nothing of when a newer one may be seen.
    pub stamp: Stamp,
    /// Whether this peer holds just what is wanted, so that it need not be told of it.
    pub holds: bool,
}
