//! The set hash of a replica: equal on two nodes only if they hold the same.
//!
//! A sum, modulo 2^256, of one BLAKE3 per record: adding and removing a record costs one hash,
//! whatever the size of the set, and the order does not matter. After the multiset hashes of Clarke
//! et al. (2003); negentropy uses the same construction. In one trust domain crafted collisions are
//! no concern.

use std::fmt;

use crate::model::{Entry, Kind, Record, RelPath, Stamp};

/// The sum over a set of records.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Fingerprint([u64; 4]);

impl Fingerprint {
    /// The sum's bytes, little endian.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (at, word) in self.0.iter().enumerate() {
            bytes[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// A sum from its bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        let word = |at: usize| {
            bytes[at * 8..at * 8 + 8].iter().rev().fold(0_u64, |sum, &b| sum << 8 | u64::from(b))
        };
        Self([word(0), word(1), word(2), word(3)])
    }

    /// Adds one element.
    pub fn add(&mut self, element: Self) {
        let mut carry = false;
        for (word, other) in self.0.iter_mut().zip(element.0) {
            let (sum, first) = word.overflowing_add(other);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            (*word, carry) = (sum, first | second);
        }
    }

    /// Takes one element out again.
    pub fn remove(&mut self, element: Self) {
        let mut borrow = false;
        for (word, other) in self.0.iter_mut().zip(element.0) {
            let (rest, first) = word.overflowing_sub(other);
            let (rest, second) = rest.overflowing_sub(u64::from(borrow));
            (*word, borrow) = (rest, first | second);
        }
    }

    /// The element of what a user sees of a record: path, kind, content and metadata. Zero for a
    /// tombstone.
    #[must_use]
    pub fn of_entry(record: &Record) -> Self {
        record.entry.as_ref().map_or_else(Self::default, |entry| {
            let mut hasher = blake3::Hasher::new();
            hash_entry(&mut hasher, &record.path, entry);
            Self::from_bytes(hasher.finalize().as_bytes())
        })
    }

    /// The element of a record's history: path and version. Equal sums mean that nothing is left
    /// to tell each other.
    #[must_use]
    pub fn of_version(record: &Record) -> Self {
        let mut hasher = blake3::Hasher::new();
        hash_bytes(&mut hasher, record.path.as_bytes());
        let version = &record.version;
        hash_stamp(&mut hasher, version.stamp);
        hash_stamp(&mut hasher, version.touched);
        for (node, counter) in version.vector.pairs() {
            hash_stamp(&mut hasher, Stamp { counter, node });
        }
        Self::from_bytes(hasher.finalize().as_bytes())
    }
}

/// As 64 hexadecimal digits.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_bytes().iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_bytes()[..4].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

fn hash_bytes(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes());
    hasher.update(bytes);
}

fn hash_stamp(hasher: &mut blake3::Hasher, stamp: Stamp) {
    hasher.update(&stamp.node.0.to_le_bytes());
    hasher.update(&stamp.counter.to_le_bytes());
}

/// Every field in a fixed order, lengths before bytes. `sparse` is left out: holes are a matter of
/// the file system, see [`Entry::same`].
fn hash_entry(hasher: &mut blake3::Hasher, path: &RelPath, entry: &Entry) {
    hash_bytes(hasher, path.as_bytes());
    match &entry.kind {
        Kind::Dir => {
            hasher.update(b"d");
        }
        Kind::File { size, content, group, .. } => {
            hasher.update(b"f");
            hasher.update(&size.to_le_bytes());
            hasher.update(&content.0);
            hasher.update(&[u8::from(group.is_some())]);
            hasher.update(&group.map_or(0, |g| g.0).to_le_bytes());
        }
        Kind::Symlink { target } => {
            hasher.update(b"l");
            hash_bytes(hasher, target);
        }
    }
    let meta = &entry.meta;
    hasher.update(&meta.mode.to_le_bytes());
    hasher.update(&meta.uid.to_le_bytes());
    hasher.update(&meta.gid.to_le_bytes());
    hasher.update(&meta.mtime.secs.to_le_bytes());
    hasher.update(&meta.mtime.nanos.to_le_bytes());
    for (name, value) in &meta.xattrs {
        hash_bytes(hasher, name);
        hash_bytes(hasher, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_does_not_depend_on_order_and_can_be_undone() {
        let element = |n: u8| Fingerprint::from_bytes(blake3::hash(&[n]).as_bytes());
        let mut one = Fingerprint::default();
        (0..100).for_each(|n| one.add(element(n)));
        let mut two = Fingerprint::default();
        (0..101).rev().for_each(|n| two.add(element(n)));
        assert_ne!(one, two);
        two.remove(element(100));
        assert_eq!(one, two);
        assert_eq!(one, Fingerprint::from_bytes(&one.to_bytes()));
        (0..100).for_each(|n| one.remove(element(n)));
        assert_eq!(Fingerprint::default(), one);
    }
}
