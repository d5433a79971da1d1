//! What comes back, and what is left alone.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use super::*;
use crate::model::{Entry, Kind as Type, LinkGroup};
use crate::snapshot::take::tests::{Tree, noise, path, repository, shop};
use crate::snapshot::{Taken, Writer};

fn taken(repository: &Repository, tree: &Tree) -> Taken {
    let writer = Writer::begin(repository).unwrap();
    let taken = tree.take(&writer);
    let mounts = vec![taken.clone().into_mount("data".to_owned())];
    let manifest = crate::snapshot::Manifest { taken_ns: 1, by: String::new(), note: None, mounts };
    writer.commit(&manifest).unwrap();
    taken
}

fn put(repository: &Repository, tree: TreeRef, to: &Path, only: &[RelPath]) -> Restored {
    let choice = Choice { only, ..Choice::default() };
    restore(repository, tree, to, &choice, &mut |_, _, _| {}).unwrap()
}

#[track_caller]
fn is_there(tree: &Tree, to: &Path) {
    for (path, Entry { kind, meta }) in &tree.entries {
        let at = to.join(std::str::from_utf8(path.as_bytes()).unwrap());
        let found = fs::symlink_metadata(&at).unwrap();
        assert_eq!(meta.mode, found.permissions().mode() & 0o7777, "{path}");
        assert_eq!((meta.mtime.secs, 1), (found.mtime(), found.mtime_nsec()), "{path}");
        match kind {
            Type::Dir => assert!(found.is_dir()),
            Type::File { .. } => assert_eq!(tree.contents[path], fs::read(&at).unwrap(), "{path}"),
            Type::Symlink { target } => {
                assert_eq!(&**target, fs::read_link(&at).unwrap().as_os_str().as_encoded_bytes());
            }
        }
    }
}

#[test]
fn a_tree_comes_back_as_it_was_and_a_second_run_leaves_it_alone() {
    let (folder, repository) = repository();
    let tree = shop();
    let root = taken(&repository, &tree).root;
    let to = folder.path().join("to");
    let done = put(&repository, root, &to, &[]);
    assert!(done.failed.is_empty(), "{:?}", done.failed);
    assert_eq!((6, 0), (done.files(), done.unchanged));
    is_there(&tree, &to);
    let inodes = |to: &Path| -> BTreeSet<u64> {
        ["a/b/f", "a/large", "a/current"]
            .map(|f| to.join(f).symlink_metadata().unwrap().ino())
            .into()
    };
    let before = inodes(&to);
    fs::write(to.join("etc/env.php"), "changed").unwrap();
    fs::write(to.join("etc/mine"), "x").unwrap();
    let done = put(&repository, root, &to, &[]);
    assert_eq!((1, 5), (done.files(), done.unchanged));
    assert_eq!(before, inodes(&to));
    assert_eq!("x", fs::read_to_string(to.join("etc/mine")).unwrap(), "nothing is removed");
    is_there(&tree, &to);
}

#[test]
fn only_what_is_asked_for_comes_back() {
    let (folder, repository) = repository();
    let root = taken(&repository, &shop()).root;
    let to = folder.path().join("to");
    let done = put(&repository, root, &to, &[path("a/b"), path("etc/env.php")]);
    assert_eq!((2, 0), (done.files(), done.failed.len()));
    let names = |dir: &Path| -> BTreeSet<_> {
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert_eq!(BTreeSet::from(["a".to_owned(), "etc".to_owned()]), names(&to));
    assert_eq!(BTreeSet::from(["b".to_owned()]), names(&to.join("a")));
}

#[test]
fn names_of_one_file_and_holes_come_back() {
    let (folder, repository) = repository();
    let mut tree = Tree::default();
    tree.dir("d");
    let mut holes = vec![0; 1 << 20];
    holes[500_000] = 1;
    for name in ["one", "d/two", "three"] {
        tree.file(name, &holes);
        let entry = tree.entries.get_mut(&path(name)).unwrap();
        let Type::File { group, sparse, .. } = &mut entry.kind else { unreachable!() };
        (*group, *sparse) = (Some(LinkGroup(9)), true);
    }
    let root = taken(&repository, &tree).root;
    let to = folder.path().join("to");
    assert!(put(&repository, root, &to, &[]).failed.is_empty());
    is_there(&tree, &to);
    let one = fs::metadata(to.join("one")).unwrap();
    assert_eq!((3, one.ino()), (one.nlink(), fs::metadata(to.join("d/two")).unwrap().ino()));
    assert!(one.blocks() < 64, "{} blocks", one.blocks());
    // One of them is another file now.
    fs::remove_file(to.join("three")).unwrap();
    fs::write(to.join("three"), "x").unwrap();
    assert!(put(&repository, root, &to, &[]).failed.is_empty());
    is_there(&tree, &to);
    assert_eq!(one.ino(), fs::metadata(to.join("three")).unwrap().ino());
}

#[test]
fn paths_longer_than_the_system_takes_come_back() {
    let (folder, repository) = repository();
    let mut tree = Tree::default();
    let name = "p".repeat(255);
    let mut dir = String::new();
    for _ in 0..30 {
        dir = if dir.is_empty() { name.clone() } else { format!("{dir}/{name}") };
        tree.dir(&dir);
    }
    tree.file(&format!("{dir}/file"), b"deep");
    let root = taken(&repository, &tree).root;
    let to = folder.path().join("to");
    let done = put(&repository, root, &to, &[]);
    assert_eq!((1, 0), (done.files(), done.failed.len()), "{:?}", done.failed);
    assert_eq!((0, 1), (put(&repository, root, &to, &[]).files(), 1), "it is found there");
}

#[test]
fn nothing_is_written_through_a_link_or_over_a_directory() {
    let (folder, repository) = repository();
    let root = taken(&repository, &shop()).root;
    let (to, outside) = (folder.path().join("to"), folder.path().join("outside"));
    fs::create_dir_all(to.join("etc/env.php")).unwrap();
    fs::create_dir(&outside).unwrap();
    symlink(&outside, to.join("a")).unwrap();
    let done = put(&repository, root, &to, &[]);
    let failed: BTreeSet<_> = done.failed.iter().map(|(path, _)| path.to_string()).collect();
    assert_eq!(BTreeSet::from(["a".to_owned(), "etc/env.php".to_owned()]), failed);
    assert_eq!(0, fs::read_dir(&outside).unwrap().count());
    assert!(to.join("etc/env.php").is_dir());
    assert_eq!(1, done.files(), "the rest came back");
}

#[test]
fn what_is_damaged_is_named_and_the_rest_comes_back() {
    let (folder, repository) = repository();
    let mut tree = shop();
    tree.file("a/lost", &noise(99, 5000));
    let root = taken(&repository, &tree).root;
    let name = *repository.packs().unwrap().first().unwrap();
    let pack = repository.pack_path(&name);
    let mut bytes = fs::read(&pack).unwrap();
    let lost = noise(99, 5000);
    let at = bytes.windows(64).position(|window| window == &lost[..64]).unwrap();
    bytes[at + 9] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let to = folder.path().join("to");
    let done = put(&repository, root, &to, &[]);
    assert_eq!(
        vec!["a/lost".to_owned()],
        done.failed.iter().map(|f| f.0.to_string()).collect::<Vec<_>>()
    );
    assert!(matches!(done.failed[0].1, RestoreError::Repository(RepositoryError::Damaged { .. })));
    assert!(!to.join("a/lost").exists());
    tree.entries.remove(&path("a/lost"));
    is_there(&tree, &to);
}

#[test]
fn in_place_only_what_differs_is_touched_and_what_is_not_mirrored_is_left() {
    let (folder, repository) = repository();
    let mut tree = shop();
    for name in ["one", "two"] {
        tree.file(name, b"the same file");
        let entry = tree.entries.get_mut(&path(name)).unwrap();
        let Type::File { group, .. } = &mut entry.kind else { unreachable!() };
        *group = Some(LinkGroup(9));
    }
    let root = taken(&repository, &tree).root;
    let (to, stage) = (folder.path().join("to"), folder.path().join("to/.own"));
    let leave = |path: &RelPath| path.components().next() == Some(b".own");
    let again = || {
        let (delete, read, keep_newer_than) = (true, false, None);
        let in_place = InPlace { stage: &stage, delete, keep_newer_than, read, leave: &leave };
        let choice = Choice { only: &[], in_place: Some(in_place), dry: false };
        let done = restore(&repository, root, &to, &choice, &mut |_, _, _| {}).unwrap();
        assert!(done.failed.is_empty(), "{:?}", done.failed);
        (done.files(), done.touched, done.deleted)
    };
    assert!(again().0 > 0);
    is_there(&tree, &to);
    assert_eq!((0, 0, 0), again(), "names of one file included");

    // Neither size nor times tell of an attribute.
    let file = to.join("etc/env.php");
    let before = fs::metadata(&file).unwrap();
    rustix::fs::setxattr(&file, "user.evil", b"x", rustix::fs::XattrFlags::empty()).unwrap();
    fs::create_dir(to.join("run")).unwrap();
    for name in ["fifo", "run/fifo"] {
        let mode = Mode::from_raw_mode(0o600);
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(CWD, to.join(name), fifo, mode, 0).unwrap();
    }
    fs::write(to.join("run/file"), "new").unwrap();
    assert_eq!((0, 1, 1), again(), "the attribute, and a file");
    assert_eq!(Ok(0), rustix::fs::listxattr(&file, &mut [0_u8; 64][..]));
    assert_eq!(before.ino(), fs::metadata(&file).unwrap().ino(), "the file is the same");
    let left = ["fifo", "run/fifo"].iter().all(|name| to.join(name).exists());
    assert!(left && !to.join("run/file").exists());
}
