//! Single histories, step by step: what the simulator found only by luck, or not at all.

use std::sync::Arc;

use super::clock::Now;
use super::{
    Announced, Class, ClassTable, Considered, Engine, Hint, HintKind, Input, Outcome, Output,
    Policy, Seen, Setup,
};
use crate::model::{
    ContentId, Entry, Found, Kind, Lane, Meta, Mtime, NodeId, Record, RelPath, Sequence, Signature,
    Stamp, Version, limits,
};

pub(super) const PEER: NodeId = NodeId(2);

/// An engine, and the records that it believes to have.
pub(super) struct Story {
    pub engine: Engine,
    pub now: Now,
    pub records: Vec<Record>,
    /// Paths whose content is at another path, too.
    pub elsewhere: Vec<RelPath>,
    /// Who was asked for content the last time, in order.
    pub asked: Vec<NodeId>,
}

pub(super) fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

pub(super) fn version(counter: u64, before: Option<&Version>) -> Version {
    Version::edit(Stamp { counter, node: PEER }, before)
}

pub(super) fn live(text: &str, kind: Kind, counter: u64) -> Record {
    let meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime: Mtime::default(), xattrs: Vec::new() };
    let entry = Some(Entry { kind, meta });
    Record { path: path(text), entry, version: version(counter, None) }
}

pub(super) fn file(text: &str, counter: u64) -> Record {
    let kind = Kind::File { size: 1, content: ContentId::of(b"x"), sparse: false, group: None };
    live(text, kind, counter)
}

fn words(classes: &[Class]) -> String {
    classes.iter().map(|class| class.name()).collect::<Vec<_>>().join(" ")
}

impl Story {
    pub(super) fn new(records: Vec<Record>) -> Self {
        Self::with(records, Policy::new(Vec::new(), ClassTable::default()).unwrap(), Vec::new())
    }

    pub(super) fn with(records: Vec<Record>, policy: Policy, held_classes: Vec<Class>) -> Self {
        Self::sharing(records, policy, held_classes, limits::SHARE_MAX)
    }

    pub(super) fn sharing(
        records: Vec<Record>,
        policy: Policy,
        held_classes: Vec<Class>,
        share: usize,
    ) -> Self {
        let setup = Setup {
            node: NodeId(1),
            policy: Arc::new(policy),
            keeps_owners: true,
            joining: false,
            last_counter: 0,
            counter_step: 0,
            held_classes,
            share,
        };
        let now = Now { monotonic_ms: 0, wall_ns: 0 };
        let (engine, elsewhere, asked) = (Engine::new(setup), Vec::new(), Vec::new());
        let mut story = Self { engine, now, records, elsewhere, asked };
        story.tell(Input::PeerUp { peer: PEER, cursors: Vec::new(), anew: true });
        story
    }

    fn ours(&self, at: &RelPath) -> Option<Record> {
        self.records.iter().find(|record| record.path == *at).cloned()
    }

    /// Tells the engine what happened, answers what it asks of the index, and gives the rest of
    /// what follows, as "apply d" or "list d".
    pub(super) fn tell(&mut self, input: Input) -> Vec<String> {
        self.engine.handle(self.now, input);
        let mut said = Vec::new();
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Apply { record, .. } => said.push(format!("apply {}", record.path)),
                Output::Consider { path, children_max } => {
                    let live = self.records.iter().filter(|r| r.is_live());
                    let children = live.filter(|r| r.path.is_below(&path)).count();
                    let children = children.min(children_max);
                    let ours = self.ours(&path);
                    let considered = Considered { path, ours, parent_live: true, children };
                    self.engine.handle(self.now, Input::Considered(Box::new(considered)));
                }
                Output::Fetch { path, peers, .. } => {
                    said.push(format!("fetch {path}"));
                    self.asked = peers;
                }
                Output::Guard(classes) => said.push(format!("guard {}", words(&classes))),
                Output::Outdated(peer) => said.push(format!("outdated by {peer}")),
                Output::List(dir) => said.push(format!("list {dir}")),
                Output::Read { path, .. } => said.push(format!("read {path}")),
                Output::Store { record, .. } => {
                    let what = if record.is_live() { "keep" } else { "remove" };
                    said.push(format!("{what} {}", record.path));
                    self.records.retain(|known| known.path != record.path);
                    self.records.push(record);
                }
                Output::Sweep(dir) => {
                    let live = self.records.iter().filter(|r| r.is_live());
                    let below = live.filter(|r| r.path.is_below(&dir)).map(|r| r.path.clone());
                    for path in below.collect::<Vec<_>>() {
                        self.engine.handle(self.now, Input::Swept(path));
                    }
                }
                _ => {}
            }
        }
        said
    }

    /// A peer removed the path.
    pub(super) fn removed(&mut self, text: &str, sequence: u64, after: Option<u64>) -> Vec<String> {
        let ours = self.ours(&path(text));
        let version = version(100 + sequence, ours.as_ref().map(|ours| &ours.version));
        let theirs = Record { path: path(text), entry: None, version };
        self.announced(Lane::Normal, sequence, after, theirs)
    }

    pub(super) fn announced(
        &mut self,
        lane: Lane,
        sequence: u64,
        after: Option<u64>,
        theirs: Record,
    ) -> Vec<String> {
        self.tell(Input::Announced(Box::new(Announced {
            peer: PEER,
            lane,
            sequence: Sequence(sequence),
            after: after.map(Sequence),
            ours: self.ours(&theirs.path),
            theirs,
            content: false,
        })))
    }

    pub(super) fn applied(&mut self, text: &str, outcome: Outcome) -> Vec<String> {
        self.tell(Input::Applied { path: path(text), outcome })
    }

    /// The file is as our record says, but for its signature.
    pub(super) fn seen_same(&mut self, text: &str) -> Vec<String> {
        let ours = self.ours(&path(text)).unwrap();
        let mtime = Mtime::default();
        let signature =
            Signature { inode: 1, size: 1, mode: 0, mtime, ctime: mtime, links: 1, racy: false };
        let entry = ours.entry.unwrap();
        self.seen(text, Found::Entry { signature, entry, content: None })
    }

    pub(super) fn seen(&mut self, text: &str, found: Found) -> Vec<String> {
        self.tell(Input::Seen(Box::new(Seen {
            path: path(text),
            found,
            ours: self.ours(&path(text)),
            parent_live: true,
            has_children: self
                .records
                .iter()
                .any(|record| record.is_live() && record.path.is_below(&path(text))),
            group: None,
            elsewhere: self.elsewhere.contains(&path(text)),
            files: self.records.iter().filter(|r| r.is_live() && !r.is_dir()).count() as u64,
        })))
    }

    pub(super) fn pass(&mut self, ms: u64) -> Vec<String> {
        self.now.monotonic_ms += ms;
        self.tell(Input::Tick)
    }
}

#[test]
fn a_file_whose_removal_was_refused_does_not_keep_its_directory() {
    // A further name of a file that goes changes its other names; the first tries are refused.
    let mut story = Story::new(vec![live("d", Kind::Dir, 1), file("d/f", 2)]);
    for lane in Lane::ALL {
        story.tell(Input::Progress { peer: PEER, lane, sequence: Sequence(9) });
    }
    assert_eq!(["apply d/f"], *story.removed("d/f", 10, None));
    for lane in Lane::ALL {
        story.tell(Input::Progress { peer: PEER, lane, sequence: Sequence(11) });
    }
    assert_eq!(["apply d"], *story.removed("d", 11, Some(11)));
    assert_eq!(["read d/f"], *story.applied("d/f", Outcome::Changed));
    assert_eq!(["list d"], *story.applied("d", Outcome::NotEmpty));
    assert_eq!(["apply d/f"], *story.seen_same("d/f"));
    assert_eq!(["apply d"], *story.tell(Input::Listed(path("d"))));
    assert_eq!(["read d/f"], *story.applied("d/f", Outcome::Changed));
    assert_eq!(["list d"], *story.applied("d", Outcome::NotEmpty));
    assert_eq!(["apply d/f"], *story.seen_same("d/f"));
    assert_eq!(["remove d/f"], *story.applied("d/f", Outcome::Done(None)));
    assert_eq!(["apply d"], *story.tell(Input::Listed(path("d"))));
    assert_eq!(["remove d"], *story.applied("d", Outcome::Done(None)));
    assert!(story.pass(5000).is_empty());
}

#[test]
fn a_file_that_keeps_changing_is_tried_again_every_second() {
    let mut story = Story::new(vec![file("f", 1)]);
    assert_eq!(["apply f"], *story.removed("f", 1, None));
    for _ in 0..20 {
        assert_eq!(["read f"], *story.applied("f", Outcome::Changed));
        let at_once = story.seen_same("f");
        let after_a_second = if at_once.is_empty() { story.pass(1000) } else { at_once };
        assert_eq!(["apply f"], *after_a_second);
    }
}

#[test]
fn what_was_visible_before_a_crash_and_is_gone_after_it_was_removed() {
    let mut story = Story::new(Vec::new());
    let record = file("f", 1);
    let said = story.tell(Input::Journaled { record: record.clone(), visible: true });
    assert_eq!(["keep f", "read f"], *said);
    assert_eq!(["remove f"], *story.seen("f", Found::Absent));
    let removal = story.ours(&path("f")).unwrap();
    assert!(removal.version.seen.contains(record.version.stamp), "nobody brings it back");
}

#[test]
fn what_may_never_have_been_visible_is_not_removed() {
    let mut story = Story::new(Vec::new());
    let said = story.tell(Input::Journaled { record: file("f", 1), visible: false });
    assert_eq!(["read f"], *said);
    assert!(story.seen("f", Found::Absent).is_empty());
}

#[test]
fn metadata_that_a_crash_left_half_set_is_no_edit() {
    let ours = file("f", 1);
    let mut wanted = file("f", 2);
    wanted.version = version(2, Some(&ours.version));
    let entry = |mode, uid, mtime| {
        let mut entry = ours.entry.clone().unwrap();
        (entry.meta.mode, entry.meta.uid, entry.meta.mtime.secs) = (mode, uid, mtime);
        entry
    };
    wanted.entry = Some(entry(0o640, 33, 5));
    let found = |mode, uid, mtime| {
        let mut story = Story::new(vec![ours.clone()]);
        let said = story.tell(Input::Journaled { record: wanted.clone(), visible: false });
        assert_eq!(["read f"], *said);
        let never = Mtime::default();
        let signature = Signature {
            inode: 1,
            size: 1,
            mode,
            mtime: never,
            ctime: never,
            links: 1,
            racy: false,
        };
        let entry = entry(mode, uid, mtime);
        story.seen("f", Found::Entry { signature, entry, content: None });
        story.ours(&path("f")).unwrap()
    };
    for (mode, uid, mtime) in [(0o755, 33, 0), (0o640, 33, 0), (0o755, 0, 0)] {
        assert_eq!(ours.version, found(mode, uid, mtime).version, "{mode:o} {uid} {mtime}");
    }
    assert_eq!(wanted.version, found(0o640, 33, 5).version, "it was all done");
    for (mode, uid, mtime) in [(0o600, 33, 0), (0o640, 34, 0), (0o640, 33, 6)] {
        let is = found(mode, uid, mtime).version;
        assert!(is != ours.version && is != wanted.version, "an edit: {mode:o} {uid} {mtime}");
    }
}

#[test]
fn a_directory_that_comes_ahead_of_its_turn_is_newer_than_its_removal() {
    // The removal is held until everything before it is there; meanwhile its successor comes along
    // with a file, which must neither go with the old directory nor keep it.
    let mut story = Story::new(vec![live("d", Kind::Dir, 1)]);
    let ours = story.ours(&path("d")).unwrap();
    assert!(story.removed("d", 10, Some(10)).is_empty());
    let removal = version(110, Some(&ours.version));
    let mut again = live("d", Kind::Dir, 0);
    again.version = version(120, Some(&removal));
    let said = story.announced(Lane::Urgent, 0, None, again.clone());
    assert_eq!(["keep d"], *said, "the new one, not the removal");
    assert_eq!(Some(again.version), story.ours(&path("d")).map(|ours| ours.version));
}

#[test]
fn a_file_that_was_just_closed_is_looked_at_again_soon() {
    // A writer is still counted when its close is told; nobody tells when it is not any more.
    let mut story = Story::new(Vec::new());
    let hint = Hint { path: path("f"), kind: HintKind::Closed };
    assert_eq!(["read f"], *story.tell(Input::Hinted(vec![hint])));
    let mut waits = Vec::new();
    for _ in 0..8 {
        assert!(story.seen("f", Found::Busy).is_empty());
        let before = story.now.monotonic_ms;
        while story.pass(10).is_empty() {}
        waits.push(story.now.monotonic_ms - before);
    }
    assert_eq!([20, 40, 80, 160, 320, 640, 1000, 1000], *waits);
}

#[test]
fn a_directory_that_comes_ahead_of_its_next_turn_is_not_done_yet() {
    let mut story = Story::new(vec![live("d", Kind::Dir, 1)]);
    let entry = |mode| {
        let mut record = live("d", Kind::Dir, u64::from(mode));
        record.entry.as_mut().unwrap().meta.mode = mode;
        record.version =
            version(u64::from(mode), story.ours(&path("d")).map(|d| d.version).as_ref());
        record
    };
    let (one, two) = (entry(0o700), entry(0o711));
    let done = |story: &Story| story.engine.done(PEER)[Lane::Normal as usize].1;
    assert_eq!(["apply d"], *story.announced(Lane::Normal, 5, None, one));
    story.announced(Lane::Normal, 0, None, two);
    assert!(done(&story) < Sequence(5), "a crash now must not lose it");
    assert_eq!(["keep d", "apply d"], *story.applied("d", Outcome::Done(None)));
    assert_eq!(["keep d"], *story.applied("d", Outcome::Done(None)));
    assert_eq!(Sequence(5), done(&story));
}

#[test]
fn what_only_a_removed_node_had_is_waited_for_no_more() {
    let mut story = Story::new(Vec::new());
    story.announced(Lane::Normal, 5, None, file("f", 1));
    for _ in 0..4 {
        let result = Err("cannot fetch: nobody has it".to_owned());
        let (path, content) = (path("f"), ContentId::of(b"x"));
        story.tell(Input::Fetched { path, content, result });
        story.pass(60_000);
    }
    assert_eq!(1, story.engine.problem_count());
    story.tell(Input::PeerRemoved(PEER));
    assert_eq!(((0, 0), 0), (story.engine.pending(), story.engine.problem_count()));
}

#[test]
fn what_was_being_applied_for_a_removed_node_is_not_tried_for_ever() {
    for outcome in [Outcome::Changed, Outcome::Failed("no".to_owned())] {
        let mut story = Story::new(vec![file("f", 1)]);
        assert_eq!(["apply f"], *story.removed("f", 5, None));
        story.tell(Input::PeerRemoved(PEER));
        story.applied("f", outcome);
        story.seen_same("f");
        story.pass(60_000);
        assert_eq!(((0, 0), 0), (story.engine.pending(), story.engine.problem_count()));
    }
}

#[test]
fn what_a_removed_node_had_announced_after_what_is_being_applied_is_forgotten() {
    let mut story = Story::new(vec![file("f", 1)]);
    assert_eq!(["apply f"], *story.removed("f", 5, None));
    let again =
        version(200, Some(&version(105, story.ours(&path("f")).map(|f| f.version).as_ref())));
    story.announced(Lane::Normal, 6, None, Record { version: again, ..file("f", 0) });
    story.tell(Input::PeerRemoved(PEER));
    assert_eq!(["remove f"], *story.applied("f", Outcome::Done(None)));
    story.pass(60_000);
    assert_eq!(((0, 0), 0), (story.engine.pending(), story.engine.problem_count()));
}

#[test]
fn content_is_asked_of_those_who_announced_it_and_then_of_the_others() {
    let (peer_with, peer_without) = (NodeId(9), PEER);
    let mut story = Story::new(vec![file("f", 1)]);
    let ours = story.ours(&path("f")).unwrap();
    let announce = |story: &mut Story, peer, theirs: Record| {
        story.tell(Input::Announced(Box::new(Announced {
            peer,
            lane: Lane::Normal,
            sequence: Sequence(5),
            after: None,
            ours: story.ours(&path("f")),
            theirs,
            content: false,
        })))
    };
    story.tell(Input::PeerUp { peer: peer_with, cursors: Vec::new(), anew: true });
    let content = ContentId::of(b"y");
    let kind = Kind::File { size: 1, content, sparse: false, group: None };
    let edit = Version::edit(Stamp { counter: 9, node: peer_with }, Some(&ours.version));
    assert_eq!(
        ["fetch f"],
        *announce(&mut story, peer_with, Record { version: edit, ..live("f", kind, 0) })
    );
    // A deletion that had not seen the edit loses to it, and its node never had the content.
    let removal = version(8, Some(&ours.version));
    announce(&mut story, peer_without, Record { version: removal, entry: None, ..ours });
    for expected in [peer_without, peer_with, peer_without] {
        let result = Err("it does not have it".to_owned());
        story.tell(Input::Fetched { path: path("f"), content, result });
        assert_eq!(["fetch f"], *story.pass(60_000));
        assert_eq!(expected, story.asked[0], "after a failure another one is asked");
    }
}

#[test]
fn what_was_just_made_visible_in_a_directory_that_went_is_looked_at() {
    let mut story = Story::new(vec![live("d", Kind::Dir, 1), file("d/f", 1)]);
    let ours = story.ours(&path("d/f")).unwrap();
    let theirs = Record { version: version(9, Some(&ours.version)), ..live("d/f", Kind::Dir, 0) };
    assert_eq!(["apply d/f"], *story.announced(Lane::Normal, 5, None, theirs));
    let hint = Hint { path: path("d"), kind: HintKind::Gone };
    assert_eq!(["read d"], *story.tell(Input::Hinted(vec![hint])));
    assert_eq!(["keep d/f", "read d/f"], *story.applied("d/f", Outcome::Done(None)));
}

#[test]
fn the_removal_of_what_was_never_here_is_passed_on_in_its_turn() {
    // Others have what is in it, and must hear of the removal of that first.
    let mut story = Story::new(vec![live("d", Kind::Dir, 1)]);
    assert!(story.removed("gone", 5, Some(100)).is_empty());
    assert!(story.removed("d", 6, Some(100)).is_empty());
    assert_eq!((0, 2), story.engine.pending());
}

#[test]
fn a_problem_that_went_unseen_is_solved_by_a_scan() {
    let mut story = Story::new(Vec::new());
    let hint = Hint { path: path("d/fifo"), kind: HintKind::Created };
    story.tell(Input::Hinted(vec![hint]));
    story.seen("d/fifo", Found::Special("a FIFO"));
    assert_eq!(1, story.engine.problem_count());
    assert_eq!(["read d/fifo", "list d"], *story.tell(Input::Scan(path("d"))));
    story.seen("d/fifo", Found::Absent);
    assert_eq!(0, story.engine.problem_count());
}

#[test]
fn a_file_that_was_just_closed_is_not_read_before_its_writer_is_gone() {
    let mut story = Story::new(Vec::new());
    let hint = Hint { path: path("f"), kind: HintKind::Closed };
    assert_eq!(["read f"], *story.tell(Input::Hinted(vec![hint])));
    let mut read = Vec::new();
    for _ in 0..5 {
        assert!(story.seen("f", Found::Busy).is_empty());
        read.push(story.engine.is_read());
        while story.pass(10).is_empty() {}
    }
    assert_eq!([false, false, false, true, true], *read, "then it counts as open");
}

#[test]
fn a_directory_goes_after_what_is_to_go_from_it() {
    let dir = || live("d", Kind::Dir, 1);
    let mut story = Story::new(vec![dir()]);
    assert_eq!(["apply d/e"], *story.announced(Lane::Normal, 1, None, live("d/e", Kind::Dir, 2)));
    let no_space = || Outcome::Failed("no space".to_owned());
    // The directory's removal comes while its child cannot be made.
    assert!(story.removed("d/e", 3, None).is_empty());
    assert!(story.removed("d", 4, None).is_empty());
    assert!(story.applied("d/e", no_space()).is_empty());
    let said: Vec<_> = (0..2).flat_map(|_| story.pass(1000)).collect();
    assert_eq!(["remove d/e", "apply d"], *said);
}

#[test]
fn what_the_journal_had_is_not_forgotten_before_it_was_looked_for() {
    let mut story = Story::new(vec![file("f", 5)]);
    let version = version(9, Some(&story.records[0].version));
    let record = Record { path: path("f"), entry: None, version };
    assert_eq!(["read f"], *story.tell(Input::Journaled { record, visible: false }));
    let older = Announced {
        peer: PEER,
        lane: Lane::Normal,
        sequence: Sequence(1),
        after: None,
        theirs: file("f", 5),
        content: false,
        ours: story.ours(&path("f")),
    };
    story.engine.handle(story.now, Input::Announced(Box::new(older)));
    assert!(story.engine.poll_output().is_none(), "it is not finished");
    assert_eq!(["remove f"], *story.seen("f", Found::Absent));
}
