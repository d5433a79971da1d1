//! What peers have, can have heard of, and have forgotten; and lives of an index.

use super::*;
use crate::model::{Entry, Kind, Meta, Mtime, Signature, Stamp, Version};

fn record(path: &str, counter: u64) -> Record {
    let stamp = Stamp { counter, node: NodeId(1) };
    let meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime: Mtime::default(), xattrs: Vec::new() };
    Record {
        path: RelPath::parse(path.as_bytes()).unwrap(),
        entry: Some(Entry { kind: Kind::Dir, meta }),
        version: Version::edit(stamp, None),
    }
}

const SIGNATURE: Signature = Signature {
    inode: 1,
    size: 1,
    mode: 0,
    mtime: Mtime { secs: 0, nanos: 0 },
    ctime: Mtime { secs: 0, nanos: 0 },
    links: 1,
    racy: false,
};

#[test]
fn what_was_passed_over_is_asked_for_again_by_other_rules() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.db");
    let (mut index, _) = Index::open(&path, Incarnation(7)).unwrap();
    let (peer, other) = (NodeId(1), NodeId(2));
    let done = |index: &Index, peer| {
        let done = index.cursors(peer).unwrap().done;
        done.iter().find(|(lane, _)| *lane == Lane::Normal).unwrap().1
    };
    index.forget_peer(peer, Incarnation(8), &[]).unwrap();
    index.set_done(peer, Lane::Normal, Sequence(90)).unwrap();
    index.set_done(other, Lane::Normal, Sequence(90)).unwrap();
    for sequence in [50, 60] {
        index.note_passed(peer, Lane::Normal, Sequence(sequence), [1; 32]).unwrap();
    }
    index.begin_rules([1; 32]).unwrap();
    assert_eq!(Sequence(90), done(&index, peer), "the rules are the same");
    index.begin_rules([2; 32]).unwrap();
    assert_eq!((Sequence(49), Sequence(90)), (done(&index, peer), done(&index, other)));
    index.set_done(peer, Lane::Normal, Sequence(90)).unwrap();
    index.begin_rules([1; 32]).unwrap();
    assert_eq!(Sequence(90), done(&index, peer), "once is enough");
    index.note_passed(peer, Lane::Normal, Sequence(60), [1; 32]).unwrap();
    index.forget_peer(peer, Incarnation(9), &[]).unwrap();
    index.set_done(peer, Lane::Normal, Sequence(5)).unwrap();
    index.begin_rules([2; 32]).unwrap();
    assert_eq!(Sequence(5), done(&index, peer), "that was of another index");
}

#[test]
fn a_peer_can_have_heard_of_what_was_there_when_it_parted_however_often_it_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.db");
    let open = || Index::open(&path, Incarnation(7)).unwrap().0;
    let store = |index: &mut Index, counter: u64| {
        index.store(&record("d", counter), None, Lane::Normal, None, counter).unwrap();
        index.commit().unwrap();
        index.head()
    };
    let can = |index: &mut Index, peer, life, at: Sequence| {
        let cursors = [(Lane::Urgent, Sequence(0)), (Lane::Normal, at)];
        index.can_be_of(peer, Incarnation(life), &cursors).unwrap()
    };
    let later = |at: Sequence| Sequence(at.0 + 1);
    let (parted, linked, never) = (NodeId(2), NodeId(3), NodeId(4));
    let mut index = open();
    index.part_all().unwrap();
    store(&mut index, 1);
    index.begin_telling(parted).unwrap();
    index.end_telling(parted).unwrap();
    let first = index.head();
    index.begin_telling(linked).unwrap();
    let second = store(&mut index, 2);
    index.end_telling(parted).unwrap();
    assert!(can(&mut index, linked, 7, later(second)));
    drop(index);
    for counter in 3..5 {
        let mut index = open();
        index.part_all().unwrap();
        for (peer, heard) in [(parted, first), (linked, second), (never, Sequence(0))] {
            assert!(can(&mut index, peer, 7, heard), "{peer}");
            assert!(!can(&mut index, peer, 7, later(heard)), "{peer}");
        }
        assert!(store(&mut index, counter) > second);
    }
}

#[test]
fn deletions_that_a_peer_has_forgotten_and_this_index_never_had_are_missed() {
    let folder = tempfile::tempdir().unwrap();
    let (mut index, _) = Index::open(&folder.path().join("index.db"), Incarnation(7)).unwrap();
    let peer = NodeId(2);
    let dropped = |at| [(Lane::Normal, Sequence(at))];
    let mut tombstone = record("gone", 1);
    tombstone.entry = None;
    index.store(&tombstone, None, Lane::Normal, None, 1).unwrap();
    assert!(index.dropped().unwrap().is_empty());
    assert_eq!(1, index.drop_tombstones(Lane::Normal, index.head(), 2, 9).unwrap());
    assert_eq!(vec![(Lane::Normal, index.head())], index.dropped().unwrap());

    index.forget_peer(peer, Incarnation(8), &dropped(5)).unwrap();
    assert!(!index.lacks(peer, &dropped(5)).unwrap(), "it came later");
    assert!(index.lacks(peer, &dropped(6)).unwrap());
    index.set_done(peer, Lane::Normal, Sequence(6)).unwrap();
    index.set_done(peer, Lane::Normal, Sequence(1)).unwrap();
    assert!(!index.lacks(peer, &dropped(6)).unwrap(), "it is only asked for again");
    assert!(index.lacks(peer, &[(Lane::Urgent, Sequence(1))]).unwrap());
}

#[test]
fn who_was_linked_when_the_power_went_may_have_heard_of_what_was_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.db");
    let (mut index, _) = Index::open(&path, Incarnation(7)).unwrap();
    let (parted, linked) = (NodeId(2), NodeId(3));
    index.begin_telling(parted).unwrap();
    index.end_telling(parted).unwrap();
    index.begin_telling(linked).unwrap();
    index.begin_life(Incarnation(8)).unwrap();
    drop(index);
    let (mut index, _) = Index::open(&path, Incarnation(9)).unwrap();
    index.part_all().unwrap();
    let mut can = |peer, life, at| {
        let cursors = [(Lane::Normal, Sequence(at))];
        index.can_be_of(peer, Incarnation(life), &cursors).unwrap()
    };
    assert!(can(linked, 7, 99) && can(parted, 7, 0));
    assert!(!can(parted, 7, 99), "it was not linked");
    assert!(can(linked, 8, 0) && !can(linked, 8, 1), "nobody has heard of this life");
    assert!(!can(linked, 6, 0), "that is none of its lives");
}

#[test]
fn what_a_peer_knew_before_an_index_was_made_is_not_taken_for_a_later_state_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let (mut index, _) = Index::open(&folder.path().join("index.db"), Incarnation(8)).unwrap();
    index.part_all().unwrap();
    let peer = NodeId(2);
    let other = [(Lane::Normal, Sequence(99))];
    for _ in 0..2 {
        assert!(index.can_be_of(peer, Incarnation(7), &other).unwrap());
        index.begin_telling(peer).unwrap();
        index.end_telling(peer).unwrap();
    }
    assert!(!index.can_be_of(peer, Incarnation(6), &other).unwrap());
}

#[test]
fn a_life_goes_on_from_another_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.db");
    let (mut index, _) = Index::open(&path, Incarnation(7)).unwrap();
    assert_eq!(None, index.former().unwrap());
    index.begin().unwrap();
    let (old, new) = (Some(SIGNATURE), Some(Signature { inode: 2, ..SIGNATURE }));
    index.store(&record("a", 1), old, Lane::Normal, Some(NodeId(2)), 5_000_000).unwrap();
    index.mark().unwrap();
    index.mark().unwrap();
    index.store(&record("b", 1), new, Lane::Normal, None, 70_000_000_000).unwrap();
    index.set_done(NodeId(2), Lane::Forward, Sequence(4)).unwrap();
    index.set_done(NodeId(2), Lane::Normal, Sequence(9)).unwrap();
    index.set_acknowledged(NodeId(2), Lane::Normal, Sequence(99_999_999)).unwrap();
    index.begin_life(Incarnation(8)).unwrap();
    let acknowledged = index.cursors(NodeId(2)).unwrap().acknowledged;
    assert_eq!((Lane::Normal, index.head()), acknowledged[Lane::Normal as usize]);
    let done = |index: &Index, lane: Lane| index.cursors(NodeId(2)).unwrap().done[lane as usize].1;
    assert_eq!((0, 9), (done(&index, Lane::Forward).0, done(&index, Lane::Normal).0));
    let until = [(Lane::Urgent, Sequence(9)), (Lane::Normal, Sequence(6))];
    index.continue_peer(NodeId(2), Incarnation(3), &until).unwrap();
    assert_eq!(Sequence(6), done(&index, Lane::Normal));
    let row = index.row(&record("a", 1).path).unwrap();
    let row = row.unwrap();
    assert_eq!((None, old), (row.via, row.signature));
    let last = index.row(&record("b", 1).path).unwrap().unwrap();
    assert_eq!(None, last.signature, "the power cut may have taken what was written");
    index.commit().unwrap();
    drop(index);
    let (index, _) = Index::open(&path, Incarnation(9)).unwrap();
    assert_eq!(Incarnation(8), index.incarnation());
    assert_eq!(Some((Incarnation(7), Sequence(70_000_000))), index.former().unwrap());
}

#[test]
fn what_has_come_and_is_not_done_is_known_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.db");
    let (mut index, _) = Index::open(&path, Incarnation(7)).unwrap();
    let peer = NodeId(2);
    let other = NodeId(3);
    for id in [peer, other] {
        index.forget_peer(id, Incarnation(3), &[]).unwrap();
        index.set_done(id, Lane::Normal, Sequence(5)).unwrap();
        index.set_arrived(id, Lane::Normal, Sequence(9)).unwrap();
    }
    index.commit().unwrap();
    drop(index);
    let (mut index, _) = Index::open(&path, Incarnation(7)).unwrap();
    assert_eq!(vec![(Lane::Normal, Sequence(9))], index.cursors(peer).unwrap().arrived);
    index.forget_peer(peer, Incarnation(4), &[]).unwrap();
    index.continue_peer(other, Incarnation(5), &[]).unwrap();
    for id in [peer, other] {
        assert!(index.cursors(id).unwrap().arrived.is_empty(), "its sequences are others now");
    }
}

#[test]
fn what_changed_since_the_mark_before_the_last_is_read_again_after_a_power_cut() {
    let folder = tempfile::tempdir().unwrap();
    let (mut index, _) = Index::open(&folder.path().join("index.db"), Incarnation(7)).unwrap();
    // An hour later by the wall clock, which was set: less than two minutes have passed.
    for (name, wall_ns) in [("a", 1), ("b", 2), ("c", 3600)] {
        let wall_ns = wall_ns * 1_000_000_000;
        index.store(&record(name, 1), Some(SIGNATURE), Lane::Normal, None, wall_ns).unwrap();
        index.mark().unwrap();
    }
    index.begin_life(Incarnation(8)).unwrap();
    let known = |name| index.row(&record(name, 1).path).unwrap().unwrap().signature;
    assert_eq!([Some(SIGNATURE), Some(SIGNATURE), None], ["a", "b", "c"].map(known));
}

#[test]
fn what_was_committed_is_there_after_opening_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.db");
    let (mut index, new) = Index::open(&path, Incarnation(7)).unwrap();
    assert!(new);
    index.begin().unwrap();
    for (at, name) in ["a", "a/b", "a/b/c", "ab", "z"].iter().enumerate() {
        index.store(&record(name, at as u64 + 1), None, Lane::Normal, None, 0).unwrap();
    }
    let token = index.journal(&record("z", 9)).unwrap();
    index.set_done(NodeId(2), Lane::Urgent, Sequence(5)).unwrap();
    index.commit().unwrap();
    index.sync().unwrap();
    let totals = index.totals();
    drop(index);

    let (index, new) = Index::open(&path, Incarnation(8)).unwrap();
    assert!(!new);
    assert_eq!((Incarnation(7), totals), (index.incarnation(), index.totals()));
    assert_eq!((Sequence(5), 5), (index.lane_head(Lane::Normal), index.last_counter()));
    let a = RelPath::parse(b"a").unwrap();
    let below: Vec<_> = index.live_below(&a, 9).unwrap().iter().map(RelPath::to_string).collect();
    assert_eq!(vec!["a/b/c", "a/b"], below);
    assert_eq!(5, index.live_below(&RelPath::root(), 9).unwrap().len());
    let first = index.live_below(&RelPath::root(), 1).unwrap();
    assert_eq!("a/b/c", first[0].to_string(), "nothing is left below it");
    assert_eq!(3, index.count_children(&RelPath::root(), 9).unwrap());
    let (rows, through) = index.rows_after(Lane::Normal, Sequence(2), 2, NodeId(3)).unwrap();
    assert_eq!((2, Sequence(4)), (rows.len(), through));
    assert_eq!(vec![(record("z", 9), token)], index.journaled().unwrap());
    assert_eq!((Lane::Urgent, Sequence(5)), index.cursors(NodeId(2)).unwrap().done[0]);
}

#[test]
fn an_index_knows_whether_it_has_come_as_far_as_one_of_its_lives() {
    let folder = tempfile::tempdir().unwrap();
    let (mut index, _) = Index::open(&folder.path().join("index.db"), Incarnation(7)).unwrap();
    let reached =
        |index: &Index, life, head| index.has_reached(Incarnation(life), Sequence(head)).unwrap();
    assert!(reached(&index, 7, 0) && !reached(&index, 7, 1) && !reached(&index, 6, 0));
    index.begin_life(Incarnation(8)).unwrap();
    assert!(reached(&index, 8, 0) && reached(&index, 7, 0) && !reached(&index, 7, 1));
}

#[test]
fn a_damaged_file_is_told_from_other_failures() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.db");
    std::fs::write(&path, b"this is not a database, and long enough to be looked at").unwrap();
    assert!(Index::open(&path, Incarnation(1)).unwrap_err().is_damage());
}
