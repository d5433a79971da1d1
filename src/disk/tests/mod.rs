//! Tests on real files in a temporary directory, as whatever user runs them.
//!
//! What needs a permission or a file system feature that is not there says so and passes.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

mod create;
mod displace;
mod fault_cases;
mod faults;
mod group;
mod map_sys;
mod mount;
mod races;
mod read;
mod replace;
mod stage;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use super::*;
use crate::model::{ContentId, Entry, Found, Kind, Meta, Mtime, NodeId, RelPath, Signature};

/// A process that is being started has the open files of this one until it runs its own program: whoever
/// asks whether somebody writes to a file would see those.
static STARTING: RwLock<()> = RwLock::new(());

/// Nothing is being started while this is held; a moment at a time.
fn alone() -> RwLockReadGuard<'static, ()> {
    STARTING.read().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a program while no test minds.
pub(in crate::disk) fn start(command: &mut Command) -> Child {
    let _starting = STARTING.write().unwrap_or_else(PoisonError::into_inner);
    command.spawn().unwrap()
}

/// A mount in a temporary directory.
struct Fixture {
    dir: tempfile::TempDir,
    mount: std::sync::Arc<Mount>,
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn rel(path: impl AsRef<[u8]>) -> RelPath {
    RelPath::parse(path.as_ref()).unwrap()
}

fn fixture() -> Fixture {
    fixture_in(&std::env::temp_dir())
}

fn fixture_in(folder: &Path) -> Fixture {
    let dir = tempfile::tempdir_in(folder).unwrap();
    let options = MountOptions { privileged: is_root(), create: true };
    let mount = std::sync::Arc::new(Mount::open(dir.path(), options).unwrap());
    Fixture { dir, mount }
}

/// Metadata with an old time and the owner of this process.
fn meta(mode: u32) -> Meta {
    let (uid, gid) = match is_root() {
        true => (0, 0),
        false => (OWNER_UNKNOWN, OWNER_UNKNOWN),
    };
    let mtime = Mtime { secs: 1_000_000_000, nanos: 123_456_789 };
    Meta { mode, uid, gid, mtime, xattrs: Vec::new() }
}

fn file(bytes: &[u8], mode: u32) -> Entry {
    let (size, content) = (bytes.len() as u64, ContentId::of(bytes));
    Entry { kind: Kind::File { size, content, sparse: false, group: None }, meta: meta(mode) }
}

fn directory(mode: u32) -> Entry {
    Entry { kind: Kind::Dir, meta: meta(mode) }
}

fn symlink(target: &[u8]) -> Entry {
    Entry { kind: Kind::Symlink { target: target.into() }, meta: meta(0o777) }
}

fn request(path: &[u8], target: Option<Entry>, source: Source) -> ApplyRequest {
    ApplyRequest {
        path: rel(path),
        target,
        expected: None,
        source,
        displaced: Displaced::Drop,
        even_if_open: false,
    }
}

fn put_file(path: &[u8], bytes: &[u8]) -> ApplyRequest {
    request(path, Some(file(bytes, 0o644)), Source::Inline(bytes.into()))
}

fn put_dir(path: &[u8]) -> ApplyRequest {
    request(path, Some(directory(0o755)), Source::None)
}

fn delete(path: &[u8]) -> ApplyRequest {
    request(path, None, Source::None)
}

fn done(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Done { .. })
}

impl Fixture {
    fn path(&self, path: impl AsRef<[u8]>) -> PathBuf {
        self.dir.path().join(OsStr::from_bytes(path.as_ref()))
    }

    fn own(&self, folder: &str) -> Vec<PathBuf> {
        let folder = self.dir.path().join(".trefoil").join(folder);
        let mut all: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        all.sort();
        all
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn look(&self, path: impl AsRef<[u8]>) -> Found {
        let path = rel(path);
        read(
            &self.mount,
            &ReadRequest { path: &path, known: None, moved: None, even_if_open: false },
        )
    }

    #[track_caller]
    fn entry(&self, path: impl AsRef<[u8]>) -> (Entry, Signature) {
        match self.look(path.as_ref()) {
            Found::Entry { entry, signature, .. } => (entry, signature),
            other => panic!("{:?}: {other:?}", String::from_utf8_lossy(path.as_ref())),
        }
    }

    fn apply(&self, request: ApplyRequest) -> Outcome {
        apply_group(&self.mount, &[request], |_| {}).remove(0)
    }

    /// Applies, expecting what is there now.
    #[track_caller]
    fn apply_over(&self, request: ApplyRequest) -> Outcome {
        let expected = Some(self.entry(request.path.as_bytes()));
        self.apply(ApplyRequest { expected, ..request })
    }

    #[track_caller]
    fn check_done(&self, request: ApplyRequest) {
        let (path, target) = (request.path.clone(), request.target.clone());
        match self.apply(request) {
            Outcome::Done { signature } => self.check_is(&path, target.as_ref(), signature),
            other => panic!("{path}: {other:?}"),
        }
    }

    /// What is at `path` is `target`, and nothing is left in the stage.
    #[track_caller]
    fn check_is(&self, path: &RelPath, target: Option<&Entry>, signature: Option<Signature>) {
        match target {
            None => assert_eq!(Found::Absent, self.look(path.as_bytes())),
            Some(target) => {
                let (entry, now) = self.entry(path.as_bytes());
                assert!(entry.same(target), "{entry:?} is not {target:?}");
                assert!(signature.unwrap().unchanged(&now), "{signature:?} is not {now:?}");
            }
        }
        assert_eq!(Vec::<PathBuf>::new(), self.own("stage"));
    }

    fn look_again(&self) -> Vec<LateWrite> {
        look_again(&self.mount, Duration::ZERO)
    }
}

fn inode(path: &Path) -> u64 {
    std::fs::symlink_metadata(path).unwrap().ino()
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn mtime(path: &Path) -> (i64, i64) {
    let meta = std::fs::symlink_metadata(path).unwrap();
    (meta.mtime(), meta.mtime_nsec())
}

/// Gives a file a raw extended attribute; false where the file system has none.
fn set_xattr(path: &Path, name: &str, value: &[u8]) -> bool {
    rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).is_ok()
}

/// A POSIX ACL as the kernel encodes it: owner, one named user, group, mask, others.
fn acl(mode: u16, user: u32) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    let bits = |shift: u16| (mode >> shift) & 7;
    let none = u32::MAX;
    let group = bits(3);
    for (tag, perm, id) in [
        (1u16, bits(6), none),
        (2, 4, user),
        (4, group, none),
        (0x10, group, none),
        (0x20, bits(0), none),
    ] {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&perm.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}
