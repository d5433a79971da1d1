//! Snapshots as a file system that can only be read: inode numbers, directories, content.
//!
//! In: numbers and names as a kernel asks for them, and the time. Out: what is there, or why it cannot be read,
//! with its path. Directories are read page by page and contents object by object, when they are asked for; what
//! was decoded stays in bounded caches, and a number until it is forgotten. It knows no kernel, has no clock,
//! and must never give out bytes that were not checked, or hold up whoever writes to the repository.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::tree::{Item, Node, TreeRef};
use super::{Manifest, RepositoryError, SnapshotId};
use crate::model::{RelPath, Xattrs};

mod attr;
mod cache;
mod roots;
mod store;
mod table;

pub use attr::{Attr, Type};
pub use roots::LOOK_AGAIN_AFTER;
use roots::{Roots, Shown};
pub use store::Source;
use store::{Entry, Read, Store};
use table::{Known, Place, Table, number};

/// The number of the directory with all snapshots.
pub const ROOT: u64 = 1;

/// The name of the link to the newest snapshot, and its number.
const LATEST: (&[u8], u64) = (b"latest", 2);

/// Lower numbers are never a snapshot's, nor of anything in it.
const FIRST_NUMBER: u64 = 16;

/// Where the entries of a list begin, behind `.` and `..`.
const ENTRIES: u64 = 2;

/// Directories on the way to what could not be read that are named, at most.
const DEPTH_MAX: usize = 4096;

/// What is for people to say, and not decided here.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// The name of a snapshot's directory: no `/`, and no two alike.
    pub name: fn(SnapshotId, &Manifest) -> String,
    /// Whether `latest` may mean it.
    pub may_be_latest: fn(&Manifest) -> bool,
    /// Owner and group of what has none.
    pub owner: (u32, u32),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum BrowseError {
    /// There is nothing of this name.
    #[error("there is nothing of this name")]
    Nothing,
    /// The number was forgotten, or is of something else than was asked for.
    #[error("no such thing has this number")]
    Stale,
    /// The repository does not give it.
    #[error("cannot read {path}")]
    Unreadable {
        /// Begins with the snapshot's name.
        path: RelPath,
        /// What it lacks.
        source: RepositoryError,
    },
}

/// One entry of a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listed<'a> {
    /// The number that a lookup will give, but for rare cases.
    pub number: u64,
    /// What it is.
    pub kind: Type,
    /// Its name; also `.` and `..`.
    pub name: &'a [u8],
    /// Where the list goes on behind it.
    pub next: u64,
}

/// Takes an entry of a list, and says whether it did.
type Take<'a> = &'a mut dyn FnMut(Listed<'_>) -> bool;

/// All snapshots of a repository, to be looked at by several threads.
pub struct Browser {
    store: Store,
    view: View,
    roots: Mutex<Roots>,
    table: Mutex<Table>,
}

/// What is in a directory.
enum Dir {
    Root,
    Snapshot(Arc<Shown>),
    Tree(TreeRef),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Browser {
    /// Nothing is read yet.
    #[must_use]
    pub fn new(source: Box<dyn Source>, view: View) -> Self {
        let (roots, table) = (Mutex::default(), Mutex::default());
        Self { store: Store::new(source), view, roots, table }
    }

    /// What is called so in a directory. Its number is known until it was forgotten as often as it was given
    /// out here. `now` is any clock that goes forward.
    ///
    /// # Errors
    /// [`BrowseError`].
    pub fn lookup(&self, parent: u64, name: &[u8], now: Duration) -> Result<Attr, BrowseError> {
        match self.dir(parent)? {
            Dir::Root if name == LATEST.0 => self.latest(now),
            Dir::Root => {
                let shown = self.look(now)?.named(name).ok_or(BrowseError::Nothing)?;
                let base = number(ROOT, &shown.id.0);
                let attr = Attr::of_dir(base, shown.taken_ns, self.view.owner);
                let place = Place::Snapshot(shown);
                let known = Known { parent, mount: 0, group: None, place };
                let number = lock(&self.table).hold(base, known);
                // It may be removed: who has its name asks again.
                Ok(Attr { number, is_lasting: false, ..attr })
            }
            Dir::Snapshot(shown) => {
                let at = shown.mounts.iter().position(|(mount, _)| **mount == *name);
                let at = at.ok_or(BrowseError::Nothing)?;
                let attr = Attr::of_dir(0, shown.taken_ns, self.view.owner);
                let mount = number(parent, name);
                let known = Known { parent, mount, group: None, place: Place::Mount(shown, at) };
                let number = lock(&self.table).hold(mount, known);
                Ok(Attr { number, ..attr })
            }
            Dir::Tree(tree) => {
                let found = self.store.find(tree, name);
                let found = found.map_err(|error| self.named(parent, error))?;
                let (page, at, entry) = found.ok_or(BrowseError::Nothing)?;
                let group = match entry.item {
                    Item::File { group, .. } => group,
                    _ => None,
                };
                let mut table = lock(&self.table);
                let mount = table.known(parent)?.mount;
                let known = Known { parent, mount, group, place: Place::Entry { page, at } };
                let number = table.hold(base(parent, mount, &entry), known);
                Ok(Attr::of(number, &entry, self.view.owner))
            }
        }
    }

    /// Takes back so many lookups of a number.
    pub fn forget(&self, number: u64, lookups: u64) {
        lock(&self.table).forget(number, lookups);
    }

    /// What `stat` says of a number.
    ///
    /// # Errors
    /// [`BrowseError`].
    pub fn attr(&self, number: u64, now: Duration) -> Result<Attr, BrowseError> {
        if number == ROOT {
            let newest_ns = self.look(now)?.newest_ns();
            return Ok(Attr {
                is_lasting: false,
                ..Attr::of_dir(ROOT, newest_ns, self.view.owner)
            });
        }
        if number == LATEST.1 {
            return self.latest(now);
        }
        let place = lock(&self.table).known(number)?.place;
        match place {
            Place::Entry { .. } => Ok(Attr::of(number, &*self.entry(number)?, self.view.owner)),
            Place::Snapshot(shown) | Place::Mount(shown, _) => {
                Ok(Attr::of_dir(number, shown.taken_ns, self.view.owner))
            }
        }
    }

    /// Tells the entries of a directory from a position on, which is 0 or that behind an entry, until `take`
    /// says that it has not taken one. What comes before an entry that cannot be read is told.
    ///
    /// # Errors
    /// [`BrowseError`]: nothing was taken.
    pub fn list(
        &self,
        dir: u64,
        from: u64,
        now: Duration,
        take: Take<'_>,
    ) -> Result<(), BrowseError> {
        let kind = Type::Dir;
        let content = self.dir(dir)?;
        let parent = if dir == ROOT { ROOT } else { lock(&self.table).known(dir)?.parent };
        if from == 0 && !take(Listed { number: dir, kind, name: b".", next: 1 }) {
            return Ok(());
        }
        if from <= 1 && !take(Listed { number: parent, kind, name: b"..", next: ENTRIES }) {
            return Ok(());
        }
        let at = from.saturating_sub(ENTRIES);
        match content {
            Dir::Root => self.list_root(at, now, take),
            Dir::Snapshot(shown) => {
                let skipped = usize::try_from(at).unwrap_or(usize::MAX);
                for (next, (name, _)) in (ENTRIES + 1..).zip(&shown.mounts).skip(skipped) {
                    if !take(Listed { number: number(dir, name), kind, name, next }) {
                        break;
                    }
                }
                Ok(())
            }
            Dir::Tree(tree) => {
                let mut taken = from < ENTRIES;
                let listed = self.list_tree(dir, tree, at, &mut |listed| {
                    let took = take(listed);
                    taken |= took;
                    took
                });
                match listed {
                    Err(error) if !taken => Err(self.named(dir, error)),
                    // Whoever goes on from here is told.
                    _ => Ok(()),
                }
            }
        }
    }

    fn list_root(&self, at: u64, now: Duration, take: Take<'_>) -> Result<(), BrowseError> {
        let roots = self.look(now)?;
        let (has_latest, shown) = (roots.latest().is_some(), roots.from(at.max(1)));
        drop(roots);
        let (name, number) = LATEST;
        let latest = Listed { number, kind: Type::Symlink, name, next: ENTRIES + 1 };
        if at == 0 && has_latest && !take(latest) {
            return Ok(());
        }
        for (place, shown) in shown {
            let (number, next) = (table::number(ROOT, &shown.id.0), ENTRIES + place + 1);
            if !take(Listed { number, kind: Type::Dir, name: &shown.name, next }) {
                break;
            }
        }
        Ok(())
    }

    /// A position is a page in its upper half, and an entry of that in its lower one.
    fn list_tree(&self, dir: u64, tree: TreeRef, at: u64, take: Take<'_>) -> Read<()> {
        let mount = lock(&self.table).known(dir).map_or(0, |known| known.mount);
        let (mut page, mut skipped) = (at >> 32, at & u64::from(u32::MAX));
        while let Some((_, nodes)) = self.store.page_of(tree, page)? {
            let first = usize::try_from(skipped).unwrap_or(usize::MAX);
            for (entry, node) in (0_u64..).zip(&*nodes).skip(first) {
                let (number, kind) = (base(dir, mount, node), Type::of(node));
                let next = ENTRIES + (page << 32 | (entry + 1));
                if !take(Listed { number, kind, name: &node.name, next }) {
                    return Ok(());
                }
            }
            (page, skipped) = (page + 1, 0);
        }
        Ok(())
    }

    /// Bytes of a file: `size` of them, or fewer at its end.
    ///
    /// # Errors
    /// [`BrowseError`].
    pub fn read(&self, file: u64, offset: u64, size: u32) -> Result<Vec<u8>, BrowseError> {
        let entry = self.entry(file)?;
        let Item::File { size: length, content, stored, .. } = entry.item else {
            return Err(BrowseError::Stale);
        };
        let range = (offset, offset.saturating_add(size.into()).min(length));
        let bytes = self.store.bytes(stored, content, length, range);
        bytes.map_err(|error| self.named(file, error))
    }

    /// What a symbolic link says.
    ///
    /// # Errors
    /// [`BrowseError`].
    pub fn target(&self, link: u64, now: Duration) -> Result<Vec<u8>, BrowseError> {
        if link == LATEST.1 {
            let latest = self.look(now)?.latest().ok_or(BrowseError::Nothing)?;
            return Ok(latest.name.to_vec());
        }
        match &self.entry(link)?.item {
            Item::Symlink { target } => Ok(target.to_vec()),
            _ => Err(BrowseError::Stale),
        }
    }

    /// Extended attributes, ordered by name.
    ///
    /// # Errors
    /// [`BrowseError`].
    pub fn attributes(&self, number: u64) -> Result<Xattrs, BrowseError> {
        if number < FIRST_NUMBER {
            return Ok(Xattrs::new());
        }
        let place = lock(&self.table).known(number)?.place;
        match place {
            Place::Entry { .. } => Ok(self.entry(number)?.meta.xattrs.clone()),
            Place::Snapshot(_) | Place::Mount(..) => Ok(Xattrs::new()),
        }
    }

    /// The snapshots that are there now, or a moment ago.
    fn look(&self, now: Duration) -> Result<MutexGuard<'_, Roots>, BrowseError> {
        let mut roots = lock(&self.roots);
        let looked = roots.look(self.store.source(), &self.view, now);
        if looked.map_err(|error| self.named(ROOT, error))? {
            self.store.may_look_again();
        }
        Ok(roots)
    }

    fn latest(&self, now: Duration) -> Result<Attr, BrowseError> {
        let latest = self.look(now)?.latest().ok_or(BrowseError::Nothing)?;
        let attr = Attr::of_dir(LATEST.1, latest.taken_ns, self.view.owner);
        let (kind, size) = (Type::Symlink, latest.name.len() as u64);
        Ok(Attr { kind, size, mode: 0o777, links: 1, is_lasting: false, ..attr })
    }

    fn dir(&self, number: u64) -> Result<Dir, BrowseError> {
        if number == ROOT {
            return Ok(Dir::Root);
        }
        let place = lock(&self.table).known(number)?.place;
        match place {
            Place::Snapshot(shown) => Ok(Dir::Snapshot(shown)),
            Place::Mount(shown, at) => Ok(Dir::Tree(shown.mounts[at].1)),
            Place::Entry { .. } => match self.entry(number)?.item {
                Item::Dir(tree) => Ok(Dir::Tree(tree)),
                _ => Err(BrowseError::Stale),
            },
        }
    }

    /// The entry that a number stands for.
    fn entry(&self, number: u64) -> Result<Entry, BrowseError> {
        let place = lock(&self.table).known(number)?.place;
        let Place::Entry { page, at } = place else { return Err(BrowseError::Stale) };
        self.store.entry(page, at).map_err(|error| self.named(number, error))
    }

    /// Adds the path of a number to an error.
    fn named(&self, number: u64, source: RepositoryError) -> BrowseError {
        let (mut names, mut at) = (Vec::new(), number);
        while names.len() < DEPTH_MAX {
            let known = lock(&self.table).known(at);
            // The root; or a directory that was forgotten: what is known of the path is worth to be told.
            let Ok(known) = known else { break };
            names.push(match known.place {
                Place::Snapshot(shown) => shown.name.clone(),
                Place::Mount(shown, at) => shown.mounts[at].0.clone(),
                Place::Entry { page, at } => match self.store.entry(page, at) {
                    Ok(entry) => entry.name.clone(),
                    Err(_) => (*b"?").into(),
                },
            });
            at = known.parent;
        }
        let mut path = RelPath::root();
        for name in names.iter().rev() {
            path = path.join(name).unwrap_or(path);
        }
        BrowseError::Unreadable { path, source }
    }
}

/// The number of an entry, unless something else has it. Names of one file have one. Another content is another
/// file, whatever the group says: a name may keep the group that it had.
fn base(dir: u64, mount: u64, node: &Node) -> u64 {
    match &node.item {
        Item::File { group: Some(group), content, .. } => {
            number(mount, &[&group.0.to_le_bytes()[..], &content.0].concat())
        }
        _ => number(dir, &node.name),
    }
}

#[cfg(test)]
mod tests;
