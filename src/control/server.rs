//! Accepts connections of the control API and serves them until it is told to stop.
//!
//! In: a socket and a [`Daemon`]. The number of connections, the size of a request and the time it
//! may take to arrive are bounded; how long an answer takes is the daemon's affair.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::{
    fs::{DirBuilder, Permissions},
    future::Future,
    io,
    net::SocketAddr,
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustix::fs::Mode;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    task::JoinSet,
};
use tracing::{debug, warn};

use super::{Daemon, routes};

/// Bytes of a request's body: a path of the longest kind in hexadecimal, with room.
pub const REQUEST_BYTES_MAX: usize = 256 << 10;

/// Connections served at a time; the others wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 64;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// For a request's head to arrive, and for a connection to be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// For running answers, once told to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Before another attempt, when the system has no file descriptor for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The bound control socket; its file is removed when it is dropped.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

/// Why the control socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A daemon answers there.
    #[error("cannot listen at {}: a running daemon answers there", .0.display())]
    InUse(PathBuf),
    /// Something that is not a socket is there; it is left alone.
    #[error("cannot listen at {}: something else is there", .0.display())]
    NotASocket(PathBuf),
    /// The operating system refused.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// A verb and a preposition, as in "listen at".
        doing: &'static str,
        /// The socket, or its folder.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
}

impl ControlSocket {
    /// Listens at `path` with mode 0660. A missing folder is made with mode 0755; a socket that
    /// nobody answers at is replaced. Must be called on a runtime.
    ///
    /// # Errors
    /// [`BindError`]; what was there before is still there, except for a dead socket.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let at = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| BindError::Io { doing, path, source }
        };
        if let Some(folder) = path.parent() {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o755);
            builder.create(folder).map_err(at("make", folder))?;
        }
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(at("look at", path)(error)),
            Ok(found) if !found.file_type().is_socket() => {
                return Err(BindError::NotASocket(path.to_owned()));
            }
            Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path).map_err(at("remove", path))?;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(at("look at", path)(error)),
                Ok(_) => return Err(BindError::InUse(path.to_owned())),
            },
        }
        let listener = listen(path).map_err(at("listen at", path))?;
        Ok(Self { listener, path: path.to_owned() })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            debug!(path = %self.path.display(), error = &error as &dyn std::error::Error,
                "cannot remove the control socket");
        }
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Before it has a name, so that at no time anybody else may connect; and again after, for the
    // umask may have taken the group's bits.
    rustix::fs::fchmod(socket.as_fd(), Mode::from_raw_mode(0o660))?;
    socket.bind(&SockAddr::unix(path)?)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o660))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket.into())
}

/// Serves the whole API on the control socket until `stop` is ready; then running answers get a
/// moment to end.
pub async fn serve<D: Daemon>(
    socket: ControlSocket,
    daemon: Arc<D>,
    stop: impl Future<Output = ()> + Send,
) {
    let accept = async || socket.listener.accept().await.map(|(stream, _)| stream);
    serve_on(accept, &routes::all(daemon), stop).await;
}

/// Serves `GET /v1/status`, and nothing else, on a TCP address until `stop` is ready.
///
/// # Errors
/// When the address cannot be listened at.
pub async fn serve_status<D: Daemon>(
    address: SocketAddr,
    daemon: Arc<D>,
    stop: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    let accept = async || listener.accept().await.map(|(stream, _)| stream);
    serve_on(accept, &routes::status_only(daemon), stop).await;
    Ok(())
}

async fn serve_on<S>(
    accept: impl AsyncFn() -> io::Result<S>,
    router: &Router,
    stop: impl Future<Output = ()>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (stopping, stopped) = tokio::sync::watch::channel(false);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (accept().await, place)
        };
        tokio::select! {
            () = &mut stop => break,
            Some(_) = connections.join_next() => {}
            (stream, place) = next => match stream {
                Ok(stream) => {
                    let serving = serve_connection(stream, router.clone(), stopped.clone());
                    connections.spawn(async move {
                        serving.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    stopping.send_replace(true);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_TIMEOUT, all_ended).await.is_err() {
        debug!("broke off control requests");
    }
}

async fn serve_connection<S>(
    stream: S,
    router: Router,
    mut stopped: tokio::sync::watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let service = TowerToHyperService::new(router);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let result = tokio::select! {
        result = &mut connection => result,
        () = async { drop(stopped.wait_for(|stopped| *stopped).await) } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        debug!(error = &error as &dyn std::error::Error, "control connection broke");
    }
}
