//! Records as bytes: protobuf, the same on the wire and in the index.
//!
//! Unknown fields are skipped, so that a later release may add some. Whatever the bytes, decoding
//! gives a valid record or an error; lengths are bounded by the caller's buffer and by
//! [`limits`]. `docs/protocol.md` lists the fields.

use prost::Message;

use super::{
    ContentId, Entry, Kind, LinkGroup, Meta, Mtime, NodeId, PathError, Record, RelPath, Stamp,
    Version, VersionVector, Xattrs, limits,
};

/// Why bytes are not a record.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not this message, or cut short.
    #[error("malformed message")]
    Malformed(#[from] prost::DecodeError),
    /// The path could leave the mount.
    #[error("bad path")]
    Path(#[from] PathError),
    /// A field is missing, too long, or has a value that cannot be.
    #[error("bad {0}")]
    Field(&'static str),
}

/// A record in protobuf. Only for embedding in messages; converts from and to [`Record`].
#[derive(Clone, PartialEq, Message)]
pub struct RecordBytes {
    #[prost(bytes = "vec", tag = "1")]
    path: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    entry: Option<EntryBytes>,
    #[prost(message, optional, tag = "3")]
    version: Option<VersionBytes>,
}

#[derive(Clone, PartialEq, Message)]
struct EntryBytes {
    /// 1 directory, 2 file, 3 symbolic link.
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(uint32, tag = "2")]
    mode: u32,
    #[prost(uint32, tag = "3")]
    uid: u32,
    #[prost(uint32, tag = "4")]
    gid: u32,
    #[prost(sint64, tag = "5")]
    mtime_secs: i64,
    #[prost(uint32, tag = "6")]
    mtime_nanos: u32,
    #[prost(message, repeated, tag = "7")]
    xattrs: Vec<XattrBytes>,
    #[prost(uint64, tag = "8")]
    size: u64,
    /// 32 bytes for a file, the target for a link.
    #[prost(bytes = "vec", tag = "9")]
    content: Vec<u8>,
    #[prost(bool, tag = "10")]
    sparse: bool,
    #[prost(fixed64, optional, tag = "11")]
    group: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct XattrBytes {
    #[prost(bytes = "vec", tag = "1")]
    name: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct StampBytes {
    #[prost(fixed64, tag = "1")]
    node: u64,
    #[prost(fixed64, tag = "2")]
    counter: u64,
}

#[derive(Clone, PartialEq, Message)]
struct VersionBytes {
    #[prost(message, optional, tag = "1")]
    stamp: Option<StampBytes>,
    #[prost(message, repeated, tag = "2")]
    seen: Vec<StampBytes>,
    #[prost(bool, tag = "3")]
    weak: bool,
    #[prost(message, optional, tag = "4")]
    touched: Option<StampBytes>,
    /// What `vector` has beyond `seen`; mostly nothing.
    #[prost(message, repeated, tag = "5")]
    decided: Vec<StampBytes>,
}

impl Record {
    /// The record's bytes: protobuf `Record` of `docs/protocol.md`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        RecordBytes::from(self).encode_to_vec()
    }

    /// The record in `bytes`.
    ///
    /// # Errors
    /// [`DecodeError`], for anything that [`Record::encode`] of this or a later release cannot
    /// have written.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        RecordBytes::decode(bytes)?.try_into()
    }
}

impl From<&Record> for RecordBytes {
    fn from(record: &Record) -> Self {
        Self {
            path: record.path.as_bytes().to_vec(),
            entry: record.entry.as_ref().map(Into::into),
            version: Some((&record.version).into()),
        }
    }
}

impl TryFrom<RecordBytes> for Record {
    type Error = DecodeError;

    fn try_from(bytes: RecordBytes) -> Result<Self, DecodeError> {
        Ok(Self {
            path: RelPath::parse(&bytes.path)?,
            entry: bytes.entry.map(TryInto::try_into).transpose()?,
            version: bytes.version.ok_or(DecodeError::Field("version"))?.try_into()?,
        })
    }
}

impl From<&Entry> for EntryBytes {
    fn from(entry: &Entry) -> Self {
        let meta = &entry.meta;
        let mut bytes = Self {
            mode: meta.mode,
            uid: meta.uid,
            gid: meta.gid,
            mtime_secs: meta.mtime.secs,
            mtime_nanos: meta.mtime.nanos,
            xattrs: meta
                .xattrs
                .iter()
                .map(|(name, value)| XattrBytes { name: name.to_vec(), value: value.to_vec() })
                .collect(),
            ..Self::default()
        };
        match &entry.kind {
            Kind::Dir => bytes.kind = 1,
            Kind::File { size, content, sparse, group } => {
                bytes.kind = 2;
                bytes.size = *size;
                bytes.content = content.0.to_vec();
                bytes.sparse = *sparse;
                bytes.group = group.map(|g| g.0);
            }
            Kind::Symlink { target } => {
                bytes.kind = 3;
                bytes.content = target.to_vec();
            }
        }
        bytes
    }
}

impl TryFrom<EntryBytes> for Entry {
    type Error = DecodeError;

    fn try_from(bytes: EntryBytes) -> Result<Self, DecodeError> {
        let kind = match bytes.kind {
            1 => Kind::Dir,
            2 => Kind::File {
                size: bytes.size,
                content: ContentId(
                    bytes.content.try_into().map_err(|_| DecodeError::Field("content id"))?,
                ),
                sparse: bytes.sparse,
                group: bytes.group.map(LinkGroup),
            },
            3 => Kind::Symlink { target: symlink_target(bytes.content)? },
            _ => return Err(DecodeError::Field("kind")),
        };
        if bytes.mode > 0o7777 {
            return Err(DecodeError::Field("mode"));
        }
        if bytes.mtime_nanos > 999_999_999 {
            return Err(DecodeError::Field("modification time"));
        }
        let mtime = Mtime { secs: bytes.mtime_secs, nanos: bytes.mtime_nanos };
        let xattrs = xattrs(bytes.xattrs)?;
        let meta = Meta { mode: bytes.mode, uid: bytes.uid, gid: bytes.gid, mtime, xattrs };
        Ok(Self { kind, meta })
    }
}

fn symlink_target(bytes: Vec<u8>) -> Result<Box<[u8]>, DecodeError> {
    if bytes.is_empty() || bytes.len() > limits::SYMLINK_BYTES_MAX || bytes.contains(&0) {
        return Err(DecodeError::Field("link target"));
    }
    Ok(bytes.into())
}

fn xattrs(list: Vec<XattrBytes>) -> Result<Xattrs, DecodeError> {
    let bytes: usize = list.iter().map(|x| x.name.len() + x.value.len()).sum();
    let valid = |x: &XattrBytes| {
        !x.name.is_empty() && x.name.len() <= limits::NAME_BYTES_MAX && !x.name.contains(&0)
    };
    let sorted = list.windows(2).all(|pair| pair[0].name < pair[1].name);
    if bytes > limits::XATTR_BYTES_MAX || !sorted || !list.iter().all(valid) {
        return Err(DecodeError::Field("extended attributes"));
    }
    Ok(list.into_iter().map(|x| (x.name.into(), x.value.into())).collect())
}

impl From<Stamp> for StampBytes {
    fn from(stamp: Stamp) -> Self {
        Self { node: stamp.node.0, counter: stamp.counter }
    }
}

impl From<StampBytes> for Stamp {
    fn from(bytes: StampBytes) -> Self {
        Self { counter: bytes.counter, node: NodeId(bytes.node) }
    }
}

impl From<&Version> for VersionBytes {
    fn from(version: &Version) -> Self {
        let stamp = |(node, counter)| Stamp { counter, node }.into();
        let new = |&(node, counter): &(NodeId, u64)| version.seen.counter(node) < counter;
        let touched = version.touched;
        Self {
            stamp: Some(version.stamp.into()),
            seen: version.seen.pairs().map(stamp).collect(),
            weak: version.weak,
            touched: (touched != Stamp::default()).then(|| touched.into()),
            decided: version.vector.pairs().filter(new).map(stamp).collect(),
        }
    }
}

impl TryFrom<VersionBytes> for Version {
    type Error = DecodeError;

    fn try_from(bytes: VersionBytes) -> Result<Self, DecodeError> {
        let stamp: Stamp = bytes.stamp.ok_or(DecodeError::Field("stamp"))?.into();
        let all = bytes.seen.iter().chain(&bytes.decided).chain(&bytes.touched);
        if all.map(|s| s.counter).chain([stamp.counter]).any(|c| c > limits::NUMBER_MAX) {
            return Err(DecodeError::Field("counter"));
        }
        let vector_of = |stamps: &[StampBytes]| {
            VersionVector::from_pairs(stamps.iter().map(|s| (NodeId(s.node), s.counter)))
        };
        if bytes.seen.len().max(bytes.decided.len()) > limits::NODES_MAX {
            return Err(DecodeError::Field("version vector"));
        }
        let seen = vector_of(&bytes.seen);
        let mut vector = vector_of(&bytes.decided);
        vector.merge(&seen);
        if !seen.contains(stamp) {
            return Err(DecodeError::Field("version vector"));
        }
        let touched = bytes.touched.map(Into::into).unwrap_or_default();
        Ok(Self { stamp, seen, vector, weak: bytes.weak, touched })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kinds() -> impl Strategy<Value = Kind> {
        prop_oneof![
            Just(Kind::Dir),
            (any::<u64>(), any::<[u8; 32]>(), any::<bool>(), any::<Option<u64>>()).prop_map(
                |(size, content, sparse, group)| Kind::File {
                    size,
                    content: ContentId(content),
                    sparse,
                    group: group.map(LinkGroup)
                }
            ),
            prop::collection::vec(1_u8.., 1..50).prop_map(|t| Kind::Symlink { target: t.into() }),
        ]
    }

    fn metas() -> impl Strategy<Value = Meta> {
        let xattrs = prop::collection::btree_map(
            prop::collection::vec(1_u8.., 1..9),
            prop::collection::vec(any::<u8>(), 0..9),
            0..4,
        );
        (0_u32..=0o7777, any::<u32>(), any::<u32>(), any::<i64>(), 0_u32..1_000_000_000, xattrs)
            .prop_map(|(mode, uid, gid, secs, nanos, xattrs)| Meta {
                mode,
                uid,
                gid,
                mtime: Mtime { secs, nanos },
                xattrs: xattrs.into_iter().map(|(n, v)| (n.into(), v.into())).collect(),
            })
    }

    fn versions() -> impl Strategy<Value = Version> {
        let pair = || (any::<u64>(), 0..=limits::NUMBER_MAX);
        let pairs = prop::collection::vec(pair(), 1..5);
        let touched = pair().prop_map(|(node, counter)| (counter, node));
        (pairs, any::<bool>(), touched).prop_map(|(pairs, weak, (c, n))| {
            let stamp = Stamp { counter: pairs[0].1, node: NodeId(pairs[0].0) };
            let seen = VersionVector::from_pairs(pairs.into_iter().map(|(n, c)| (NodeId(n), c)));
            let touched = Stamp { counter: c, node: NodeId(n) };
            let mut vector = seen.clone();
            vector.add(touched);
            Version { stamp, seen, vector, weak, touched }
        })
    }

    proptest! {
        #[test]
        fn a_decoded_record_is_the_encoded_one(
            path in prop::collection::vec(b'0'..b'z', 1..30),
            entry in prop::option::of((kinds(), metas())),
            version in versions(),
        ) {
            let entry = entry.map(|(kind, meta)| Entry { kind, meta });
            let record = Record { path: RelPath::parse(&path).unwrap(), entry, version };
            prop_assert_eq!(&record, &Record::decode(&record.encode()).unwrap());
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(Record::decode(&bytes));
        }
    }

    #[test]
    fn a_counter_that_the_index_cannot_hold_is_refused() {
        let record = |counter| {
            let version = Version::edit(Stamp { counter, node: NodeId(1) }, None);
            Record { path: RelPath::root(), entry: None, version }
        };
        let last = record(limits::NUMBER_MAX);
        assert_eq!(last, Record::decode(&last.encode()).unwrap());
        for counter in [limits::NUMBER_MAX + 1, u64::MAX] {
            let refused = Record::decode(&record(counter).encode());
            assert!(matches!(refused, Err(DecodeError::Field("counter"))), "{refused:?}");
        }
    }
}
