//! Small steps of file system tests: do one thing in a directory, or say that it is so.
//!
//! Names are relative to the directory. What cannot be done, or is not so, fails the test.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, RenameFlags, Timespec, Timestamps, XattrFlags, renameat_with, utimensat,
};

pub(crate) fn write(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).unwrap();
}

#[track_caller]
pub(crate) fn has(dir: &Path, name: &str, text: &str) {
    assert_eq!(text, fs::read_to_string(dir.join(name)).unwrap(), "{name}");
}

#[track_caller]
pub(crate) fn gone(dir: &Path, name: &str) {
    assert!(dir.join(name).symlink_metadata().is_err(), "{name} is still there");
}

pub(crate) fn mkdir(dir: &Path, name: &str) {
    fs::create_dir_all(dir.join(name)).unwrap();
}

pub(crate) fn mv(dir: &Path, from: &str, to: &str) {
    fs::rename(dir.join(from), dir.join(to)).unwrap();
}

pub(crate) fn rename(dir: &Path, from: &str, to: &str, flags: RenameFlags) {
    renameat_with(CWD, dir.join(from), CWD, dir.join(to), flags).unwrap();
}

pub(crate) fn chmod(dir: &Path, name: &str, mode: u32) {
    fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).unwrap();
}

#[track_caller]
pub(crate) fn mode(dir: &Path, name: &str, mode: u32) {
    let found = dir.join(name).symlink_metadata().unwrap().mode() & 0o7777;
    assert_eq!(mode, found, "{name}: {mode:o} / {found:o}");
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(crate) fn chown(dir: &Path, uid: u32, gid: u32) {
    if is_root() {
        std::os::unix::fs::chown(dir.join("f"), Some(uid), Some(gid)).unwrap();
    }
}

#[track_caller]
pub(crate) fn owner(dir: &Path, uid: u32, gid: u32) {
    let found = fs::metadata(dir.join("f")).unwrap();
    assert!(!is_root() || (uid, gid) == (found.uid(), found.gid()), "{found:?}");
}

pub(crate) fn set_time(dir: &Path, name: &str, tv_sec: i64, tv_nsec: i64) {
    let time = Timespec { tv_sec, tv_nsec };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, dir.join(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

#[track_caller]
pub(crate) fn time(dir: &Path, name: &str, seconds: i64, nanoseconds: i64) {
    let found = dir.join(name).symlink_metadata().unwrap();
    assert_eq!((seconds, nanoseconds), (found.mtime(), found.mtime_nsec()), "{name}");
}

pub(crate) fn set_attribute(dir: &Path, file: &str, name: &str, value: &[u8]) {
    rustix::fs::setxattr(dir.join(file), name, value, XattrFlags::empty()).unwrap();
}

#[track_caller]
pub(crate) fn attribute(dir: &Path, file: &str, name: &str, value: Option<&[u8]>) {
    let mut found = vec![0; 4096];
    let length = rustix::fs::getxattr(dir.join(file), name, &mut found[..]).ok();
    assert_eq!(value, length.map(|length| &found[..length]), "{file}, {name}");
}

#[track_caller]
pub(crate) fn target(dir: &Path, name: &str, target: &str) {
    assert_eq!(Path::new(target), fs::read_link(dir.join(name)).unwrap(), "{name}");
}

pub(crate) fn link(dir: &Path, from: &str, to: &str) {
    fs::hard_link(dir.join(from), dir.join(to)).unwrap();
}

pub(crate) fn inode(dir: &Path, name: &str) -> u64 {
    fs::metadata(dir.join(name)).unwrap().ino()
}

#[track_caller]
pub(crate) fn same_file(dir: &Path, names: &[&str]) {
    for name in names {
        assert_eq!(inode(dir, names[0]), inode(dir, name), "{name} is a file of its own");
    }
}

pub(crate) fn tree(dir: &Path, name: &str) {
    for sub in ["", "one", "one/two", "three"] {
        let sub = dir.join(name).join(sub);
        fs::create_dir_all(&sub).unwrap();
        for n in 0..20 {
            fs::write(sub.join(format!("f{n}")), format!("{n}")).unwrap();
        }
    }
}

#[track_caller]
pub(crate) fn is_tree(dir: &Path, name: &str) {
    for sub in ["", "one", "one/two", "three"] {
        for n in 0..20 {
            has(&dir.join(name).join(sub), &format!("f{n}"), &format!("{n}"));
        }
    }
}

/// An access control list that gives user 33 these rights, as the kernel keeps it.
pub(crate) fn acl(rights: u16) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let entries: [(u16, u16, u32); 5] =
        [(1, 7, NOBODY), (2, rights, 33), (4, 5, NOBODY), (16, 7, NOBODY), (32, 4, NOBODY)];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(rights.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}
