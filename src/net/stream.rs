//! Frames on QUIC streams.

use quinn::{ReadError, RecvStream, SendStream, WriteError};

use super::frame::{self, FrameError, FrameHead, HEAD_BYTES};
use super::wire::WireError;

/// Frames longer than this are compressed, decompressed and parsed on another thread, so that the
/// one that all links share goes on.
pub(super) const LONG_BYTES: usize = 128 << 10;

/// Why a stream cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    /// The bytes are no frame.
    #[error("malformed frame")]
    Frame(#[from] FrameError),
    /// The frame is no message.
    #[error("malformed message")]
    Wire(#[from] WireError),
    /// A message that may not come now.
    #[error("unexpected {0}")]
    Unexpected(&'static str),
    /// The peer gave the stream up, or the connection is gone.
    #[error("cannot read from the stream")]
    Read(#[from] ReadError),
    /// As above.
    #[error("cannot write to the stream")]
    Write(#[from] WriteError),
    /// The peer leaves.
    #[error("{}", super::close::code_words(*.0))]
    Farewell(quinn::VarInt),
    /// The stream is finished, or the work on it was given up because the node stops.
    #[error("stream is closed")]
    Closed,
}

impl StreamError {
    /// Whether the peer broke the protocol, so that it has to lose its connection.
    pub(super) fn is_violation(&self) -> bool {
        matches!(self, Self::Frame(_) | Self::Wire(_) | Self::Unexpected(_))
    }

    /// The error with its causes, on one line.
    pub(super) fn words(&self) -> String {
        words(self)
    }
}

/// An error with its causes, on one line.
pub(super) fn words(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Reads one frame's message; nothing at the end of the stream. Memory grows with what arrived,
/// not with what was promised.
pub(super) async fn read_frame(
    stream: &mut RecvStream,
    bytes_max: usize,
) -> Result<Option<Vec<u8>>, StreamError> {
    let mut head = [0; HEAD_BYTES];
    let mut filled = 0;
    while filled < HEAD_BYTES {
        match stream.read(&mut head[filled..]).await? {
            Some(count) => filled += count,
            None if filled == 0 => return Ok(None),
            None => return Err(FrameError::Truncated.into()),
        }
    }
    let head = FrameHead::parse(head, bytes_max)?;
    let mut body = Vec::with_capacity(head.length.min(LONG_BYTES));
    while body.len() < head.length {
        match stream.read_chunk(head.length - body.len(), true).await? {
            Some(chunk) => body.extend_from_slice(&chunk.bytes),
            None => return Err(FrameError::Truncated.into()),
        }
    }
    if body.len() <= LONG_BYTES {
        return Ok(Some(head.open(body, bytes_max)?));
    }
    let opened = tokio::task::spawn_blocking(move || head.open(body, bytes_max)).await;
    Ok(Some(opened.map_err(|_| StreamError::Closed)??))
}

/// Reads one frame's message, which has to come.
pub(super) async fn expect_frame(
    stream: &mut RecvStream,
    bytes_max: usize,
) -> Result<Vec<u8>, StreamError> {
    read_frame(stream, bytes_max).await?.ok_or(StreamError::Unexpected("end of stream"))
}

/// Writes one message as an uncompressed frame.
pub(super) async fn write_frame(
    stream: &mut SendStream,
    message: &[u8],
) -> Result<(), StreamError> {
    let frame = frame::encode(message)?;
    Ok(stream.write_all(&frame).await?)
}
