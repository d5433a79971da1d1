//! Describes a directory tree, and says in what two trees differ: the proof that replicas are
//! equal, for `demo` and the tests.
//!
//! In: the root of a tree. Out: what is at each path below it, and a line a difference. It shares
//! nothing with the rest of trefoil, so that a fault there cannot hide itself here: no other
//! module of this crate is used, and nothing is written.

mod walk;

use std::collections::BTreeMap;

pub use walk::{DescribeError, describe};

/// What is below a root: by path relative to it, without the root itself and `.trefoil`.
///
/// FIFOs, sockets and devices are left out: they are not mirrored.
pub type Tree = BTreeMap<Vec<u8>, Description>;

/// What is at one path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description {
    /// Kind and content.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time: seconds since 1970 and nanoseconds above them.
    pub mtime: (i64, u32),
    /// Values by name: users' attributes, ACLs and capabilities.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What kind of thing is at a path, with its content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File {
        /// Its size.
        bytes: u64,
        /// BLAKE3 of its content.
        hash: [u8; 32],
        /// Whether it has a hole of 64 KiB or more.
        holes: bool,
        /// The first path, by bytes, of the same file, if it has several in this tree.
        linked: Option<Vec<u8>>,
    },
    /// A symbolic link.
    Symlink {
        /// As `readlink` gives it.
        target: Vec<u8>,
    },
    /// A file or directory whose content the caller may not read. [`differences`] counts it as
    /// different from everything, even itself: what was not read is not proven.
    Unreadable,
}

/// Says in what two trees differ: a line a path, sorted; none if they are equal.
#[must_use]
pub fn differences(first: &Tree, second: &Tree) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, a) in first {
        match second.get(path) {
            Some(b) => lines.extend(of_one(path, a, b)),
            None => lines.push(format!("{}: only in the first", shown(path))),
        }
    }
    let missing = second.keys().filter(|path| !first.contains_key(*path));
    lines.extend(missing.map(|path| format!("{}: only in the second", shown(path))));
    lines.sort_unstable();
    lines
}

fn shown(path: &[u8]) -> String {
    path.escape_ascii().to_string()
}

/// The difference at one path, all its parts in one line.
fn of_one(path: &[u8], a: &Description, b: &Description) -> Option<String> {
    let mut parts = of_kinds(&a.kind, &b.kind);
    if a.mode != b.mode {
        parts.push(format!("mode {:04o} / {:04o}", a.mode, b.mode));
    }
    if (a.uid, a.gid) != (b.uid, b.gid) {
        parts.push(format!("owner {}:{} / {}:{}", a.uid, a.gid, b.uid, b.gid));
    }
    if a.mtime != b.mtime {
        let ((s1, n1), (s2, n2)) = (a.mtime, b.mtime);
        parts.push(format!("mtime {s1}.{n1:09} / {s2}.{n2:09}"));
    }
    let names = a.xattrs.keys().chain(b.xattrs.keys().filter(|n| !a.xattrs.contains_key(*n)));
    for name in names.filter(|n| a.xattrs.get(*n) != b.xattrs.get(*n)) {
        parts.push(format!("attribute {}", name.escape_ascii()));
    }
    (!parts.is_empty()).then(|| format!("{}: {}", shown(path), parts.join(", ")))
}

fn of_kinds(a: &Kind, b: &Kind) -> Vec<String> {
    let mut parts = Vec::new();
    match (a, b) {
        (Kind::Unreadable, _) | (_, Kind::Unreadable) => parts.push("not readable".to_owned()),
        (Kind::Directory, Kind::Directory) => {}
        (Kind::Symlink { target: t1 }, Kind::Symlink { target: t2 }) => {
            if t1 != t2 {
                parts.push(format!("target {} / {}", shown(t1), shown(t2)));
            }
        }
        (
            Kind::File { bytes: b1, hash: c1, holes: h1, linked: l1 },
            Kind::File { bytes: b2, hash: c2, holes: h2, linked: l2 },
        ) => {
            if b1 != b2 {
                parts.push(format!("{b1} / {b2} bytes"));
            } else if c1 != c2 {
                parts.push("content".to_owned());
            }
            if h1 != h2 {
                parts.push(format!("holes {h1} / {h2}"));
            }
            if l1 != l2 {
                let group = |l: &Option<Vec<u8>>| shown(l.as_deref().unwrap_or(b"none"));
                parts.push(format!("hard link to {} / {}", group(l1), group(l2)));
            }
        }
        _ => parts.push(format!("{} / {}", kind_name(a), kind_name(b))),
    }
    parts
}

fn kind_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::Directory => "directory",
        Kind::File { .. } => "file",
        Kind::Symlink { .. } => "symbolic link",
        Kind::Unreadable => "unreadable",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "does I/O")]

    use super::*;

    use std::fs::{self, File};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;
    use std::time::{Duration, UNIX_EPOCH};

    use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timestamps, XattrFlags};

    /// A tree with one thing of every kind.
    fn plant(root: &Path) {
        fs::create_dir_all(root.join("d/e")).unwrap();
        fs::create_dir(root.join(".trefoil")).unwrap();
        fs::write(root.join(".trefoil/mark"), root.as_os_str().as_encoded_bytes()).unwrap();
        fs::write(root.join("d/file"), "text").unwrap();
        fs::hard_link(root.join("d/file"), root.join("d/twin")).unwrap();
        symlink("/not/there", root.join("link")).unwrap();
        File::create(root.join("sparse")).unwrap().set_len(1 << 20).unwrap();
        for path in ["sparse", "d/file", "d/e", "d"] {
            let file = File::open(root.join(path)).unwrap();
            file.set_modified(UNIX_EPOCH + Duration::new(86_400, 5)).unwrap();
        }
        set_link_time(&root.join("link"), -7, 1);
    }

    fn set_link_time(path: &Path, tv_sec: i64, tv_nsec: i64) {
        let time = rustix::fs::Timespec { tv_sec, tv_nsec };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }

    /// Plants two equal trees, changes the second, and compares the lines.
    #[track_caller]
    fn check(change: impl FnOnce(&Path), expected: &[&str]) {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        plant(first.path());
        plant(second.path());
        change(second.path());
        let (a, b) = (describe(first.path()).unwrap(), describe(second.path()).unwrap());
        let lines = differences(&a, &b);
        // Writing to a directory changes its time: not what is looked at here.
        let lines: Vec<_> = lines.iter().filter(|l| !l.starts_with("d: mtime")).collect();
        assert_eq!(expected, lines);
    }

    fn keep_time(path: &Path, work: impl FnOnce()) {
        let time = fs::metadata(path).unwrap().modified().unwrap();
        work();
        File::open(path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn equal_trees_have_no_difference_and_the_private_directory_is_skipped() {
        check(|_| {}, &[]);
    }

    #[test]
    fn names_on_one_side_only_are_found() {
        check(|r| fs::write(r.join("new\n"), "").unwrap(), &["new\\n: only in the second"]);
        check(|r| fs::remove_file(r.join("link")).unwrap(), &["link: only in the first"]);
    }

    #[test]
    fn other_content_of_the_same_size_and_time_is_found() {
        check(
            |r| keep_time(&r.join("d/file"), || fs::write(r.join("d/file"), "tExt").unwrap()),
            &["d/file: content", "d/twin: content"],
        );
    }

    #[test]
    fn a_broken_hard_link_is_found() {
        check(
            |r| {
                let path = r.join("d/twin");
                keep_time(&r.join("d/file"), || {
                    fs::copy(&path, r.join("d/copy")).unwrap();
                    fs::rename(r.join("d/copy"), &path).unwrap();
                    let time = fs::metadata(r.join("d/file")).unwrap().modified().unwrap();
                    File::open(&path).unwrap().set_modified(time).unwrap();
                });
            },
            &["d/file: hard link to d/file / none", "d/twin: hard link to d/file / none"],
        );
    }

    #[test]
    fn filled_holes_are_found() {
        check(
            |r| {
                keep_time(&r.join("sparse"), || {
                    fs::write(r.join("sparse"), vec![0; 1 << 20]).unwrap();
                });
            },
            &["sparse: holes true / false"],
        );
    }

    #[test]
    fn metadata_is_compared() {
        check(
            |r| fs::set_permissions(r.join("d/e"), fs::Permissions::from_mode(0o2711)).unwrap(),
            &["d/e: mode 0755 / 2711"],
        );
        check(
            |r| {
                let time = UNIX_EPOCH + Duration::new(86_400, 6);
                File::open(r.join("d/e")).unwrap().set_modified(time).unwrap();
            },
            &["d/e: mtime 86400.000000005 / 86400.000000006"],
        );
        check(
            |r| {
                rustix::fs::setxattr(r.join("d/e"), "user.color", b"red", XattrFlags::empty())
                    .unwrap();
            },
            &["d/e: attribute user.color"],
        );
    }

    #[test]
    fn another_kind_and_another_target_are_found() {
        check(
            |r| {
                fs::remove_dir(r.join("d/e")).unwrap();
                symlink("x", r.join("d/e")).unwrap();
                set_link_time(&r.join("d/e"), 86_400, 5);
            },
            &["d/e: directory / symbolic link, mode 0755 / 0777"],
        );
    }

    #[test]
    fn paths_longer_than_the_kernel_takes_are_described() {
        let root = tempfile::tempdir().unwrap();
        let name = "n".repeat(255);
        let mut at = File::open(root.path()).unwrap();
        for _ in 0..20 {
            rustix::fs::mkdirat(&at, &name, Mode::from_raw_mode(0o700)).unwrap();
            at = rustix::fs::openat(&at, &name, OFlags::RDONLY, Mode::empty()).unwrap().into();
        }
        let tree = describe(root.path()).unwrap();
        assert_eq!(20, tree.len());
        assert_eq!(Some(20 * 256 - 1), tree.keys().map(Vec::len).max());
    }

    fn one(kind: Kind, uid: u32, gid: u32) -> Tree {
        let xattrs = BTreeMap::new();
        let description = Description { kind, mode: 0, uid, gid, mtime: (0, 0), xattrs };
        Tree::from([(b"secret".to_vec(), description)])
    }

    #[test]
    fn other_owners_are_found() {
        let (a, b) = (one(Kind::Directory, 1, 2), one(Kind::Directory, 1, 3));
        assert_eq!(vec!["secret: owner 1:2 / 1:3"], differences(&a, &b));
    }

    #[test]
    fn what_cannot_be_read_equals_nothing() {
        let tree = one(Kind::Unreadable, 0, 0);
        assert_eq!(vec!["secret: not readable"], differences(&tree, &tree));
    }

    #[test]
    fn pipes_are_no_part_of_a_tree() {
        let root = tempfile::tempdir().unwrap();
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(CWD, root.path().join("pipe"), FileType::Fifo, mode, 0).unwrap();
        assert_eq!(Tree::new(), describe(root.path()).unwrap());
    }

    #[test]
    fn a_root_that_is_not_there_is_an_error() {
        let error = describe(Path::new("/nowhere/at/all")).unwrap_err();
        assert_eq!("cannot open the root \"/nowhere/at/all\"", error.to_string());
    }
}
