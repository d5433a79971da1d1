//! What a look means, step by step.

use crate::engine::tests::{Story, file, path};
use crate::engine::{Hint, HintKind, Input, Outcome, Output, Seen};
use crate::model::{Found, Lane, NodeId, Record, Stamp, Version};

impl Story {
    /// The next look at `f`, whether it is to be read though it is open; nothing if none comes in ten seconds.
    fn next_look(&mut self) -> Option<bool> {
        for _ in 0..1000 {
            while let Some(output) = self.engine.poll_output() {
                if let Output::Read { even_if_open, .. } = output {
                    return Some(even_if_open);
                }
            }
            self.now.monotonic_ms += 10;
            self.engine.handle(self.now, Input::Tick);
        }
        None
    }

    fn looked(&mut self, found: Found) {
        let path = path("f");
        let (ours, group) = (None, None);
        let (parent_live, has_children, elsewhere, files) = (true, false, false, 1);
        let seen = Seen { path, found, ours, parent_live, has_children, group, elsewhere, files };
        self.engine.handle(self.now, Input::Seen(Box::new(seen)));
    }
}

#[test]
fn who_removes_what_another_removal_had_not_seen_removes_more() {
    let mut story = Story::new(vec![file("f", 5)]);
    let edit = story.records[0].version.stamp;
    let theirs = Stamp { counter: 9, node: NodeId(3) };
    let mut version = Version::edit(theirs, None);
    // Somebody else has decided that it wins.
    version.vector.add(edit);
    let removal = Record { path: path("f"), entry: None, version };
    assert_eq!(["apply f"], *story.announced(Lane::Normal, 1, None, removal));
    assert_eq!(["read f"], *story.applied("f", Outcome::Changed));
    // Then the removal that was wanted takes its turn, and counts as seen.
    assert_eq!(["remove f", "remove f"], *story.seen("f", Found::Absent));
    let Version { stamp, seen, vector, .. } = &story.records[0].version;
    assert_eq!(NodeId(1), stamp.node, "it was made here");
    assert!(seen.contains(edit) && !seen.contains(theirs) && vector.contains(theirs));
}

#[test]
fn a_file_counts_as_open_from_the_first_look_that_found_it_so() {
    let mut story = Story::new(Vec::new());
    let hint = Hint { path: path("f"), kind: HintKind::Created };
    story.engine.handle(story.now, Input::Hinted(vec![hint]));
    while story.now.monotonic_ms < 5000 {
        assert_eq!(Some(false), story.next_look());
        story.looked(Found::Failed("cannot open: input/output error".to_owned()));
    }
    assert_eq!(Some(false), story.next_look());
    let opened = story.now.monotonic_ms;
    story.looked(Found::Busy);
    while story.next_look() == Some(false) {
        story.looked(Found::Busy);
    }
    let open = story.now.monotonic_ms - opened;
    assert!((2000..4000).contains(&open), "read after {open} ms");
    // Whoever opens it after it was closed is another one.
    story.looked(Found::Busy);
    let hint = Hint { path: path("f"), kind: HintKind::Closed };
    story.engine.handle(story.now, Input::Hinted(vec![hint]));
    assert_eq!(Some(false), story.next_look());
}
