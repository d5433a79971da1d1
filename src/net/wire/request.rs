//! The request streams' messages: fetch a content, call a method, and their replies.

use prost::{Message, Oneof};

use super::{METHOD_BYTES_MAX, WireError, array, clip, label, path, text};
use crate::model::limits::RANGES_MAX;
use crate::model::{ContentId, Lane, RelPath};

/// The first frame of a request stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// Send a file's content.
    Fetch(FetchRequest),
    /// Call a method.
    Rpc(RpcRequest),
}

/// Asks for a file's content from an offset on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchRequest {
    /// The mount's name.
    pub mount: String,
    /// Where the asker knows the content to be.
    pub path: RelPath,
    /// The whole content's id.
    pub content: ContentId,
    /// The whole content's bytes.
    pub size: u64,
    /// How many bytes the asker has already; at most `size`.
    pub offset: u64,
    /// Which bytes are asked for, as offsets and lengths, in order; if empty, all from `offset` on.
    pub ranges: Vec<(u64, u64)>,
    /// With which priority it travels.
    pub lane: Lane,
}

impl FetchRequest {
    /// How many bytes are asked for.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self.ranges.as_slice() {
            [] => self.size - self.offset,
            ranges => ranges.iter().map(|range| range.1).sum(),
        }
    }
}

/// Calls a method.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RpcRequest {
    /// At most [`METHOD_BYTES_MAX`] bytes.
    pub method: String,
    /// What it is given.
    pub body: Vec<u8>,
}

/// What comes before the content's bytes, or instead of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FetchReply {
    /// Whether the content follows.
    pub found: bool,
    /// Where it starts.
    pub offset: u64,
}

/// One of the replies to a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RpcReply {
    /// Why there is no result, and the last reply.
    pub error: Option<String>,
    /// A piece of the result.
    pub body: Vec<u8>,
    /// Whether more replies follow.
    pub more: bool,
}

#[derive(Clone, PartialEq, Message)]
struct RequestBytes {
    #[prost(oneof = "RequestKind", tags = "1, 2")]
    kind: Option<RequestKind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum RequestKind {
    #[prost(message, tag = "1")]
    Fetch(FetchBytes),
    #[prost(message, tag = "2")]
    Rpc(RpcBytes),
}

#[derive(Clone, PartialEq, Message)]
struct FetchBytes {
    #[prost(string, tag = "1")]
    mount: String,
    #[prost(bytes = "vec", tag = "2")]
    path: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    content: Vec<u8>,
    #[prost(uint64, tag = "4")]
    size: u64,
    #[prost(uint64, tag = "5")]
    offset: u64,
    #[prost(uint32, tag = "6")]
    lane: u32,
    #[prost(uint64, repeated, tag = "7")]
    ranges: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct RpcBytes {
    #[prost(string, tag = "1")]
    method: String,
    #[prost(bytes = "vec", tag = "2")]
    body: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct FetchReplyBytes {
    #[prost(bool, tag = "1")]
    found: bool,
    #[prost(uint64, tag = "2")]
    offset: u64,
}

#[derive(Clone, PartialEq, Message)]
struct RpcReplyBytes {
    #[prost(string, optional, tag = "1")]
    error: Option<String>,
    #[prost(bytes = "vec", tag = "2")]
    body: Vec<u8>,
    #[prost(bool, tag = "3")]
    more: bool,
}

impl Request {
    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let kind = match self {
            Self::Fetch(fetch) => RequestKind::Fetch(FetchBytes {
                mount: fetch.mount.clone(),
                path: fetch.path.as_bytes().to_vec(),
                content: fetch.content.0.to_vec(),
                size: fetch.size,
                offset: fetch.offset,
                lane: fetch.lane.number().into(),
                ranges: fetch.ranges.iter().flat_map(|&(at, bytes)| [at, bytes]).collect(),
            }),
            Self::Rpc(rpc) => {
                RequestKind::Rpc(RpcBytes { method: rpc.method.clone(), body: rpc.body.clone() })
            }
        };
        RequestBytes { kind: Some(kind) }.encode_to_vec()
    }

    /// The message in `bytes`; nothing if it is of a kind this release does not know.
    ///
    /// # Errors
    /// [`WireError`], for what no release can have sent.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, WireError> {
        let Some(kind) = RequestBytes::decode(bytes)?.kind else { return Ok(None) };
        Ok(Some(match kind {
            RequestKind::Fetch(fetch) => Self::Fetch(fetch.try_into()?),
            RequestKind::Rpc(rpc) => {
                if rpc.method.is_empty() || rpc.method.len() > METHOD_BYTES_MAX {
                    return Err(WireError::Field("method"));
                }
                Self::Rpc(RpcRequest { method: label(rpc.method, "method")?, body: rpc.body })
            }
        }))
    }
}

impl TryFrom<FetchBytes> for FetchRequest {
    type Error = WireError;

    fn try_from(bytes: FetchBytes) -> Result<Self, WireError> {
        if bytes.offset > bytes.size {
            return Err(WireError::Field("offset"));
        }
        let ranges = ranges(&bytes)?;
        Ok(Self {
            mount: label(bytes.mount, "mount name")?,
            path: path(&bytes.path)?,
            content: ContentId(array(&bytes.content, "content id")?),
            size: bytes.size,
            offset: bytes.offset,
            ranges,
            // A lane of a later release is one we would not hurry for.
            lane: Lane::from_number(bytes.lane).unwrap_or(Lane::Forward),
        })
    }
}

/// In order, apart, none empty, and all of what is asked for.
fn ranges(bytes: &FetchBytes) -> Result<Vec<(u64, u64)>, WireError> {
    let bad = || WireError::Field("ranges");
    let (pairs, []) = bytes.ranges.as_chunks::<2>() else { return Err(bad()) };
    if pairs.len() > RANGES_MAX {
        return Err(bad());
    }
    let mut from = bytes.offset;
    let mut ranges = Vec::with_capacity(pairs.len());
    for &[at, length] in pairs {
        let end = at.checked_add(length).filter(|&end| end <= bytes.size).ok_or_else(bad)?;
        if at < from || length == 0 {
            return Err(bad());
        }
        ranges.push((at, length));
        from = end;
    }
    Ok(ranges)
}

impl FetchReply {
    /// The message's bytes.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        FetchReplyBytes { found: self.found, offset: self.offset }.encode_to_vec()
    }

    /// The message in `bytes`.
    ///
    /// # Errors
    /// [`WireError`], for what no release can have sent.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let FetchReplyBytes { found, offset } = FetchReplyBytes::decode(bytes)?;
        Ok(Self { found, offset })
    }
}

impl RpcReply {
    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let error = self.error.as_deref().map(clip);
        RpcReplyBytes { error, body: self.body.clone(), more: self.more }.encode_to_vec()
    }

    /// The message in `bytes`.
    ///
    /// # Errors
    /// [`WireError`], for what no release can have sent.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let RpcReplyBytes { error, body, more } = RpcReplyBytes::decode(bytes)?;
        Ok(Self { error: error.map(|e| text(e, "error")).transpose()?, body, more })
    }
}
