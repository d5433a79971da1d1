//! Versions: which edit a record is, and which edits it has seen.
//!
//! A dotted version vector (Almeida, Baquero, Gonçalves, Preguiça, Fonte: "Scalable and Accurate
//! Causality Tracking for Eventually Consistent Stores", 2014), with a hybrid logical clock
//! (Kulkarni et al., "Logical Physical Clocks", 2014) as the counter of every node, so that a
//! counter never goes backwards, even after a lost index.

use super::NodeId;

/// One edit: the hybrid-logical time at which it was made and by whom. Unique. Ordered by time,
/// then node: this order only breaks ties between concurrent edits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Default)]
pub struct Stamp {
    /// Nanoseconds since 1970 by the hybrid logical clock.
    pub counter: u64,
    /// Who made the edit.
    pub node: NodeId,
}

/// Edits seen, per node. A missing node counts as zero. Sorted by node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VersionVector(Vec<(NodeId, u64)>);

impl VersionVector {
    /// A vector of these pairs; of two of the same node the higher counts.
    #[must_use]
    pub fn from_pairs(pairs: impl IntoIterator<Item = (NodeId, u64)>) -> Self {
        let mut vector = Self::default();
        for (node, counter) in pairs {
            vector.add(Stamp { counter, node });
        }
        vector
    }

    /// Node and counter, sorted by node.
    pub fn pairs(&self) -> impl ExactSizeIterator<Item = (NodeId, u64)> {
        self.0.iter().copied()
    }

    /// The newest edit of `node` that was seen; zero for none.
    #[must_use]
    pub fn counter(&self, node: NodeId) -> u64 {
        self.0.binary_search_by_key(&node, |&(n, _)| n).map_or(0, |at| self.0[at].1)
    }

    /// Whether the edit was seen.
    #[must_use]
    pub fn contains(&self, stamp: Stamp) -> bool {
        self.counter(stamp.node) >= stamp.counter
    }

    /// Notes an edit as seen. None has the counter zero, which is what a missing node counts as: two
    /// vectors that say the same are equal.
    pub fn add(&mut self, stamp: Stamp) {
        if stamp.counter == 0 {
            return;
        }
        match self.0.binary_search_by_key(&stamp.node, |&(n, _)| n) {
            Ok(at) => self.0[at].1 = self.0[at].1.max(stamp.counter),
            Err(at) => self.0.insert(at, (stamp.node, stamp.counter)),
        }
    }

    /// Adds everything that `other` has seen.
    pub fn merge(&mut self, other: &Self) {
        for &(node, counter) in &other.0 {
            self.add(Stamp { counter, node });
        }
    }

    /// Whether everything `other` has seen was seen here too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.0.iter().all(|&(node, counter)| self.counter(node) >= counter)
    }
}

/// Which edit a record is, and which edits it has seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version {
    /// The edit that made the entry what it is. Names the entry: records of one path with one
    /// stamp have the same entry, but for a directory's modification time.
    pub stamp: Stamp,
    /// The edits that this edit's author had before him, and itself: true causality. Never changes
    /// for a stamp. A loser that the winner has not seen is kept aside.
    pub seen: VersionVector,
    /// `seen`, and every edit that some node has decided against in favour of this one. It only
    /// grows, so that nodes which decide in different orders end at the same record.
    pub vector: VersionVector,
    /// Nobody made this edit: found on disk by a node that was joining, or a directory that stays
    /// for what is in it although somebody removed it. It loses to every other version it is
    /// concurrent with, deletions too; a file is then kept in the conflict store.
    pub weak: bool,
    /// When a directory's modification time was last set, and by whom. It moves with every child,
    /// so it is no edit: it never keeps a deleted directory alive. Zero for other kinds.
    pub touched: Stamp,
}

impl Version {
    /// The version of a new edit, made by someone who had `before` in front of him.
    #[must_use]
    pub fn edit(stamp: Stamp, before: Option<&Self>) -> Self {
        let mut seen = before.map(|b| b.seen.clone()).unwrap_or_default();
        let mut vector = before.map(|b| b.vector.clone()).unwrap_or_default();
        seen.add(stamp);
        vector.add(stamp);
        Self { stamp, seen, vector, weak: false, touched: Stamp::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_keeps_the_newest_of_each_node() {
        let mut a = VersionVector::from_pairs([(NodeId(2), 5), (NodeId(1), 3), (NodeId(2), 4)]);
        assert_eq!(vec![(NodeId(1), 3), (NodeId(2), 5)], a.pairs().collect::<Vec<_>>());
        let b = VersionVector::from_pairs([(NodeId(1), 9), (NodeId(3), 1)]);
        assert!(!a.covers(&b) && !b.covers(&a));
        a.add(Stamp { counter: 0, node: NodeId(7) });
        assert_eq!(2, a.pairs().len(), "nothing was seen of node 7, said or not");
        a.merge(&b);
        assert!(a.covers(&b));
        assert!(a.contains(Stamp { counter: 9, node: NodeId(1) }));
        assert!(!a.contains(Stamp { counter: 2, node: NodeId(3) }));
    }
}
