//! Requests: a stream each. Fetching a content, calling a method, and answering both.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::io::{self, Read};
use std::sync::Arc;

use quinn::{RecvStream, SendStream};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tracing::debug;

use super::close;
use super::lanes::priority;
use super::link::LinkHandle;
use super::pace::Pace;
use super::service::Shared;
use super::stream::{StreamError, expect_frame, write_frame};
use super::wire::{CONTROL_BYTES_MAX, FetchReply, FetchRequest, Request, RpcReply, RpcRequest};
use crate::model::NodeId;
use crate::model::limits::{CONTENT_BUFFER_BYTES, FRAME_BYTES_MAX};

/// Bytes of all replies to one call.
const RPC_BYTES_MAX: usize = 64 << 20;

/// Bytes of a piece of a reply: with its other fields it fits into a frame.
const RPC_PIECE_BYTES_MAX: usize = FRAME_BYTES_MAX - (64 << 10);

/// Priority of calls: below what is urgent, above bulk.
const RPC_PRIORITY: i32 = 80;

/// Why a content did not come. What the sink took until then is good as far as it goes.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The peer does not have that content any more.
    #[error("peer does not have the content")]
    NotFound,
    /// Fewer or more bytes came than the content has, or from another offset.
    #[error("peer sent something else than the content")]
    Different,
    /// The peer cannot read the content to its end.
    #[error("peer cannot read the content")]
    Unreadable,
    /// The sink refused the bytes.
    #[error("cannot take the content")]
    Sink(#[source] io::Error),
    /// The link is gone.
    #[error("link is closed")]
    Closed,
}

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// The peer says why.
    #[error("peer: {0}")]
    Refused(String),
    /// The peer's release does not know such requests.
    #[error("peer does not know this kind of request")]
    Unknown,
    /// The method's name, what it is given, or its result is too long.
    #[error("too long")]
    TooLong,
    /// The link is gone, or was closed because of what came.
    #[error("link is closed")]
    Closed,
}

impl LinkHandle {
    /// Fetches a content from an offset on. `sink` takes it in order, in pieces, off the runtime,
    /// and `done` is called last, there too: both may block. Neither checks the content against
    /// its id: the caller must. Waits its turn behind other fetches of this link; may be called
    /// from any thread. If the runtime stops, `done` is dropped without being called.
    pub fn fetch(
        &self,
        request: FetchRequest,
        sink: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static,
        done: impl FnOnce(Result<(), FetchError>) + Send + 'static,
    ) {
        let link = self.clone();
        self.runtime().spawn(async move {
            let fetched = link.run_fetch(request, sink).await;
            spawn_blocking(move || done(fetched));
        });
    }

    async fn run_fetch(
        &self,
        request: FetchRequest,
        sink: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static,
    ) -> Result<(), FetchError> {
        if request.offset > request.size {
            return Err(FetchError::Different);
        }
        let turn = self.fetches(request.lane).acquire().await;
        let _turn = turn.map_err(|_| FetchError::Closed)?;
        let connection = self.connection().ok_or(FetchError::Closed)?;
        let (mut send, mut receive) = connection.open_bi().await.map_err(|_| FetchError::Closed)?;
        let (offset, bytes) = (request.offset, request.bytes());
        drop(send.set_priority(priority(request.lane) - 5));
        ask(&mut send, &Request::Fetch(request)).await.map_err(|_| FetchError::Closed)?;
        let fetched = receive_content(&mut receive, offset, bytes, sink).await;
        if fetched.is_err() {
            drop(receive.stop(close::CANCELLED));
        }
        fetched
    }

    /// Calls a method of the peer and waits for all of its answer: at least one piece, empty if the
    /// peer gave none. Drop the future to give up.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn rpc(&self, method: &str, body: Vec<u8>) -> Result<Vec<Vec<u8>>, RpcError> {
        let _turn = self.rpcs().acquire().await.map_err(|_| RpcError::Closed)?;
        let connection = self.connection().ok_or(RpcError::Closed)?;
        if body.len() > RPC_PIECE_BYTES_MAX || method.len() > super::wire::METHOD_BYTES_MAX {
            return Err(RpcError::TooLong);
        }
        let (mut send, mut receive) = connection.open_bi().await.map_err(|_| RpcError::Closed)?;
        drop(send.set_priority(RPC_PRIORITY));
        let request = Request::Rpc(RpcRequest { method: method.to_owned(), body });
        ask(&mut send, &request).await.map_err(|_| RpcError::Closed)?;
        let mut pieces = Vec::new();
        let mut bytes = 0;
        loop {
            let reply = match expect_frame(&mut receive, FRAME_BYTES_MAX).await {
                Ok(reply) => RpcReply::decode(&reply),
                Err(StreamError::Read(quinn::ReadError::Reset(close::UNKNOWN))) => {
                    return Err(RpcError::Unknown);
                }
                Err(_) => return Err(RpcError::Closed),
            };
            let reply = reply.map_err(|_| RpcError::Closed)?;
            if let Some(error) = reply.error {
                return Err(RpcError::Refused(error));
            }
            // Counted with what an empty piece costs.
            bytes += reply.body.len() + 64;
            if bytes > RPC_BYTES_MAX {
                return Err(RpcError::TooLong);
            }
            pieces.push(reply.body);
            if !reply.more {
                return Ok(pieces);
            }
        }
    }
}

/// Sends a request and nothing more.
async fn ask(send: &mut SendStream, request: &Request) -> Result<(), StreamError> {
    write_frame(send, &request.encode()).await?;
    send.finish().map_err(|_| StreamError::Closed)
}

async fn receive_content(
    stream: &mut RecvStream,
    offset: u64,
    bytes: u64,
    sink: impl FnMut(&[u8]) -> io::Result<()> + Send + 'static,
) -> Result<(), FetchError> {
    let reply = expect_frame(stream, CONTROL_BYTES_MAX).await.map_err(|e| fetch_error(&e))?;
    let reply = FetchReply::decode(&reply).map_err(|_| FetchError::Different)?;
    if !reply.found {
        return Err(FetchError::NotFound);
    }
    if reply.offset != offset {
        return Err(FetchError::Different);
    }
    let mut rest = bytes;
    let mut sink = Some(sink);
    let mut piece = read_piece(stream, rest).await?;
    while !piece.is_empty() {
        let length = u64::try_from(piece.len()).unwrap_or(u64::MAX);
        rest = rest.checked_sub(length).ok_or(FetchError::Different)?;
        let mut take = sink.take().expect("put back below, after every piece");
        let taking = spawn_blocking(move || {
            let taken = take(&piece);
            (take, taken)
        });
        // The next piece arrives while this one is taken.
        let (taken, next) = tokio::join!(taking, read_piece(stream, rest));
        let (take, taken) = taken.map_err(|_| FetchError::Closed)?;
        taken.map_err(FetchError::Sink)?;
        sink = Some(take);
        piece = next?;
    }
    if rest == 0 { Ok(()) } else { Err(FetchError::Different) }
}

/// The next bytes of a content, as many as are worth a hand-over; none at its end. `rest`: those that
/// are still to come.
async fn read_piece(stream: &mut RecvStream, rest: u64) -> Result<Vec<u8>, FetchError> {
    let most = usize::try_from(rest).unwrap_or(usize::MAX).min(CONTENT_BUFFER_BYTES);
    let mut piece = Vec::with_capacity(most);
    while piece.len() < CONTENT_BUFFER_BYTES {
        match stream.read_chunk(CONTENT_BUFFER_BYTES - piece.len(), true).await {
            Ok(Some(chunk)) => piece.extend_from_slice(&chunk.bytes),
            Ok(None) => break,
            Err(error) => return Err(fetch_error(&error.into())),
        }
    }
    Ok(piece)
}

fn fetch_error(error: &StreamError) -> FetchError {
    match error {
        StreamError::Read(quinn::ReadError::Reset(close::FAILED)) => FetchError::Unreadable,
        StreamError::Read(quinn::ReadError::Reset(close::UNKNOWN)) => FetchError::NotFound,
        error if error.is_violation() => FetchError::Different,
        _ => FetchError::Closed,
    }
}

/// Answers one request stream of a peer. `calls`: those that are answered at a time.
pub(super) async fn answer(
    shared: Arc<Shared>,
    peer: NodeId,
    (mut send, mut receive): (SendStream, RecvStream),
    calls: Arc<Semaphore>,
    pace: Arc<Pace>,
) -> Result<(), StreamError> {
    let request = expect_frame(&mut receive, FRAME_BYTES_MAX).await?;
    match Request::decode(&request)? {
        Some(Request::Fetch(request)) => send_content(shared, peer, send, request, &pace).await,
        Some(Request::Rpc(request)) => {
            let _turn = calls.acquire().await.map_err(|_| StreamError::Closed)?;
            answer_rpc(shared, peer, send, request).await
        }
        None => {
            debug!(%peer, "ignored a request of an unknown kind");
            drop(send.reset(close::UNKNOWN));
            Ok(())
        }
    }
}

async fn send_content(
    shared: Arc<Shared>,
    peer: NodeId,
    mut send: SendStream,
    request: FetchRequest,
    pace: &Pace,
) -> Result<(), StreamError> {
    drop(send.set_priority(priority(request.lane) - 5));
    let (offset, bytes, lane) = (request.offset, request.bytes(), request.lane);
    let found = spawn_blocking(move || shared.handler.fetch(peer, &request)).await;
    let Some(reader) = found.map_err(|_| StreamError::Closed)? else {
        write_frame(&mut send, &FetchReply { found: false, offset }.encode()).await?;
        return send.finish().map_err(|_| StreamError::Closed);
    };
    write_frame(&mut send, &FetchReply { found: true, offset }.encode()).await?;
    let mut reading = spawn_blocking(move || next_piece(reader.take(bytes)));
    loop {
        match reading.await.map_err(|_| StreamError::Closed)? {
            Ok((_, piece)) if piece.is_empty() => {
                return send.finish().map_err(|_| StreamError::Closed);
            }
            Ok((reader, piece)) => {
                // Read on while this piece is sent; a slow peer holds no thread.
                reading = spawn_blocking(move || next_piece(reader));
                pace.wait(lane, piece.len()).await;
                send.write_chunk(piece.into()).await?;
            }
            Err(error) => {
                debug!(%peer, error = &error as &dyn std::error::Error, "cannot read content");
                drop(send.reset(close::FAILED));
                return Ok(());
            }
        }
    }
}

fn next_piece<R: Read>(mut reader: io::Take<R>) -> io::Result<(io::Take<R>, Vec<u8>)> {
    let rest = usize::try_from(reader.limit()).unwrap_or(usize::MAX);
    let mut piece = Vec::with_capacity(CONTENT_BUFFER_BYTES.min(rest));
    let limit = u64::try_from(CONTENT_BUFFER_BYTES).unwrap_or(u64::MAX);
    (&mut reader).take(limit).read_to_end(&mut piece)?;
    Ok((reader, piece))
}

async fn answer_rpc(
    shared: Arc<Shared>,
    peer: NodeId,
    mut send: SendStream,
    request: RpcRequest,
) -> Result<(), StreamError> {
    drop(send.set_priority(RPC_PRIORITY));
    let result =
        spawn_blocking(move || shared.handler.rpc(peer, &request.method, &request.body)).await;
    let pieces = match result.map_err(|_| StreamError::Closed)? {
        Ok(pieces) if pieces.iter().all(|p| p.len() <= RPC_PIECE_BYTES_MAX) => Ok(pieces),
        Ok(_) => Err("a piece of the answer is too long".to_owned()),
        Err(error) => Err(error),
    };
    match pieces {
        Ok(pieces) => {
            let mut pieces = pieces.into_iter().peekable();
            loop {
                let body = pieces.next().unwrap_or_default();
                let more = pieces.peek().is_some();
                let reply = RpcReply { error: None, body, more };
                write_frame(&mut send, &reply.encode()).await?;
                if !more {
                    break;
                }
            }
        }
        Err(error) => {
            let reply = RpcReply { error: Some(error), body: Vec::new(), more: false };
            write_frame(&mut send, &reply.encode()).await?;
        }
    }
    send.finish().map_err(|_| StreamError::Closed)
}
