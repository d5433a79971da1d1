//! Which directories inotify watches, and which have to be looked at anew.
//!
//! In: what the keeper watched and what the handler saw. Out: answers. No I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use crate::model::RelPath;

/// Directories named for a look; beyond it the whole tree is looked at.
const LOOKS_MAX: usize = 16_384;

/// A directory's device and inode.
pub(super) type Inode = (u64, u64);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Tree {
    watched: BTreeMap<Box<[u8]>, Inode>,
    /// One watch serves an inode, under the path it was last watched at.
    by_inode: HashMap<Inode, RelPath>,
    /// Directories that could not be watched and may be, once their mode is changed.
    refused: BTreeSet<RelPath>,
    /// Directories whose path is longer than the kernel takes, the highest of each subtree: they
    /// cannot be watched, and are listed instead.
    deep: BTreeSet<RelPath>,
    /// What the keeper has to do.
    pub(super) looks: Looks,
    /// Whether the watcher is being dropped.
    pub(super) ending: bool,
}

/// Directories to look at, and what is held for them.
#[derive(Debug, Default)]
pub(super) struct Looks {
    dirs: Vec<RelPath>,
    seen: BTreeSet<RelPath>,
    whole: bool,
    /// Everything held before this position may go once these were looked at.
    pub(super) until: u64,
}

impl Tree {
    pub(super) fn len(&self) -> usize {
        self.watched.len()
    }

    pub(super) fn is_watched(&self, path: &RelPath) -> bool {
        self.watched.contains_key(path.as_bytes())
    }

    pub(super) fn is_refused(&self, path: &RelPath) -> bool {
        self.refused.contains(path)
    }

    pub(super) fn watched(&mut self, path: &RelPath, inode: Inode) {
        self.refused.remove(path);
        self.by_inode.insert(inode, path.clone());
        self.watched.insert(path.as_bytes().into(), inode);
    }

    pub(super) fn refuse(&mut self, path: RelPath) {
        if self.refused.len() < LOOKS_MAX {
            self.refused.insert(path);
        }
    }

    pub(super) fn add_deep(&mut self, path: RelPath) {
        if self.deep.len() < LOOKS_MAX {
            self.deep.insert(path);
        }
    }

    /// What has to be listed now and then, since it cannot be watched.
    pub(super) fn deep(&self) -> Vec<RelPath> {
        self.deep.iter().cloned().collect()
    }

    /// Forgets a path and all below it. Returns the other paths at which directories forgotten
    /// here were watched as well: their watch may be gone.
    pub(super) fn forget(&mut self, top: &RelPath) -> Vec<RelPath> {
        self.refused.retain(|path| path != top && !path.is_below(top));
        self.deep.retain(|path| path != top && !path.is_below(top));
        let mut gone: Vec<Box<[u8]>> = Vec::new();
        if top.is_root() {
            gone.extend(self.watched.keys().cloned());
        } else {
            gone.extend(self.watched.get_key_value(top.as_bytes()).map(|(path, _)| path.clone()));
            let from = [top.as_bytes(), b"/"].concat();
            // The byte after the slash: every path below sorts between the two.
            let to = [top.as_bytes(), b"0"].concat();
            let below = (Bound::Included(&from[..]), Bound::Excluded(&to[..]));
            gone.extend(self.watched.range::<[u8], _>(below).map(|(path, _)| path.clone()));
        }
        let mut elsewhere = Vec::new();
        for path in gone {
            let Some(inode) = self.watched.remove(&path) else { continue };
            match self.by_inode.get(&inode) {
                Some(other) if other.as_bytes() == &path[..] => {
                    self.by_inode.remove(&inode);
                }
                Some(other) if !other.is_below(top) => elsewhere.push(other.clone()),
                _ => {}
            }
        }
        elsewhere
    }
}

impl Looks {
    pub(super) fn add(&mut self, dir: RelPath) {
        if self.dirs.len() >= LOOKS_MAX {
            self.all();
        } else if !self.whole && self.seen.insert(dir.clone()) {
            self.dirs.push(dir);
        }
    }

    /// The whole tree has to be looked at.
    pub(super) fn all(&mut self) {
        self.whole = true;
        self.dirs.clear();
        self.seen.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.whole && self.dirs.is_empty()
    }

    /// The tops to look at, in the order in which they were named.
    pub(super) fn paths(&self) -> Vec<RelPath> {
        if self.whole { vec![RelPath::root()] } else { self.dirs.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn forgetting_takes_the_subtree_and_no_neighbour() {
        let mut tree = Tree::default();
        for (inode, text) in ["a", "a/b", "a-b", "a0", "b"].iter().enumerate() {
            tree.watched(&path(text), (1, inode as u64));
        }
        assert!(tree.forget(&path("a")).is_empty());
        assert!(!tree.is_watched(&path("a")) && !tree.is_watched(&path("a/b")));
        assert!(["a-b", "a0", "b"].iter().all(|text| tree.is_watched(&path(text))));
        assert!(tree.forget(&RelPath::root()).is_empty());
        assert_eq!(0, tree.len());
    }

    #[test]
    fn a_directory_watched_under_two_names_is_remembered_under_the_second() {
        let mut tree = Tree::default();
        tree.watched(&path("a"), (1, 5));
        tree.watched(&path("p/b"), (1, 5));
        assert_eq!(vec![path("p/b")], tree.forget(&path("a")));
        assert!(tree.forget(&path("p/b")).is_empty());
    }

    #[test]
    fn too_many_looks_are_one_at_the_root() {
        let mut looks = Looks::default();
        (0..=LOOKS_MAX).for_each(|n| looks.add(path(&format!("d{n}"))));
        assert_eq!(vec![RelPath::root()], looks.paths());
    }
}
