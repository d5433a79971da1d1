//! Taking a snapshot: records of an index and the files they are of become trees of objects.
//!
//! In: live records, or what changed since the last snapshot. Out: the root of a tree, once every object
//! that it needs was put. No directory is listed, and no file is opened that the repository has already. A
//! file that is not what its record says is never stored as if it were: the path is named instead.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::manifest::MountTree;
use super::object::{Kind, ObjectId, WHOLE_BYTES_MAX};
use super::repository::RepositoryError;
use super::tree::{self, Item, Node, Stored, TreeRef};
use super::walk;
use super::writer::Writer;
use crate::disk::pieces;
use crate::model::{self, ContentId, Entry, RelPath};

#[cfg(test)]
pub(crate) mod tests;

/// Files that are stored before the directories that they are in.
const BATCH_FILES: usize = 2048;

/// Threads that read and compress.
const THREADS_MAX: usize = 4;

/// Why there is no tree.
#[derive(Debug, thiserror::Error)]
pub enum TakeError<E: std::error::Error + 'static> {
    /// The repository.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The records could not be had.
    #[error("cannot read the index")]
    Records(#[source] E),
}

/// The files that are stored.
pub trait Contents: Sync {
    /// The bytes that are at the path now.
    ///
    /// # Errors
    /// The operating system refused.
    fn open(&self, path: &RelPath) -> io::Result<Box<dyn Read + '_>>;
}

/// A tree that was stored, and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its root.
    pub root: TreeRef,
    /// Files and links.
    pub files: u64,
    /// Bytes of files.
    pub bytes: u64,
    /// Paths that are not in it as their records say, ordered.
    pub changing: Vec<RelPath>,
}

impl Taken {
    /// As it stands in a manifest.
    #[must_use]
    pub fn into_mount(self, name: String) -> MountTree {
        let Self { root, files, bytes, changing } = self;
        MountTree { name, root, files, bytes, changing }
    }
}

/// What happened to a file's content.
enum Outcome {
    Stored(Stored),
    /// It is not what the record says.
    Changed,
}

/// Stores a whole mount. The records come in the descending order of their directories, and in that of
/// their names: what is in a directory comes before the directory.
///
/// # Errors
/// [`TakeError`].
pub fn take<E: std::error::Error + 'static>(
    writer: &Writer<'_>,
    records: impl IntoIterator<Item = Result<(RelPath, Entry), E>>,
    contents: &dyn Contents,
) -> Result<Taken, TakeError<E>> {
    let mut whole = Whole { dirs: HashMap::new(), files: 0, bytes: 0, changing: Vec::new() };
    let mut batch: Vec<(RelPath, Entry)> = Vec::new();
    for record in records {
        let (path, entry) = record.map_err(TakeError::Records)?;
        let begins = batch.last().is_some_and(|(last, _)| last.parent() != path.parent());
        if begins && batch.len() >= BATCH_FILES {
            whole.add(writer, std::mem::take(&mut batch), contents)?;
        }
        batch.push((path, entry));
    }
    whole.add(writer, batch, contents)?;
    let Whole { mut dirs, files, bytes, mut changing } = whole;
    let root = dirs.remove(&RelPath::root()).map_or_else(|| empty(writer), Ok)?;
    changing.sort();
    Ok(Taken { root, files, bytes, changing })
}

/// A tree on its way, from its leaves to its root.
struct Whole {
    /// Directories that are complete, until the one they are in is.
    dirs: HashMap<RelPath, TreeRef>,
    files: u64,
    bytes: u64,
    changing: Vec<RelPath>,
}

impl Whole {
    /// Complete directories, in order.
    fn add(
        &mut self,
        writer: &Writer<'_>,
        records: Vec<(RelPath, Entry)>,
        contents: &dyn Contents,
    ) -> Result<(), RepositoryError> {
        let outcomes = store_all(writer, &records, contents)?;
        let mut rest = records.into_iter().zip(outcomes).peekable();
        while let Some(((path, _), _)) = rest.peek() {
            let dir = path.parent().unwrap_or_else(RelPath::root);
            let mut nodes = Vec::new();
            let is_in = |path: &RelPath| path.parent().unwrap_or_else(RelPath::root) == dir;
            while let Some(((path, entry), outcome)) = rest.next_if(|((path, _), _)| is_in(path)) {
                nodes.extend(self.node(writer, path, entry, outcome)?);
            }
            nodes.reverse();
            let tree = tree::encode_dir(nodes, |kind, bytes| writer.put(kind, bytes))?;
            self.dirs.insert(dir, tree);
        }
        Ok(())
    }

    fn node(
        &mut self,
        writer: &Writer<'_>,
        path: RelPath,
        entry: Entry,
        outcome: Option<Outcome>,
    ) -> Result<Option<Node>, RepositoryError> {
        let below = match entry.kind {
            model::Kind::Dir => match self.dirs.remove(&path) {
                Some(below) => Some(below),
                None => Some(empty(writer)?),
            },
            _ => None,
        };
        let Some(node) = node_of(path.name(), entry, below, outcome) else {
            self.changing.push(path);
            return Ok(None);
        };
        let (files, bytes) = weight(&node);
        self.files += files;
        self.bytes += bytes;
        Ok(Some(node))
    }
}

/// Nothing if its content is not what the record says.
fn node_of(
    name: &[u8],
    entry: Entry,
    below: Option<TreeRef>,
    outcome: Option<Outcome>,
) -> Option<Node> {
    let item = match (entry.kind, below, outcome) {
        (model::Kind::Dir, Some(below), _) => Item::Dir(below),
        (model::Kind::Symlink { target }, ..) => Item::Symlink { target },
        (model::Kind::File { size, content, sparse, group }, _, Some(Outcome::Stored(stored))) => {
            Item::File { size, content, stored, sparse, group }
        }
        _ => return None,
    };
    Some(Node { name: name.into(), meta: entry.meta, item })
}

/// Files and links, and bytes of files.
fn weight(node: &Node) -> (u64, u64) {
    match node.item {
        Item::Dir(_) => (0, 0),
        Item::File { size, .. } => (1, size),
        Item::Symlink { .. } => (1, 0),
    }
}

fn empty(writer: &Writer<'_>) -> Result<TreeRef, RepositoryError> {
    tree::encode_dir([], |kind, bytes| writer.put(kind, bytes))
}

/// Stores the content of each file among the records; nothing for other entries.
fn store_all(
    writer: &Writer<'_>,
    records: &[(RelPath, Entry)],
    contents: &dyn Contents,
) -> Result<Vec<Option<Outcome>>, RepositoryError> {
    let mut outcomes: Vec<_> = records.iter().map(|_| None).collect();
    let mut missing = Vec::new();
    for (at, (_, entry)) in records.iter().enumerate() {
        let Some((content, size)) = entry.content() else { continue };
        outcomes[at] = if size == 0 {
            Some(Outcome::Stored(Stored::Empty))
        } else if size <= WHOLE_BYTES_MAX && writer.has(Kind::Data, content.into())? {
            Some(Outcome::Stored(Stored::Whole))
        } else {
            missing.push((at, content, size));
            None
        };
    }
    let next = AtomicUsize::new(0);
    let done = Mutex::new((Vec::new(), None));
    let lock = || done.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || {
        while let Some(&(at, content, size)) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
            match store(writer, &records[at].0, (content, size), contents) {
                Ok(outcome) => lock().0.push((at, outcome)),
                Err(error) => {
                    next.store(missing.len(), Ordering::Relaxed);
                    lock().1 = Some(error);
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    std::thread::scope(|scope| {
        for _ in 1..threads.min(missing.len()) {
            scope.spawn(work);
        }
        work();
    });
    let (stored, error) = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = error {
        return Err(error);
    }
    for (at, outcome) in stored {
        outcomes[at] = Some(outcome);
    }
    Ok(outcomes)
}

fn store(
    writer: &Writer<'_>,
    path: &RelPath,
    (content, size): (ContentId, u64),
    contents: &dyn Contents,
) -> Result<Outcome, RepositoryError> {
    let Ok(file) = contents.open(path) else { return Ok(Outcome::Changed) };
    if size > WHOLE_BYTES_MAX {
        return store_pieces(writer, file, (content, size));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default() + 1);
    let read = file.take(size + 1).read_to_end(&mut bytes);
    if read.is_err() || bytes.len() as u64 != size || ContentId::of(&bytes) != content {
        return Ok(Outcome::Changed);
    }
    writer.put(Kind::Data, &bytes)?;
    Ok(Outcome::Stored(Stored::Whole))
}

/// Why storing pieces ended.
enum Stop {
    Read,
    Repository(RepositoryError),
}

impl From<io::Error> for Stop {
    fn from(_: io::Error) -> Self {
        Self::Read
    }
}

fn store_pieces(
    writer: &Writer<'_>,
    file: impl Read,
    (content, size): (ContentId, u64),
) -> Result<Outcome, RepositoryError> {
    let mut hasher = blake3::Hasher::new();
    let mut list: Vec<(u32, ObjectId)> = Vec::new();
    let cut = pieces::cut(file.take(size + 1), |piece| {
        hasher.update(piece);
        let id = writer.put(Kind::Data, piece).map_err(Stop::Repository)?;
        list.push((u32::try_from(piece.len()).expect("a piece is short"), id));
        Ok(())
    });
    match cut {
        Ok(()) => {}
        Err(Stop::Read) => return Ok(Outcome::Changed),
        Err(Stop::Repository(error)) => return Err(error),
    }
    if hasher.count() != size || *hasher.finalize().as_bytes() != content.0 {
        return Ok(Outcome::Changed);
    }
    let id = writer.put(Kind::Pieces, &tree::encode_pieces(&list))?;
    Ok(Outcome::Stored(Stored::Pieces(id)))
}

/// Stores what changed since a tree was taken: each path with what is there now. Nothing else is looked
/// at. A path whose content is not what its record says is as it was in that tree.
///
/// # Errors
/// [`RepositoryError`].
pub fn take_changes(
    writer: &Writer<'_>,
    before: &MountTree,
    changes: BTreeMap<RelPath, Option<Entry>>,
    contents: &dyn Contents,
) -> Result<Taken, RepositoryError> {
    let live = changes.iter().filter_map(|(path, entry)| Some((path.clone(), entry.clone()?)));
    let live: Vec<_> = live.collect();
    let outcomes = store_all(writer, &live, contents)?;
    let outcomes: HashMap<_, _> = live.into_iter().map(|(path, _)| path).zip(outcomes).collect();
    let mut changed = Changed {
        writer,
        root: before.root,
        outcomes,
        made: HashMap::new(),
        taken: Taken {
            root: before.root,
            files: before.files,
            bytes: before.bytes,
            changing: before.changing.clone(),
        },
    };
    let mut dirs: BTreeMap<RelPath, BTreeMap<Box<[u8]>, Option<Entry>>> = BTreeMap::new();
    for (path, entry) in changes {
        let Some((_, name)) = path.split() else { continue };
        let dir = path.parent().unwrap_or_else(RelPath::root);
        dirs.entry(dir).or_default().insert(name.into(), entry);
        let mut above = path.parent();
        while let Some(dir) = above {
            above = dir.parent();
            dirs.entry(dir).or_default();
        }
    }
    // What is in a directory comes behind it: from the back it comes before it.
    while let Some((dir, changes)) = dirs.pop_last() {
        changed.dir(dir, changes)?;
    }
    let Changed { made, mut taken, .. } = changed;
    taken.root = made.get(&RelPath::root()).copied().unwrap_or(before.root);
    taken.changing.sort();
    Ok(taken)
}

/// A tree that changes, from its leaves to its root.
struct Changed<'a> {
    writer: &'a Writer<'a>,
    /// Of the tree before.
    root: TreeRef,
    outcomes: HashMap<RelPath, Option<Outcome>>,
    /// Directories that are complete.
    made: HashMap<RelPath, TreeRef>,
    taken: Taken,
}

impl Changed<'_> {
    fn dir(
        &mut self,
        dir: RelPath,
        changes: BTreeMap<Box<[u8]>, Option<Entry>>,
    ) -> Result<(), RepositoryError> {
        let nodes = match walk::dir(self.writer, self.root, &dir)? {
            Some(tree) => walk::entries(self.writer, tree)?,
            None => Vec::new(),
        };
        let mut nodes: BTreeMap<_, _> =
            nodes.into_iter().map(|node| (node.name.clone(), node)).collect();
        for (name, entry) in changes {
            let Ok(path) = dir.join(&name) else { continue };
            let was = nodes.remove(&name);
            let node = self.entry(&path, entry, was.as_ref())?;
            let (old, new) = (was.as_ref().map(weight), node.as_ref().map(weight));
            let ((files, bytes), (less, fewer)) =
                (new.unwrap_or_default(), old.unwrap_or_default());
            self.taken.files = (self.taken.files + files).saturating_sub(less);
            self.taken.bytes = (self.taken.bytes + bytes).saturating_sub(fewer);
            nodes.extend(node.map(|node| (name, node)));
        }
        for node in nodes.values_mut() {
            let Ok(path) = dir.join(&node.name) else { continue };
            if let (Item::Dir(tree), Some(new)) = (&mut node.item, self.made.get(&path)) {
                *tree = *new;
            }
        }
        let put = |kind, bytes: &[u8]| self.writer.put(kind, bytes);
        let tree = tree::encode_dir(nodes.into_values(), put)?;
        self.made.insert(dir, tree);
        Ok(())
    }

    fn entry(
        &mut self,
        path: &RelPath,
        entry: Option<Entry>,
        was: Option<&Node>,
    ) -> Result<Option<Node>, RepositoryError> {
        self.taken.changing.retain(|changing| changing != path);
        let Some(entry) = entry else { return Ok(None) };
        let below = match was {
            _ if !entry.is_dir() => None,
            Some(Node { item: Item::Dir(tree), .. }) => Some(*tree),
            _ => Some(empty(self.writer)?),
        };
        match self.outcomes.remove(path).flatten() {
            Some(Outcome::Changed) => {
                self.taken.changing.push(path.clone());
                Ok(was.cloned())
            }
            outcome => Ok(node_of(path.name(), entry, below, outcome)),
        }
    }
}
