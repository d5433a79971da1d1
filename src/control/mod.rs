//! The local control API: HTTP/1.1 with JSON over a Unix socket, and its client.
//!
//! In: requests of the commands. Out: what a [`Daemon`] answers, or a [`Refusal`]. The server
//! decides nothing: it turns requests into calls and answers into JSON. The types in [`types`] are
//! the JSON that users see; field names are those of the logs.
//!
//! | request | calls |
//! |---|---|
//! | `GET /v1/status` | [`Daemon::status`] |
//! | `POST /v1/wait` | [`Daemon::wait`] |
//! | `POST /v1/verify` | [`Daemon::verify`] |
//! | `GET /v1/verify` | [`Daemon::verify_progress`] |
//! | `POST /v1/why` | [`Daemon::why`] |
//! | `POST /v1/trash/list`, `…/restore` | [`Daemon::trash_list`], [`Daemon::trash_restore`] |
//! | `GET /v1/conflicts` | [`Daemon::conflicts`] |
//! | `GET /v1/conflicts/ID/content` | [`Daemon::conflict_content`] |
//! | `POST /v1/conflicts/ID/restore`, `…/discard` | [`Daemon::restore`], [`Daemon::discard`] |
//! | `POST /v1/mounts/NAME/pause`, `…/resume` | [`Daemon::pause`], [`Daemon::resume`] |
//! | `GET /v1/mounts/NAME/held` | [`Daemon::held`] |
//! | `POST /v1/mounts/NAME/approve`, `…/revert` | [`Daemon::decide_held`] |
//! | `POST /v1/deploy` | [`Daemon::deploy`] |
//! | `POST /v1/mounts/NAME/mark` | [`Daemon::mark`] |
//! | `POST /v1/nodes/NAME/remove` | [`Daemon::remove`] |
//! | `POST /v1/snapshots` | [`Daemon::snapshot`] |
//! | `GET /v1/snapshots` | [`Daemon::snapshot_progress`] |
//! | `POST /v1/snapshots/heal` | [`Daemon::heal`] |
//! | `POST /v1/reload` | [`Daemon::reload`] |

mod body;
mod client;
mod guard;
mod refusal;
mod routes;
mod server;
mod snapshot;
mod trash;
pub mod types;
mod verify;
mod why;

#[cfg(test)]
mod tests;

use std::{future::Future, io::Read};

pub use client::{Client, ClientError};
pub use server::{BindError, ControlSocket, REQUEST_BYTES_MAX, serve, serve_status};
use types::{
    ConflictStatus, DeployReply, DeployRequest, HealReply, HealRequest, HeldReply, HeldWord,
    MarkReply, Refusal, ReloadReply, RemoveReply, RestoreReply, SnapshotProgress, SnapshotReply,
    SnapshotRequest, StatusReply, TrashListReply, TrashListRequest, TrashRestoreReply,
    TrashRestoreRequest, VerifyProgress, VerifyReply, VerifyRequest, WaitReply, WaitRequest,
    WhyReply, WhyRequest,
};

/// What the control API can ask of the daemon. A call whose client has gone is dropped.
pub trait Daemon: Send + Sync + 'static {
    /// How everything is. Quick, whatever the daemon is doing.
    fn status(&self) -> impl Future<Output = StatusReply> + Send;

    /// Returns when everything written here before the call is durable on the nodes asked for, or
    /// with what is missing after the request's time-out.
    fn wait(&self, request: WaitRequest)
    -> impl Future<Output = Result<WaitReply, Refusal>> + Send;

    /// Compares the replicas now.
    fn verify(
        &self,
        request: VerifyRequest,
    ) -> impl Future<Output = Result<VerifyReply, Refusal>> + Send;

    /// How far the deep comparisons are that go on.
    fn verify_progress(&self) -> impl Future<Output = Vec<VerifyProgress>> + Send;

    /// What every node holds at a path, and what it waits for there.
    fn why(&self, request: WhyRequest) -> impl Future<Output = Result<WhyReply, Refusal>> + Send;

    /// A part of what lies in the trash of a mount on all nodes.
    fn trash_list(
        &self,
        request: TrashListRequest,
    ) -> impl Future<Output = Result<TrashListReply, Refusal>> + Send;

    /// Puts things from the trash of one node back, as edits made there.
    fn trash_restore(
        &self,
        request: TrashRestoreRequest,
    ) -> impl Future<Output = Result<TrashRestoreReply, Refusal>> + Send;

    /// The conflict store, newest first.
    fn conflicts(&self) -> impl Future<Output = Result<Vec<ConflictStatus>, Refusal>> + Send;

    /// The bytes that were kept: a file's content, or a symbolic link's target.
    fn conflict_content(&self, id: &str) -> impl Future<Output = Result<Content, Refusal>> + Send;

    /// Puts what was kept back in place; what is there now takes its place in the store.
    fn restore(&self, id: &str) -> impl Future<Output = Result<RestoreReply, Refusal>> + Send;

    /// Drops what was kept, for good.
    fn discard(&self, id: &str) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Stops a mount until [`Daemon::resume`], also across restarts.
    fn pause(&self, mount: &str) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Starts a paused mount.
    fn resume(&self, mount: &str) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// The deletions that are held in a mount.
    fn held(&self, mount: &str) -> impl Future<Output = Result<HeldReply, Refusal>> + Send;

    /// Lets them through, or brings back what was deleted. Says what was held.
    fn decide_held(
        &self,
        mount: &str,
        word: HeldWord,
    ) -> impl Future<Output = Result<HeldReply, Refusal>> + Send;

    /// Begins or ends a time in which nothing is held.
    fn deploy(
        &self,
        request: DeployRequest,
    ) -> impl Future<Output = Result<DeployReply, Refusal>> + Send;

    /// Makes the marker of a mount that was added to the configuration.
    fn mark(&self, mount: &str) -> impl Future<Output = Result<MarkReply, Refusal>> + Send;

    /// Takes a node, given by name or id, out of the cluster.
    fn remove(&self, node: &str) -> impl Future<Output = Result<RemoveReply, Refusal>> + Send;

    /// Takes a snapshot of all mounts.
    fn snapshot(
        &self,
        request: SnapshotRequest,
    ) -> impl Future<Output = Result<SnapshotReply, Refusal>> + Send;

    /// How far the snapshot is that is being taken, if one is.
    fn snapshot_progress(&self) -> impl Future<Output = Option<SnapshotProgress>> + Send;

    /// Puts damaged objects of the repository aside, and stores them again.
    fn heal(&self, request: HealRequest)
    -> impl Future<Output = Result<HealReply, Refusal>> + Send;

    /// Reads the configuration again and takes over what can be changed while running.
    fn reload(&self) -> impl Future<Output = Result<ReloadReply, Refusal>> + Send;
}

/// Bytes to stream to the client.
pub struct Content {
    /// How many there are; a reader that ends earlier breaks the reply off.
    pub bytes: u64,
    /// Read on a thread of its own, a buffer at a time, as fast as the client takes them.
    pub reader: Box<dyn Read + Send>,
}
