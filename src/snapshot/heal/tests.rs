//! Damage anywhere is found, named, put aside and healed from another repository.

use super::*;
use crate::snapshot::take::tests::{Tree, noise, repository};
use crate::snapshot::{Fault, Manifest, ReadData, SnapshotId, Writer, verify_tree};

/// A repository of some hundred bytes, with a file in pieces no larger than needed for one.
fn small(large: usize) -> (tempfile::TempDir, Repository, SnapshotId) {
    let (folder, repository) = repository();
    let mut tree = Tree::default();
    tree.dir("a");
    tree.file("a/text", b"text text text text text text text text text text text text");
    tree.file("a/noise", &noise(1, 64));
    tree.link("link", "a/text");
    if large > 0 {
        tree.file("large", &noise(2, large));
    }
    let writer = Writer::begin(&repository).unwrap();
    let mounts = vec![tree.take(&writer).into_mount("data".to_owned())];
    let manifest = Manifest { taken_ns: 1, by: "n1".to_owned(), note: None, mounts };
    let id = writer.commit(&manifest).unwrap();
    drop(writer);
    (folder, repository, id)
}

fn faults(repository: &Repository, id: SnapshotId) -> Vec<Fault> {
    let root = repository.manifest(id).unwrap().mounts[0].root;
    verify_tree(repository, root, ReadData::All, &mut Default::default()).unwrap()
}

/// Heals as the daemon does, with another repository in place of the other nodes.
fn heal(repository: &Repository, peer: &Repository, id: SnapshotId) -> Quarantined {
    let mut done = Quarantined::default();
    loop {
        let damaged: Vec<_> =
            faults(repository, id).iter().filter_map(|(_, error)| error.object()).collect();
        let writer = Writer::begin(repository).unwrap();
        let now = repository.quarantine(writer.lock(), &damaged).unwrap();
        done.packs += now.packs;
        if damaged.is_empty() {
            return done;
        }
        for (kind, object) in damaged {
            writer.put(kind, &peer.get(kind, object).unwrap()).unwrap();
        }
        writer.flush().unwrap();
    }
}

#[test]
fn every_byte_of_a_repository_that_flips_is_found_and_healed() {
    let (folder, repository, id) = small(0);
    let (_other, peer, _) = small(0);
    let name = *repository.packs().unwrap().first().unwrap();
    let path = repository.pack_path(&name);
    let sound = fs::read(&path).unwrap();
    let aside = repository.quarantine_path().join(path.file_name().unwrap());
    for at in 0..sound.len() {
        let mut bytes = sound.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&path, &bytes).unwrap();
        let repository = Repository::open(&folder.path().join("repository")).unwrap();
        let damaged = repository.damaged_packs().unwrap();
        let named = |(_, error): &Fault| error.to_string().contains(path.to_str().unwrap());
        let found = faults(&repository, id);
        // The pack is named for bytes that are no record, or an object in it that is not as it was; where
        // an id is another one, the object is missing.
        let missed = |(_, error): &Fault| matches!(error, RepositoryError::Missing { .. });
        let is_named = damaged == [path.clone()] || found.iter().any(named);
        assert!(is_named || found.iter().any(missed), "byte {at}: {found:?}");
        let aside_now = heal(&repository, &peer, id).packs;
        assert_eq!(u64::from(is_named), aside_now, "byte {at}");
        assert!(faults(&repository, id).is_empty(), "byte {at}");
        assert!(repository.damaged_packs().unwrap().is_empty(), "byte {at}");
        if is_named {
            assert_eq!(bytes, fs::read(&aside).unwrap(), "what was damaged is kept");
        }
        // As it was, for the next byte.
        for name in repository.packs().unwrap() {
            fs::remove_file(repository.pack_path(&name)).unwrap();
        }
        fs::write(&path, &sound).unwrap();
    }
}

#[test]
fn a_pack_that_is_gone_or_cut_short_is_healed_and_what_was_whole_in_it_is_not_fetched() {
    let (folder, repository, id) = small(3 << 20);
    let (_other, peer, _) = small(3 << 20);
    let name = *repository.packs().unwrap().first().unwrap();
    let path = repository.pack_path(&name);
    let length = path.metadata().unwrap().len();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length / 2).unwrap();
    let found = faults(&repository, id);
    assert!(!found.is_empty());
    assert_eq!(1, heal(&repository, &peer, id).packs);
    assert!(faults(&repository, id).is_empty());
    for name in repository.packs().unwrap() {
        fs::remove_file(repository.pack_path(&name)).unwrap();
    }
    let repository = Repository::open(&folder.path().join("repository")).unwrap();
    assert_eq!(0, heal(&repository, &peer, id).packs, "there is nothing to put aside");
    assert!(faults(&repository, id).is_empty());
}

#[test]
fn a_damaged_object_that_another_pack_has_is_had_from_there() {
    let (folder, repository, id) = small(0);
    let first = *repository.packs().unwrap().first().unwrap();
    // The same objects in another order, as another process may have written them.
    let scanned = pack::scan(&fs::File::open(repository.pack_path(&first)).unwrap(), true).unwrap();
    let lock = repository.lock().unwrap();
    let (path, file) = repository.temporary().unwrap();
    let mut second = pack::PackWriter::begin(file).unwrap();
    let from = fs::File::open(repository.pack_path(&first)).unwrap();
    for &(_, at) in scanned.records.iter().rev() {
        second.append(&pack::Encoded::copied(&from, at).unwrap()).unwrap();
    }
    let name = second.finish().unwrap();
    repository.add_pack(&path, &name, &second.records).unwrap();
    let mut bytes = fs::read(repository.pack_path(&first)).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(repository.pack_path(&first), bytes).unwrap();
    let damaged: Vec<_> = faults(&repository, id).iter().filter_map(|f| f.1.object()).collect();
    assert_eq!(1, damaged.len());
    assert_eq!(1, repository.quarantine(&lock, &damaged).unwrap().packs);
    assert!(faults(&repository, id).is_empty());
    drop(folder);
}

#[test]
fn a_manifest_that_cannot_be_read_is_put_aside() {
    let (_folder, repository, id) = small(0);
    let path = repository.path().join(SNAPSHOTS).join(id.to_string());
    fs::write(&path, b"trefoil snapshot 1\n").unwrap();
    let lock = repository.lock().unwrap();
    let done = repository.quarantine(&lock, &[]).unwrap();
    assert_eq!(Quarantined { packs: 0, manifests: 1 }, done);
    assert!(repository.quarantine_path().join(id.to_string()).exists());
    let (found, wrong) = repository.snapshots().unwrap();
    assert!(found.is_empty() && wrong.is_empty());
}
