//! What is shown of snapshots, what is read for it, and what damage hides.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::model::{ContentId, Entry as Record, Kind as Was, LinkGroup, Meta, Mtime};
use crate::snapshot::take::tests::{Tree, noise, repository, shop as tree_of_a_shop};
use crate::snapshot::{Kind, MountTree, ObjectId, Objects, Repository, Writer};

const START: Duration = Duration::ZERO;

/// What a repository was asked for, and what it does not give.
#[derive(Default)]
struct Asked {
    got: Mutex<Vec<(Kind, ObjectId)>>,
    damaged: Mutex<Vec<ObjectId>>,
    /// Nothing is found until somebody looks again.
    is_lost: AtomicBool,
}

impl Asked {
    /// How many objects of a kind were asked for since the last time.
    fn count(&self, kind: Kind) -> usize {
        let mut got = lock(&self.got);
        let count = got.iter().filter(|(found, _)| *found == kind).count();
        got.retain(|(found, _)| *found != kind);
        count
    }
}

struct Watched(Repository, Arc<Asked>);

impl Objects for Watched {
    fn get(&self, kind: Kind, id: ObjectId) -> Result<Vec<u8>, RepositoryError> {
        lock(&self.1.got).push((kind, id));
        if self.1.is_lost.load(Ordering::Relaxed) {
            return Err(RepositoryError::Missing { kind, id });
        }
        if lock(&self.1.damaged).contains(&id) {
            let (pack, reason) = (self.0.path().to_owned(), "the bytes of an object");
            return Err(RepositoryError::Damaged { kind, id, pack, reason });
        }
        self.0.get(kind, id)
    }
}

impl Source for Watched {
    fn ids(&self) -> Result<std::collections::BTreeSet<SnapshotId>, RepositoryError> {
        self.0.ids()
    }

    fn read_manifest(&self, id: SnapshotId) -> Result<Manifest, RepositoryError> {
        self.0.read_manifest(id)
    }

    fn look_again(&self) -> Result<(), RepositoryError> {
        self.1.is_lost.store(false, Ordering::Relaxed);
        self.0.look_again()
    }
}

struct Shop {
    folder: tempfile::TempDir,
    asked: Arc<Asked>,
    browser: Browser,
}

fn view() -> View {
    let name = |id: SnapshotId, manifest: &Manifest| {
        format!("{:020}-{}", manifest.taken_ns, &id.to_string()[..SnapshotId::SHORT])
    };
    View { name, may_be_latest: |manifest| manifest.note.is_none(), owner: (7, 8) }
}

/// Takes a snapshot with one mount `data`, and gives its name.
fn take(repository: &Repository, tree: &Tree, taken_ns: u64, note: Option<&str>) -> Vec<u8> {
    let writer = Writer::begin(repository).unwrap();
    let mounts = vec![tree.take(&writer).into_mount("data".to_owned())];
    let note = note.map(str::to_owned);
    let manifest = Manifest { taken_ns, by: "n1".to_owned(), note, mounts };
    let id = writer.commit(&manifest).unwrap();
    (view().name)(id, &manifest).into_bytes()
}

impl Shop {
    fn empty() -> Self {
        let (folder, repository) = repository();
        let asked = Arc::new(Asked::default());
        let browser = Browser::new(Box::new(Watched(repository, asked.clone())), view());
        Self { folder, asked, browser }
    }

    fn of(tree: &Tree) -> Self {
        let shop = Self::empty();
        take(&shop.other(), tree, 5_000_000_001, None);
        shop
    }

    /// As another process has it.
    fn other(&self) -> Repository {
        Repository::open(&self.folder.path().join("repository")).unwrap()
    }

    fn names(&self, dir: u64, now: Duration) -> Vec<Vec<u8>> {
        let mut names = Vec::new();
        let mut take = |listed: Listed<'_>| {
            names.push(listed.name.to_vec());
            true
        };
        self.browser.list(dir, 0, now, &mut take).unwrap();
        names.split_off(2)
    }

    /// What is at a path in `data` of the one snapshot.
    fn at(&self, path: &[u8]) -> Result<Attr, BrowseError> {
        let snapshot = self.names(ROOT, START).pop().unwrap();
        let top = self.browser.lookup(ROOT, &snapshot, START)?;
        let mut found = self.browser.lookup(top.number, b"data", START)?;
        for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
            found = self.browser.lookup(found.number, name, START)?;
        }
        Ok(found)
    }

    fn id(&self, tree: &Tree, path: &str) -> ObjectId {
        ContentId::of(&tree.contents[&RelPath::parse(path.as_bytes()).unwrap()]).into()
    }
}

fn record(kind: Was) -> Record {
    let xattrs = vec![((*b"user.a").into(), (*b"\0\xff").into())];
    let mtime = Mtime { secs: -5, nanos: 7 };
    Record { kind, meta: Meta { mode: 0o4750, uid: 33, gid: u32::MAX, mtime, xattrs } }
}

fn file_of(bytes: &[u8], group: Option<LinkGroup>) -> Record {
    let (size, content) = (bytes.len() as u64, ContentId::of(bytes));
    record(Was::File { size, content, sparse: false, group })
}

#[test]
fn snapshots_are_directories_and_latest_leads_to_the_newest_that_was_not_taken_before_a_restore() {
    let shop = Shop::empty();
    assert!(shop.names(ROOT, START).is_empty());
    assert!(matches!(shop.browser.lookup(ROOT, b"latest", START), Err(BrowseError::Nothing)));
    let repository = shop.other();
    let second = take(&repository, &tree_of_a_shop(), 9_000_000_002, None);
    let first = take(&repository, &Tree::default(), 5, None);
    let third = take(&repository, &Tree::default(), 10_000_000_000, Some("safety"));
    assert!(shop.names(ROOT, LOOK_AGAIN_AFTER / 2).is_empty(), "it has just looked");

    let now = LOOK_AGAIN_AFTER;
    let names = shop.names(ROOT, now);
    assert_eq!([b"latest".to_vec(), first, second.clone(), third.clone()].to_vec(), names);
    let latest = shop.browser.lookup(ROOT, b"latest", now).unwrap();
    assert_eq!((Type::Symlink, false), (latest.kind, latest.is_lasting));
    assert_eq!(second, shop.browser.target(latest.number, now).unwrap());
    assert_eq!(second.len() as u64, latest.size);

    let top = shop.browser.lookup(ROOT, &second, now).unwrap();
    assert_eq!((Type::Dir, 0o755, 7, 8), (top.kind, top.mode, top.uid, top.gid));
    assert_eq!((Mtime { secs: 9, nanos: 2 }, false), (top.mtime, top.is_lasting));
    assert_eq!(vec![b"data".to_vec()], shop.names(top.number, now));
    let mount = shop.browser.lookup(top.number, b"data", now).unwrap();
    assert_eq!(top.mtime, mount.mtime);
    assert!(mount.is_lasting && shop.names(mount.number, now).contains(&b"etc".to_vec()));

    // What is removed disappears, but not for who is in it already.
    let lock = repository.wait_lock().unwrap();
    let id = repository.snapshots().unwrap().0[1].0;
    repository.remove(&lock, id, 1).unwrap();
    let later = now + LOOK_AGAIN_AFTER;
    assert_eq!(3, shop.names(ROOT, later).len());
    assert!(matches!(shop.browser.lookup(ROOT, &second, later), Err(BrowseError::Nothing)));
    assert!(shop.browser.lookup(mount.number, b"etc", later).is_ok());
    let secs = shop.browser.attr(ROOT, later).unwrap().mtime.secs;
    assert_eq!(10, secs);
}

#[test]
fn a_list_that_is_read_in_steps_has_nothing_twice_though_snapshots_come_and_go() {
    let shop = Shop::empty();
    let repository = shop.other();
    let mut made: Vec<_> =
        (1..=6).map(|n| take(&repository, &Tree::default(), n * 10, None)).collect();
    let (mut from, mut seen, mut now) = (0, Vec::new(), START);
    loop {
        let mut one = None;
        let mut take_one = |listed: Listed<'_>| {
            let is_first = one.is_none();
            if is_first {
                one = Some((listed.name.to_vec(), listed.next));
            }
            is_first
        };
        shop.browser.list(ROOT, from, now, &mut take_one).unwrap();
        let Some((name, next)) = one else { break };
        (from, now) = (next, now + LOOK_AGAIN_AFTER);
        if seen.len() == 5 {
            let lock = repository.wait_lock().unwrap();
            let found = repository.snapshots().unwrap().0;
            repository.remove(&lock, found[0].0, 1).unwrap();
            repository.remove(&lock, found[4].0, 1).unwrap();
            drop(lock);
            made.remove(4);
            // It is older than those that are still to come.
            made.push(take(&repository, &Tree::default(), 1, None));
        }
        seen.push(name);
    }
    let dots = [b".".to_vec(), b"..".to_vec(), b"latest".to_vec()];
    assert_eq!([dots.to_vec(), made].concat(), seen);
}

#[test]
fn entries_have_what_was_stored_of_them() {
    let mut tree = Tree::default();
    let path = |text: &[u8]| RelPath::parse(text).unwrap();
    let odd: &[u8] = b"\xff \n\\\x01";
    let text = noise(3, 5000);
    tree.entries.insert(path(b"d"), record(Was::Dir));
    for name in [odd, b"one", b"other"] {
        let path = path(&[b"d/", name].concat());
        let group = (name != odd).then_some(LinkGroup(3));
        tree.entries.insert(path.clone(), file_of(&text, group));
        tree.contents.insert(path, text.clone());
    }
    let target: &[u8] = b"/\xff\xfe";
    let link = record(Was::Symlink { target: target.into() });
    tree.entries.insert(path(b"d/link"), link);
    let shop = Shop::of(&tree);

    let dir = shop.at(b"d").unwrap();
    assert_eq!((Type::Dir, 0o4750, 33, 8, 2), (dir.kind, dir.mode, dir.uid, dir.gid, dir.links));
    let file = shop.at(&[b"d/", odd].concat()).unwrap();
    assert_eq!((Type::File, 5000, 1), (file.kind, file.size, file.links));
    assert_eq!(Mtime { secs: -5, nanos: 7 }, file.mtime);
    assert_eq!(Ok(file), shop.browser.attr(file.number, START).map_err(|e| e.to_string()));
    assert_eq!(text, shop.browser.read(file.number, 0, 5000).unwrap());
    let attributes = shop.browser.attributes(file.number).unwrap();
    assert_eq!(vec![((*b"user.a").into(), (*b"\0\xff").into())], attributes);
    let link = shop.at(b"d/link").unwrap();
    assert_eq!((Type::Symlink, 3), (link.kind, link.size));
    assert_eq!(target, shop.browser.target(link.number, START).unwrap());

    // Names of one file are one file, and a list says the same.
    let (one, other) = (shop.at(b"d/one").unwrap(), shop.at(b"d/other").unwrap());
    assert_eq!((one, 2), (other, one.links));
    let mut listed = BTreeMap::new();
    let mut take = |entry: Listed<'_>| listed.insert(entry.name.to_vec(), entry.number).is_none();
    shop.browser.list(dir.number, 0, START, &mut take).unwrap();
    let number = |name: &[u8]| listed[name];
    assert_eq!([dir.number, file.number, one.number], [number(b"."), number(odd), number(b"one")]);
    assert_eq!((number(b"one"), link.number), (number(b"other"), number(b"link")));
    assert_eq!(shop.at(b"").unwrap().number, number(b".."));

    for (dir, name) in [(dir.number, b"ONE"), (dir.number, b"\xffx\n"), (ROOT, b"six")] {
        let found = shop.browser.lookup(dir, name, START);
        assert!(matches!(found, Err(BrowseError::Nothing)), "{found:?}");
    }
    assert!(matches!(shop.browser.read(dir.number, 0, 1), Err(BrowseError::Stale)));
    assert!(matches!(shop.browser.lookup(file.number, b"x", START), Err(BrowseError::Stale)));
}

#[test]
fn only_what_is_asked_for_is_read_and_it_is_read_once() {
    let mut tree = tree_of_a_shop();
    let large = noise(9, 5 << 20);
    tree.file("a/larger", &large);
    let shop = Shop::of(&tree);
    let file = shop.at(b"a/larger").unwrap().number;
    assert_eq!((0, 0), (shop.asked.count(Kind::Data), shop.asked.count(Kind::Pieces)));
    let bytes = |from: u64, size: u32| shop.browser.read(file, from, size).unwrap();
    let part = |from: u64, size: usize| {
        let from = usize::try_from(from).unwrap().min(large.len());
        large[from..(from + size).min(large.len())].to_vec()
    };
    assert_eq!(part(0, 1), bytes(0, 1));
    assert_eq!((1, 1), (shop.asked.count(Kind::Data), shop.asked.count(Kind::Pieces)));
    assert_eq!(part(1, 100), bytes(1, 100));
    assert_eq!((0, 0), (shop.asked.count(Kind::Data), shop.asked.count(Kind::Pieces)));
    // Across objects, at every kind of edge, and at the end.
    let size = large.len() as u64;
    for from in (0..size).step_by(77_777).chain([size - 1, size, size + 1, u64::MAX]) {
        for length in [0, 1, 4096, 131_072, 1 << 20] {
            assert!(bytes(from, length) == part(from, length as usize), "{from} {length}");
        }
    }
    assert_eq!(0, shop.asked.count(Kind::Pieces));
    let empty = shop.at(b"a/nothing").unwrap().number;
    assert!(shop.browser.read(empty, 0, 4096).unwrap().is_empty());
}

#[test]
fn large_directories_are_read_page_by_page_and_everything_in_them_is_found() {
    let mut tree = Tree::default();
    tree.dir("many");
    for n in 0..3000 {
        tree.file(&format!("many/{n}.jpg"), &[7]);
    }
    let shop = Shop::of(&tree);
    let dir = shop.at(b"many").unwrap().number;
    shop.asked.count(Kind::Page);
    assert!(shop.browser.lookup(dir, b"7.jpg", START).is_ok());
    assert_eq!((1, 1), (shop.asked.count(Kind::Index), shop.asked.count(Kind::Page)));

    let (mut next, mut names, mut steps) = (0, Vec::new(), 0);
    loop {
        let (mut room, from) = (100, next);
        let mut take = |listed: Listed<'_>| {
            if room == 0 {
                return false;
            }
            (room, next) = (room - 1, listed.next);
            names.push(listed.name.to_vec());
            true
        };
        shop.browser.list(dir, from, START, &mut take).unwrap();
        if room == 100 {
            break;
        }
        if steps == 0 {
            assert_eq!(1, shop.asked.count(Kind::Page), "one page has a hundred entries");
        }
        steps += 1;
    }
    assert_eq!(3002, names.len());
    assert!(names[2..].is_sorted());
    for name in &names[2..] {
        let found = shop.browser.lookup(dir, name, START).unwrap();
        shop.browser.forget(found.number, 1);
    }
    for name in [&b"0"[..], b"zzz", b"7.jpgx", b"!"] {
        let found = shop.browser.lookup(dir, name, START);
        assert!(matches!(found, Err(BrowseError::Nothing)), "{found:?}");
    }
}

#[test]
fn damage_is_told_with_its_path_and_hides_nothing_else() {
    let mut tree = tree_of_a_shop();
    tree.dir("a/b/c");
    tree.file("a/b/c/\u{1}", b"in it");
    tree.dir("many");
    for n in 0..3000 {
        tree.file(&format!("many/{n}"), &[7]);
    }
    let shop = Shop::of(&tree);
    let told = |error: BrowseError| match error {
        BrowseError::Unreadable { path, source } => (path.to_string(), source.to_string()),
        other => panic!("{other}"),
    };
    let snapshot = String::from_utf8(shop.names(ROOT, START).pop().unwrap()).unwrap();

    let id = shop.id(&tree, "a/b/f");
    lock(&shop.asked.damaged).push(id);
    let file = shop.at(b"a/b/f").unwrap();
    let (path, reason) = told(shop.browser.read(file.number, 0, 10).unwrap_err());
    assert_eq!(format!("{snapshot}/data/a/b/f"), path);
    assert!(reason.starts_with(&format!("data {id} in ")), "{reason}");
    let other = shop.at(b"etc/env.php").unwrap();
    assert_eq!(b"secret ", &*shop.browser.read(other.number, 0, 7).unwrap());

    // A directory that was never read, and one of which a page is gone.
    let dir = shop.at(b"a/b/c").unwrap().number;
    let many = shop.at(b"many").unwrap().number;
    let root = shop.other().snapshots().unwrap().0[0].1.mounts[0].root;
    let tree_of = |path: &str| {
        let path = RelPath::parse(path.as_bytes()).unwrap();
        match crate::snapshot::find(&shop.other(), root, &path).unwrap().unwrap().item {
            Item::Dir(tree) => tree,
            other => panic!("{other:?}"),
        }
    };
    lock(&shop.asked.damaged).push(tree_of("a/b/c").id);
    let (path, _) = told(shop.browser.lookup(dir, b"x", START).unwrap_err());
    assert_eq!(format!("{snapshot}/data/a/b/c"), path);
    let pages = crate::snapshot::pages(&shop.other(), tree_of("many")).unwrap();
    assert!(pages.len() > 2);
    lock(&shop.asked.damaged).push(pages[1]);
    let (mut next, mut count) = (0, 0);
    let (path, _) = loop {
        let from = next;
        let mut take = |listed: Listed<'_>| {
            (next, count) = (listed.next, count + 1);
            true
        };
        if let Err(error) = shop.browser.list(many, from, START, &mut take) {
            break told(error);
        }
    };
    assert_eq!(format!("{snapshot}/data/many"), path);
    assert!((2..3000).contains(&count), "{count}");
    assert!(shop.browser.lookup(many, b"0", START).is_ok(), "it is in the first page");
    assert!(shop.browser.lookup(many, b"999", START).is_ok(), "it is in the last page");
}

#[test]
fn what_another_process_moved_is_looked_for_once() {
    let shop = Shop::of(&tree_of_a_shop());
    shop.asked.is_lost.store(true, Ordering::Relaxed);
    let file = shop.at(b"a/b/f").unwrap().number;
    assert_eq!(b"<?php\n", &*shop.browser.read(file, 0, 100).unwrap());
    // There is nobody to move it a second time before somebody looks at the snapshots again.
    shop.asked.is_lost.store(true, Ordering::Relaxed);
    let other = shop.at(b"etc/env.php");
    assert!(matches!(other, Err(BrowseError::Unreadable { .. })), "{other:?}");
    shop.names(ROOT, LOOK_AGAIN_AFTER);
    assert!(shop.at(b"etc/env.php").is_ok());
}

#[test]
fn numbers_go_when_the_kernel_forgets_them_and_come_back_the_same() {
    let shop = Shop::of(&tree_of_a_shop());
    let first = shop.at(b"a/b/f").unwrap();
    let again = shop.at(b"a/b/f").unwrap();
    assert_eq!(first, again);
    assert_eq!(5, lock(&shop.browser.table).len());
    for name in [&b"a/b"[..], b"a", b""] {
        let found = shop.at(name).unwrap();
        shop.browser.forget(found.number, 100);
    }
    shop.browser.forget(first.number, 1);
    assert!(shop.browser.attr(first.number, START).is_ok());
    shop.browser.forget(first.number, 1);
    assert!(matches!(shop.browser.attr(first.number, START), Err(BrowseError::Stale)));
    assert_eq!(1, lock(&shop.browser.table).len(), "that of the snapshot");
    assert_eq!(first, shop.at(b"a/b/f").unwrap());
}

#[test]
fn a_manifest_that_is_none_or_has_names_that_are_none_hides_no_other() {
    let shop = Shop::of(&tree_of_a_shop());
    let folder = shop.folder.path().join("repository/snapshots");
    std::fs::write(folder.join("ab".repeat(32)), "trefoil snapshot 1\n").unwrap();
    let root = shop.other().snapshots().unwrap().0[0].1.mounts[0].root;
    let tree = |name: &str| {
        let (name, changing) = (name.to_owned(), Vec::new());
        MountTree { name, root, files: 0, bytes: 0, changing }
    };
    let mounts = ["", "..", "a/b", "fine"].map(tree).to_vec();
    let manifest = Manifest { taken_ns: 1, by: "n1".to_owned(), note: None, mounts };
    let (id, text) = (manifest.id(), manifest.encode());
    std::fs::write(folder.join(id.to_string()), text).unwrap();
    let names = shop.names(ROOT, LOOK_AGAIN_AFTER);
    assert_eq!(3, names.len());
    let name = (view().name)(id, &manifest).into_bytes();
    let odd = shop.browser.lookup(ROOT, &name, LOOK_AGAIN_AFTER).unwrap().number;
    assert_eq!(vec![b"fine".to_vec()], shop.names(odd, LOOK_AGAIN_AFTER));
}
