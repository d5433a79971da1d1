//! One peer that announces more than it lets be finished, with a share of a few records.

use super::*;
use crate::engine::tests::{PEER, Story, file, live, path};
use crate::engine::{Announced, Class, ClassTable, Input, Outcome, Pattern, Policy};
use crate::model::{ContentId, Record, Sequence, Stamp, Version, limits};

const OTHER: NodeId = NodeId(3);
const SHARE: usize = 4;

/// An engine in which a peer can have `SHARE` small records, and as many parked; `*.bar` are barriers.
fn story(records: Vec<Record>) -> Story {
    let rules = vec![(Pattern::parse("*.bar").unwrap(), Class::Barrier)];
    let policy = Policy::new(rules, ClassTable::default()).unwrap();
    let mut story = Story::sharing(records, policy, Vec::new(), SHARE);
    story.tell(Input::PeerUp { peer: OTHER, cursors: Vec::new(), anew: true });
    story
}

fn of_other(story: &mut Story, theirs: Record) -> Vec<String> {
    story.tell(Input::Announced(Box::new(Announced {
        peer: OTHER,
        lane: Lane::Normal,
        sequence: Sequence(1),
        after: None,
        theirs,
        content: false,
        ours: None,
    })))
}

fn arrive(story: &mut Story, sequence: u64) -> Vec<String> {
    let sequence = Sequence(sequence);
    let tell = |lane| story.tell(Input::Progress { peer: PEER, lane, sequence });
    Lane::ALL.into_iter().flat_map(tell).collect()
}

fn done(story: &Story) -> Sequence {
    story.engine.done(PEER)[Lane::Normal as usize].1
}

/// Links the peer anew, and gives from where on it announces.
fn relink(story: &mut Story) -> Sequence {
    story.tell(Input::PeerDown(PEER));
    let cursors = story.engine.received(PEER);
    let from = cursors[Lane::Normal as usize].1;
    story.tell(Input::PeerUp { peer: PEER, cursors, anew: false });
    from
}

#[test]
fn content_that_never_comes_keeps_nothing_from_being_read_but_the_lanes_of_its_peer() {
    let mut story = story(Vec::new());
    let mut read = Vec::new();
    for n in 1..=2 * SHARE as u64 {
        assert_eq!(1, story.announced(Lane::Normal, n, None, file(&n.to_string(), n)).len());
        read.push((story.engine.reads(PEER, Lane::Normal), story.engine.reads(PEER, Lane::Urgent)));
    }
    let (bulk, urgent): (Vec<bool>, Vec<bool>) = read.into_iter().unzip();
    assert_eq!([true, true, true, false, false, false, false, false], *bulk);
    assert_eq!([true, true, true, true, true, true, true, false], *urgent);
    assert!(story.engine.reads(OTHER, Lane::Normal));
    assert_eq!(["fetch f"], *of_other(&mut story, file("f", 1)));
}

#[test]
fn a_peer_that_never_answers_leaves_fetches_to_others() {
    let mut story = Story::new(Vec::new());
    let mut fetches = 0;
    for n in 1..=100 {
        fetches += story.announced(Lane::Normal, n, None, file(&format!("never{n}"), n)).len();
    }
    assert_eq!(limits::FETCHES_IN_FLIGHT_MAX / 2, fetches, "all that a link carries at a time");
    for n in 1..=4 {
        let name = format!("f{n}");
        assert_eq!([format!("fetch {name}")], *of_other(&mut story, file(&name, n)));
    }
    let (path, content) = (path("never1"), ContentId::of(b"x"));
    let said = story.tell(Input::Fetched { path, content, result: Err("no".to_owned()) });
    assert!(said.is_empty(), "the others leave less to it");
}

#[test]
fn records_that_wait_for_what_never_comes_take_a_share_and_stop_no_lane() {
    let mut story = story(Vec::new());
    for n in 1..=100 {
        let name = if n % 2 == 0 { format!("{n}") } else { format!("{n}.bar") };
        assert!(story.announced(Lane::Normal, n, Some(1 << 40), file(&name, n)).is_empty());
        assert!(story.engine.reads(PEER, Lane::Derived));
        assert!(story.engine.load(PEER) <= SHARE);
    }
    assert!(done(&story) < Sequence(100), "nothing that was let go is acknowledged");
    assert!(!story.engine.asks_again(story.now, PEER));
    story.pass(ASK_MS);
    assert!(story.engine.asks_again(story.now, PEER));
    assert!(relink(&mut story) < Sequence(100));
}

#[test]
fn a_record_of_many_bytes_counts_for_them() {
    let mut record = file("f", 1);
    let xattrs = &mut record.entry.as_mut().unwrap().meta.xattrs;
    xattrs.push((b"user.x".as_slice().into(), vec![0; 200 << 10].into()));
    let mut story = story(Vec::new());
    story.announced(Lane::Normal, 1, None, record);
    assert!(story.engine.load(PEER) > 100, "it is kept twice");
    assert!(!story.engine.reads(PEER, Lane::Urgent));
}

#[test]
fn more_removed_directories_than_the_share_all_go_when_the_last_has_arrived() {
    let names: Vec<_> = (1..=20).map(|n| format!("d{n:02}")).collect();
    let dirs = names.iter().map(|name| live(name, Kind::Dir, 1)).collect();
    let mut story = story(dirs);
    let removals: Vec<_> = names.iter().map(|name| story.removal(name)).collect();
    let (mut from, mut links) = (Sequence(0), 0);
    while !story.records.iter().all(|record| !record.is_live()) {
        let mut said = Vec::new();
        for (n, removal) in (1_u64..).zip(&removals).filter(|(n, _)| *n > from.0) {
            said.extend(story.announced(Lane::Normal, n, Some(20), removal.clone()));
        }
        said.extend(arrive(&mut story, 20));
        while let Some(next) =
            said.iter().find_map(|one| one.strip_prefix("apply ")).map(str::to_owned)
        {
            said.retain(|one| *one != format!("apply {next}"));
            said.extend(story.applied(&next, Outcome::Done(None)));
        }
        links += 1;
        story.pass(SOON_MS);
        assert!(links < 20 && (story.engine.asks_again(story.now, PEER) || links > 4));
        from = relink(&mut story);
    }
    assert_eq!((0, 0), story.engine.pending());
}

#[test]
fn a_directory_that_shall_go_is_not_kept_without_what_is_let_go_below_it() {
    let mut story = story(vec![live("d", Kind::Dir, 1), live("d/e", Kind::Dir, 1)]);
    let (inner, outer) = (story.removal("d/e"), story.removal("d"));
    for n in 1..=SHARE as u64 {
        story.announced(Lane::Normal, n, Some(50), file(&format!("x{n}"), n));
    }
    story.announced(Lane::Normal, 10, Some(50), inner);
    story.announced(Lane::Normal, 11, Some(50), outer);
    assert_eq!((0, SHARE), story.engine.pending());
    let said = arrive(&mut story, 50);
    assert!(said.iter().all(|one| one.starts_with("fetch x")), "{said:?}");
    let outer = story.removal("d");
    assert!(story.announced(Lane::Normal, 51, Some(50), outer).is_empty(), "it stays for now");
}

#[test]
fn what_replaces_a_directory_waits_for_what_is_let_go_below_it() {
    // Who passes the file on never had the directory: to him its place in the order is nothing.
    let mut story = story(vec![live("d", Kind::Dir, 1), file("d/e", 1)]);
    let inner = story.removal("d/e");
    for n in 1..=SHARE as u64 {
        story.announced(Lane::Normal, n, Some(50), file(&format!("x{n}"), n));
    }
    story.announced(Lane::Normal, 10, Some(50), inner.clone());
    let replacement = Record { version: story.removal("d").version, ..file("d", 11) };
    let said = story.announced(Lane::Normal, 11, None, replacement.clone());
    assert!(said.is_empty(), "{said:?}");
    let said = arrive(&mut story, 50);
    assert!(said.iter().all(|one| one.starts_with("fetch x")), "{said:?}");
    for n in 1..=SHARE as u64 {
        let (path, content) = (path(&format!("x{n}")), ContentId::of(b"x"));
        story.tell(Input::Fetched { path, content, result: Ok(()) });
        story.applied(&format!("x{n}"), Outcome::Done(None));
    }
    story.pass(ASK_MS);
    assert!(relink(&mut story) < Sequence(10), "both come again");
    assert_eq!(["apply d/e"], *story.announced(Lane::Normal, 10, None, inner));
    assert_eq!(["fetch d"], *story.announced(Lane::Normal, 11, None, replacement));
}

#[test]
fn a_barrier_does_not_pass_what_was_let_go_before_it() {
    let mut story = story(Vec::new());
    for n in 1..=2 * SHARE as u64 {
        story.announced(Lane::Normal, n, Some(20), live(&format!("d{n}"), link(), n));
    }
    let said = arrive(&mut story, 20);
    assert_eq!(SHARE, said.len(), "{said:?}");
    for one in &said {
        story.applied(one.strip_prefix("apply ").unwrap(), Outcome::Done(None));
    }
    assert!(story.announced(Lane::Release, 21, Some(21), live("v.bar", link(), 10)).is_empty());
    assert!(arrive(&mut story, 21).is_empty());
    assert!(!story.engine.asks_again(story.now, PEER), "it has only just been linked");
    assert!(story.pass(SOON_MS).is_empty());
    assert!(story.engine.asks_again(story.now, PEER), "there is room again");
    assert_eq!((0, 1), story.engine.pending(), "the barrier waits");
    let from = relink(&mut story);
    let again: Vec<_> = (from.0 + 1..=2 * SHARE as u64).collect();
    let names: Vec<_> = again.iter().map(|n| format!("d{n}")).collect();
    for (&n, name) in again.iter().zip(&names) {
        story.announced(Lane::Normal, n, Some(20), live(name, link(), n));
    }
    let mut said = arrive(&mut story, 21);
    while let Some(next) = said.pop() {
        said.extend(story.applied(next.trim_start_matches("apply "), Outcome::Done(None)));
    }
    assert_eq!((0, 0), story.engine.pending());
}

impl Story {
    /// What the peer announces when it has removed the path.
    fn removal(&self, name: &str) -> Record {
        let ours = self.records.iter().find(|record| record.path == path(name)).unwrap();
        let version = Version::edit(Stamp { counter: 100, node: PEER }, Some(&ours.version));
        Record { entry: None, version, ..ours.clone() }
    }
}

fn link() -> Kind {
    Kind::Symlink { target: b"t".as_slice().into() }
}

#[test]
fn what_comes_again_after_it_was_let_go_is_not_done_with_what_was_kept() {
    let mut story = story(Vec::new());
    story.announced(Lane::Normal, 1, None, file("kept", 1));
    for n in 2..10 {
        story.announced(Lane::Normal, n, Some(1 << 40), file(&format!("{n}.bar"), n));
    }
    // It stands for where it was first announced.
    assert_eq!(["fetch kept"], *story.announced(Lane::Normal, 20, None, file("kept", 20)));
    assert_eq!(Sequence(0), relink(&mut story));
    story.announced(Lane::Normal, 4, None, file("again", 2));
    let content = ContentId::of(b"x");
    let said = story.tell(Input::Fetched { path: path("kept"), content, result: Ok(()) });
    assert_eq!(["apply kept"], *said);
    story.applied("kept", Outcome::Done(None));
    assert!(done(&story) < Sequence(4), "what came again is still wanted");
}
