//! The JSON of the control API: what `--json` prints. Plain values.
//!
//! Times are RFC 3339 in UTC, fingerprints and ids are hexadecimal, paths are relative to their
//! mount and printed escaped. Fields may be added; none changes its meaning.

use std::{fmt, str::FromStr, time::SystemTime};

use jiff::{RoundMode, Timestamp, TimestampRound, Unit};
use serde::{Deserialize, Serialize};

pub use super::guard::{DeployReply, DeployRequest, GuardKind, HeldReply, HeldStatus, HeldWord};
pub use super::refusal::{Refusal, RefusalKind};
pub use super::snapshot::{
    HealReply, HealRequest, SnapshotObject, SnapshotProgress, SnapshotReply, SnapshotRequest,
    SnapshotsStatus,
};
pub use super::trash::{
    TrashCopy, TrashItem, TrashListReply, TrashListRequest, TrashNode, TrashOutcome,
    TrashRestoreReply, TrashRestoreRequest, TrashRestored, TrashTarget,
};
pub use super::verify::{
    Difference, VerifiedStatus, VerifyMount, VerifyNode, VerifyProgress, VerifyReply, VerifyRequest,
};
pub use super::why::{WhyNode, WhyRecord, WhyReply, WhyRequest};

/// A system time for a reply, in whole milliseconds. Outside the years -9999 to 9999: the nearest.
#[must_use]
pub fn timestamp(time: SystemTime) -> Timestamp {
    let exact = Timestamp::try_from(time).unwrap_or_else(|_| {
        if time < SystemTime::UNIX_EPOCH { Timestamp::MIN } else { Timestamp::MAX }
    });
    let round = TimestampRound::new().smallest(Unit::Millisecond).mode(RoundMode::Trunc);
    exact.round(round).unwrap_or(exact)
}

/// How everything is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct StatusReply {
    /// This node's name.
    pub node: String,
    /// This node's id.
    pub node_id: String,
    /// This program's release.
    pub release: String,
    /// The cluster's id.
    pub cluster_id: String,
    /// When the daemon started.
    pub started: Timestamp,
    /// Another member took this node out of the cluster: nothing is mirrored here any more.
    pub removed: bool,
    /// Whether the fingerprints of every mount were compared with every node's, and are equal.
    pub in_sync: bool,
    /// The members, this node first, then by name.
    pub nodes: Vec<NodeStatus>,
    /// The mounts, in the order of the configuration.
    pub mounts: Vec<MountStatus>,
    /// Losers of concurrent edits that are kept.
    pub conflicts: u64,
    /// What the conflict store takes up.
    #[serde(default)]
    pub conflicts_size: KeptSize,
    /// What is halted until somebody approves.
    pub guards: Vec<GuardStatus>,
    /// Snapshots.
    #[serde(default)]
    pub snapshots: SnapshotsStatus,
}

/// A member of the cluster.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Whether it is the one that answers.
    pub this: bool,
    /// Whether it is linked; true for this node.
    pub up: bool,
    /// Since when it is up, or down.
    pub since: Option<Timestamp>,
    /// Round trip in milliseconds, if it is up and not this node.
    pub round_trip_ms: Option<f64>,
    /// Its program's release, once heard.
    pub release: Option<String>,
    /// Where it is linked, or was last.
    pub address: Option<String>,
    /// Why it is down.
    pub error: Option<String>,
    /// Whole days until its certificate ends, negative afterwards; none for a node that was not
    /// linked since this daemon started. Nodes renew theirs each month, for 800 days.
    pub certificate_days: Option<i64>,
}

/// What a mount is doing, in one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountState {
    /// Everything known is done; changes are watched for.
    Watching,
    /// The whole tree is being looked at.
    Scanning,
    /// Changes are being taken in, sent or applied.
    Syncing,
    /// Stopped by `pause`.
    Paused,
    /// Stopped by a guard or a failure.
    Halted,
}

impl MountState {
    /// The word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Watching => "watching",
            Self::Scanning => "scanning",
            Self::Syncing => "syncing",
            Self::Paused => "paused",
            Self::Halted => "halted",
        }
    }
}

/// A mount on this node.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MountStatus {
    /// Its name.
    pub name: String,
    /// The directory on this node.
    pub path: String,
    /// What it is doing, in one word.
    pub state: MountState,
    /// What it is doing, in words; empty if nothing.
    pub doing: String,
    /// Mirrored entries here, directories included.
    pub files: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// Of this replica.
    pub fingerprint: String,
    /// Whether the fingerprint was compared with every node's, and is equal.
    pub in_sync: bool,
    /// How changes are noticed.
    pub backend: String,
    /// Changes seen, read, fetched or applied at this moment, and those waiting for it.
    pub pending: u64,
    /// One per other node, by name.
    pub peers: Vec<PeerStatus>,
    /// What cannot be done for now: the first of them.
    pub problems: Vec<ProblemStatus>,
    /// How many there are.
    pub problem_count: u64,
    /// How often the kernel lost events since the start.
    pub overflows: u64,
    /// Changes that a scan found and the watcher had missed, since the start.
    pub missed_events: u64,
    /// Deletions made here that are held; nothing, if none is.
    #[serde(default)]
    pub held: Option<HeldStatus>,
    /// Until when nothing is held, because a deployment goes on.
    #[serde(default)]
    pub deploying_until: Option<Timestamp>,
    /// The last comparison of all replicas that was asked for on this node.
    #[serde(default)]
    pub verified: Option<VerifiedStatus>,
    /// The last one that read every file.
    #[serde(default)]
    pub verified_deep: Option<VerifiedStatus>,
    /// Whether an index that was damaged, or too old, lies aside in the state folder.
    #[serde(default)]
    pub index_set_aside: bool,
    /// What the trash takes up, as it was within the last hour; nothing, if it has no limit.
    #[serde(default)]
    pub trash_size: Option<KeptSize>,
    /// Work done since the mount was opened.
    #[serde(default)]
    pub work: WorkStatus,
}

/// Work done for a mount, counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct WorkStatus {
    /// Files opened to be read: to be hashed, announced, or sent.
    pub files_opened: u64,
    /// Bytes read and hashed.
    pub bytes_hashed: u64,
    /// Files, links and directories made beside their targets.
    pub files_staged: u64,
    /// Calls of `fsync` and `syncfs`.
    pub syncs: u64,
    /// Announcements of records sent to all peers.
    pub messages: u64,
}

/// What was kept aside takes up of the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct KeptSize {
    /// So much.
    pub bytes: u64,
    /// What it may take up; nothing: no limit.
    pub bytes_max: Option<u64>,
}

/// How a mount is on another node, as last heard.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The node.
    pub name: String,
    /// Whether it is linked.
    pub up: bool,
    /// Changes here that are not durable there; nothing, if that is not known.
    pub lag_changes: Option<u64>,
    /// For how long the oldest of them has been waiting, in seconds.
    pub lag_seconds: Option<f64>,
    /// Of its replica; nothing, if that is not known.
    pub fingerprint: Option<String>,
    /// Whether its fingerprint is that of this node; nothing, if they were not compared.
    pub equal: Option<bool>,
    /// When it last told its fingerprint.
    #[serde(default)]
    pub heard: Option<Timestamp>,
    /// Why they were not compared; nothing, if they were, or will be in a moment.
    pub not_compared_because: Option<String>,
}

/// One path's failure.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ProblemStatus {
    /// Where.
    pub path: String,
    /// What cannot be done and why.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// When it is tried again; nothing, if only once something changes.
    pub next_retry: Option<Timestamp>,
}

/// What waits for a person.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GuardStatus {
    /// Which mount.
    pub mount: String,
    /// Whether all of it waits, or deletions made on this node alone.
    pub kind: GuardKind,
    /// Why.
    pub reason: String,
    /// What to do.
    pub hint: String,
}

/// On which nodes changes must be durable. In JSON and on the command line: `all`, `quorum` or a
/// number, this node not counted in `all` and in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum WaitNodes {
    /// Every other node.
    #[default]
    All,
    /// So many that they are, with this node, more than half of the cluster.
    Quorum,
    /// So many other nodes.
    Count(u32),
}

/// Text that is no [`WaitNodes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a number of nodes; allowed: all, quorum, or a number")]
pub struct UnknownNodes;

impl FromStr for WaitNodes {
    type Err = UnknownNodes;

    fn from_str(text: &str) -> Result<Self, UnknownNodes> {
        match text {
            "all" => Ok(Self::All),
            "quorum" => Ok(Self::Quorum),
            number if number.bytes().all(|b| b.is_ascii_digit()) => {
                number.parse().map(Self::Count).map_err(|_| UnknownNodes)
            }
            _ => Err(UnknownNodes),
        }
    }
}

impl TryFrom<String> for WaitNodes {
    type Error = UnknownNodes;

    fn try_from(text: String) -> Result<Self, UnknownNodes> {
        text.parse()
    }
}

impl From<WaitNodes> for String {
    fn from(nodes: WaitNodes) -> Self {
        nodes.to_string()
    }
}

impl fmt::Display for WaitNodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Quorum => f.write_str("quorum"),
            Self::Count(number) => write!(f, "{number}"),
        }
    }
}

/// What to wait for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitRequest {
    /// Only this mount; nothing: all.
    #[serde(default)]
    pub mount: Option<String>,
    /// On which nodes.
    #[serde(default)]
    pub nodes: WaitNodes,
    /// How long, in milliseconds.
    pub timeout_ms: u64,
}

/// What came of waiting.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WaitReply {
    /// Whether everything is durable on the nodes asked for.
    pub done: bool,
    /// How long it took, in milliseconds.
    pub waited_ms: u64,
    /// One per mount waited for.
    pub mounts: Vec<WaitMount>,
}

/// What came of waiting for a mount.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WaitMount {
    /// Its name.
    pub name: String,
    /// Whether it is durable on the nodes asked for.
    pub done: bool,
    /// What keeps this node itself from having taken in everything; nothing, if it has.
    pub reason: Option<String>,
    /// One per other node, by name.
    pub nodes: Vec<WaitNode>,
}

/// How far a node has got.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WaitNode {
    /// Its name.
    pub name: String,
    /// Whether everything is durable there.
    pub done: bool,
    /// Whether it is linked.
    pub up: bool,
    /// Changes missing there; nothing, if that is not known.
    pub missing: Option<u64>,
    /// Some of the paths that are missing.
    #[serde(default)]
    pub paths: Vec<String>,
}

/// The loser of concurrent edits.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ConflictStatus {
    /// Names it in commands.
    pub id: String,
    /// Where it happened.
    pub mount: String,
    /// Where it happened.
    pub path: String,
    /// The node that made the edit that lost.
    pub origin: String,
    /// What was kept: `file`, `symlink` or `directory`.
    pub kind: String,
    /// Size of what was kept.
    pub bytes: u64,
    /// Modification time of what was kept.
    pub modified: Timestamp,
    /// When it was kept.
    pub kept: Timestamp,
    /// When it will be dropped; nothing: not by itself.
    pub expires: Option<Timestamp>,
    /// What happened, in words.
    pub reason: String,
}

/// What `restore` did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RestoreReply {
    /// In which mount.
    pub mount: String,
    /// The path that has the kept content again.
    pub path: String,
    /// Under which id the content that was there is kept now; nothing, if nothing was there.
    pub replaced: Option<String>,
}

/// What `mark` did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MarkReply {
    /// The marker was made; otherwise it was there already.
    pub made: bool,
    /// The mount is open by now; otherwise it is still being opened.
    pub open: bool,
}

/// What `remove` did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RemoveReply {
    /// The node's name.
    pub name: String,
    /// Its id, which is refused from now on.
    pub id: String,
}

/// What `reload` did.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ReloadReply {
    /// What was taken over.
    pub changed: Vec<String>,
    /// What changed in the file and takes a restart.
    pub restart: Vec<String>,
}

/// An answer without content: `{}`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Nothing {}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_rfc_3339_in_utc() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_790_000_000_123_456_789);
        assert_eq!("2026-09-21T14:13:20.123Z", timestamp(time).to_string());
        assert_eq!(
            "\"2026-09-21T14:13:20.123Z\"",
            serde_json::to_string(&timestamp(time)).unwrap()
        );
    }

    #[test]
    fn nodes_to_wait_for_are_a_word_or_a_number() {
        for (text, nodes) in
            [("all", WaitNodes::All), ("quorum", WaitNodes::Quorum), ("2", WaitNodes::Count(2))]
        {
            assert_eq!(Ok(nodes), text.parse());
            assert_eq!(text, nodes.to_string());
        }
        for bad in ["", "-1", "+1", "some", "99999999999"] {
            assert_eq!(Err(UnknownNodes), bad.parse::<WaitNodes>());
        }
    }

    #[test]
    fn a_request_with_a_field_that_is_not_known_is_refused() {
        let bad = "{\"timeout_ms\":1,\"node\":\"all\"}";
        assert!(serde_json::from_str::<WaitRequest>(bad).is_err());
        let request: WaitRequest = serde_json::from_str("{\"timeout_ms\":1}").unwrap();
        assert_eq!(WaitRequest { timeout_ms: 1, ..WaitRequest::default() }, request);
    }
}
