//! What the guard of deletions holds, and what people say about it, as JSON.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Deletions made on this node that no other node hears of until somebody has decided.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HeldStatus {
    /// Paths that are gone here.
    pub count: u64,
    /// Whether there are more than were counted.
    pub more: bool,
    /// Since when.
    pub since: Timestamp,
    /// Classes whose budget was spent, each with it, as `precious (50 or 1%)`.
    pub classes: Vec<String>,
    /// The first of the paths.
    pub paths: Vec<String>,
}

/// What a guard holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuardKind {
    /// Deletions made on this node.
    Deletions,
    /// The whole mount.
    Mount,
}

/// What becomes of what is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeldWord {
    /// It is deleted on the other nodes, too.
    Approve,
    /// It comes back here, from the other nodes.
    Revert,
}

/// What was held when somebody decided.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HeldReply {
    /// Nothing, if nothing was held.
    pub held: Option<HeldStatus>,
}

/// A deployment begins or ends: while it goes on nothing is held.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeployRequest {
    /// Only these mounts; none: all.
    #[serde(default)]
    pub mounts: Vec<String>,
    /// For how long, in milliseconds; zero ends it.
    pub for_ms: u64,
}

/// What is open now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DeployReply {
    /// The mounts that were told.
    pub mounts: Vec<String>,
    /// Until when; nothing, if it was ended.
    pub until: Option<Timestamp>,
}
