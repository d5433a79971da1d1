//! What survives: crashes at any moment, a lost catalog, damage, and another process.

use super::*;
use crate::snapshot::take::tests::{noise, repository, shop};
use crate::snapshot::{ReadData, Writer, verify_tree};

fn manifest(taken_ns: u64, taken: crate::snapshot::Taken) -> Manifest {
    let mounts = vec![taken.into_mount("data".to_owned())];
    Manifest { taken_ns, by: "n1".to_owned(), note: None, mounts }
}

/// A repository with one snapshot, which fills more than one pack.
fn with_snapshot() -> (tempfile::TempDir, SnapshotId) {
    let (folder, repository) = repository();
    let mut tree = shop();
    tree.file("a/larger", &noise(7, 20 << 20));
    let writer = Writer::begin(&repository).unwrap();
    let taken = tree.take(&writer);
    let id = writer.commit(&manifest(1, taken)).unwrap();
    (folder, id)
}

fn open(folder: &tempfile::TempDir) -> Repository {
    Repository::open(&folder.path().join("repository")).unwrap()
}

fn is_whole(repository: &Repository, id: SnapshotId) -> bool {
    let manifest = repository.manifest(id).unwrap();
    let root = manifest.mounts[0].root;
    verify_tree(repository, root, ReadData::All, &mut Default::default()).unwrap().is_empty()
}

#[test]
fn a_snapshot_is_there_after_opening_again_and_without_a_catalog() {
    let (folder, id) = with_snapshot();
    assert!(open(&folder).packs().unwrap().len() > 1);
    let totals = open(&folder).totals().unwrap();
    for name in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let path = folder.path().join("repository").join(name);
        drop(fs::remove_file(&path));
        if name == "catalog.db" {
            fs::write(&path, b"this is no database".repeat(1000)).unwrap();
        }
    }
    let repository = open(&folder);
    assert_eq!(totals, repository.totals().unwrap());
    assert!(is_whole(&repository, id));
    let (snapshots, wrong) = repository.snapshots().unwrap();
    assert_eq!((vec![id], 0), (snapshots.iter().map(|s| s.0).collect(), wrong.len()));
}

#[test]
fn what_was_written_without_a_manifest_is_no_snapshot_and_is_used_again() {
    let (folder, repository) = repository();
    let tree = shop();
    let writer = Writer::begin(&repository).unwrap();
    tree.take(&writer);
    drop(writer);
    assert_eq!(0, repository.snapshots().unwrap().0.len());
    assert_eq!(1, fs::read_dir(folder.path().join("repository/tmp")).unwrap().count());
    // The pack was not finished: it goes with the next lock.
    let writer = Writer::begin(&repository).unwrap();
    assert_eq!(0, fs::read_dir(folder.path().join("repository/tmp")).unwrap().count());
    let taken = tree.take(&writer);
    let id = writer.commit(&manifest(1, taken)).unwrap();
    assert!(is_whole(&open(&folder), id));
}

#[test]
fn only_one_process_writes() {
    let (_folder, repository) = repository();
    let writer = Writer::begin(&repository).unwrap();
    let other = Repository::open(repository.path()).unwrap();
    assert!(matches!(other.lock(), Err(RepositoryError::Busy(_))));
    drop(writer);
    assert!(other.lock().is_ok());
}

#[test]
fn a_lost_pack_is_missed_and_a_damaged_one_is_named() {
    let (folder, id) = with_snapshot();
    let repository = open(&folder);
    let name = *repository.packs().unwrap().first().unwrap();
    let path = repository.pack_path(&name);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let root = repository.manifest(id).unwrap().mounts[0].root;
    let faults = verify_tree(&repository, root, ReadData::All, &mut Default::default()).unwrap();
    let is_named = |fault: &RepositoryError| fault.to_string().contains(path.to_str().unwrap());
    assert!(faults.len() == 1 && is_named(&faults[0].1), "{faults:?}");
    drop(repository);
    fs::remove_file(&path).unwrap();
    let repository = open(&folder);
    let manifest = repository.manifest(id).unwrap();
    let root = manifest.mounts[0].root;
    let faults = verify_tree(&repository, root, ReadData::Nothing, &mut Default::default());
    let is_missing = |error: &RepositoryError| matches!(error, RepositoryError::Missing { .. });
    let faults = faults.unwrap_or_else(|error| vec![(crate::model::RelPath::root(), error)]);
    assert!(!faults.is_empty() && faults.iter().all(|(_, error)| is_missing(error)), "{faults:?}");
}

#[test]
fn what_is_no_repository_or_of_a_later_release_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |path: &Path| Repository::open(path).unwrap_err().to_string();
    assert!(refused(folder.path()).ends_with("is no repository: it has no file `format`"));
    for (text, reason) in [
        ("trefoil repository 2\nid 0\nneeds\n", "trefoil repository 2"),
        ("trefoil repository 1\nid 0\nneeds encrypted\n", "encrypted"),
        ("trefoil repository 1\nid 0\n", "nothing is said"),
    ] {
        fs::write(folder.path().join(FORMAT), text).unwrap();
        let refused = refused(folder.path());
        assert!(refused.contains("later release") && refused.ends_with(reason), "{refused}");
    }
}

#[test]
fn a_manifest_under_another_name_is_none() {
    let (folder, id) = with_snapshot();
    let snapshots = folder.path().join("repository/snapshots");
    let other = SnapshotId([7; 32]);
    fs::copy(snapshots.join(id.to_string()), snapshots.join(other.to_string())).unwrap();
    let (found, wrong) = open(&folder).snapshots().unwrap();
    assert_eq!((1, 1), (found.len(), wrong.len()));
    assert!(wrong[0].to_string().ends_with("it is not the manifest of its name"), "{wrong:?}");
}
