//! Looking into a snapshot's trees: entries of a directory, an entry by its path, all that is needed.

use std::collections::HashSet;

use super::object::{Kind, ObjectId};
use super::repository::{Objects, Repository, RepositoryError};
use super::tree::{self, FormatError, Item, Node, Stored, TreeRef};
use crate::model::RelPath;

/// Names the object that is not in the format.
pub(super) fn format(kind: Kind, id: ObjectId) -> impl FnOnce(FormatError) -> RepositoryError {
    move |source| RepositoryError::Format { name: format!("{kind} {id}"), source }
}

/// The entries of a directory, ordered by name.
///
/// # Errors
/// [`RepositoryError`].
pub fn entries(repository: &dyn Objects, dir: TreeRef) -> Result<Vec<Node>, RepositoryError> {
    let mut nodes: Vec<Node> = Vec::new();
    for id in pages(repository, dir)? {
        let page = repository.get(Kind::Page, id)?;
        let page = tree::decode_page(&page).map_err(format(Kind::Page, id))?;
        if nodes.last().zip(page.first()).is_some_and(|(last, first)| last.name >= first.name) {
            return Err(format(dir.kind, dir.id)(FormatError("pages overlap")));
        }
        nodes.extend(page);
    }
    Ok(nodes)
}

/// The pages of a directory, in order.
///
/// # Errors
/// [`RepositoryError`].
pub fn pages(repository: &dyn Objects, dir: TreeRef) -> Result<Vec<ObjectId>, RepositoryError> {
    if dir.kind != Kind::Index {
        return Ok(vec![dir.id]);
    }
    let index = repository.get(Kind::Index, dir.id)?;
    let pages = tree::decode_index(&index).map_err(format(Kind::Index, dir.id))?;
    Ok(pages.into_iter().map(|(_, id)| id).collect())
}

/// Length and id of the pieces of a file.
///
/// # Errors
/// [`RepositoryError`].
pub(super) fn pieces(
    repository: &Repository,
    id: ObjectId,
    size: u64,
) -> Result<Vec<(u32, ObjectId)>, RepositoryError> {
    let bytes = repository.get(Kind::Pieces, id)?;
    tree::decode_pieces(&bytes, size).map_err(format(Kind::Pieces, id))
}

/// What is at a path below `root`: nothing, or the entry. The root itself has none.
///
/// # Errors
/// [`RepositoryError`].
pub fn find(
    repository: &dyn Objects,
    root: TreeRef,
    path: &RelPath,
) -> Result<Option<Node>, RepositoryError> {
    let mut dir = root;
    let mut components = path.components().peekable();
    while let Some(name) = components.next() {
        let nodes = entries(repository, dir)?;
        let Ok(at) = nodes.binary_search_by(|node| (*node.name).cmp(name)) else {
            return Ok(None);
        };
        let node = nodes.into_iter().nth(at);
        match (components.peek(), &node) {
            (None, _) => return Ok(node),
            (Some(_), Some(Node { item: Item::Dir(tree), .. })) => dir = *tree,
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// The directory at a path, if one is there; the root is always.
///
/// # Errors
/// [`RepositoryError`].
pub(super) fn dir(
    repository: &dyn Objects,
    root: TreeRef,
    path: &RelPath,
) -> Result<Option<TreeRef>, RepositoryError> {
    if path.is_root() {
        return Ok(Some(root));
    }
    let node = find(repository, root, path)?;
    Ok(node.and_then(|node| match node.item {
        Item::Dir(tree) => Some(tree),
        _ => None,
    }))
}

/// Names an object in a set: half of its id, which tells as many apart as there will ever be.
pub(super) type Key = [u8; 16];

pub(super) fn key(kind: Kind, id: ObjectId) -> Key {
    let mut key = [0; 16];
    key.copy_from_slice(&id.0[..16]);
    key[0] ^= kind.number();
    key
}

/// Adds every object that a directory needs. What is in the set already is taken for looked at.
///
/// # Errors
/// [`RepositoryError`]: what is below is not known.
pub(super) fn needed(
    repository: &Repository,
    root: TreeRef,
    found: &mut HashSet<Key>,
) -> Result<(), RepositoryError> {
    let mut dirs = vec![root];
    while let Some(dir) = dirs.pop() {
        if !found.insert(key(dir.kind, dir.id)) {
            continue;
        }
        for id in pages(repository, dir)? {
            let is_new = found.insert(key(Kind::Page, id));
            if !is_new && dir.kind == Kind::Index {
                continue;
            }
            let page = repository.get(Kind::Page, id)?;
            for node in tree::decode_page(&page).map_err(format(Kind::Page, id))? {
                match node.item {
                    Item::Dir(tree) => dirs.push(tree),
                    Item::Symlink { .. } => {}
                    Item::File { size, content, stored, .. } => match stored {
                        Stored::Empty => {}
                        Stored::Whole => drop(found.insert(key(Kind::Data, content.into()))),
                        Stored::Pieces(id) => {
                            if found.insert(key(Kind::Pieces, id)) {
                                let pieces = pieces(repository, id, size)?.into_iter();
                                found.extend(pieces.map(|(_, id)| key(Kind::Data, id)));
                            }
                        }
                    },
                }
            }
        }
    }
    Ok(())
}

/// What is wrong below a directory: a path, and why it cannot be restored as it was.
pub type Fault = (RelPath, RepositoryError);

/// How much of the data is read and hashed, and not only looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadData {
    /// Nothing.
    Nothing,
    /// Everything.
    All,
    /// So many of a million objects; which ones follows from the salt.
    Part {
        /// Another number chooses others.
        salt: u64,
        /// How many.
        of_a_million: u32,
    },
}

impl ReadData {
    fn takes(self, id: ObjectId) -> bool {
        let number = |at: usize| u64::from_le_bytes(*id.0[at..].first_chunk().expect("8 bytes"));
        match self {
            Self::Nothing => false,
            Self::All => true,
            Self::Part { salt, of_a_million } => {
                let mixed = (number(0) ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number(8);
                mixed % 1_000_000 < u64::from(of_a_million)
            }
        }
    }
}

impl RepositoryError {
    /// The object that is damaged or missing, if that is what is wrong.
    #[must_use]
    pub const fn object(&self) -> Option<(Kind, ObjectId)> {
        match self {
            Self::Damaged { kind, id, .. } | Self::Missing { kind, id } => Some((*kind, *id)),
            _ => None,
        }
    }
}

/// Looks whether everything below a directory is there; of `data`, whether it is also what it was.
/// `seen` are the objects that were looked at for other trees. Every fault is told, and stops no other.
///
/// # Errors
/// The catalog cannot be used.
pub fn verify_tree(
    repository: &Repository,
    root: TreeRef,
    data: ReadData,
    seen: &mut HashSet<(Kind, ObjectId)>,
) -> Result<Vec<Fault>, RepositoryError> {
    let mut faults = Vec::new();
    let mut dirs = vec![(RelPath::root(), root)];
    while let Some((path, dir)) = dirs.pop() {
        if !seen.insert((dir.kind, dir.id)) {
            continue;
        }
        let nodes = match entries(repository, dir) {
            Ok(nodes) => nodes,
            Err(error) => {
                faults.push((path, error));
                continue;
            }
        };
        for node in nodes {
            let Ok(below) = path.join(&node.name) else { continue };
            match node.item {
                Item::Dir(tree) => dirs.push((below, tree)),
                Item::File { size, content, stored, .. } => {
                    let wanted = match stored {
                        Stored::Empty => continue,
                        Stored::Whole => vec![ObjectId::from(content)],
                        Stored::Pieces(id) => match pieces(repository, id, size) {
                            Ok(pieces) => pieces.into_iter().map(|(_, id)| id).collect(),
                            Err(error) => {
                                faults.push((below, error));
                                continue;
                            }
                        },
                    };
                    let fresh = wanted.into_iter().filter(|&id| seen.insert((Kind::Data, id)));
                    let check = |id| match data.takes(id) {
                        true => repository.get(Kind::Data, id).map(drop),
                        false if repository.has(Kind::Data, id)? => Ok(()),
                        false => Err(RepositoryError::Missing { kind: Kind::Data, id }),
                    };
                    let found: Vec<_> = fresh.filter_map(|id| check(id).err()).collect();
                    faults.extend(found.into_iter().map(|error| (below.clone(), error)));
                }
                Item::Symlink { .. } => {}
            }
        }
    }
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_as_large_as_it_is_said_to_be_and_another_one_each_time() {
        let ids: Vec<_> =
            (0..20_000_u32).map(|n| ObjectId::of(Kind::Data, &n.to_le_bytes())).collect();
        let chosen = |data: ReadData| ids.iter().map(|id| data.takes(*id)).collect::<Vec<_>>();
        let count = |chosen: &[bool]| chosen.iter().filter(|takes| **takes).count();
        assert_eq!(0, count(&chosen(ReadData::Nothing)));
        assert_eq!(ids.len(), count(&chosen(ReadData::All)));
        let part = |salt| chosen(ReadData::Part { salt, of_a_million: 50_000 });
        let (one, other) = (part(1), part(0xdead_beef_0000_0001));
        for part in [&one, &other] {
            assert!((900..1100).contains(&count(part)), "{}", count(part));
        }
        let both = one.iter().zip(&other).filter(|(a, b)| **a && **b).count();
        assert!(both < 120, "{both} are in both: 50 would be by chance");
    }
}
