//! What `why` asks and is told, as JSON.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Which path is asked about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WhyRequest {
    /// The mount.
    pub mount: String,
    /// The path below it, its bytes in hexadecimal.
    pub path_bytes: String,
}

/// What every node holds at a path.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct WhyReply {
    /// The mount.
    pub mount: String,
    /// The path below it, escaped.
    pub path: String,
    /// Its class.
    pub class: String,
    /// The pattern that gives it this class.
    pub rule: String,
    /// Whether every node answered and holds the same edit.
    pub agreed: bool,
    /// One per node, this one first, then by name.
    pub nodes: Vec<WhyNode>,
}

/// What one node holds at a path.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct WhyNode {
    /// The node.
    pub name: String,
    /// What it holds; nothing if it never heard of the path.
    pub record: Option<WhyRecord>,
    /// What that is to what the first node holds, and by which rule.
    pub relation: Option<String>,
    /// What it does or waits for there.
    pub doing: Option<String>,
    /// When it looks again.
    pub next_retry: Option<Timestamp>,
    /// What cannot be done there, and why.
    pub problem: Option<String>,
    /// Since when.
    pub problem_since: Option<Timestamp>,
    /// Why it did not answer.
    pub error: Option<String>,
}

/// An edit of a path.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct WhyRecord {
    /// `file`, `directory`, `symlink` or `deleted`.
    pub kind: String,
    /// Of a file.
    pub bytes: Option<u64>,
    /// The BLAKE3 hash of a file's content.
    pub content: Option<String>,
    /// Permission bits, octal.
    pub mode: Option<String>,
    /// The node that made the edit.
    pub author: String,
    /// When.
    pub edited: Timestamp,
    /// Nobody edited it: it was found on the disk when its author joined the cluster, or it is a
    /// directory that stayed for what was in it.
    pub weak: bool,
}
