//! Tests of server and client together, over a real socket.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::{
    future::{Future, pending},
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::oneshot,
};

use super::{
    types::{
        ConflictStatus, HealReply, HealRequest, KeptSize, Refusal, RefusalKind, ReloadReply,
        RemoveReply, RestoreReply, StatusReply, TrashListReply, TrashListRequest,
        TrashRestoreReply, TrashRestoreRequest, VerifyReply, VerifyRequest, WaitNodes, WaitReply,
        WaitRequest, timestamp,
    },
    *,
};

/// Answers with what it was asked.
struct Echo;

/// Bytes of the content of conflict `big`.
const BIG_BYTES: u64 = 3_000_000;

fn refuse<T>(what: &str) -> Result<T, Refusal> {
    Err(Refusal::new(RefusalKind::NotFound, format!("no {what}")).with_hint("look again"))
}

impl Daemon for Echo {
    async fn snapshot(&self, request: SnapshotRequest) -> Result<SnapshotReply, Refusal> {
        Err(Refusal::new(RefusalKind::State, request.note.unwrap_or_default()))
    }

    async fn snapshot_progress(&self) -> Option<SnapshotProgress> {
        None
    }

    async fn heal(&self, request: HealRequest) -> Result<HealReply, Refusal> {
        Ok(HealReply { lost: request.objects.len() as u64, ..HealReply::default() })
    }

    async fn status(&self) -> StatusReply {
        StatusReply {
            node: "web1".to_owned(),
            node_id: "1".to_owned(),
            release: "0".to_owned(),
            cluster_id: "c".to_owned(),
            started: timestamp(std::time::SystemTime::UNIX_EPOCH),
            removed: false,
            in_sync: false,
            nodes: Vec::new(),
            mounts: Vec::new(),
            conflicts: 7,
            conflicts_size: KeptSize::default(),
            guards: Vec::new(),
            snapshots: Default::default(),
        }
    }

    async fn wait(&self, request: WaitRequest) -> Result<WaitReply, Refusal> {
        if request.mount.as_deref() == Some("never") {
            pending::<()>().await;
        }
        let done = request.nodes == WaitNodes::Count(2);
        Ok(WaitReply { done, waited_ms: request.timeout_ms, mounts: Vec::new() })
    }

    async fn verify(&self, request: VerifyRequest) -> Result<VerifyReply, Refusal> {
        Ok(VerifyReply { equal: true, deep: request.deep, mounts: Vec::new() })
    }

    async fn verify_progress(&self) -> Vec<VerifyProgress> {
        let (mount, node) = ("var".to_owned(), "n1".to_owned());
        vec![VerifyProgress { mount, node, files: 1, files_total: 2, bytes: 3 }]
    }

    async fn why(&self, request: WhyRequest) -> Result<WhyReply, Refusal> {
        refuse(&request.mount)
    }

    async fn trash_list(&self, request: TrashListRequest) -> Result<TrashListReply, Refusal> {
        let (items, nodes) = (Vec::new(), Vec::new());
        Ok(TrashListReply { items, nodes, next_bytes: request.after_bytes })
    }

    async fn trash_restore(
        &self,
        request: TrashRestoreRequest,
    ) -> Result<TrashRestoreReply, Refusal> {
        refuse(&request.node)
    }

    async fn conflicts(&self) -> Result<Vec<ConflictStatus>, Refusal> {
        Ok(Vec::new())
    }

    async fn conflict_content(&self, id: &str) -> Result<Content, Refusal> {
        let short = if id == "short" { 10 } else { 0 };
        match id {
            "big" | "short" => Ok(Content {
                bytes: BIG_BYTES,
                reader: Box::new(io::repeat(b'x').take(BIG_BYTES - short)),
            }),
            other => refuse(other),
        }
    }

    async fn restore(&self, id: &str) -> Result<RestoreReply, Refusal> {
        Ok(RestoreReply { mount: id.to_owned(), path: String::new(), replaced: None })
    }

    async fn discard(&self, id: &str) -> Result<(), Refusal> {
        refuse(id)
    }

    async fn pause(&self, mount: &str) -> Result<(), Refusal> {
        if mount == "var" { Ok(()) } else { refuse(mount) }
    }

    async fn resume(&self, mount: &str) -> Result<(), Refusal> {
        refuse(mount)
    }

    async fn held(&self, mount: &str) -> Result<HeldReply, Refusal> {
        refuse(mount)
    }

    async fn decide_held(&self, mount: &str, word: HeldWord) -> Result<HeldReply, Refusal> {
        refuse(&format!("{mount} {word:?}"))
    }

    async fn deploy(&self, request: DeployRequest) -> Result<DeployReply, Refusal> {
        Ok(DeployReply { mounts: request.mounts, until: None })
    }

    async fn mark(&self, mount: &str) -> Result<MarkReply, Refusal> {
        refuse(mount)
    }

    async fn remove(&self, node: &str) -> Result<RemoveReply, Refusal> {
        Ok(RemoveReply { name: node.to_owned(), id: String::new() })
    }

    async fn reload(&self) -> Result<ReloadReply, Refusal> {
        Ok(ReloadReply::default())
    }
}

/// Runs `test` beside a server at the path it is given; then stops the server.
fn with_server<F: Future<Output = ()>>(test: impl FnOnce(std::path::PathBuf) -> F) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/control.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = ControlSocket::bind(&path).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = serve(socket, Arc::new(Echo), async { drop(stopped.await) });
        let client = async {
            test(path.clone()).await;
            drop(stop);
        };
        tokio::join!(server, client);
    });
    assert!(!path.exists(), "the socket's file should be gone");
}

#[test]
fn calls_arrive_with_what_they_say_and_answers_come_back() {
    with_server(|path| async move {
        let client = Client::new(&path);
        assert_eq!(7, client.status().await.unwrap().conflicts);
        let request = WaitRequest { mount: None, nodes: WaitNodes::Count(2), timeout_ms: 1500 };
        let reply = client.wait(&request).await.unwrap();
        assert_eq!((true, 1500), (reply.done, reply.waited_ms));
        let request = VerifyRequest { mount: None, deep: true };
        assert!(client.verify(&request).await.unwrap().deep);
        assert_eq!(1, client.verify_progress().await.unwrap()[0].files);
        assert!(client.conflicts().await.unwrap().is_empty());
        assert!(client.pause("var").await.is_ok());
        assert_eq!("a/b %\u{fc}", client.remove("a/b %\u{fc}").await.unwrap().name);
        assert_eq!("..", client.restore("..").await.unwrap().mount);
        client.reload().await.unwrap();
        for (word, told) in [(HeldWord::Approve, "Approve"), (HeldWord::Revert, "Revert")] {
            let error = client.decide_held("var", word).await.unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
        }
        let request = DeployRequest { mounts: vec!["var".to_owned()], for_ms: 0 };
        assert_eq!(request.mounts, client.deploy(&request).await.unwrap().mounts);
    });
}

#[test]
fn a_refusal_arrives_with_its_hint() {
    with_server(|path| async move {
        let error = Client::new(&path).resume("media").await.unwrap_err();
        let ClientError::Refused(refusal) = error else { panic!("{error:?}") };
        assert_eq!(RefusalKind::NotFound, refusal.kind);
        assert_eq!(("no media", Some("look again")), (&*refusal.error, refusal.hint.as_deref()));
    });
}

#[test]
fn content_arrives_whole_or_as_an_error() {
    with_server(|path| async move {
        let client = Client::new(&path);
        let mut out = Vec::new();
        client.conflict_content("big", &mut out).await.unwrap();
        assert_eq!(BIG_BYTES, out.len() as u64);
        assert!(out.iter().all(|&b| b == b'x'));
        let error = client.conflict_content("short", &mut Vec::new()).await.unwrap_err();
        assert!(matches!(error, ClientError::Broken(_)), "{error:?}");
        let error = client.conflict_content("none", &mut Vec::new()).await.unwrap_err();
        assert!(matches!(error, ClientError::Refused(_)), "{error:?}");
    });
}

/// Sends bytes and gives everything that comes back.
async fn raw(path: &Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    // It may be refused, and the connection closed, before all of it is read.
    drop(stream.write_all(request).await);
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    String::from_utf8(answer).unwrap()
}

fn post(target: &str, body: &str) -> Vec<u8> {
    let bytes = body.len();
    format!(
        "POST {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {bytes}\r\n\r\n{body}"
    )
    .into_bytes()
}

#[test]
fn bad_requests_get_an_error_in_json() {
    with_server(|path| async move {
        for (request, status, part) in [
            (post("/v1/wait", "{"), "400", "cannot read the request"),
            (post("/v1/wait", "{\"timeout_ms\":1,\"nodes\":\"x\"}"), "400", "allowed: all, quorum"),
            (post("/v1/verify", "{\"depth\":1}"), "400", "unknown field `depth`"),
            (post("/v1/wait", &"x".repeat(REQUEST_BYTES_MAX + 1)), "400", "cannot read"),
            (post("/v1/status", ""), "404", "cannot answer POST /v1/status"),
            (post("/v2/status", ""), "404", "no such request"),
        ] {
            let answer = raw(&path, &request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            assert!(answer.contains("{\"error\":\"") && answer.contains(part), "{answer}");
        }
        let answer = raw(&path, b"\x16\x03\x01garbage\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(Client::new(&path).status().await.is_ok());
    });
}

#[test]
fn a_client_that_goes_away_hinders_nobody() {
    with_server(|path| async move {
        let body = "{\"timeout_ms\":1,\"mount\":\"never\"}";
        for _ in 0..200 {
            let mut stream = UnixStream::connect(&path).await.unwrap();
            stream.write_all(&post("/v1/wait", body)).await.unwrap();
        }
        assert!(Client::new(&path).status().await.is_ok());
    });
}

#[test]
fn only_the_owner_and_the_group_may_connect() {
    with_server(|path| async move {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(0o660, mode & 0o7777);
    });
}

#[test]
fn only_a_socket_that_nobody_answers_at_is_replaced() {
    with_server(|path| async move {
        let error = ControlSocket::bind(&path).unwrap_err();
        assert!(matches!(error, BindError::InUse(_)), "{error:?}");

        let dead = path.with_file_name("dead.sock");
        drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
        let error = Client::new(&dead).status().await.unwrap_err();
        assert!(matches!(error, ClientError::NotRunning { .. }), "{error:?}");
        drop(ControlSocket::bind(&dead).unwrap());

        let file = path.with_file_name("file");
        std::fs::write(&file, "mine").unwrap();
        let error = ControlSocket::bind(&file).unwrap_err();
        assert!(matches!(error, BindError::NotASocket(_)), "{error:?}");
        assert_eq!("mine", std::fs::read_to_string(&file).unwrap());
    });
}

#[test]
fn a_tcp_address_answers_the_status_only() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let router = routes::status_only(Arc::new(Echo));
        let (mut near, far) = tokio::io::duplex(64 << 10);
        let service = hyper_util::service::TowerToHyperService::new(router);
        let io = hyper_util::rt::TokioIo::new(far);
        let server = hyper::server::conn::http1::Builder::new().serve_connection(io, service);
        let client = async {
            near.write_all(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            near.write_all(&post("/v1/reload", "")).await.unwrap();
            let mut answer = String::new();
            near.read_to_string(&mut answer).await.unwrap();
            assert!(answer.contains("200 OK") && answer.contains("404 Not Found"), "{answer}");
        };
        let (served, ()) = tokio::join!(server, client);
        served.unwrap();
    });
}
