//! Each call of each kind of apply fails once, with each reason: what is there afterwards is old or
//! new, nothing is lost, and doing it again succeeds.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::rc::Rc;

use rustix::io::Errno;

use super::fault_cases::{CASES, Case, OLD, stage_new};
use super::*;
use crate::disk::fault::{Moment, hook};

const ERRORS: [Errno; 3] = [Errno::NOSPC, Errno::IO, Errno::ACCESS];

/// A disk that fails all calls from one on.
const DEAD: (Errno, usize) = (Errno::IO, usize::MAX);

/// What is below a root, by path.
type Tree = BTreeMap<Vec<u8>, Entry>;

/// Each run syncs: a file system in memory makes thousands of them cheap.
fn quick() -> Fixture {
    let memory = Path::new("/dev/shm");
    let f = if memory.is_dir() { fixture_in(memory) } else { fixture() };
    std::fs::create_dir(f.path("d")).unwrap();
    f.write("d/bystander", b"not to be touched");
    f
}

fn tree(f: &Fixture) -> Tree {
    let mut tree = Tree::from([(Vec::new(), f.entry("").0)]);
    let mut dirs = vec![RelPath::root()];
    while let Some(dir) = dirs.pop() {
        for child in list(&f.mount, &dir).unwrap().unwrap() {
            let path = dir.join(&child.name).unwrap();
            tree.insert(path.as_bytes().to_vec(), f.entry(path.as_bytes()).0);
            dirs.extend(child.is_dir.then_some(path));
        }
    }
    tree
}

fn same(a: Option<&Entry>, b: Option<&Entry>, with_time: bool) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return a.is_none() && b.is_none() };
    let mut b = b.clone();
    if !with_time {
        b.meta.mtime = a.meta.mtime;
    }
    a.same(&b)
}

/// One case with one call that fails.
struct Trial {
    name: String,
    f: Fixture,
    requests: Vec<ApplyRequest>,
    old: Tree,
    new: Tree,
}

/// What a case does when nothing fails: the labels of its calls, the tree before and after.
fn rehearse(case: &Case) -> (Vec<&'static str>, Tree, Tree) {
    let _alone = alone();
    let f = quick();
    (case.make)(&f);
    let requests = (case.requests)(&f);
    let old = tree(&f);
    let labels = Rc::new(RefCell::new(Vec::new()));
    let noted = labels.clone();
    let note = move |label, moment| {
        if moment == Moment::Before {
            noted.borrow_mut().push(label);
        }
        None
    };
    let outcomes = hook::during(note, || work(&f, &requests));
    assert!(outcomes.iter().all(done), "{}: {outcomes:?}", case.name);
    (labels.take(), old, tree(&f))
}

/// The calls under test: the apply and the second look.
fn work(f: &Fixture, requests: &[ApplyRequest]) -> Vec<Outcome> {
    let outcomes = apply_group(&f.mount, requests, |_| {});
    drop(f.look_again());
    outcomes
}

#[test]
fn each_call_of_each_apply_may_fail() {
    let mut reached = BTreeSet::new();
    let (mut trials, mut failures) = (0, 0);
    for case in CASES {
        let (labels, old, new) = rehearse(case);
        for (at, label) in labels.iter().enumerate() {
            for (errno, last) in ERRORS.map(|errno| (errno, at)).into_iter().chain([DEAD]) {
                let name = format!("{}: call {at}, {label}: {errno:?} {last}", case.name);
                let _alone = alone();
                let f = quick();
                (case.make)(&f);
                let requests = (case.requests)(&f);
                let trial = Trial { name, f, requests, old: old.clone(), new: new.clone() };
                trials += 1;
                let run = || trial.run(at..=last, errno);
                match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
                    Ok(labels) => reached.extend(labels),
                    Err(_) => failures += 1,
                }
            }
        }
    }
    assert_eq!(0, failures, "of {trials} trials, each told above");
    every_label_is_reached_or_known(&reached);
}

impl Trial {
    /// Lets these calls fail; gives the labels of all.
    fn run(mut self, calls: RangeInclusive<usize>, errno: Errno) -> Vec<&'static str> {
        // The times of what was made just now are those of this run.
        let now = tree(&self.f);
        for (path, entry) in &mut self.old {
            let is = now[path].meta.mtime;
            if let Some(new) =
                self.new.get_mut(path).filter(|new| new.meta.mtime == entry.meta.mtime)
            {
                new.meta.mtime = is;
            }
            entry.meta.mtime = is;
        }
        let is_dead = *calls.end() == DEAD.1;
        let labels = Rc::new(RefCell::new(Vec::new()));
        let told = labels.clone();
        let fail = move |label, moment| {
            if moment == Moment::After {
                return None;
            }
            told.borrow_mut().push(label);
            calls.contains(&(told.borrow().len() - 1)).then_some(errno)
        };
        let outcomes = hook::during(fail, || work(&self.f, &self.requests));
        // Of a disk that is dead nothing can be put back: there, metadata may be half set.
        let in_place = |r: &ApplyRequest| r.source == Source::None && r.target.is_some();
        if !(is_dead && self.requests.iter().any(in_place)) {
            self.check_old_or_new(&outcomes);
        }
        self.check_nothing_is_lost();
        assert!(self.f.own("stage").len() <= self.requests.len(), "{}", self.name);
        self.repeat();
        labels.take()
    }

    /// Of a directory whose children change, the time is put back only if that can be done: a look
    /// finds it then, and it is mirrored like any other.
    fn is_time_free(&self, path: &[u8]) -> bool {
        let parent = |request: &ApplyRequest| request.path.parent();
        self.requests.iter().filter_map(parent).any(|dir| dir.as_bytes() == path)
    }

    fn check_old_or_new(&self, outcomes: &[Outcome]) {
        let now = tree(&self.f);
        let all: BTreeSet<_> = self.old.keys().chain(self.new.keys()).chain(now.keys()).collect();
        for path in all {
            let (old, new, is) = (self.old.get(path), self.new.get(path), now.get(path));
            let with_time = !self.is_time_free(path);
            let is_new = same(new, is, with_time);
            let shown = path.escape_ascii();
            assert!(
                is_new || same(old, is, with_time),
                "{}: {shown} is neither old nor new: {is:?}, {outcomes:?}",
                self.name
            );
            let index = self.requests.iter().position(|request| request.path.as_bytes() == *path);
            if index.is_some_and(|index| outcomes[index].is_done()) {
                assert!(is_new, "{}: {shown} is not done: {is:?}", self.name);
            }
        }
    }

    /// Whatever content is not at its path any more is kept, or in the trash, or its fate was to go.
    fn check_nothing_is_lost(&self) {
        let now = tree(&self.f);
        for request in &self.requests {
            let path = request.path.as_bytes();
            let Some(Kind::File { content, .. }) = self.old.get(path).map(|entry| &entry.kind)
            else {
                continue;
            };
            let is = |entry: &Entry| entry.content().is_some_and(|c| c.0 == *content);
            let moved =
                |r: &ApplyRequest| matches!(&r.source, Source::Moved(m) if m.from == request.path);
            let came = self.requests.iter().find(|r| moved(r)).map(|r| r.path.as_bytes());
            let is_there =
                [Some(path), came].into_iter().flatten().filter_map(|at| now.get(at)).any(is);
            if !is_there && request.displaced != Displaced::Drop {
                assert!(self.aside().contains(content), "{}: content lost", self.name);
            }
        }
    }

    /// Contents below `.trefoil`, except in the stage.
    fn aside(&self) -> BTreeSet<ContentId> {
        let mut files = self.f.own("displaced");
        files.extend(self.f.own("kept"));
        for day in self.f.own("trash") {
            files.extend(std::fs::read_dir(day).unwrap().map(|file| file.unwrap().path()));
        }
        let plain = files.iter().filter(|file| file.symlink_metadata().unwrap().is_file());
        plain.map(|file| ContentId::of(&std::fs::read(file).unwrap())).collect()
    }

    /// Does again what is not done, as the engine would: on what a look finds.
    fn repeat(&self) {
        for _ in 0..2 {
            let mut requests = Vec::new();
            for request in &self.requests {
                let path = request.path.as_bytes();
                let now = tree(&self.f);
                if same(self.new.get(path), now.get(path), true) {
                    continue;
                }
                if let (Source::Staged, Some(Kind::File { content, .. })) =
                    (&request.source, request.target.as_ref().map(|target| &target.kind))
                    && !exists_complete(&self.f.mount, *content)
                {
                    stage_new(&self.f);
                }
                let expected = now.contains_key(path).then(|| self.f.entry(path));
                // What cannot be moved any more is asked for.
                let source = match &request.source {
                    Source::Moved(_) => Source::Inline(OLD.into()),
                    source => source.clone(),
                };
                requests.push(ApplyRequest { expected, source, ..request.clone() });
            }
            let outcomes = apply_group(&self.f.mount, &requests, |_| {});
            assert!(outcomes.iter().all(done), "{}: repeated: {outcomes:?}", self.name);
        }
        self.check_clean();
    }

    fn check_clean(&self) {
        let now = tree(&self.f);
        let all: BTreeSet<_> = self.new.keys().chain(now.keys()).collect();
        for path in all {
            let with_time = !self.is_time_free(path);
            let (new, is) = (self.new.get(path), now.get(path));
            assert!(same(new, is, with_time), "{}: {new:?}, {is:?}", self.name);
        }
        for _ in 0..2 {
            for late in self.f.look_again() {
                // Only what was to be kept is handed out: nobody wrote to anything.
                let kept = |r: &ApplyRequest| matches!(r.displaced, Displaced::Keep(_));
                assert!(self.requests.iter().all(kept), "{}: {late:?}", self.name);
                std::fs::remove_file(late.file).unwrap();
            }
        }
        assert_eq!(Vec::<PathBuf>::new(), self.f.own("displaced"), "{}", self.name);
        self.check_stage();
    }

    /// What is left in the stage goes with time, without a restart.
    fn check_stage(&self) {
        let later = std::time::SystemTime::now() + Duration::from_secs(1);
        expire_stage_at(&self.f.mount, later);
        assert_eq!(Vec::<PathBuf>::new(), self.f.own("stage"), "{}", self.name);
    }
}

/// Expires what is in the stage as if it were so late.
fn expire_stage_at(mount: &Mount, later: std::time::SystemTime) {
    let since = later.duration_since(std::time::UNIX_EPOCH).unwrap();
    super::super::stage::expire_before(mount, since.as_secs()).unwrap();
}

/// Labels that no apply reaches, by what reaches them.
const OTHERS: &[&str] = &[
    // Opening a mount, and its marker.
    "mkdir.own",
    "open.root",
    "open.own",
    "lock.own",
    "probe.times",
    "stat.space",
    "open.marker",
    "read.marker",
    "write.marker",
    "stat.marker",
    "xattr.remove",
    // Looks, listings and content for others.
    "open.read",
    "read.content",
    "read.link",
    "open.list",
    "read.serve",
    "rename.over",
    "open.over",
    "copy.over",
    "unlink.over",
    "read.hash",
    // The trash as it is listed, and the note of the index.
    "open.trashed",
    "read.trashed",
    "open.note",
    "read.note",
    "write.note",
    "rename.note",
    // Fetching, and what is rare.
    "sync.fetched",
    "read.copy",
    "clone.stage",
    "punch.stage",
    "rename.spill",
    "open.displaced",
    "unlink.displaced",
];

/// A label that is new has to be reached by a case, or be named above.
fn every_label_is_reached_or_known(reached: &BTreeSet<&'static str>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/disk");
    let mut missing = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let file = file.unwrap().path();
        if file.is_dir() || file.ends_with("call.rs") {
            continue;
        }
        let text = std::fs::read_to_string(file).unwrap();
        let labels = text.split("Call::new(\"").skip(1).filter_map(|rest| rest.split('"').next());
        let labels = labels.map(str::to_owned);
        missing.extend(labels.filter(|label| !reached.contains(&**label)));
    }
    missing.retain(|label| !OTHERS.contains(&&**label));
    assert_eq!(Vec::<String>::new(), missing, "labels that no case reaches");
}
