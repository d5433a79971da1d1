//! What is stored: the same tree whichever way it was taken, and nothing that is there already.

use std::convert::Infallible;
use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::model::{Kind as Type, Meta, Mtime, Xattrs};
use crate::snapshot::{ReadData, Repository, entries, verify_tree};

/// A tree in memory, with the content of its files.
#[derive(Default, Clone)]
pub(crate) struct Tree {
    pub entries: BTreeMap<RelPath, Entry>,
    pub contents: BTreeMap<RelPath, Vec<u8>>,
}

/// What is read of a tree.
pub(crate) struct Disk<'a> {
    tree: &'a Tree,
    pub opened: AtomicUsize,
}

pub(crate) fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}

fn meta(mode: u32) -> Meta {
    let mtime = Mtime { secs: 1_700_000_000, nanos: 1 };
    Meta { mode, uid: u32::MAX, gid: u32::MAX, mtime, xattrs: Xattrs::new() }
}

impl Tree {
    pub(crate) fn dir(&mut self, text: &str) {
        self.entries.insert(path(text), Entry { kind: Type::Dir, meta: meta(0o755) });
    }

    pub(crate) fn file(&mut self, text: &str, bytes: &[u8]) {
        let (size, content) = (bytes.len() as u64, ContentId::of(bytes));
        let kind = Type::File { size, content, sparse: false, group: None };
        self.entries.insert(path(text), Entry { kind, meta: meta(0o644) });
        self.contents.insert(path(text), bytes.to_vec());
    }

    pub(crate) fn link(&mut self, text: &str, target: &str) {
        let kind = Type::Symlink { target: target.as_bytes().into() };
        self.entries.insert(path(text), Entry { kind, meta: meta(0o777) });
    }

    pub(crate) fn disk(&self) -> Disk<'_> {
        Disk { tree: self, opened: AtomicUsize::new(0) }
    }

    /// In the order in which an index gives them.
    fn records(&self) -> Vec<Result<(RelPath, Entry), Infallible>> {
        let mut records: Vec<_> = self.entries.clone().into_iter().collect();
        let key = |path: &RelPath| path.split().map(|(dir, name)| (dir.to_vec(), name.to_vec()));
        records.sort_by_key(|(path, _)| std::cmp::Reverse(key(path)));
        records.into_iter().map(Ok).collect()
    }

    pub(crate) fn take(&self, writer: &Writer<'_>) -> Taken {
        take(writer, self.records(), &self.disk()).unwrap()
    }
}

impl Contents for Disk<'_> {
    fn open(&self, path: &RelPath) -> io::Result<Box<dyn Read + '_>> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        match self.tree.contents.get(path) {
            Some(bytes) => Ok(Box::new(&**bytes)),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

pub(crate) fn repository() -> (TempDir, Repository) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("repository");
    Repository::create(&path).unwrap();
    let repository = Repository::open(&path).unwrap();
    (folder, repository)
}

/// Bytes that no two seeds have in common.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut noise);
    noise
}

pub(crate) fn shop() -> Tree {
    let mut tree = Tree::default();
    for dir in ["a", "a/b", "a.b", "empty", "etc"] {
        tree.dir(dir);
    }
    tree.file("a/b/f", b"<?php\n");
    tree.file("a.b/f", b"<?php\n");
    tree.file("a/large", &noise(1, 3 << 20));
    tree.file("a/nothing", b"");
    tree.file("etc/env.php", &b"secret ".repeat(9000));
    tree.link("a/current", "../a.b");
    tree
}

/// All paths with what is there, by walking the stored tree.
fn walked(repository: &Repository, root: TreeRef) -> BTreeMap<RelPath, (Meta, Option<ContentId>)> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![(RelPath::root(), root)];
    while let Some((dir, tree)) = dirs.pop() {
        for node in entries(repository, tree).unwrap() {
            let path = dir.join(&node.name).unwrap();
            let content = match node.item {
                Item::Dir(tree) => {
                    dirs.push((path.clone(), tree));
                    None
                }
                Item::File { content, .. } => Some(content),
                Item::Symlink { target } => Some(ContentId::of(&target)),
            };
            found.insert(path, (node.meta, content));
        }
    }
    found
}

fn expected(tree: &Tree) -> BTreeMap<RelPath, (Meta, Option<ContentId>)> {
    let content = |entry: &Entry| match &entry.kind {
        Type::Dir => None,
        Type::File { content, .. } => Some(*content),
        Type::Symlink { target } => Some(ContentId::of(target)),
    };
    let of =
        |(path, entry): (&RelPath, &Entry)| (path.clone(), (entry.meta.clone(), content(entry)));
    tree.entries.iter().map(of).collect()
}

#[test]
fn a_tree_is_stored_as_it_is_and_once() {
    let (_folder, repository) = repository();
    let tree = shop();
    let writer = Writer::begin(&repository).unwrap();
    let taken = tree.take(&writer);
    assert_eq!((6, Vec::<RelPath>::new()), (taken.files, taken.changing.clone()));
    assert_eq!(tree.contents.values().map(|c| c.len() as u64).sum::<u64>(), taken.bytes);
    let added = writer.added();
    let again = tree.disk();
    assert_eq!(taken, take(&writer, tree.records(), &again).unwrap());
    assert_eq!(added, writer.added(), "nothing is stored twice");
    assert_eq!(1, again.opened.into_inner(), "only what is in pieces is read again");
    let mounts = vec![taken.clone().into_mount("data".to_owned())];
    let manifest =
        crate::snapshot::Manifest { taken_ns: 1, by: "n1".to_owned(), note: None, mounts };
    let id = writer.commit(&manifest).unwrap();
    assert_eq!(manifest, repository.manifest(id).unwrap());
    assert_eq!(expected(&tree), walked(&repository, taken.root));
    let faults =
        verify_tree(&repository, taken.root, ReadData::All, &mut Default::default()).unwrap();
    assert!(faults.is_empty(), "{faults:?}");
    assert!(repository.totals().unwrap().1 < (3 << 20) + 20_000, "text is compressed");
}

#[test]
fn what_is_not_as_its_record_says_is_named_and_not_stored() {
    let (_folder, repository) = repository();
    let mut tree = shop();
    let writer = Writer::begin(&repository).unwrap();
    let before = tree.take(&writer).into_mount("data".to_owned());
    tree.file("a/b/f", b"new");
    tree.file("a/other", b"gone meanwhile");
    tree.file("a/large", &noise(2, 3 << 20));
    tree.contents.insert(path("a/b/f"), b"newer".to_vec());
    tree.contents.remove(&path("a/other"));
    tree.contents.insert(path("a/large"), noise(2, (3 << 20) - 1));
    let changing: Vec<_> = ["a/b/f", "a/large", "a/other"].map(path).into();
    assert_eq!(changing, tree.take(&writer).changing);
    let changes = changing.iter().map(|path| (path.clone(), tree.entries.get(path).cloned()));
    let taken = take_changes(&writer, &before, changes.collect(), &tree.disk()).unwrap();
    assert_eq!((changing, before.root), (taken.changing.clone(), taken.root), "it is as it was");
    // The next time they are what they should be.
    let contents = [("a/b/f", b"new".to_vec()), ("a/large", noise(2, 3 << 20))];
    tree.contents.extend(contents.map(|(text, bytes)| (path(text), bytes)));
    tree.entries.remove(&path("a/other"));
    let changes = taken.changing.iter().map(|path| (path.clone(), tree.entries.get(path).cloned()));
    let before = taken.clone().into_mount("data".to_owned());
    let taken = take_changes(&writer, &before, changes.collect(), &tree.disk()).unwrap();
    assert_eq!(tree.take(&writer), taken);
}

#[test]
fn a_change_of_one_file_reads_that_file_alone() {
    let (_folder, repository) = repository();
    let mut tree = shop();
    for n in 0..3000 {
        tree.file(&format!("a/{n}.jpg"), &noise(n + 10, 40));
    }
    let writer = Writer::begin(&repository).unwrap();
    let before = tree.take(&writer).into_mount("data".to_owned());
    let added = writer.added();
    tree.file("a/77.jpg", b"changed");
    let changes =
        BTreeMap::from([(path("a/77.jpg"), tree.entries.get(&path("a/77.jpg")).cloned())]);
    let disk = tree.disk();
    let taken = take_changes(&writer, &before, changes, &disk).unwrap();
    assert_eq!(1, disk.opened.into_inner());
    assert!(writer.added() - added < 150_000, "{}: the page it is in", writer.added() - added);
    assert_eq!(tree.take(&writer), taken);
    let none = take_changes(&writer, &before, BTreeMap::new(), &tree.disk()).unwrap();
    assert_eq!(before, none.into_mount("data".to_owned()));
}

/// What happens to a small tree: a path of few, and what is there then.
fn change() -> impl Strategy<Value = (usize, u8)> {
    (0..PATHS.len(), 0_u8..6)
}

const PATHS: [&str; 9] = ["a", "a/b", "a/b/c", "a/b.c", "a.b", "a.b/c", "d", "d/e", "d/e/f"];

/// Makes it so, with the directories above, and without what was below.
fn apply(tree: &mut Tree, (at, what): (usize, u8)) {
    let text = PATHS[at];
    let below: Vec<_> =
        tree.entries.keys().filter(|other| other.is_below(&path(text))).cloned().collect();
    let parents: Vec<_> = text.match_indices('/').map(|(at, _)| &text[..at]).collect();
    if what > 0 {
        for parent in parents {
            if !tree.entries.get(&path(parent)).is_some_and(Entry::is_dir) {
                tree.dir(parent);
            }
        }
    }
    if what != 1 {
        below.iter().for_each(|path| drop(tree.entries.remove(path)));
    }
    match what {
        0 => drop(tree.entries.remove(&path(text))),
        1 => tree.dir(text),
        2 => tree.link(text, "elsewhere"),
        n => tree.file(text, &[n; 5]),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn changes_lead_to_the_tree_that_is_taken_whole(
        steps in prop::collection::vec(prop::collection::vec(change(), 0..6), 1..6),
    ) {
        let (_folder, repository) = repository();
        let writer = Writer::begin(&repository).unwrap();
        let mut tree = Tree::default();
        let mut before = tree.take(&writer).into_mount("data".to_owned());
        for changes in steps {
            let old = tree.clone();
            changes.into_iter().for_each(|change| apply(&mut tree, change));
            let paths = old.entries.keys().chain(tree.entries.keys());
            let differs = paths.filter(|path| old.entries.get(path) != tree.entries.get(path));
            let changes = differs.map(|path| (path.clone(), tree.entries.get(path).cloned()));
            let taken = take_changes(&writer, &before, changes.collect(), &tree.disk()).unwrap();
            prop_assert_eq!(&tree.take(&writer), &taken);
            before = taken.into_mount("data".to_owned());
        }
    }
}
