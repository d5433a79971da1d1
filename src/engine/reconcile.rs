//! Decides what one replica does about one path.
//!
//! In: our record and one a peer holds. Out: one [`Verdict`]. Every rule can be tested as a value.
//! The rules, in this order:
//!
//! 1. the same edit: both have seen what either has seen; a directory keeps the later time;
//! 2. an edit that the other one has taken into account loses to it;
//! 3. equal entries are agreement, whatever their history;
//! 4. otherwise both are concurrent, and every node picks the same winner without talking:
//!    a directory before anything else, an edit before a deletion, both before what nobody edited
//!    ([`Version::weak`], which also loses to deletions); then the later stamp.

use crate::model::{Entry, Record, Version};

/// What to do with a peer's record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing: ours has taken theirs into account.
    Keep,
    /// Our entry stays; only its version grows to this.
    Learn(Version),
    /// Their entry replaces ours, with this version.
    Take {
        /// Theirs, having seen what ours has seen.
        version: Version,
        /// Whether ours is an edit that theirs had not seen: it is kept in the conflict store.
        keep_ours: bool,
    },
}

/// What to do about `theirs` where `ours` is known.
#[must_use]
pub fn reconcile(ours: Option<&Record>, theirs: &Record) -> Verdict {
    let Some(ours) = ours else {
        return Verdict::Take { version: theirs.version.clone(), keep_ours: false };
    };
    let mut vector = ours.version.vector.clone();
    vector.merge(&theirs.version.vector);
    let ours_wins = if ours.version.stamp == theirs.version.stamp {
        ours.version.touched >= theirs.version.touched
    } else {
        beats(ours, theirs)
    };
    if ours_wins {
        if vector == ours.version.vector {
            return Verdict::Keep;
        }
        return Verdict::Learn(Version { vector, ..ours.version.clone() });
    }
    let keep_ours = ours.is_live()
        && !ours.is_dir()
        && ours.version.stamp != theirs.version.stamp
        && !theirs.version.seen.contains(ours.version.stamp)
        && !same(ours.entry.as_ref(), theirs.entry.as_ref());
    Verdict::Take { version: Version { vector, ..theirs.version.clone() }, keep_ours }
}

/// Whether `a` wins over `b`, a different edit of the same path.
fn beats(a: &Record, b: &Record) -> bool {
    let a_saw_b = a.version.vector.contains(b.version.stamp);
    let b_saw_a = b.version.vector.contains(a.version.stamp);
    if a_saw_b != b_saw_a {
        return a_saw_b;
    }
    // Both were decided against somewhere, since preferences can go in a circle: an edit loses to
    // a later one, that one to its deletion, and the deletion to the first edit, which it had not
    // seen. Who decided with more before him is right.
    let (a_covers, b_covers) =
        (a.version.vector.covers(&b.version.vector), b.version.vector.covers(&a.version.vector));
    if a_saw_b && a_covers != b_covers {
        return a_covers;
    }
    (rank(a), a.version.stamp) > (rank(b), b.version.stamp)
}

/// Among concurrent records the higher rank wins, whatever the stamps.
fn rank(record: &Record) -> u8 {
    match (&record.entry, record.version.weak) {
        (Some(entry), _) if entry.is_dir() && !record.version.weak => 4,
        (Some(_), false) => 3,
        (None, _) => 2,
        (Some(entry), true) if entry.is_dir() => 1,
        (Some(_), true) => 0,
    }
}

fn same(a: Option<&Entry>, b: Option<&Entry>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.same_kind_content(b),
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        ContentId, Kind, Meta, Mtime, NodeId, RelPath, Stamp, VersionVector, Xattrs,
    };

    /// "x a3 | a3 b2 | c1": content x (`-` tombstone, `/` directory), stamp, seen, decided against.
    /// A leading `?` marks what nobody edited.
    fn record(text: &str) -> Record {
        let mut parts = text.split('|');
        let mut head = parts.next().unwrap().split_whitespace();
        let stamps = |text: &str| -> Vec<Stamp> {
            let one = |word: &str| Stamp {
                node: NodeId(u64::from(word.as_bytes()[0])),
                counter: word[1..].parse().unwrap(),
            };
            text.split_whitespace().map(one).collect()
        };
        let vector = |s: &[Stamp]| VersionVector::from_pairs(s.iter().map(|s| (s.node, s.counter)));
        let content = head.next().unwrap();
        let stamp = stamps(head.next().unwrap())[0];
        let mut seen = vector(&stamps(parts.next().unwrap_or_default()));
        seen.add(stamp);
        let mut all = vector(&stamps(parts.next().unwrap_or_default()));
        all.merge(&seen);
        let meta =
            Meta { mode: 0o644, uid: 0, gid: 0, mtime: Mtime::default(), xattrs: Xattrs::new() };
        let file = |name: &str| Kind::File {
            size: 1,
            content: ContentId::of(name.as_bytes()),
            sparse: false,
            group: None,
        };
        let kind = match content.trim_start_matches('?') {
            "-" => None,
            "/" => Some(Kind::Dir),
            name => Some(file(name)),
        };
        Record {
            path: RelPath::parse(b"p").unwrap(),
            entry: kind.map(|kind| Entry { kind, meta }),
            version: Version {
                stamp,
                seen,
                vector: all,
                weak: content.starts_with('?'),
                touched: Stamp::default(),
            },
        }
    }

    /// Both sides must agree; `expected` is what the left one does.
    #[track_caller]
    fn check(ours: &str, theirs: &str, expected: &str) {
        let verdict = |a: &str, b: &str| match reconcile(Some(&record(a)), &record(b)) {
            Verdict::Keep => "keep",
            Verdict::Learn(_) => "learn",
            Verdict::Take { keep_ours: false, .. } => "take",
            Verdict::Take { keep_ours: true, .. } => "take, keep ours",
        };
        assert_eq!(expected, verdict(ours, theirs), "{ours} / {theirs}");
        let other = verdict(theirs, ours);
        let ours_stays = expected == "keep" || expected == "learn";
        assert_eq!(ours_stays, other.starts_with("take"), "not mirrored: {ours} / {theirs}");
    }

    #[test]
    fn causality_decides_before_anything_else() {
        check("old a9", "new b1 | a9", "take");
        check("new b1 | a9", "old a9", "keep");
        check("x a1", "- b2 | a1", "take");
        check("- a1", "x b2 | a1", "take");
    }

    #[test]
    fn the_later_of_concurrent_edits_wins_and_the_loser_is_kept() {
        check("x a1", "y b2", "take, keep ours");
        check("y b2", "x a1", "learn");
        check("x a2", "y b2", "take, keep ours");
    }

    #[test]
    fn an_edit_beats_a_concurrent_delete() {
        check("x a1", "- b9", "learn");
        check("- b9", "x a1", "take");
    }

    #[test]
    fn a_directory_beats_a_concurrent_file_which_is_kept() {
        check("x a9", "/ b1", "take, keep ours");
        check("/ b1", "x a9", "learn");
    }

    #[test]
    fn equal_content_is_no_conflict() {
        check("x a1", "x b2", "take");
    }

    #[test]
    fn what_a_joining_node_found_loses_even_to_a_deletion() {
        check("?x a9", "- b1", "take, keep ours");
        check("?x a9", "y b1", "take, keep ours");
        check("?/ a9", "- b1", "take");
    }

    #[test]
    fn a_directory_that_was_kept_for_its_children_goes_with_the_next_removal() {
        // c kept what b had removed; b's second removal had not seen that.
        check("?/ c5 | a1 | b3", "- b7 | a1", "take");
        check("?/ c5 | a1 | b3", "- b3 | a1", "keep");
        check("?/ c5 | a1 | b3", "/ b6 | a1", "take");
    }

    #[test]
    fn a_deletion_that_saw_the_winner_of_a_merge_deletes_it() {
        // x won over z somewhere; the deletion had seen x but never z.
        check("x a3 | | z2", "- b4 | a3", "take");
    }

    #[test]
    fn a_merged_winner_does_not_hide_a_loser_nobody_has_kept() {
        // Our x was decided against elsewhere, but its author's successor never saw it.
        check("x a3", "y b5 | b4 | a3", "take, keep ours");
    }

    #[test]
    fn an_edit_that_was_deleted_does_not_come_back_in_a_circle() {
        // y won over x at one node; at another one y was deleted, and x won over the deletion.
        check("y b3 | | a2", "x a2 | | b4", "take, keep ours");
    }

    #[test]
    fn nodes_that_decide_in_any_order_agree() {
        let edits = ["x a1", "y b3 | a1", "- c2 | a1", "z d2", "?q e9", "/ f1", "- b4 | b3"];
        for seed in 0..2000_u64 {
            let mut order: Vec<usize> = (0..edits.len()).collect();
            let mut nodes: Vec<Option<Record>> = vec![None; 3];
            let mut state = seed;
            let mut next = |n: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                usize::try_from(state >> 33).unwrap() % n
            };
            for at in (1..order.len()).rev() {
                order.swap(at, next(at + 1));
            }
            let apply = |ours: &mut Option<Record>, theirs: &Record| {
                match reconcile(ours.as_ref(), theirs) {
                    Verdict::Keep => return false,
                    Verdict::Learn(version) => ours.as_mut().unwrap().version = version,
                    Verdict::Take { version, .. } => {
                        *ours = Some(Record { version, ..theirs.clone() });
                    }
                }
                true
            };
            for &edit in &order {
                apply(&mut nodes[next(3)], &record(edits[edit]));
            }
            let mut rounds = 0;
            while {
                let (a, b) = (next(3), next(3));
                if let Some(theirs) = nodes[b].clone() {
                    apply(&mut nodes[a], &theirs);
                }
                nodes.iter().any(|n| n != &nodes[0])
            } {
                rounds += 1;
                assert!(rounds < 500, "seed {seed} does not settle: {nodes:?}");
            }
        }
    }
}
