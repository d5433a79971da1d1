//! What peers announce, in histories that the simulation finds once in a million.

use crate::engine::tests::{PEER, Story, file, live, path, version};
use crate::engine::{Class, ClassTable, Input, Outcome, Pattern, Policy};
use crate::model::{Kind, Lane, NodeId, Record, Sequence, Stamp};

#[test]
fn a_removal_that_has_seen_more_since_it_was_begun_is_remembered_so() {
    let mut story = Story::new(vec![file("f", 5)]);
    let version = version(9, Some(&story.records[0].version));
    let mut removal = Record { path: path("f"), entry: None, version };
    assert_eq!(["apply f"], *story.announced(Lane::Normal, 1, None, removal.clone()));
    let other = Stamp { counter: 4, node: NodeId(3) };
    removal.version.vector.add(other);
    assert!(story.announced(Lane::Forward, 2, None, removal).is_empty());
    assert_eq!(["remove f", "remove f"], *story.applied("f", Outcome::Done(None)));
    assert!(story.records[0].version.vector.contains(other));
}

#[test]
fn a_directory_with_what_is_not_mirrored_does_not_wait_for_a_barrier_that_waits_for_it() {
    let rules = vec![(Pattern::parse("*.bar").unwrap(), Class::Barrier)];
    let policy = Policy::new(rules, ClassTable::default()).unwrap();
    let mut story = Story::with(vec![live("d", Kind::Dir, 1)], policy, Vec::new());
    for lane in Lane::ALL {
        story.tell(Input::Progress { peer: PEER, lane, sequence: Sequence(5) });
    }
    assert_eq!(["apply d"], *story.removed("d", 5, Some(5)));
    assert!(story.announced(Lane::Release, 6, Some(6), file("d/x.bar", 6)).is_empty());
    for lane in Lane::ALL {
        story.tell(Input::Progress { peer: PEER, lane, sequence: Sequence(9) });
    }
    assert_eq!(["list d"], *story.applied("d", Outcome::NotEmpty));
    assert_eq!(["apply d"], *story.tell(Input::Listed(path("d"))));
    assert_eq!(["list d"], *story.applied("d", Outcome::NotEmpty));
    assert_eq!(["keep d", "fetch d/x.bar"], *story.tell(Input::Listed(path("d"))));
}

#[test]
fn a_directory_that_stayed_for_a_child_is_no_edit_that_outlives_the_next_removal() {
    let mut story = Story::new(vec![live("d", Kind::Dir, 1), file("d/c", 2)]);
    let made = story.records[0].version.clone();
    assert_eq!(["keep d"], *story.removed("d", 5, None));
    story.records.retain(|record| record.path != path("d/c"));
    let again = Record { path: path("d"), entry: None, version: version(200, Some(&made)) };
    assert_eq!(["apply d"], *story.announced(Lane::Normal, 6, None, again));
}
