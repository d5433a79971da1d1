//! Snapshots of real trees: what comes back, and what a reader makes of them that was written from the
//! document alone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{getxattr, listxattr};
use tempfile::TempDir;
use trefoil::model::{ContentId, Entry, Kind, LinkGroup, Meta, Mtime, RelPath, Xattrs};
use trefoil::snapshot::{
    Choice, Contents, Manifest, Repository, SnapshotId, Writer, restore, take,
};

use crate::cases::CASES;
use crate::tree::assert_equal;

/// The files of a directory.
struct Disk(PathBuf);

impl Contents for Disk {
    fn open(&self, path: &RelPath) -> io::Result<Box<dyn Read + '_>> {
        let name = std::ffi::OsStr::from_bytes(path.as_bytes());
        Ok(Box::new(File::open(self.0.join(name))?))
    }
}

/// Everything in a directory, by path.
fn look(root: &Path) -> BTreeMap<RelPath, Entry> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for child in fs::read_dir(&dir).unwrap() {
            let at = child.unwrap().path();
            let stat = at.symlink_metadata().unwrap();
            if stat.is_dir() {
                dirs.push(at.clone());
            }
            let path = at.strip_prefix(root).unwrap().as_os_str().as_bytes();
            found.extend(entry(&at, &stat).map(|entry| (RelPath::parse(path).unwrap(), entry)));
        }
    }
    found
}

fn entry(at: &Path, stat: &fs::Metadata) -> Option<Entry> {
    let kind = if stat.is_dir() {
        Kind::Dir
    } else if stat.is_symlink() {
        Kind::Symlink { target: fs::read_link(at).unwrap().as_os_str().as_bytes().into() }
    } else if stat.is_file() {
        let content = ContentId::of(&fs::read(at).unwrap());
        let sparse = stat.blocks() * 512 < stat.size();
        let group = (stat.nlink() > 1).then(|| LinkGroup(stat.ino()));
        Kind::File { size: stat.size(), content, sparse, group }
    } else {
        return None;
    };
    let mtime = Mtime { secs: stat.mtime(), nanos: u32::try_from(stat.mtime_nsec()).unwrap() };
    let xattrs = if stat.is_symlink() { Xattrs::new() } else { xattrs(at) };
    let mode = stat.mode() & 0o7777;
    Some(Entry { kind, meta: Meta { mode, uid: stat.uid(), gid: stat.gid(), mtime, xattrs } })
}

fn xattrs(at: &Path) -> Xattrs {
    let mut names = vec![0_u8; 64 << 10];
    let length = listxattr(at, &mut names[..]).unwrap();
    let mut found = Xattrs::new();
    for name in names[..length].split(|&b| b == 0).filter(|name| !name.is_empty()) {
        if !name.starts_with(b"user.") && !name.starts_with(b"system.posix_acl") {
            continue;
        }
        let mut value = vec![0_u8; 64 << 10];
        let length = getxattr(at, name, &mut value[..]).unwrap();
        found.push((name.into(), value[..length].into()));
    }
    found.sort();
    found
}

/// One snapshot of a directory, in a repository of its own.
fn snapshot(root: &Path) -> (TempDir, SnapshotId, Manifest) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("repository");
    Repository::create(&path).unwrap();
    let repository = Repository::open(&path).unwrap();
    let mut records: Vec<_> = look(root).into_iter().collect();
    let key = |path: &RelPath| path.split().map(|(dir, name)| (dir.to_vec(), name.to_vec()));
    records.sort_by_key(|(path, _)| std::cmp::Reverse(key(path)));
    let writer = Writer::begin(&repository).unwrap();
    let records = records.into_iter().map(Ok::<_, io::Error>);
    let taken = take(&writer, records, &Disk(root.to_owned())).unwrap();
    assert!(taken.changing.is_empty(), "{:?}", taken.changing);
    let mounts = vec![taken.into_mount("a mount".to_owned())];
    let (note, by) = (Some("100 % ä\n".to_owned()), "n1".to_owned());
    let manifest = Manifest { taken_ns: 1, by, note, mounts };
    let id = writer.commit(&manifest).unwrap();
    (folder, id, manifest)
}

/// A tree with everything that users do, many names in one directory, and large files.
fn tree() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for case in CASES.iter().filter(|case| case.name != "long-path") {
        let dir = folder.path().join(case.name);
        fs::create_dir(&dir).unwrap();
        (case.make)(&dir);
    }
    let many = folder.path().join("many");
    fs::create_dir(&many).unwrap();
    for n in 0..3000 {
        fs::write(many.join(format!("{n}.jpg")), format!("{n}")).unwrap();
    }
    let mut noise = vec![0; 5 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    fs::write(folder.path().join("large"), noise).unwrap();
    folder
}

#[test]
fn everything_that_users_do_comes_back_from_a_snapshot() {
    let tree = tree();
    let (folder, _, manifest) = snapshot(tree.path());
    let repository = Repository::open(&folder.path().join("repository")).unwrap();
    let to = folder.path().join("to");
    let done =
        restore(&repository, manifest.mounts[0].root, &to, &Choice::default(), &mut |_, _, _| {})
            .unwrap();
    assert!(done.failed.is_empty(), "{:?}", done.failed);
    assert_equal(&[tree.path(), &to]);
    let again =
        restore(&repository, manifest.mounts[0].root, &to, &Choice::default(), &mut |_, _, _| {})
            .unwrap();
    assert_eq!((0, 0), (again.bytes, again.failed.len()), "nothing is written twice");
}

/// `tests/run` installs what the reader needs.
#[test]
fn a_reader_that_was_written_from_the_document_restores_the_same() {
    let tree = tree();
    let (folder, id, _) = snapshot(tree.path());
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("target/reader/bin/python");
    assert!(python.exists(), "tests/run makes {}", python.display());
    let to = folder.path().join("to");
    let reader = Command::new(python)
        .arg(root.join("tests/repository_reader.py"))
        .arg(folder.path().join("repository"))
        .args([&id.to_string(), "a mount"])
        .arg(&to)
        .output()
        .unwrap();
    assert!(reader.status.success(), "{}", String::from_utf8_lossy(&reader.stderr));
    assert_equal(&[tree.path(), &to]);
}
