//! What is given back, and what never is.

use super::*;
use crate::snapshot::take::tests::{Tree, noise, repository, shop};
use crate::snapshot::{Cut, KeepError, Manifest, ReadData, SnapshotId, Writer, verify_tree};

const DAY_NS: u64 = 24 * 3600 * 1_000_000_000;

fn take(repository: &Repository, tree: &Tree, taken_ns: u64) -> SnapshotId {
    let writer = Writer::begin(repository).unwrap();
    let mounts = vec![tree.take(&writer).into_mount("data".to_owned())];
    writer.commit(&Manifest { taken_ns, by: "n1".to_owned(), note: None, mounts }).unwrap()
}

fn is_whole(repository: &Repository, id: SnapshotId) -> bool {
    let root = repository.manifest(id).unwrap().mounts[0].root;
    verify_tree(repository, root, ReadData::All, &mut Default::default()).unwrap().is_empty()
}

/// Two snapshots, of which the first has 12 MiB of its own.
fn two() -> (tempfile::TempDir, Repository, [SnapshotId; 2]) {
    let (folder, repository) = repository();
    let mut tree = shop();
    tree.file("large", &noise(1, 12 << 20));
    let first = take(&repository, &tree, 1);
    tree.file("large", b"now it is small");
    let second = take(&repository, &tree, 2);
    (folder, repository, [first, second])
}

fn bytes(repository: &Repository) -> u64 {
    let packs = repository.packs().unwrap();
    packs.iter().map(|name| repository.pack_path(name).metadata().unwrap().len()).sum()
}

#[test]
fn space_comes_back_when_a_removal_cannot_be_taken_back_any_more() {
    let (folder, repository, [first, second]) = two();
    let lock = repository.wait_lock().unwrap();
    let before = bytes(&repository);
    let nothing = repository.collect(&lock, 5 * DAY_NS, false).unwrap();
    assert_eq!((0, before), (nothing.packs, bytes(&repository)));

    repository.remove(&lock, first, DAY_NS).unwrap();
    assert!(repository.manifest(first).is_err());
    let early = repository.collect(&lock, 2 * DAY_NS - 1, false).unwrap();
    assert_eq!(Collected::default(), early);
    repository.undelete(&lock, first, DAY_NS + 1).unwrap();
    assert!(is_whole(&repository, first));

    repository.remove(&lock, first, DAY_NS + 2).unwrap();
    let dry = repository.collect(&lock, 3 * DAY_NS, true).unwrap();
    assert_eq!(before, bytes(&repository), "a dry run changes nothing");
    let done = repository.collect(&lock, 3 * DAY_NS, false).unwrap();
    assert_eq!(dry, done);
    assert!(done.snapshots == 1 && done.rewritten == 1, "{done:?}");
    assert!(done.freed_bytes > 9_000_000, "{done:?}");
    assert!(is_whole(&repository, second));
    let gone = repository.undelete(&lock, first, 4 * DAY_NS);
    assert!(matches!(gone, Err(KeepError::Gone)));
    drop(lock);
    // The catalog says the same as the packs.
    let (_, catalog) = repository.totals().unwrap();
    drop(repository);
    fs::remove_file(folder.path().join("repository/catalog.db")).unwrap();
    let again = Repository::open(&folder.path().join("repository")).unwrap();
    assert!(is_whole(&again, second));
    assert_eq!(catalog, again.totals().unwrap().1);
}

#[test]
fn one_that_reads_on_while_packs_are_written_anew_finds_everything() {
    let (folder, repository, [first, second]) = two();
    // Another process, which has looked already.
    let reader = Repository::open(&folder.path().join("repository")).unwrap();
    assert!(reader.has(crate::snapshot::Kind::Page, crate::snapshot::ObjectId([0; 32])).is_ok());
    let lock = repository.wait_lock().unwrap();
    repository.remove(&lock, first, 1).unwrap();
    assert_eq!(1, repository.collect(&lock, 2 * DAY_NS, false).unwrap().rewritten);
    assert!(is_whole(&reader, second));
}

#[test]
fn what_the_next_look_begins_with_is_not_given_back() {
    let (_folder, repository, [first, second]) = two();
    let tree = repository.manifest(first).unwrap().mounts[0].clone();
    let root = tree.root;
    let lock = repository.wait_lock().unwrap();
    let cuts = [("data".to_owned(), Cut { life: 7, head: 9, tree })].into();
    repository.save_cuts(&lock, &cuts).unwrap();
    assert_eq!(cuts, repository.cuts());
    repository.remove(&lock, first, 1).unwrap();
    let done = repository.collect(&lock, 2 * DAY_NS, false).unwrap();
    assert_eq!((1, 0), (done.snapshots, done.packs));
    assert!(
        verify_tree(&repository, root, ReadData::All, &mut Default::default()).unwrap().is_empty()
    );
    assert!(is_whole(&repository, second));
}

#[test]
fn nothing_is_given_back_while_a_tree_cannot_be_read() {
    let (_folder, repository, [first, second]) = two();
    let lock = repository.wait_lock().unwrap();
    repository.remove(&lock, first, 1).unwrap();
    let manifest = repository.path().join("snapshots").join(second.to_string());
    fs::write(&manifest, "this is no manifest").unwrap();
    let before = bytes(&repository);
    assert!(repository.collect(&lock, 2 * DAY_NS, false).is_err());
    assert_eq!(before, bytes(&repository));
}

#[test]
fn the_last_snapshot_and_pinned_ones_stay_and_what_a_crash_left_undone_is_done() {
    let (_folder, repository, [first, second]) = two();
    let lock = repository.wait_lock().unwrap();
    assert!(matches!(repository.remove(&lock, second, 1), Err(KeepError::Last)));
    repository.pin(&lock, first, true, 1).unwrap();
    assert!(matches!(repository.remove(&lock, first, 2), Err(KeepError::Pinned)));
    repository.pin(&lock, first, false, 3).unwrap();
    // The mark was written, and then the power went.
    let mark = crate::snapshot::Mark { changed_ns: 9, removed: true, pinned: false };
    let path = repository.path().join("marks").join(first.to_string());
    fs::write(path, mark.encode()).unwrap();
    repository.settle(&lock).unwrap();
    assert!(repository.manifest(first).is_err());
    assert_eq!(Some(&mark), repository.marks().unwrap().get(&first));
}
