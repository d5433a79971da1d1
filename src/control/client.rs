//! Asks a running daemon: the other end of the control API.
//!
//! In: calls with typed requests. Out: typed replies, or why there is none. One connection a call;
//! replies are bounded.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::{
    error::Error,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use axum::body::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Response, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::{
    refusal::RefusalBody,
    types::{
        ConflictStatus, DeployReply, DeployRequest, HealReply, HealRequest, HeldReply, HeldWord,
        MarkReply, Nothing, Refusal, RefusalKind, ReloadReply, RemoveReply, RestoreReply,
        SnapshotProgress, SnapshotReply, SnapshotRequest, StatusReply, TrashListReply,
        TrashListRequest, TrashRestoreReply, TrashRestoreRequest, VerifyProgress, VerifyReply,
        VerifyRequest, WaitReply, WaitRequest, WhyReply, WhyRequest,
    },
};

/// Bytes of a reply: `status` with every problem listed is far below it.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// For an answer that needs no work. A daemon that takes longer hangs.
const QUICK: Duration = Duration::from_secs(20);

/// For an answer to arrive after a wait timed out.
const GRACE: Duration = Duration::from_secs(10);

/// Why a daemon could not be asked, or did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens at the socket.
    #[error("cannot reach the daemon at {}", socket.display())]
    NotRunning {
        /// The socket.
        socket: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// This user may not talk to the daemon.
    #[error("cannot reach the daemon at {}", socket.display())]
    NotPermitted {
        /// The socket.
        socket: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// It listens and does not answer.
    #[error("cannot get an answer from the daemon: none in {} s", .0.as_secs())]
    Silent(Duration),
    /// The connection broke, or what came was no answer.
    #[error("cannot read the daemon's answer")]
    Broken(#[source] Box<dyn Error + Send + Sync>),
    /// The daemon answered that it will not.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The bytes that came could not be written.
    #[error("cannot write the content")]
    Write(#[source] io::Error),
}

/// Where a daemon listens.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the daemon at this socket; nothing is connected yet.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// How everything is.
    ///
    /// # Errors
    /// [`ClientError`]; so for all of these.
    pub async fn status(&self) -> Result<StatusReply, ClientError> {
        self.call(Method::GET, "/v1/status", &(), Some(QUICK)).await
    }

    /// Waits until everything written is durable elsewhere, or with what is missing.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn wait(&self, request: &WaitRequest) -> Result<WaitReply, ClientError> {
        let limit = Duration::from_millis(request.timeout_ms).saturating_add(GRACE);
        self.call(Method::POST, "/v1/wait", request, Some(limit)).await
    }

    /// Compares the replicas now, however long that takes.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn verify(&self, request: &VerifyRequest) -> Result<VerifyReply, ClientError> {
        self.call(Method::POST, "/v1/verify", request, None).await
    }

    /// How far the comparisons are that go on.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn verify_progress(&self) -> Result<Vec<VerifyProgress>, ClientError> {
        self.call(Method::GET, "/v1/verify", &(), Some(QUICK)).await
    }

    /// What every node holds at a path, and what it waits for there.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn why(&self, request: &WhyRequest) -> Result<WhyReply, ClientError> {
        self.call(Method::POST, "/v1/why", request, None).await
    }

    /// A part of what lies in the trash of a mount on all nodes.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn trash_list(
        &self,
        request: &TrashListRequest,
    ) -> Result<TrashListReply, ClientError> {
        self.call(Method::POST, "/v1/trash/list", request, None).await
    }

    /// Puts things from the trash of one node back, however long copying takes.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn trash_restore(
        &self,
        request: &TrashRestoreRequest,
    ) -> Result<TrashRestoreReply, ClientError> {
        self.call(Method::POST, "/v1/trash/restore", request, None).await
    }

    /// Takes a snapshot of all mounts, however long that takes.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn snapshot(&self, request: &SnapshotRequest) -> Result<SnapshotReply, ClientError> {
        self.call(Method::POST, "/v1/snapshots", request, None).await
    }

    /// How far the snapshot is that is being taken, if one is.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn snapshot_progress(&self) -> Result<Option<SnapshotProgress>, ClientError> {
        self.call(Method::GET, "/v1/snapshots", &(), Some(QUICK)).await
    }

    /// Has damaged objects of the repository put aside and stored again.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn heal(&self, request: &HealRequest) -> Result<HealReply, ClientError> {
        self.call(Method::POST, "/v1/snapshots/heal", request, None).await
    }

    /// The conflict store, newest first.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn conflicts(&self) -> Result<Vec<ConflictStatus>, ClientError> {
        self.call(Method::GET, "/v1/conflicts", &(), Some(QUICK)).await
    }

    /// Writes what was kept to `out`.
    ///
    /// # Errors
    /// [`ClientError`]; then a part may have been written.
    pub async fn conflict_content(&self, id: &str, out: &mut dyn Write) -> Result<(), ClientError> {
        let target = format!("/v1/conflicts/{}/content", escape(id));
        let mut body = self.request(Method::GET, &target, Bytes::new(), Some(QUICK)).await?;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|e| ClientError::Broken(Box::new(e)))?;
            if let Some(data) = frame.data_ref() {
                out.write_all(data).map_err(ClientError::Write)?;
            }
        }
        out.flush().map_err(ClientError::Write)
    }

    /// Puts what was kept back in place.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn restore(&self, id: &str) -> Result<RestoreReply, ClientError> {
        self.post(&format!("/v1/conflicts/{}/restore", escape(id))).await
    }

    /// Drops what was kept.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn discard(&self, id: &str) -> Result<(), ClientError> {
        self.post(&format!("/v1/conflicts/{}/discard", escape(id))).await.map(|Nothing {}| ())
    }

    /// Stops a mount.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn pause(&self, mount: &str) -> Result<(), ClientError> {
        self.post(&format!("/v1/mounts/{}/pause", escape(mount))).await.map(|Nothing {}| ())
    }

    /// Starts a paused mount.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn resume(&self, mount: &str) -> Result<(), ClientError> {
        self.post(&format!("/v1/mounts/{}/resume", escape(mount))).await.map(|Nothing {}| ())
    }

    /// The deletions that are held in a mount.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn held(&self, mount: &str) -> Result<HeldReply, ClientError> {
        let target = format!("/v1/mounts/{}/held", escape(mount));
        self.call(Method::GET, &target, &(), Some(QUICK)).await
    }

    /// Lets them through, or brings back what was deleted.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn decide_held(&self, mount: &str, word: HeldWord) -> Result<HeldReply, ClientError> {
        let word = match word {
            HeldWord::Approve => "approve",
            HeldWord::Revert => "revert",
        };
        self.post(&format!("/v1/mounts/{}/{word}", escape(mount))).await
    }

    /// Begins or ends a deployment.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn deploy(&self, request: &DeployRequest) -> Result<DeployReply, ClientError> {
        self.call(Method::POST, "/v1/deploy", request, Some(QUICK)).await
    }

    /// Makes the marker of a mount that was added to the configuration.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn mark(&self, mount: &str) -> Result<MarkReply, ClientError> {
        self.post(&format!("/v1/mounts/{}/mark", escape(mount))).await
    }

    /// Takes a node out of the cluster.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn remove(&self, node: &str) -> Result<RemoveReply, ClientError> {
        self.post(&format!("/v1/nodes/{}/remove", escape(node))).await
    }

    /// Makes the daemon read its configuration again.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn reload(&self) -> Result<ReloadReply, ClientError> {
        self.post("/v1/reload").await
    }

    async fn post<T: DeserializeOwned>(&self, target: &str) -> Result<T, ClientError> {
        self.call(Method::POST, target, &(), Some(QUICK)).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        request: &impl Serialize,
        limit: Option<Duration>,
    ) -> Result<T, ClientError> {
        let json = serde_json::to_vec(request).map_err(|e| ClientError::Broken(Box::new(e)))?;
        let answer = async {
            let body = self.request(method, target, json.into(), None).await?;
            let bytes = collect(body).await?;
            serde_json::from_slice(&bytes).map_err(|e| ClientError::Broken(Box::new(e)))
        };
        within(limit, answer).await
    }

    /// Sends a request and gives the body of the reply, if that says it went well. The limit is for
    /// the head of the reply.
    async fn request(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
        limit: Option<Duration>,
    ) -> Result<Incoming, ClientError> {
        let response = within(limit, self.send(method, target, body)).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let bytes = collect(response.into_body()).await?;
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| RefusalBody {
            error: format!("the daemon answered with HTTP status {status}"),
            hint: None,
        });
        let kind = RefusalKind::from_status(status.as_u16());
        Err(Refusal { kind, error: body.error, hint: body.hint }.into())
    }

    async fn send(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|source| {
            let socket = self.socket.clone();
            if source.kind() == io::ErrorKind::PermissionDenied {
                ClientError::NotPermitted { socket, source }
            } else {
                ClientError::NotRunning { socket, source }
            }
        })?;
        let broken = |e: hyper::Error| ClientError::Broken(Box::new(e));
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // It ends with the reply's body, or when that is dropped; its failure is the reply's.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, "trefoil")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|e| ClientError::Broken(Box::new(e)))?;
        sender.send_request(request).await.map_err(broken)
    }
}

async fn within<T>(
    limit: Option<Duration>,
    answer: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    match limit {
        Some(limit) => {
            tokio::time::timeout(limit, answer).await.unwrap_or(Err(ClientError::Silent(limit)))
        }
        None => answer.await,
    }
}

async fn collect(body: Incoming) -> Result<Bytes, ClientError> {
    let whole = Limited::new(body, REPLY_BYTES_MAX).collect().await;
    whole.map(http_body_util::Collected::to_bytes).map_err(ClientError::Broken)
}

/// Text as one segment of a URL's path.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}
