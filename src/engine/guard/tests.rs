//! What is held, for how long, and what a word about it does.

use crate::engine::tests::{Story, file, live, path};
use crate::engine::{Class, ClassTable, DeleteBudget, Hint, HintKind, Input, Outcome, Policy};
use crate::model::{ContentId, Found, Kind, Lane, Mtime, Record, Signature, Version};

/// A mount of `normal` files with this budget, or any number.
fn story(budget: &str, records: Vec<Record>) -> Story {
    Story::with(records, policy(budget), Vec::new())
}

fn policy(budget: &str) -> Policy {
    let mut classes = ClassTable::default();
    classes.get_mut(Class::Normal).delete_budget = budget.parse::<DeleteBudget>().ok();
    Policy::new(Vec::new(), classes).unwrap()
}

/// Files `f0`, `f1`, …
fn files(count: u64) -> Vec<Record> {
    (0..count).map(|n| file(&format!("f{n}"), n + 1)).collect()
}

impl Story {
    /// Someone removes the path, and it is looked at.
    fn gone(&mut self, text: &str) -> Vec<String> {
        let hint = Hint { path: path(text), kind: HintKind::Gone };
        assert_eq!([format!("read {text}")], *self.tell(Input::Hinted(vec![hint])));
        self.seen(text, Found::Absent)
    }

    /// Everything that is looked at is gone; gives what follows, but for the looks.
    fn all_gone(&mut self, mut said: Vec<String>) -> Vec<String> {
        let mut rest = Vec::new();
        while !said.is_empty() {
            let one = said.remove(0);
            match one.strip_prefix("read ") {
                Some(text) => said.extend(self.seen(text, Found::Absent)),
                None => rest.push(one),
            }
        }
        rest
    }

    fn held(&self) -> Vec<String> {
        let held = self.engine.held(100).map(|held| held.paths).unwrap_or_default();
        held.iter().map(ToString::to_string).collect()
    }
}

#[test]
fn deletions_beyond_the_budget_are_held_and_all_that_follow() {
    let mut story = story("2", files(5));
    assert_eq!(["remove f0"], *story.gone("f0"));
    assert_eq!(["remove f1"], *story.gone("f1"));
    assert_eq!(["guard normal"], *story.gone("f2"));
    story.now.monotonic_ms += 3_600_000;
    assert!(story.gone("f3").is_empty(), "the rest does not trickle out");
    assert_eq!(["f2", "f3"], *story.held());
}

#[test]
fn what_a_budget_has_spent_comes_back_with_time() {
    let mut story = story("2", files(6));
    assert_eq!(["remove f0"], *story.gone("f0"));
    assert_eq!(["remove f1"], *story.gone("f1"));
    story.pass(super::BUDGET_WINDOW_MS / 2);
    assert_eq!(["remove f2"], *story.gone("f2"));
    assert_eq!(["guard normal"], *story.gone("f3"));
}

#[test]
fn a_percentage_is_of_the_files_before_the_deletions() {
    let mut story = story("20%", files(10));
    assert_eq!(["remove f0"], *story.gone("f0"));
    assert_eq!(["remove f1"], *story.gone("f1"));
    assert_eq!(["guard normal"], *story.gone("f2"));
}

#[test]
fn what_was_approved_is_deleted_and_the_budget_begins_anew() {
    let mut story = story("0", files(4));
    assert_eq!(["guard normal"], *story.gone("f0"));
    assert!(story.gone("f1").is_empty());
    let said = story.tell(Input::Approved);
    assert_eq!(["read f0", "read f1"], *said);
    assert_eq!(["remove f0", "remove f1"], *story.all_gone(said));
    assert_eq!(["guard "], *story.pass(0));
    assert!(story.held().is_empty());
    assert_eq!(["guard normal"], *story.gone("f2"), "the word was about the others");
}

/// The directory is gone with all that was in it, which is looked at a moment later.
fn dir_gone(story: &mut Story) -> Vec<String> {
    let gone = Hint { path: path("d"), kind: HintKind::Gone };
    let said = story.tell(Input::Hinted(vec![gone]));
    assert!(story.all_gone(said).is_empty(), "it may be elsewhere");
    let said = story.pass(super::super::SOON_MS);
    story.all_gone(said)
}

#[test]
fn what_was_reverted_comes_back_as_it_was() {
    let mut records = files(1);
    records.extend([live("d", Kind::Dir, 8), file("d/f", 9)]);
    let mut story = story("0", records.clone());
    assert_eq!(["guard normal"], *story.gone("f0"));
    assert!(dir_gone(&mut story).is_empty());
    let later = story.pass(super::super::SOON_MS);
    assert!(story.all_gone(later).is_empty());
    assert_eq!(["d", "d/f", "f0"], *story.held());

    let said = story.tell(Input::Reverted);
    let mut said = story.all_gone(said);
    said.sort();
    assert_eq!(["apply d", "fetch d/f", "fetch f0"], *said);
    assert_eq!(["keep d", "list d"], *sorted(story.applied("d", made())));
    story.tell(Input::Listed(path("d")));
    for text in ["d/f", "f0"] {
        let (path, content) = (path(text), ContentId::of(b"x"));
        let said = story.tell(Input::Fetched { path, content, result: Ok(()) });
        assert_eq!([format!("apply {text}")], *said);
        assert_eq!([format!("keep {text}")], *story.applied(text, made()));
    }
    assert_eq!(["guard "], *story.pass(0));
    story.records.sort_by(|a, b| b.path.cmp(&a.path));
    records.sort_by(|a, b| b.path.cmp(&a.path));
    assert_eq!(records, story.records, "the same versions: nobody has anything to decide");
}

fn sorted(mut said: Vec<String>) -> Vec<String> {
    said.sort();
    said
}

/// Something is there now.
fn made() -> Outcome {
    let mtime = Mtime::default();
    let (inode, size, mode, links, racy) = (1, 1, 0, 1, false);
    Outcome::Done(Some(Signature { inode, size, mode, mtime, ctime: mtime, links, racy }))
}

#[test]
fn a_directory_goes_with_what_is_held_in_it_and_not_before() {
    let mut story = story("1", vec![live("d", Kind::Dir, 1), file("d/a", 2), file("d/b", 3)]);
    assert_eq!(["remove d/a", "guard normal"], *dir_gone(&mut story));
    for _ in 0..10 {
        let said = story.pass(super::super::SOON_MS);
        assert!(story.all_gone(said).is_empty());
    }
    assert_eq!(["d", "d/b"], *story.held());
    assert!(story.pass(super::super::SOON_MS).is_empty(), "it rests");
    let said = story.tell(Input::Approved);
    let mut removed = story.all_gone(said);
    for _ in 0..10 {
        let said = story.pass(super::super::SOON_MS);
        removed.extend(story.all_gone(said));
    }
    assert_eq!(["remove d/b", "remove d", "guard "], *removed);
}

#[test]
fn what_was_renamed_is_let_through_when_its_new_name_is_known() {
    let mut story = story("1", files(4));
    assert_eq!(["remove f0"], *story.gone("f0"));
    assert_eq!(["guard normal"], *story.gone("f1"));
    assert!(story.gone("f2").is_empty());
    story.elsewhere = vec![path("f1"), path("f2")];
    let said = story.pass(super::AGAIN_MS);
    assert_eq!(["remove f1", "remove f2"], *story.all_gone(said));
    assert_eq!(["guard "], *story.pass(0));
}

#[test]
fn a_copy_elsewhere_does_not_make_up_for_a_name_that_must_not_go() {
    let mut story = story("0", files(1));
    story.elsewhere = vec![path("f0")];
    assert_eq!(["guard normal"], *story.gone("f0"));
}

#[test]
fn what_is_there_again_is_not_held_any_more() {
    let mut story = story("0", files(1));
    assert_eq!(["guard normal"], *story.gone("f0"));
    story.tell(Input::Hinted(vec![Hint { path: path("f0"), kind: HintKind::Created }]));
    story.seen("f0", Found::Unchanged);
    assert!(story.held().is_empty());
    assert_eq!(["guard "], *story.pass(0));
}

#[test]
fn an_edit_of_a_peer_beats_a_deletion_that_is_held() {
    let mut story = story("0", files(1));
    assert_eq!(["guard normal"], *story.gone("f0"));
    let theirs = newer_than_ours(&story, b"y");
    assert_eq!(["fetch f0"], *story.announced(Lane::Normal, 1, None, theirs.clone()));
    let (path, content) = (path("f0"), ContentId::of(b"y"));
    assert_eq!(["apply f0"], *story.tell(Input::Fetched { path, content, result: Ok(()) }));
    assert_eq!(["read f0"], *story.applied("f0", Outcome::Changed));
    assert_eq!(["remove f0", "apply f0"], *story.seen("f0", Found::Absent));
    assert_eq!(["keep f0"], *story.applied("f0", Outcome::Done(None)));
    assert!(story.held().is_empty());
}

#[test]
fn what_a_peer_has_learned_of_a_path_changes_nothing_about_its_deletion_here() {
    let mut story = story("0", files(1));
    assert_eq!(["guard normal"], *story.gone("f0"));
    let theirs = newer_than_ours(&story, b"x");
    assert_eq!(["keep f0"], *story.announced(Lane::Normal, 1, None, theirs));
    assert_eq!(["f0"], *story.held());
}

/// What a peer made of `f0` with ours in view.
fn newer_than_ours(story: &Story, content: &[u8]) -> Record {
    let content = ContentId::of(content);
    let kind = Kind::File { size: 1, content, sparse: false, group: None };
    let theirs = live("f0", kind, 50);
    let ours = story.records.iter().find(|record| record.path == theirs.path);
    let version = Version::edit(theirs.version.stamp, ours.map(|ours| &ours.version));
    Record { version, ..theirs }
}

#[test]
fn nothing_is_held_while_a_deployment_goes_on() {
    let mut story = story("0", files(2));
    story.tell(Input::Deploying { until_ms: 1000 });
    assert_eq!(["remove f0"], *story.gone("f0"));
    story.pass(1000);
    assert_eq!(["guard normal"], *story.gone("f1"));
}

#[test]
fn a_restart_holds_what_was_held_before() {
    let mut story = Story::with(files(2), policy("100"), vec![Class::Normal]);
    let scan = Input::Scan(path("f0").parent().unwrap());
    assert_eq!(["list ."], *story.tell(scan));
    assert!(story.pass(0).is_empty(), "it is not known yet whether there is anything to hold");
    assert!(story.gone("f0").is_empty());
    assert_eq!(["f0"], *story.held());
}

#[test]
fn directories_and_classes_without_a_budget_are_not_counted() {
    let mut with_dirs = story("0", vec![live("d", Kind::Dir, 1)]);
    assert_eq!(["remove d"], *with_dirs.gone("d"));
    let mut without = story("off", files(3));
    for n in 0..3 {
        assert_eq!([format!("remove f{n}")], *without.gone(&format!("f{n}")));
    }
}

#[test]
fn a_directory_that_is_there_again_is_listed_for_what_was_not_looked_at() {
    let mut story = story("0", vec![live("d", Kind::Dir, 1), file("d/a", 2), file("d/b", 3)]);
    assert_eq!(["guard normal"], *dir_gone(&mut story));
    let said = story.pass(super::super::SOON_MS);
    assert!(story.all_gone(said).is_empty());
    assert_eq!(["d", "d/a", "d/b"], *story.held());
    story.tell(Input::Hinted(vec![Hint { path: path("d"), kind: HintKind::Created }]));
    assert_eq!(["list d"], *story.seen("d", Found::Unchanged));
}

#[test]
fn what_was_reverted_and_then_approved_does_not_come_back_with_its_tombstone_gone() {
    let mut story = story("0", files(1));
    assert_eq!(["guard normal"], *story.gone("f0"));
    let said = story.tell(Input::Reverted);
    assert_eq!(["fetch f0"], *story.all_gone(said));
    let (at, content) = (path("f0"), ContentId::of(b"x"));
    let result = Err("nobody has it".to_owned());
    story.tell(Input::Fetched { path: at, content, result });
    let said = story.tell(Input::Approved);
    assert_eq!(["remove f0"], *story.all_gone(said));
    story.records.clear();
    story.pass(60_000);
    assert_eq!((0, 0), story.engine.pending());
}
