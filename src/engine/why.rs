//! What is going on at a path, and which rule decides between two records of it, in words.
//!
//! In: a path, or two records. Out: text for people. It decides nothing: that is `reconcile`.

use super::Engine;
use super::problem::Problem;
use super::reconcile::{Verdict, reconcile};
use super::slot::Slot;
use crate::model::{Record, RelPath};

/// What is going on at one path.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PathStatus {
    /// What is being done or waited for; nothing at a path at rest.
    pub doing: Option<String>,
    /// When it is looked at again, by the monotonic clock.
    pub due_ms: Option<u64>,
    /// Its failure.
    pub problem: Option<Problem>,
}

impl Engine {
    /// What is going on at a path.
    #[must_use]
    pub fn path_status(&self, path: &RelPath) -> PathStatus {
        let slot = self.slots.get(path);
        let held = || {
            let text = "deleted here; the deletion is held: see `trefoil status`";
            self.guard.holds(path).then(|| text.to_owned())
        };
        let due = |slot: &Slot| match (&slot.dirty, &slot.want) {
            (Some(dirty), _) => Some(dirty.due_ms),
            (None, Some(want)) => Some(want.retry_ms).filter(|&at| at > 0),
            (None, None) => None,
        };
        PathStatus {
            doing: slot.map(Slot::describe).or_else(held),
            due_ms: slot.and_then(due),
            problem: self.problems.get(path).cloned(),
        }
    }
}

/// What another node's record is to ours, and by which rule.
#[must_use]
pub fn relation(ours: Option<&Record>, theirs: Option<&Record>) -> &'static str {
    let (ours, theirs) = match (ours, theirs) {
        (None, None) => return "neither knows of it",
        (Some(_), None) => return "has not heard of it",
        (None, Some(_)) => return "knows it, and this node has not heard of it",
        (Some(ours), Some(theirs)) => (ours, theirs),
    };
    if ours.version.stamp == theirs.version.stamp {
        return match ours.version.touched == theirs.version.touched {
            true => "the same edit",
            false => "the same edit; only the directory's time differs",
        };
    }
    let theirs_wins = matches!(reconcile(Some(ours), theirs), Verdict::Take { .. });
    let seen = |by: &Record, of: &Record| by.version.vector.contains(of.version.stamp);
    match (seen(ours, theirs), seen(theirs, ours)) {
        (true, false) => return "older: what is here was made or chosen with it in view",
        (false, true) => return "newer: made or chosen with what is here in view",
        _ => {}
    }
    let dir = |record: &Record| record.is_dir() && !record.version.weak;
    match theirs_wins {
        _ if ours.entry == theirs.entry => "another edit with the same result",
        true if dir(theirs) && !dir(ours) => {
            "concurrent, and wins: a directory before anything else"
        }
        false if dir(ours) && !dir(theirs) => {
            "concurrent, and loses: a directory before anything else"
        }
        true if ours.version.weak => "wins: what is here nobody edited, it was found or kept",
        false if theirs.version.weak => "loses: nobody edited it, it was found or kept there",
        true if !ours.is_live() => "concurrent, and wins: an edit before a deletion",
        false if !theirs.is_live() => "concurrent, and loses: an edit before a deletion",
        true => "concurrent, and wins: it is the later edit",
        false => "concurrent, and loses: it is the earlier edit",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ContentId, Entry, Kind, Meta, Mtime, NodeId, Stamp, Version};

    fn record(kind: Option<Kind>, node: u64, counter: u64, before: Option<&Record>) -> Record {
        let meta = Meta { mode: 0, uid: 0, gid: 0, mtime: Mtime::default(), xattrs: Vec::new() };
        let stamp = Stamp { counter, node: NodeId(node) };
        Record {
            path: RelPath::parse(b"p").unwrap(),
            entry: kind.map(|kind| Entry { kind, meta }),
            version: Version::edit(stamp, before.map(|before| &before.version)),
        }
    }

    fn file(text: &str) -> Option<Kind> {
        let content = ContentId::of(text.as_bytes());
        Some(Kind::File { size: 1, content, sparse: false, group: None })
    }

    #[track_caller]
    fn check(ours: &Record, theirs: &Record, words: &str) {
        let told = relation(Some(ours), Some(theirs));
        assert!(told.starts_with(words), "{told}, not {words}");
    }

    #[test]
    fn the_rule_that_decides_is_told() {
        let first = record(file("a"), 1, 1, None);
        let second = record(file("b"), 2, 2, Some(&first));
        let other = record(file("c"), 3, 3, Some(&first));
        let gone = record(None, 1, 9, Some(&first));
        let dir = record(Some(Kind::Dir), 4, 4, None);
        check(&first, &first, "the same edit");
        check(&first, &second, "newer");
        check(&second, &first, "older");
        check(&second, &other, "concurrent, and wins: it is the later");
        check(&other, &second, "concurrent, and loses: it is the earlier");
        check(&gone, &second, "concurrent, and wins: an edit before a deletion");
        check(&second, &gone, "concurrent, and loses: an edit before a deletion");
        check(&other, &dir, "concurrent, and wins: a directory");
        check(&second, &record(file("b"), 3, 5, Some(&first)), "another edit with the same");
        assert_eq!("has not heard of it", relation(Some(&first), None));
    }
}
