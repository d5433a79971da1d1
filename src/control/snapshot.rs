//! What `snapshot create` asks and is told, as JSON.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A snapshot of all mounts is to be taken.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRequest {
    /// What a person says of it.
    #[serde(default)]
    pub note: Option<String>,
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
