//! Who belongs to the cluster, as a value that any two nodes can merge.
//!
//! Every node holds the whole list, changes it, and sends it to the others; merging is commutative,
//! associative and idempotent, so it does not matter in which order lists meet. Pure.

use std::collections::BTreeMap;
use std::fmt;

use crate::model::{NodeId, limits};

/// Entries of a member list, removed ones included: they are kept so that a removal is never
/// forgotten. Sixteen replacements of each node of a full cluster.
pub const MEMBERS_MAX: usize = 16 * limits::NODES_MAX;

/// Addresses of one member.
pub const ADDRESSES_MAX: usize = 16;

/// Bytes of one address: a DNS name with a port.
pub const ADDRESS_BYTES_MAX: usize = 260;

/// Mounts of a cluster.
pub const MOUNTS_MAX: usize = 64;

/// The cluster: random, made by `init`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub [u8; 16]);

/// A mount's identity, which its marker on disk carries. See [`Members::mount_id`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MarkerId(pub [u8; 16]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for MarkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for MarkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Whether a member still is one. Ordered: a removal cannot be taken back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum MemberState {
    /// May link.
    Active,
    /// Is refused everywhere.
    Removed,
}

/// One node that belongs to the cluster, or did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// Its name; of active members no two should have the same.
    pub name: String,
    /// Where it listens: `host:port`, in order of preference.
    pub addresses: Vec<String>,
    /// Whether it still belongs to the cluster.
    pub state: MemberState,
    /// When this entry was last changed, in nanoseconds since 1970 by the changer's clock; higher
    /// than what the changer had seen.
    pub changed: u64,
    /// BLAKE3 of its public key: whoever shows another one is somebody else. Unknown only in lists
    /// of releases that did not say it.
    pub key: Option<[u8; 32]>,
}

/// The members and mounts of a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Members {
    /// Which cluster.
    pub cluster: ClusterId,
    /// By id; the key is the member's own.
    members: BTreeMap<NodeId, Member>,
    /// Names and identities of the mounts.
    mounts: BTreeMap<String, MarkerId>,
}

impl Members {
    /// The list of a cluster without members.
    #[must_use]
    pub fn new(cluster: ClusterId) -> Self {
        Self { cluster, members: BTreeMap::new(), mounts: BTreeMap::new() }
    }

    /// Every member, removed ones too, by id.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Member> {
        self.members.values()
    }

    /// The members that may link, by id.
    pub fn active(&self) -> impl Iterator<Item = &Member> {
        self.iter().filter(|m| m.state == MemberState::Active)
    }

    /// The member with this id.
    #[must_use]
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// Whether the node may link.
    #[must_use]
    pub fn is_active(&self, id: NodeId) -> bool {
        self.member(id).is_some_and(|m| m.state == MemberState::Active)
    }

    /// The active members that are called `name`, or whose id it is, by id.
    pub fn called<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Member> {
        self.active().filter(move |m| m.name == name || m.id.to_string() == name)
    }

    /// The mounts' identities by name.
    #[must_use]
    pub fn mounts(&self) -> &BTreeMap<String, MarkerId> {
        &self.mounts
    }

    /// The identity of a mount: the one it has, or the one it gets. It follows from the random id of
    /// the cluster and the mount's name, so that nodes which add a mount at the same time agree.
    #[must_use]
    pub fn mount_id(&self, name: &str) -> MarkerId {
        let known = self.mounts.get(name).copied();
        known.unwrap_or_else(|| {
            let mut hasher = blake3::Hasher::new_derive_key("trefoil 1 mount id");
            hasher.update(&self.cluster.0).update(name.as_bytes());
            let mut id = [0; 16];
            hasher.finalize_xof().fill(&mut id);
            MarkerId(id)
        })
    }

    /// Adds an entry, or merges it with the one of the same id.
    pub fn put(&mut self, member: Member) {
        match self.members.get_mut(&member.id) {
            Some(ours) if !wins(&member, ours) => {}
            Some(ours) => *ours = member,
            None => drop(self.members.insert(member.id, member)),
        }
    }

    /// Adds a mount; of two identities of one name the lower stays.
    pub fn put_mount(&mut self, name: &str, id: MarkerId) {
        let kept = self.mounts.entry(name.to_owned()).or_insert(id);
        *kept = (*kept).min(id);
    }

    /// Takes a node out. `now` is in nanoseconds since 1970. Does nothing to an unknown node.
    pub fn remove(&mut self, id: NodeId, now: u64) {
        if let Some(member) = self.members.get_mut(&id).filter(|m| m.state == MemberState::Active) {
            member.state = MemberState::Removed;
            // Nobody looks for it any more, and the list stays short.
            member.addresses.clear();
            member.changed = now.max(member.changed + 1);
        }
    }

    /// Adds all that `other` knows. Nothing changes if it is of another cluster, or if the result
    /// had more than [`MEMBERS_MAX`] members or [`MOUNTS_MAX`] mounts.
    pub fn merge(&mut self, other: &Self) {
        if other.cluster != self.cluster {
            return;
        }
        let mut merged = self.clone();
        other.iter().for_each(|m| merged.put(m.clone()));
        other.mounts.iter().for_each(|(name, id)| merged.put_mount(name, *id));
        if merged.members.len() <= MEMBERS_MAX && merged.mounts.len() <= MOUNTS_MAX {
            *self = merged;
        }
    }
}

/// A total order over all that entries can differ in, so that every node picks the same one.
fn wins(theirs: &Member, ours: &Member) -> bool {
    fn rank(m: &Member) -> (MemberState, u64, &str, &[String], Option<[u8; 32]>) {
        (m.state, m.changed, &m.name, &m.addresses, m.key)
    }
    rank(theirs) > rank(ours)
}

/// Whether text can be an address: `host:port`, an IPv6 address in brackets.
#[must_use]
pub fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host_is_valid = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
            !host.is_empty() && host.bytes().all(valid)
        }
    };
    let port_is_valid = port.parse::<u16>().is_ok_and(|p| p != 0);
    text.len() <= ADDRESS_BYTES_MAX && host_is_valid && port_is_valid
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::net) fn member_lists() -> impl Strategy<Value = Members> {
        let member = (1_u64..6, "[ab]", prop::collection::vec("[ab]:[1-3]", 0..3));
        let key = prop::option::of((0_u8..2).prop_map(|byte| [byte; 32]));
        let member = (member, any::<bool>(), 0_u64..4, key).prop_map(
            |((id, name, addresses), removed, changed, key)| {
                let state = if removed { MemberState::Removed } else { MemberState::Active };
                Member { id: NodeId(id), name, addresses, state, changed, key }
            },
        );
        let mounts = prop::collection::vec(("[mn]", any::<[u8; 16]>()), 0..3);
        (prop::collection::vec(member, 0..6), mounts).prop_map(|(members, mounts)| {
            let mut list = Members::new(ClusterId([7; 16]));
            members.into_iter().for_each(|m| list.put(m));
            mounts.into_iter().for_each(|(name, id)| list.put_mount(&name, MarkerId(id)));
            list
        })
    }

    fn merged(a: &Members, b: &Members) -> Members {
        let mut merged = a.clone();
        merged.merge(b);
        merged
    }

    proptest! {
        #[test]
        fn merging_does_not_depend_on_order_or_repetition(
            a in member_lists(),
            b in member_lists(),
            c in member_lists(),
        ) {
            prop_assert_eq!(&merged(&a, &a), &a);
            prop_assert_eq!(merged(&a, &b), merged(&b, &a));
            prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
        }

        #[test]
        fn a_removed_member_stays_removed(a in member_lists(), b in member_lists()) {
            let removed: Vec<_> = a.iter().filter(|m| m.state == MemberState::Removed).collect();
            let both = merged(&a, &b);
            prop_assert!(removed.iter().all(|m| !both.is_active(m.id)));
        }
    }

    #[test]
    fn nodes_that_add_a_mount_at_the_same_time_agree_on_its_identity() {
        let mut ours = Members::new(ClusterId([1; 16]));
        let theirs = Members::new(ClusterId([1; 16]));
        assert_eq!(ours.mount_id("m"), theirs.mount_id("m"));
        assert_ne!(ours.mount_id("m"), ours.mount_id("n"));
        assert_ne!(ours.mount_id("m"), Members::new(ClusterId([2; 16])).mount_id("m"));
        ours.put_mount("m", MarkerId([3; 16]));
        assert_eq!(MarkerId([3; 16]), ours.mount_id("m"));
    }

    #[test]
    fn another_clusters_list_changes_nothing() {
        let mut ours = Members::new(ClusterId([1; 16]));
        let mut theirs = Members::new(ClusterId([2; 16]));
        theirs.put_mount("m", MarkerId([3; 16]));
        ours.merge(&theirs);
        assert_eq!(Members::new(ClusterId([1; 16])), ours);
    }

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for good in ["127.0.0.1:1", "[::1]:65535", "node-1.example:7440"] {
            assert!(is_address(good), "{good}");
        }
        for bad in ["", "host", "host:0", "host:65536", ":1", "::1:1", "[x]:1", "a b:1", "a\n:1"] {
            assert!(!is_address(bad), "{bad}");
        }
    }
}
