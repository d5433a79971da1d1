//! Directories and large files as objects: entries ⇄ bytes. Pure; `docs/repository-format.md` has the bytes.
//!
//! The same entries always give the same bytes, whoever encodes them, so that equal trees have equal
//! ids. Whatever is decoded is checked: a name that could lead out of its directory is never given out.

use super::object::{Kind, OBJECT_BYTES_MAX, ObjectId};
use crate::model::limits::{NAME_BYTES_MAX, SYMLINK_BYTES_MAX, XATTR_BYTES_MAX};
use crate::model::{ContentId, LinkGroup, Meta, Mtime, Xattrs};

#[cfg(test)]
mod tests;

/// Entries of a page, on average: one name in so many ends a page.
const PAGE_ENTRIES: u16 = 512;

/// Entries of a page, at most.
const PAGE_ENTRIES_MAX: usize = 4096;

/// A page that has come to so many bytes is finished.
const PAGE_BYTES_MAX: usize = 1 << 20;

const SPARSE: u8 = 1;
const LINKED: u8 = 2;

/// First name and id of each page of a directory.
pub type Pages = Vec<(Box<[u8]>, ObjectId)>;

/// An object that is not what the format says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not in the format: {0}")]
pub struct FormatError(pub &'static str);

/// What is in a directory: its one page, or the index of its pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct TreeRef {
    /// [`Kind::Page`] or [`Kind::Index`].
    pub kind: Kind,
    /// Of that object.
    pub id: ObjectId,
}

/// One entry of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its name: not empty, no `/` or NUL, neither `.` nor `..`.
    pub name: Box<[u8]>,
    /// Mode, owner, time, attributes.
    pub meta: Meta,
    /// What it is.
    pub item: Item,
}

/// What an entry is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Item {
    /// A directory, with what is in it.
    Dir(TreeRef),
    /// A regular file.
    File {
        /// In bytes.
        size: u64,
        /// Of the whole content.
        content: ContentId,
        /// Where it is.
        stored: Stored,
        /// Whether blocks of zeros are holes.
        sparse: bool,
        /// Which other paths of the mount are the same file.
        group: Option<LinkGroup>,
    },
    /// A symbolic link, verbatim.
    Symlink {
        /// As `readlink` gives it.
        target: Box<[u8]>,
    },
}

/// How a file's content is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stored {
    /// Not at all: it has no bytes.
    Empty,
    /// As one object, whose id is the content's.
    Whole,
    /// As the pieces that this object lists.
    Pieces(ObjectId),
}

/// Encodes the entries of one directory, which come in the order of their names, and hands the
/// objects to `put`.
///
/// # Errors
/// What `put` fails with.
pub fn encode_dir<E>(
    nodes: impl IntoIterator<Item = Node>,
    mut put: impl FnMut(Kind, &[u8]) -> Result<ObjectId, E>,
) -> Result<TreeRef, E> {
    let mut pages = Pages::new();
    let mut page = Vec::new();
    let mut first: Option<Box<[u8]>> = None;
    let mut entries = 0;
    for node in nodes {
        encode_node(&mut page, &node);
        entries += 1;
        let ends = ends_page(&node.name, entries, page.len());
        let begun = first.get_or_insert(node.name);
        if ends {
            pages.push((std::mem::take(begun), put(Kind::Page, &page)?));
            (first, entries) = (None, 0);
            page.clear();
        }
    }
    if let Some(begun) = first {
        pages.push((begun, put(Kind::Page, &page)?));
    }
    match &*pages {
        [] => Ok(TreeRef { kind: Kind::Page, id: put(Kind::Page, &[])? }),
        [(_, id)] => Ok(TreeRef { kind: Kind::Page, id: *id }),
        pages => {
            let mut index = Vec::new();
            for (first, id) in pages {
                short(&mut index, first);
                index.extend_from_slice(&id.0);
            }
            Ok(TreeRef { kind: Kind::Index, id: put(Kind::Index, &index)? })
        }
    }
}

/// Whether a page is finished with this entry, which is its last so far.
fn ends_page(name: &[u8], entries: usize, bytes: usize) -> bool {
    let hash = *blake3::hash(name).as_bytes();
    let number = u16::from_le_bytes([hash[0], hash[1]]);
    number.is_multiple_of(PAGE_ENTRIES) || entries >= PAGE_ENTRIES_MAX || bytes >= PAGE_BYTES_MAX
}

fn encode_node(out: &mut Vec<u8>, Node { name, meta, item }: &Node) {
    let (kind, flags) = match item {
        Item::Dir(_) => (1, 0),
        Item::File { sparse, group, .. } => {
            let sparse = if *sparse { SPARSE } else { 0 };
            (2, sparse | if group.is_some() { LINKED } else { 0 })
        }
        Item::Symlink { .. } => (3, 0),
    };
    short(out, name);
    out.extend_from_slice(&[kind, flags]);
    let mode = u16::try_from(meta.mode & 0o7777).expect("twelve bits");
    out.extend_from_slice(&mode.to_le_bytes());
    out.extend_from_slice(&meta.uid.to_le_bytes());
    out.extend_from_slice(&meta.gid.to_le_bytes());
    out.extend_from_slice(&meta.mtime.secs.to_le_bytes());
    out.extend_from_slice(&meta.mtime.nanos.to_le_bytes());
    out.extend_from_slice(&u16::try_from(meta.xattrs.len()).expect("bounded").to_le_bytes());
    for (name, value) in &meta.xattrs {
        short(out, name);
        out.extend_from_slice(&u32::try_from(value.len()).expect("bounded").to_le_bytes());
        out.extend_from_slice(value);
    }
    match item {
        Item::Dir(tree) => {
            out.push(tree.kind.number());
            out.extend_from_slice(&tree.id.0);
        }
        Item::File { size, content, stored, group, .. } => {
            out.extend_from_slice(&size.to_le_bytes());
            out.extend_from_slice(&content.0);
            match stored {
                Stored::Empty => out.push(0),
                Stored::Whole => out.push(Kind::Data.number()),
                Stored::Pieces(id) => {
                    out.push(Kind::Pieces.number());
                    out.extend_from_slice(&id.0);
                }
            }
            group.iter().for_each(|group| out.extend_from_slice(&group.0.to_le_bytes()));
        }
        Item::Symlink { target } => short(out, target),
    }
}

/// Bytes behind two bytes of their length.
fn short(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u16::try_from(bytes.len()).expect("bounded").to_le_bytes());
    out.extend_from_slice(bytes);
}

/// The entries of a page.
///
/// # Errors
/// [`FormatError`].
pub fn decode_page(bytes: &[u8]) -> Result<Vec<Node>, FormatError> {
    let mut bytes = Bytes(bytes);
    let mut nodes: Vec<Node> = Vec::new();
    while !bytes.0.is_empty() {
        let node = decode_node(&mut bytes)?;
        if nodes.last().is_some_and(|last| last.name >= node.name) {
            return Err(FormatError("names of a directory are out of order"));
        }
        nodes.push(node);
    }
    Ok(nodes)
}

fn decode_node(bytes: &mut Bytes<'_>) -> Result<Node, FormatError> {
    let name = bytes.name()?;
    let [kind, flags] = bytes.array()?;
    let mode = u32::from(u16::from_le_bytes(bytes.array()?));
    let (uid, gid) = (bytes.u32()?, bytes.u32()?);
    let mtime = Mtime { secs: i64::from_le_bytes(bytes.array()?), nanos: bytes.u32()? };
    if mode > 0o7777 || mtime.nanos >= 1_000_000_000 || flags & !(SPARSE | LINKED) != 0 {
        return Err(FormatError("metadata of an entry"));
    }
    if flags != 0 && kind != 2 {
        return Err(FormatError("flags of a file at what is none"));
    }
    let count = u16::from_le_bytes(bytes.array()?);
    let mut xattrs = Xattrs::new();
    for _ in 0..count {
        let name = bytes.short(NAME_BYTES_MAX)?;
        let length = bytes.u32()? as usize;
        let value = bytes.take(length.min(XATTR_BYTES_MAX + 1))?;
        if name.is_empty()
            || value.len() != length
            || xattrs.last().is_some_and(|last| *last.0 >= *name)
        {
            return Err(FormatError("extended attributes"));
        }
        xattrs.push((name.into(), value.into()));
    }
    let item = match kind {
        1 => Item::Dir(bytes.tree()?),
        2 => {
            let (size, content) = (u64::from_le_bytes(bytes.array()?), ContentId(bytes.array()?));
            let [stored] = bytes.array()?;
            let stored = match stored {
                0 if size == 0 => Stored::Empty,
                1 if size > 0 && size <= OBJECT_BYTES_MAX as u64 => Stored::Whole,
                4 if size > 0 => Stored::Pieces(ObjectId(bytes.array()?)),
                _ => return Err(FormatError("where a file's content is")),
            };
            let linked = flags & LINKED != 0;
            let group =
                if linked { Some(LinkGroup(u64::from_le_bytes(bytes.array()?))) } else { None };
            Item::File { size, content, stored, sparse: flags & SPARSE != 0, group }
        }
        3 => {
            let target = bytes.short(SYMLINK_BYTES_MAX)?;
            if target.is_empty() || target.contains(&0) {
                return Err(FormatError("a link's target"));
            }
            Item::Symlink { target: target.into() }
        }
        _ => return Err(FormatError("the type of an entry")),
    };
    Ok(Node { name, meta: Meta { mode, uid, gid, mtime, xattrs }, item })
}

/// First name and id of each page of a directory.
///
/// # Errors
/// [`FormatError`].
pub fn decode_index(bytes: &[u8]) -> Result<Pages, FormatError> {
    let mut bytes = Bytes(bytes);
    let mut pages = Pages::new();
    while !bytes.0.is_empty() {
        let name = bytes.name()?;
        if pages.last().is_some_and(|last| last.0 >= name) {
            return Err(FormatError("pages of a directory are out of order"));
        }
        pages.push((name, ObjectId(bytes.array()?)));
    }
    Ok(pages)
}

impl Node {
    /// Bytes of a file; of anything else none.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self.item {
            Item::File { size, .. } => size,
            Item::Dir(_) | Item::Symlink { .. } => 0,
        }
    }
}

/// Length and id of each piece of a file, as an object.
#[must_use]
pub(super) fn encode_pieces(pieces: &[(u32, ObjectId)]) -> Vec<u8> {
    let each = |(length, id): &(u32, ObjectId)| length.to_le_bytes().into_iter().chain(id.0);
    pieces.iter().flat_map(each).collect()
}

/// Length and id of each piece of a file of `size` bytes.
///
/// # Errors
/// [`FormatError`].
pub fn decode_pieces(bytes: &[u8], size: u64) -> Result<Vec<(u32, ObjectId)>, FormatError> {
    let (pieces, rest) = bytes.as_chunks::<36>();
    let decode = |piece: &[u8; 36]| {
        let (length, id) = piece.split_first_chunk().expect("36 bytes");
        (u32::from_le_bytes(*length), ObjectId(id.try_into().expect("32 bytes")))
    };
    let pieces: Vec<_> = pieces.iter().map(decode).collect();
    let sum: u64 = pieces.iter().map(|(length, _)| u64::from(*length)).sum();
    if !rest.is_empty() || sum != size || pieces.iter().any(|piece| piece.0 == 0) {
        return Err(FormatError("the pieces of a file"));
    }
    Ok(pieces)
}

/// What is left of an object that is being decoded.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], FormatError> {
        let (taken, rest) =
            self.0.split_at_checked(length).ok_or(FormatError("it is cut short"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        self.take(N).map(|bytes| bytes.try_into().expect("as many were taken"))
    }

    fn u32(&mut self) -> Result<u32, FormatError> {
        self.array().map(u32::from_le_bytes)
    }

    fn short(&mut self, most: usize) -> Result<&'a [u8], FormatError> {
        let length = usize::from(u16::from_le_bytes(self.array()?));
        if length > most {
            return Err(FormatError("a string is too long"));
        }
        self.take(length)
    }

    fn name(&mut self) -> Result<Box<[u8]>, FormatError> {
        let name = self.short(NAME_BYTES_MAX)?;
        if matches!(name, b"" | b"." | b"..") || name.iter().any(|&b| b == b'/' || b == 0) {
            return Err(FormatError("a name"));
        }
        Ok(name.into())
    }

    fn tree(&mut self) -> Result<TreeRef, FormatError> {
        let [kind] = self.array()?;
        let kind = Kind::of(kind).filter(|kind| matches!(kind, Kind::Page | Kind::Index));
        let kind = kind.ok_or(FormatError("what a directory is"))?;
        Ok(TreeRef { kind, id: ObjectId(self.array()?) })
    }
}
