//! Identifiers: of nodes, index incarnations, sequences and lanes.

use std::fmt;

/// A member of the cluster. Random, made when the node is initialised or joins, never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub u64);

/// The bits of a node's id in which its authors differ.
const AUTHOR_BITS: u64 = 0xffff;

impl NodeId {
    /// Who this node's edits are by during one life of its index. An author who had seen nothing but
    /// what he remembers would otherwise claim all he ever made: what a node finds on its disk
    /// without an index would win over what it had announced before.
    #[must_use]
    pub fn author(self, life: Incarnation) -> Self {
        Self(self.0 & !AUTHOR_BITS | life.0 & AUTHOR_BITS)
    }

    /// Whether `author` is one of this node's.
    #[must_use]
    pub fn is_by(self, author: Self) -> bool {
        self.0 | AUTHOR_BITS == author.0 | AUTHOR_BITS
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{:x}", self.0)
    }
}

/// One life of an index: random, made with the index. A cursor is only valid for the incarnation
/// it was made with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub struct Incarnation(pub u64);

/// A node's counter over its index changes, per mount. Strictly increasing, with gaps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Default)]
pub struct Sequence(pub u64);

/// In which stream a record is announced. Lower is sent first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
#[repr(u8)]
pub enum Lane {
    /// Classes `config` and `flag`.
    Urgent = 0,
    /// Classes `release` and `barrier`.
    Release = 1,
    /// Classes `precious` and `normal`.
    Normal = 2,
    /// Class `derived`.
    Derived = 3,
    /// Records this node learned from a peer: they heal partial partitions through a third node.
    Forward = 4,
}

impl Lane {
    /// Every lane, in order of priority.
    pub const ALL: [Self; 5] =
        [Self::Urgent, Self::Release, Self::Normal, Self::Derived, Self::Forward];

    /// The lane with this number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// The lane's number on the wire and in the index.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}
