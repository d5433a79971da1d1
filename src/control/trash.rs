//! What `trash` asks and is told, as JSON.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What of the trash of a mount is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrashListRequest {
    /// The mount.
    pub mount: String,
    /// Only what has an id that begins so.
    #[serde(default)]
    pub id: Option<String>,
    /// Only this path and what is below it: bytes below the mount, in hexadecimal.
    #[serde(default)]
    pub below_bytes: Option<String>,
    /// Only what came into the trash then or later.
    #[serde(default)]
    pub since: Option<Timestamp>,
    /// Only what comes after this path: `next_bytes` of the reply before.
    #[serde(default)]
    pub after_bytes: Option<String>,
}

/// A part of what lies in the trash of all nodes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TrashListReply {
    /// By path, a directory before what is in it; of one path the newest first.
    pub items: Vec<TrashItem>,
    /// Where to go on; nothing if this is all.
    pub next_bytes: Option<String>,
    /// Every node, this one first, then by name.
    pub nodes: Vec<TrashNode>,
}

/// A node that was asked for its trash.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TrashNode {
    /// The node.
    pub name: String,
    /// Why it did not answer; nothing if it did.
    pub error: Option<String>,
}

/// Something in the trash.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TrashItem {
    /// Names it in commands.
    pub id: String,
    /// The mount it was in.
    pub mount: String,
    /// The path below it, escaped.
    pub path: String,
    /// The same, its bytes in hexadecimal.
    pub path_bytes: String,
    /// Whether that is all of the path; otherwise its end.
    pub path_is_whole: bool,
    /// `file`, `directory` or `symlink`.
    pub kind: String,
    /// Of a file.
    pub bytes: u64,
    /// Its modification time.
    pub modified: Timestamp,
    /// `removed`, `overwritten` or `unknown`.
    pub happened: String,
    /// The node that did it, if that is known.
    pub by: Option<String>,
    /// When it came into the trash, of the first node that put it there.
    pub when: Timestamp,
    /// When the last node drops it.
    pub expires: Timestamp,
    /// On which nodes it lies, this one first, then by name.
    pub copies: Vec<TrashCopy>,
}

/// Where something lies in the trash.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TrashCopy {
    /// The node.
    pub node: String,
    /// Its name in the trash there, in hexadecimal: for `restore`.
    pub place: String,
}

/// What is to be put back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrashRestoreRequest {
    /// In whose trash it lies.
    pub node: String,
    /// In the trash of which mount.
    pub mount: String,
    /// Into which mount.
    pub to_mount: String,
    /// Put it in place of what is there; otherwise nothing that is there is touched.
    pub replace: bool,
    /// A directory before what is in it.
    pub items: Vec<TrashTarget>,
}

/// One thing that is to be put back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TrashTarget {
    /// Where it lies, as in [`TrashCopy`].
    pub place: String,
    /// The path below the mount, its bytes in hexadecimal.
    pub path_bytes: String,
    /// What it is, as listed.
    pub kind: String,
    /// How many bytes it has, as listed.
    pub bytes: u64,
    /// Its modification time, as listed.
    pub modified: Timestamp,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TrashRestoreReply {
    /// One per thing that was asked for, in that order.
    pub results: Vec<TrashRestored>,
}

/// What came of one thing that was to be put back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TrashRestored {
    /// The path, escaped.
    pub path: String,
    /// How it ended.
    pub outcome: TrashOutcome,
    /// Why it was not restored.
    pub reason: Option<String>,
}

/// How putting something back ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrashOutcome {
    /// It is there again.
    Restored,
    /// It was there already: of this kind, size and time.
    Same,
    /// Something else is there.
    Exists,
    /// It is not in the trash any more.
    Gone,
    /// It could not be done.
    Failed,
}
