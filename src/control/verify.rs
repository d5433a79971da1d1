//! What `verify` asks and is told, as JSON, and what is remembered of it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What to compare.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifyRequest {
    /// Only this mount; nothing: all.
    #[serde(default)]
    pub mount: Option<String>,
    /// Whether to read and hash every file on every node.
    #[serde(default)]
    pub deep: bool,
}

/// What the comparison found.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct VerifyReply {
    /// Whether every mount was compared on every node and is equal.
    pub equal: bool,
    /// Whether every file was read and hashed.
    pub deep: bool,
    /// One per mount.
    pub mounts: Vec<VerifyMount>,
}

/// What the comparison of a mount found.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct VerifyMount {
    /// Its name.
    pub name: String,
    /// Whether it was compared on every node and is equal.
    pub equal: bool,
    /// One per node, this one first, then by name.
    pub nodes: Vec<VerifyNode>,
    /// What differs: the first of them, by path.
    pub differences: Vec<Difference>,
    /// How many there are.
    pub difference_count: u64,
}

/// A node's replica.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct VerifyNode {
    /// The node.
    pub name: String,
    /// Mirrored files and links; nothing, if it did not answer.
    pub files: Option<u64>,
    /// Bytes of their content.
    pub bytes: Option<u64>,
    /// Of the replica.
    pub fingerprint: Option<String>,
    /// Files that it read and hashed again, if that was asked for.
    #[serde(default)]
    pub read_files: Option<u64>,
    /// Why it could not be compared.
    pub error: Option<String>,
}

/// How far a node is with reading its replica of a mount.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VerifyProgress {
    /// The mount.
    pub mount: String,
    /// The node.
    pub node: String,
    /// Mirrored files and links looked at.
    pub files: u64,
    /// How many there are.
    pub files_total: u64,
    /// Bytes read.
    pub bytes: u64,
}

/// A path that is not equal everywhere.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Difference {
    /// Where.
    pub path: String,
    /// The node that differs from this one, or whose own files are not what its index says.
    pub node: String,
    /// How: such as `missing`, `content`, `mode`.
    pub what: String,
}

/// What a comparison of a mount on all nodes found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VerifiedStatus {
    /// When.
    pub when: Timestamp,
    /// Whether it was compared on every node and was equal.
    pub equal: bool,
    /// How much differed.
    pub difference_count: u64,
    /// Nodes that it was not compared with.
    pub not_compared: Vec<String>,
}
