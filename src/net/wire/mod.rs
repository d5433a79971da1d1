//! Messages as values, and their bytes.
//!
//! In: bytes of one frame; out: a message in which only valid values occur, and back. Protobuf
//! (field numbers and types in `docs/protocol.md`). Pure. Fields and kinds of message that this
//! release does not know are skipped, so that a later release may add some.

mod announce;
mod control;
mod enrol;
mod members;
mod request;
#[cfg(test)]
mod tests;

pub use announce::{Announce, Announced, LaneHead};
pub use control::{Ack, ControlMessage, Hello, MountHello, MountState};
pub use enrol::{EnrolReply, EnrolRequest, Enrolment, Refusal};
pub(super) use members::{decode_ticket, encode_ticket};
pub use request::{FetchReply, FetchRequest, Request, RpcReply, RpcRequest};

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::model::{DecodeError, NodeId, RelPath, Sequence, limits};

/// Bytes of a control, request or enrolment frame's message: a member list of a full cluster fits
/// with room, and protobuf cannot blow it up to more than some ten MiB, members being counted first.
pub const CONTROL_BYTES_MAX: usize = 1 << 20;

/// Bytes of a name of a node or a mount.
pub const LABEL_BYTES_MAX: usize = 255;

/// Bytes of a text for people: a release, a reason, an error.
pub const TEXT_BYTES_MAX: usize = 4 << 10;

/// Bytes of a method name.
pub const METHOD_BYTES_MAX: usize = 64;

/// Bytes of one record with its inline content: the largest valid one fits, with room for fields
/// of later releases.
pub const RECORD_BYTES_MAX: usize = 512 << 10;

const _: () = assert!(
    RECORD_BYTES_MAX
        > limits::PATH_BYTES_MAX
            + limits::XATTR_BYTES_MAX
            + limits::SYMLINK_BYTES_MAX
            + (64 << 10)
            + 32 * limits::NODES_MAX
);

/// Why bytes are not a message.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Not protobuf, or not this message.
    #[error("malformed message")]
    Malformed(#[from] prost::DecodeError),
    /// A record in it is not valid.
    #[error("bad record")]
    Record(#[from] DecodeError),
    /// A field is missing, too long, or has a value that cannot be.
    #[error("bad {0}")]
    Field(&'static str),
}

/// A name of a node or a mount: some text, no control characters.
fn label(text: String, field: &'static str) -> Result<String, WireError> {
    if text.is_empty() || text.len() > LABEL_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(WireError::Field(field));
    }
    Ok(text)
}

/// A text for people. Control characters are replaced, so that it cannot forge a log line.
fn text(text: String, field: &'static str) -> Result<String, WireError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(WireError::Field(field));
    }
    Ok(if text.chars().any(char::is_control) {
        text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(1024).collect()
    } else {
        text
    })
}

/// As much of a text as may be sent.
fn clip(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned()
}

/// Counts the messages at `place` (field numbers, from the outside in), before anything is allocated
/// for them: one without content has two bytes on the wire and a hundred here.
fn at_most(max: usize, bytes: &[u8], place: &[u32]) -> Result<(), WireError> {
    let found = count(bytes, place)?;
    if found > max { Err(WireError::Field("number of messages")) } else { Ok(()) }
}

fn count(mut bytes: &[u8], place: &[u32]) -> Result<usize, WireError> {
    let Some((&field, inner)) = place.split_first() else { return Ok(1) };
    let mut found = 0;
    while !bytes.is_empty() {
        let (tag, wire_type) = decode_key(&mut bytes)?;
        if tag != field || wire_type != WireType::LengthDelimited {
            skip_field(wire_type, tag, &mut bytes, DecodeContext::default())?;
            continue;
        }
        let length = usize::try_from(decode_varint(&mut bytes)?).unwrap_or(usize::MAX);
        let (message, rest) =
            bytes.split_at_checked(length).ok_or(WireError::Field("length of a message"))?;
        found += count(message, inner)?;
        bytes = rest;
    }
    Ok(found)
}

fn array<const N: usize>(bytes: &[u8], field: &'static str) -> Result<[u8; N], WireError> {
    bytes.try_into().map_err(|_| WireError::Field(field))
}

fn path(bytes: &[u8]) -> Result<RelPath, WireError> {
    RelPath::parse(bytes).map_err(|_| WireError::Field("path"))
}

/// Sequences are counted on from, and kept in the index.
fn sequence(number: u64) -> Result<Sequence, WireError> {
    if number > limits::NUMBER_MAX {
        Err(WireError::Field("sequence"))
    } else {
        Ok(Sequence(number))
    }
}

fn node(number: u64) -> Result<NodeId, WireError> {
    if number == 0 { Err(WireError::Field("node id")) } else { Ok(NodeId(number)) }
}
