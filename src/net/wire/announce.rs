//! The lanes' messages: what a lane is for, and the records announced on it.

use std::sync::Arc;

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost::{Message, Oneof};

use super::{RECORD_BYTES_MAX, WireError, label, sequence};
use crate::model::{Kind, Lane, Record, RecordBytes, Sequence, limits};

/// The first frame of a lane's stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LaneHead {
    /// The mount's name.
    pub mount: String,
    /// Which lane of it.
    pub lane: Lane,
}

/// Records of one lane, as they are sent in one frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Announce {
    /// In the order of their sequences; at most [`limits::ANNOUNCE_RECORDS_MAX`].
    pub records: Vec<Announced>,
    /// Everything of this lane up to here was sent. Zero says nothing.
    pub progress: Sequence,
    /// Ordered records that were sent before wait for everything up to here at least. Zero says
    /// nothing.
    pub moved: Sequence,
}

/// One record, as it is announced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Announced {
    /// Its sequence in the sender's index.
    pub sequence: Sequence,
    /// The record.
    pub record: Record,
    /// To be applied only after everything of the sender's index up to here.
    pub after: Option<Sequence>,
    /// The file's whole content, as long as the record says; not yet checked against its id.
    pub content: Option<Arc<[u8]>>,
}

#[derive(Clone, PartialEq, Message)]
struct StreamHeadBytes {
    #[prost(oneof = "StreamHeadKind", tags = "1")]
    kind: Option<StreamHeadKind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum StreamHeadKind {
    #[prost(message, tag = "1")]
    Lane(LaneHeadBytes),
}

#[derive(Clone, PartialEq, Message)]
struct LaneHeadBytes {
    #[prost(string, tag = "1")]
    mount: String,
    #[prost(uint32, tag = "2")]
    lane: u32,
}

/// The records are decoded one at a time: together they would take many times the frame's size,
/// if someone sent a frame full of empty fields.
#[derive(Clone, PartialEq, Message)]
struct AnnounceBytes {
    #[prost(bytes = "vec", repeated, tag = "1")]
    records: Vec<Vec<u8>>,
    #[prost(uint64, tag = "2")]
    progress: u64,
    #[prost(uint64, tag = "3")]
    moved: u64,
}

const RECORDS_TAG: u32 = 1;

#[derive(Clone, PartialEq, Message)]
struct AnnouncedBytes {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(message, optional, tag = "2")]
    record: Option<RecordBytes>,
    #[prost(uint64, optional, tag = "3")]
    after: Option<u64>,
    #[prost(bytes = "vec", optional, tag = "4")]
    content: Option<Vec<u8>>,
}

impl LaneHead {
    /// The message's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let lane = LaneHeadBytes { mount: self.mount.clone(), lane: self.lane.number().into() };
        StreamHeadBytes { kind: Some(StreamHeadKind::Lane(lane)) }.encode_to_vec()
    }

    /// The message in `bytes`; nothing if the stream is of a kind, or the lane one, that this
    /// release does not know.
    ///
    /// # Errors
    /// [`WireError`], for what no release can have sent.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, WireError> {
        let Some(StreamHeadKind::Lane(head)) = StreamHeadBytes::decode(bytes)?.kind else {
            return Ok(None);
        };
        let mount = label(head.mount, "mount name")?;
        Ok(Lane::from_number(head.lane).map(|lane| Self { mount, lane }))
    }
}

impl Announce {
    /// The message's bytes. Content that does not fit its record stays behind: the peer would
    /// take it for a violation, and without it fetches.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let record = |a: &Announced| {
            AnnouncedBytes {
                sequence: a.sequence.0,
                record: Some((&a.record).into()),
                after: a.after.map(|s| s.0),
                content: a.content.as_deref().filter(|c| fits(&a.record, c)).map(<[u8]>::to_vec),
            }
            .encode_to_vec()
        };
        let records = self.records.iter().map(record).collect();
        let (progress, moved) = (self.progress.0, self.moved.0);
        AnnounceBytes { records, progress, moved }.encode_to_vec()
    }

    /// The message in `bytes`.
    ///
    /// # Errors
    /// [`WireError`], for what no release can have sent.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        check_lengths(bytes)?;
        let AnnounceBytes { records, progress, moved } = AnnounceBytes::decode(bytes)?;
        let records = records.iter().map(|r| Announced::decode(r)).collect::<Result<_, _>>()?;
        Ok(Self { records, progress: sequence(progress)?, moved: sequence(moved)? })
    }
}

impl Announced {
    fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let bytes = AnnouncedBytes::decode(bytes)?;
        let record: Record = bytes.record.ok_or(WireError::Field("record"))?.try_into()?;
        if bytes.content.as_ref().is_some_and(|c| !fits(&record, c)) {
            return Err(WireError::Field("content"));
        }
        Ok(Self {
            sequence: sequence(bytes.sequence)?,
            record,
            after: bytes.after.map(sequence).transpose()?,
            content: bytes.content.map(Into::into),
        })
    }
}

/// Whether content may travel with the record: it is as long as the record says, and short.
fn fits(record: &Record, content: &[u8]) -> bool {
    let length = u64::try_from(content.len()).unwrap_or(u64::MAX);
    let is_whole = matches!(
        record.entry.as_ref().map(|e| &e.kind),
        Some(Kind::File { size, .. }) if *size == length
    );
    is_whole && length <= limits::INLINE_BYTES_MAX
}

/// Counts the records and looks at their lengths before anything is allocated for them.
fn check_lengths(mut bytes: &[u8]) -> Result<(), WireError> {
    let mut records = 0;
    while !bytes.is_empty() {
        let (tag, wire_type) = decode_key(&mut bytes)?;
        if tag != RECORDS_TAG || wire_type != WireType::LengthDelimited {
            skip_field(wire_type, tag, &mut bytes, DecodeContext::default())?;
            continue;
        }
        let length = usize::try_from(decode_varint(&mut bytes)?).unwrap_or(usize::MAX);
        bytes = bytes.get(length..).ok_or(WireError::Field("record length"))?;
        records += 1;
        if records > limits::ANNOUNCE_RECORDS_MAX || length > RECORD_BYTES_MAX {
            return Err(WireError::Field("number or length of records"));
        }
    }
    Ok(())
}
