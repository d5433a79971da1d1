//! What `snapshot create` and `snapshot verify --heal` ask and are told, as JSON.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A snapshot of all mounts is to be taken.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRequest {
    /// What a person says of it.
    #[serde(default)]
    pub note: Option<String>,
    /// Nothing removes it by itself.
    #[serde(default)]
    pub pin: bool,
}

/// How far the snapshot is that is being taken.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct SnapshotProgress {
    /// Files, links and directories that were looked at.
    pub files: u64,
    /// Files that are to be, as far as is known.
    pub files_total: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Bytes that the repository has grown by.
    pub added_bytes: u64,
    /// Since it was begun.
    pub seconds: f64,
}

/// An object of the repository.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotObject {
    /// Its kind's number in the format.
    pub kind: u8,
    /// Its id, in hexadecimal.
    pub id: String,
}

/// Damaged objects are to be put aside and stored again.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealRequest {
    /// Which; ten thousand at most.
    pub objects: Vec<SnapshotObject>,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HealReply {
    /// Packs that were put aside.
    pub packs: u64,
    /// Manifests that were put aside: they come again from other nodes.
    pub manifests: u64,
    /// Where they are.
    pub quarantine: String,
    /// Objects that were stored again from the files of this node.
    pub from_files: u64,
    /// Objects that were stored again from repositories of other nodes.
    pub from_nodes: u64,
    /// Objects that nobody has.
    pub lost: u64,
    /// Why the last of those could not be had.
    pub reason: Option<String>,
}

/// How it is with the snapshots, as it was last looked at.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct SnapshotsStatus {
    /// When they are taken; nothing: by hand only.
    pub schedule: Option<String>,
    /// When the next one is due.
    pub next: Option<Timestamp>,
    /// How many this node has.
    pub count: u64,
    /// The newest that is complete.
    pub newest: Option<String>,
    /// When that was taken.
    pub newest_taken: Option<Timestamp>,
    /// How many nodes have it, as far as is known.
    pub newest_copies: u64,
    /// How many nodes there are.
    pub nodes: u64,
    /// How many moments of the schedule have passed since then.
    pub missed: u64,
    /// How many other nodes have, and this one has not yet.
    pub lacking: u64,
    /// Bytes of what is stored.
    pub bytes: u64,
    /// Bytes that are free where they are stored.
    pub free_bytes: u64,
    /// When all data of one was last read and hashed.
    #[serde(default)]
    pub verified: Option<Timestamp>,
    /// What was wrong with those that are there, when each was last read.
    #[serde(default)]
    pub faults: u64,
    /// What went wrong last, until it goes well.
    pub error: Option<String>,
    /// When it was last looked; nothing: not yet.
    pub looked: Option<Timestamp>,
}

/// A snapshot that was taken.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SnapshotReply {
    /// Names it in commands: the beginning is enough.
    pub id: String,
    /// When.
    pub taken: Timestamp,
    /// `complete`, or `partial`: something could not be stored as it was.
    pub state: String,
    /// Files and links.
    pub files: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Bytes that the repository has grown by.
    pub added_bytes: u64,
    /// How long it took.
    pub took_seconds: f64,
    /// Paths that could not be stored as they were, as `MOUNT: PATH`; the first hundred.
    pub changing: Vec<String>,
    /// How many there are.
    pub changing_count: u64,
}
