//! Inode numbers: which are known to the kernel, and what each of them stands for. Pure.
//!
//! A number follows from what it stands for, so it is the same each time, and a list can tell it without
//! keeping anything. What is kept of a number goes when the kernel forgets it. Two things never have one
//! number: where both come out the same, the second has the next one.

use std::collections::HashMap;
use std::sync::Arc;

use super::roots::Shown;
use super::{BrowseError, FIRST_NUMBER};
use crate::model::LinkGroup;
use crate::snapshot::ObjectId;

/// What a number stands for.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// The directory of a snapshot.
    Snapshot(Arc<Shown>),
    /// The top of a mount, by its position.
    Mount(Arc<Shown>, usize),
    /// An entry of a page, by its position. It is decoded again when it is asked for.
    Entry { page: ObjectId, at: u32 },
}

/// What is kept of a number.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// The directory it was found in.
    pub parent: u64,
    /// Which mount of which snapshot it is in.
    pub mount: u64,
    /// Names of one file have one number.
    pub group: Option<LinkGroup>,
    pub place: Place,
}

impl Known {
    fn is_same(&self, other: &Self) -> bool {
        if self.group.is_some() || other.group.is_some() {
            return self.group == other.group && self.mount == other.mount;
        }
        self.parent == other.parent
            && match (&self.place, &other.place) {
                (Place::Snapshot(one), Place::Snapshot(other)) => one.id == other.id,
                (Place::Mount(one, n), Place::Mount(other, m)) => one.id == other.id && n == m,
                (Place::Entry { page, at }, Place::Entry { page: other, at: there }) => {
                    page == other && at == there
                }
                _ => false,
            }
    }
}

/// The number of what is called so in a directory, unless something else has it.
pub(super) fn number(directory: u64, name: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&directory.to_le_bytes()).update(name);
    let hash = hasher.finalize();
    let number = u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("8 of 32 bytes"));
    // Some programs take them for signed.
    (number >> 1).max(FIRST_NUMBER)
}

/// The numbers that the kernel knows.
#[derive(Debug, Default)]
pub(super) struct Table {
    known: HashMap<u64, (u64, Known)>,
}

impl Table {
    /// Counts one more lookup of it, and gives its number: that one, or the next that is free.
    pub(super) fn hold(&mut self, number: u64, known: Known) -> u64 {
        let mut number = number;
        loop {
            match self.known.get_mut(&number) {
                None => {
                    self.known.insert(number, (1, known));
                    return number;
                }
                Some((lookups, there)) if there.is_same(&known) => {
                    *lookups += 1;
                    return number;
                }
                Some(_) => number = number.wrapping_add(1).max(FIRST_NUMBER),
            }
        }
    }

    /// Takes back so many lookups.
    pub(super) fn forget(&mut self, number: u64, lookups: u64) {
        if let Some((left, _)) = self.known.get_mut(&number) {
            *left = left.saturating_sub(lookups);
            if *left == 0 {
                self.known.remove(&number);
            }
        }
    }

    /// What a number stands for.
    pub(super) fn known(&self, number: u64) -> Result<Known, BrowseError> {
        self.known.get(&number).map(|(_, known)| known.clone()).ok_or(BrowseError::Stale)
    }

    /// How many are known.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(parent: u64, at: u32, group: Option<u64>) -> Known {
        let place = Place::Entry { page: ObjectId([7; 32]), at };
        Known { parent, mount: 99, group: group.map(LinkGroup), place }
    }

    #[test]
    fn a_number_stays_until_it_is_forgotten_as_often_as_it_was_looked_up() {
        let mut table = Table::default();
        for _ in 0..3 {
            assert_eq!(100, table.hold(100, entry(1, 0, None)));
        }
        table.forget(100, 2);
        assert!(table.known(100).is_ok());
        table.forget(100, 1);
        assert!(matches!(table.known(100), Err(BrowseError::Stale)));
        table.forget(100, 1);
        assert_eq!(0, table.len());
    }

    #[test]
    fn two_things_never_have_one_number_and_names_of_one_file_do() {
        let mut table = Table::default();
        assert_eq!(100, table.hold(100, entry(1, 0, None)));
        assert_eq!(101, table.hold(100, entry(1, 1, None)));
        assert_eq!(102, table.hold(100, entry(2, 0, None)));
        assert_eq!(101, table.hold(100, entry(1, 1, None)));
        assert_eq!(103, table.hold(100, entry(1, 5, Some(4))));
        assert_eq!(103, table.hold(100, entry(3, 6, Some(4))));
        assert_eq!(104, table.hold(100, entry(3, 6, Some(5))));
        assert_eq!(u64::MAX, table.hold(u64::MAX, entry(1, 7, None)));
        assert_eq!(FIRST_NUMBER, table.hold(u64::MAX, entry(1, 8, None)));
    }

    #[test]
    fn numbers_follow_from_names_and_leave_the_first_ones_alone() {
        let all: Vec<u64> = (0..1000_u32).map(|n| number(5, &n.to_le_bytes())).collect();
        assert_eq!(all, (0..1000_u32).map(|n| number(5, &n.to_le_bytes())).collect::<Vec<_>>());
        assert!(all.iter().all(|&n| (FIRST_NUMBER..=i64::MAX.cast_unsigned()).contains(&n)));
        assert_ne!(number(5, b"a"), number(6, b"a"));
    }
}
