//! Turns requests into calls of a [`Daemon`] and its answers into JSON.

use std::{future::Future, sync::Arc};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State, rejection::BytesRejection},
    http::{Method, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Daemon, body,
    refusal::RefusalBody,
    server::REQUEST_BYTES_MAX,
    types::{HeldWord, Nothing, Refusal, RefusalKind},
};

type Reply<T> = Result<Json<T>, Refusal>;
type Body = Result<Bytes, BytesRejection>;

/// Everything, for the socket.
pub(super) fn all<D: Daemon>(daemon: Arc<D>) -> Router {
    let router = Router::new()
        .route("/v1/status", get(status::<D>))
        .route("/v1/wait", post(wait::<D>))
        .route("/v1/verify", post(verify::<D>).get(verify_progress::<D>))
        .route("/v1/why", post(why::<D>))
        .route("/v1/trash/list", post(trash_list::<D>))
        .route("/v1/trash/restore", post(trash_restore::<D>))
        .route("/v1/conflicts", get(conflicts::<D>))
        .route("/v1/conflicts/{id}/content", get(conflict_content::<D>))
        .route("/v1/conflicts/{id}/restore", post(restore::<D>))
        .route("/v1/conflicts/{id}/discard", post(discard::<D>))
        .route("/v1/mounts/{name}/pause", post(pause::<D>))
        .route("/v1/mounts/{name}/resume", post(resume::<D>))
        .route("/v1/mounts/{name}/held", get(held::<D>))
        .route("/v1/mounts/{name}/approve", post(approve::<D>))
        .route("/v1/mounts/{name}/revert", post(revert::<D>))
        .route("/v1/deploy", post(deploy::<D>))
        .route("/v1/mounts/{name}/mark", post(mark::<D>))
        .route("/v1/nodes/{name}/remove", post(remove::<D>))
        .route("/v1/snapshots", post(snapshot::<D>).get(snapshot_progress::<D>))
        .route("/v1/snapshots/heal", post(heal::<D>))
        .route("/v1/reload", post(reload::<D>));
    finish(router, daemon)
}

/// What anybody may ask who can reach a TCP address.
pub(super) fn status_only<D: Daemon>(daemon: Arc<D>) -> Router {
    finish(Router::new().route("/v1/status", get(status::<D>)), daemon)
}

fn finish<D: Daemon>(router: Router<Arc<D>>, daemon: Arc<D>) -> Router {
    router
        .fallback(no_such_request)
        .method_not_allowed_fallback(no_such_request)
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(daemon)
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.kind.status());
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(RefusalBody { error: self.error, hint: self.hint })).into_response()
    }
}

async fn no_such_request(method: Method, uri: Uri) -> Refusal {
    let error = format!("cannot answer {method} {}: no such request", uri.path());
    Refusal::new(RefusalKind::NotFound, error)
}

fn parse<T: DeserializeOwned>(body: Body) -> Result<T, Refusal> {
    let invalid = |reason: String| {
        Refusal::new(RefusalKind::Invalid, format!("cannot read the request: {reason}"))
    };
    let bytes = body.map_err(|e| invalid(e.body_text()))?;
    serde_json::from_slice(&bytes).map_err(|e| invalid(e.to_string()))
}

async fn reply<T: Serialize>(answer: impl Future<Output = Result<T, Refusal>>) -> Reply<T> {
    answer.await.map(Json)
}

async fn done(answer: impl Future<Output = Result<(), Refusal>>) -> Reply<Nothing> {
    answer.await.map(|()| Json(Nothing {}))
}

async fn status<D: Daemon>(State(daemon): State<Arc<D>>) -> impl IntoResponse {
    Json(daemon.status().await)
}

async fn wait<D: Daemon>(State(daemon): State<Arc<D>>, body: Body) -> impl IntoResponse {
    reply(daemon.wait(parse(body)?)).await
}

async fn verify<D: Daemon>(State(daemon): State<Arc<D>>, body: Body) -> impl IntoResponse {
    reply(daemon.verify(parse(body)?)).await
}

async fn verify_progress<D: Daemon>(State(daemon): State<Arc<D>>) -> impl IntoResponse {
    Json(daemon.verify_progress().await)
}

async fn snapshot<D: Daemon>(State(daemon): State<Arc<D>>, body: Body) -> impl IntoResponse {
    reply(daemon.snapshot(parse(body)?)).await
}

async fn snapshot_progress<D: Daemon>(State(daemon): State<Arc<D>>) -> impl IntoResponse {
    Json(daemon.snapshot_progress().await)
}

async fn heal<D: Daemon>(State(daemon): State<Arc<D>>, body: Body) -> impl IntoResponse {
    reply(daemon.heal(parse(body)?)).await
}

async fn why<D: Daemon>(State(daemon): State<Arc<D>>, body: Body) -> impl IntoResponse {
    reply(daemon.why(parse(body)?)).await
}

async fn trash_list<D: Daemon>(State(daemon): State<Arc<D>>, body: Body) -> impl IntoResponse {
    reply(daemon.trash_list(parse(body)?)).await
}

async fn trash_restore<D: Daemon>(State(daemon): State<Arc<D>>, body: Body) -> impl IntoResponse {
    reply(daemon.trash_restore(parse(body)?)).await
}

async fn conflicts<D: Daemon>(State(daemon): State<Arc<D>>) -> impl IntoResponse {
    reply(daemon.conflicts()).await
}

async fn conflict_content<D: Daemon>(
    State(daemon): State<Arc<D>>,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let (body, feed) = body::stream(daemon.conflict_content(&id).await?);
    tokio::task::spawn_blocking(feed);
    Ok(([(CONTENT_TYPE, "application/octet-stream")], body).into_response())
}

async fn restore<D: Daemon>(
    State(daemon): State<Arc<D>>,
    Path(id): Path<String>,
) -> impl IntoResponse {
    reply(daemon.restore(&id)).await
}

async fn discard<D: Daemon>(
    State(daemon): State<Arc<D>>,
    Path(id): Path<String>,
) -> impl IntoResponse {
    done(daemon.discard(&id)).await
}

async fn pause<D: Daemon>(
    State(daemon): State<Arc<D>>,
    Path(name): Path<String>,
) -> impl IntoResponse {
    done(daemon.pause(&name)).await
}

async fn resume<D: Daemon>(
    State(daemon): State<Arc<D>>,
    Path(name): Path<String>,
) -> impl IntoResponse {
    done(daemon.resume(&name)).await
}

async fn held<D: Daemon>(
    State(daemon): State<Arc<D>>,
    Path(name): Path<String>,
) -> impl IntoResponse {
    reply(daemon.held(&name)).await
}

async fn approve<D: Daemon>(
    State(daemon): State<Arc<D>>,
    Path(name): Path<String>,
) -> impl IntoResponse {
    reply(daemon.decide_held(&name, HeldWord::Approve)).await
}

async fn revert<D: Daemon>(
    State(daemon): State<Arc<D>>,
    Path(name): Path<String>,
) -> impl IntoResponse {
    reply(daemon.decide_held(&name, HeldWord::Revert)).await
}

async fn deploy<D: Daemon>(State(daemon): State<Arc<D>>, body: Body) -> impl IntoResponse {
    reply(daemon.deploy(parse(body)?)).await
}

async fn mark<D: Daemon>(
    State(daemon): State<Arc<D>>,
    Path(name): Path<String>,
) -> impl IntoResponse {
    reply(daemon.mark(&name)).await
}

async fn remove<D: Daemon>(
    State(daemon): State<Arc<D>>,
    Path(name): Path<String>,
) -> impl IntoResponse {
    reply(daemon.remove(&name)).await
}

async fn reload<D: Daemon>(State(daemon): State<Arc<D>>) -> impl IntoResponse {
    reply(daemon.reload()).await
}
