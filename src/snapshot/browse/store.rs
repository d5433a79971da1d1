//! Entries and contents from the objects of a repository, decoded when they are asked for.
//!
//! What was decoded lately is kept, up to named limits. It knows no numbers and no paths, and must never give
//! out bytes that are not those of the object's id.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::cache::Cache;
use super::lock;
use crate::model::ContentId;
use crate::model::limits::{BROWSE_DATA_BYTES_MAX, BROWSE_DIRS_BYTES_MAX, BROWSE_PIECES_BYTES_MAX};
use crate::snapshot::repository::SNAPSHOTS;
use crate::snapshot::tree::{self, FormatError, Item, Node, Pages, Stored, TreeRef};
use crate::snapshot::walk::format;
use crate::snapshot::{Kind, Manifest, ObjectId, Objects, Repository, RepositoryError, SnapshotId};

/// Where snapshots are had from.
pub trait Source: Objects + Send + Sync {
    /// The snapshots that are there.
    ///
    /// # Errors
    /// [`RepositoryError::Io`].
    fn ids(&self) -> Result<BTreeSet<SnapshotId>, RepositoryError>;

    /// What one of them is.
    ///
    /// # Errors
    /// [`RepositoryError`].
    fn read_manifest(&self, id: SnapshotId) -> Result<Manifest, RepositoryError>;

    /// Looks where objects are now, after one was missed: others write packs, also anew.
    ///
    /// # Errors
    /// [`RepositoryError`].
    fn look_again(&self) -> Result<(), RepositoryError>;
}

impl Source for Repository {
    fn ids(&self) -> Result<BTreeSet<SnapshotId>, RepositoryError> {
        self.ids_in(SNAPSHOTS)
    }

    fn read_manifest(&self, id: SnapshotId) -> Result<Manifest, RepositoryError> {
        self.manifest(id)
    }

    fn look_again(&self) -> Result<(), RepositoryError> {
        self.take_in_packs()
    }
}

pub(super) type Read<T> = Result<T, RepositoryError>;

/// An entry of a page.
pub(super) struct Entry {
    page: Arc<Vec<Node>>,
    at: usize,
}

impl std::ops::Deref for Entry {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.page[self.at]
    }
}

/// Objects, and what was decoded of them.
pub(super) struct Store {
    source: Box<dyn Source>,
    data: Mutex<Cache<Vec<u8>>>,
    pages: Mutex<Cache<Vec<Node>>>,
    indexes: Mutex<Cache<Pages>>,
    /// Where each piece ends, and its object.
    pieces: Mutex<Cache<Vec<(u64, ObjectId)>>>,
    /// An object was missed, and where objects are was looked up. That costs too much to be done for each.
    looked_again: AtomicBool,
}

impl Store {
    pub(super) fn new(source: Box<dyn Source>) -> Self {
        Self {
            source,
            data: Mutex::new(Cache::new(BROWSE_DATA_BYTES_MAX)),
            pages: Mutex::new(Cache::new(BROWSE_DIRS_BYTES_MAX)),
            indexes: Mutex::new(Cache::new(BROWSE_DIRS_BYTES_MAX)),
            pieces: Mutex::new(Cache::new(BROWSE_PIECES_BYTES_MAX)),
            looked_again: AtomicBool::new(false),
        }
    }

    pub(super) fn source(&self) -> &dyn Source {
        &*self.source
    }

    /// The next object that is missed is looked for again.
    pub(super) fn may_look_again(&self) {
        self.looked_again.store(false, Ordering::Relaxed);
    }

    /// An entry that was found there before.
    pub(super) fn entry(&self, page: ObjectId, at: u32) -> Read<Entry> {
        Ok(Entry { page: self.page(page)?, at: at as usize })
    }

    /// The entry of this name, with its page and where it is in that.
    pub(super) fn find(&self, tree: TreeRef, name: &[u8]) -> Read<Option<(ObjectId, u32, Entry)>> {
        let page = match tree.kind {
            Kind::Index => {
                let pages = self.index(tree.id)?;
                pages.partition_point(|(first, _)| **first <= *name).checked_sub(1)
            }
            _ => Some(0),
        };
        let Some(page) = page else { return Ok(None) };
        let Some((id, page)) = self.page_of(tree, page as u64)? else { return Ok(None) };
        let Ok(at) = page.binary_search_by(|node| (*node.name).cmp(name)) else { return Ok(None) };
        let position = u32::try_from(at).expect("a page has fewer entries than bytes");
        Ok(Some((id, position, Entry { page, at })))
    }

    /// A page of a directory, if it has so many.
    pub(super) fn page_of(
        &self,
        tree: TreeRef,
        at: u64,
    ) -> Read<Option<(ObjectId, Arc<Vec<Node>>)>> {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        if tree.kind != Kind::Index {
            return if at == 0 { Ok(Some((tree.id, self.page(tree.id)?))) } else { Ok(None) };
        }
        let pages = self.index(tree.id)?;
        let Some((first, id)) = pages.get(at) else { return Ok(None) };
        let page = self.page(*id)?;
        // What is listed can be found: the page that the index says has the name.
        let begins = page.first().is_some_and(|node| node.name == *first);
        let ends = pages.get(at + 1).zip(page.last()).is_none_or(|(next, last)| last.name < next.0);
        if !begins || !ends {
            return Err(format(Kind::Index, tree.id)(FormatError("pages overlap")));
        }
        Ok(Some((*id, page)))
    }

    fn index(&self, id: ObjectId) -> Read<Arc<Pages>> {
        self.cached(&self.indexes, Kind::Index, id, |bytes| {
            let pages = tree::decode_index(&bytes)?;
            let bytes =
                pages.iter().map(|(first, _)| size_of::<(Box<[u8]>, ObjectId)>() + first.len());
            let bytes = bytes.sum();
            Ok((pages, bytes))
        })
    }

    fn page(&self, id: ObjectId) -> Read<Arc<Vec<Node>>> {
        self.cached(&self.pages, Kind::Page, id, |bytes| {
            let nodes = tree::decode_page(&bytes)?;
            let bytes = nodes.iter().map(memory).sum();
            Ok((nodes, bytes))
        })
    }

    /// Bytes of a file of `length` bytes, from a position in it to another one, which is not behind its end.
    pub(super) fn bytes(
        &self,
        stored: Stored,
        content: ContentId,
        length: u64,
        (from, to): (u64, u64),
    ) -> Read<Vec<u8>> {
        match stored {
            _ if from >= to => Ok(Vec::new()),
            Stored::Empty => Ok(Vec::new()),
            Stored::Whole => self.part(content.into(), (0, length), (from, to)),
            Stored::Pieces(id) => self.parts(id, length, (from, to)),
        }
    }

    /// Bytes of a large file.
    fn parts(&self, id: ObjectId, length: u64, (from, to): (u64, u64)) -> Read<Vec<u8>> {
        let pieces = self.cached(&self.pieces, Kind::Pieces, id, |bytes| {
            let mut end = 0;
            let pieces = tree::decode_pieces(&bytes, length)?.into_iter().map(|(length, id)| {
                end += u64::from(length);
                (end, id)
            });
            let pieces: Vec<_> = pieces.collect();
            let bytes = pieces.len() * size_of::<(u64, ObjectId)>();
            Ok((pieces, bytes))
        })?;
        if pieces.last().is_none_or(|(end, _)| *end != length) {
            return Err(format(Kind::Pieces, id)(FormatError("the pieces of a file")));
        }
        let first = pieces.partition_point(|(end, _)| *end <= from);
        let mut begin = if first == 0 { 0 } else { pieces[first - 1].0 };
        let mut bytes = Vec::new();
        for &(end, id) in &pieces[first..] {
            if begin >= to {
                break;
            }
            bytes.append(&mut self.part(id, (begin, end), (from, to))?);
            begin = end;
        }
        Ok(bytes)
    }

    /// What a data object, which is a file's bytes from `begin` to `end`, has of those from `from` to `to`.
    fn part(
        &self,
        id: ObjectId,
        (begin, end): (u64, u64),
        (from, to): (u64, u64),
    ) -> Read<Vec<u8>> {
        let data = self.cached(&self.data, Kind::Data, id, |bytes| {
            let length = bytes.len();
            Ok((bytes, length))
        })?;
        let within = |at: u64| usize::try_from(at.clamp(begin, end) - begin).unwrap_or(usize::MAX);
        match data.get(within(from)..within(to)) {
            Some(part) if data.len() as u64 == end - begin => Ok(part.to_vec()),
            _ => Err(format(Kind::Data, id)(FormatError("it is not as long as it should be"))),
        }
    }

    fn cached<V>(
        &self,
        cache: &Mutex<Cache<V>>,
        kind: Kind,
        id: ObjectId,
        decode: impl FnOnce(Vec<u8>) -> Result<(V, usize), FormatError>,
    ) -> Read<Arc<V>> {
        if let Some(kept) = lock(cache).get(id) {
            return Ok(kept);
        }
        let object = match self.source.get(kind, id) {
            Err(RepositoryError::Missing { .. })
                if !self.looked_again.swap(true, Ordering::Relaxed) =>
            {
                self.source.look_again()?;
                self.source.get(kind, id)?
            }
            other => other?,
        };
        let (value, bytes) = decode(object).map_err(format(kind, id))?;
        let value = Arc::new(value);
        lock(cache).put(id, value.clone(), bytes);
        Ok(value)
    }
}

/// Bytes that an entry takes.
fn memory(node: &Node) -> usize {
    let target = match &node.item {
        Item::Symlink { target } => target.len(),
        _ => 0,
    };
    let xattrs = node.meta.xattrs.iter();
    let xattrs = xattrs.map(|(name, value)| size_of::<[Box<[u8]>; 2]>() + name.len() + value.len());
    size_of::<Node>() + node.name.len() + target + xattrs.sum::<usize>()
}
