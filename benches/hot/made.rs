//! Made-up paths, records and contents, like those of a shop's static files.
//!
//! Each follows from its number: two runs work on the same.

use trefoil::model::{
    ContentId, Entry, Kind, Meta, Mtime, NodeId, Record, RelPath, Signature, Stamp, Version,
};

/// Who made the records.
pub(crate) const AUTHOR: NodeId = NodeId(0x5d1c_77a0_93e4_b826);

/// What the wall clock says, in nanoseconds since 1970.
pub(crate) const WALL_NS: u64 = 1_795_000_000_000_000_000;

/// Files of one directory.
const DIR_FILES: u64 = 50;

/// Bytes that neither repeat nor compress.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// The path of a file.
pub(crate) fn path(n: u64) -> RelPath {
    let dir = n / DIR_FILES;
    let text = format!("frontend/Shop/default/en_US/Vendor_Module{dir:04}/js/view/part-{n:06}.js");
    RelPath::parse(text.as_bytes()).unwrap()
}

/// A file with this content, as its owner left it.
pub(crate) fn file(content: ContentId, size: u64) -> Entry {
    let mtime = Mtime { secs: 1_790_000_000, nanos: 123_456_789 };
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let meta = Meta { mode: 0o644, uid, gid, mtime, xattrs: Vec::new() };
    Entry { kind: Kind::File { size, content, sparse: false, group: None }, meta }
}

/// The file of a number, as it was left by one edit of many.
pub(crate) fn entry(n: u64, edit: u64) -> Entry {
    let content = [n.to_le_bytes(), edit.to_le_bytes()].concat();
    file(ContentId::of(&content), 2000 + n % 4000)
}

/// Its record.
pub(crate) fn record(n: u64, edit: u64) -> Record {
    let stamp = Stamp { counter: WALL_NS + edit * 1_000_000_000 + n, node: AUTHOR };
    Record { path: path(n), entry: Some(entry(n, edit)), version: Version::edit(stamp, None) }
}

/// What `stat` says of it.
pub(crate) fn signature(n: u64, entry: &Entry) -> Signature {
    let size = entry.content().map_or(0, |(_, size)| size);
    let mtime = entry.meta.mtime;
    Signature { inode: 1000 + n, size, mode: 0o100_644, mtime, ctime: mtime, links: 1, racy: false }
}
