//! What users do to a tree, one named case each: made on one node, changed on another.
//!
//! A case works in a directory of its own, so that many run at once and a difference names its
//! case. Nothing here waits, or knows trefoil.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, linkat, mkdirat, openat};

use crate::steps::{
    acl, attribute, chmod, chown, gone, has, inode, is_root, is_tree, link, mkdir, mode, mv, owner,
    rename, same_file, set_attribute, set_time, target, time, tree, write,
};

/// One thing that users do.
pub(crate) struct Case {
    pub name: &'static str,
    /// Prepares the directory.
    pub make: fn(&Path),
    /// Does it, on another node, once everything made is there.
    pub change: fn(&Path),
    /// Panics unless a replica shows it.
    pub check: fn(&Path),
}

const fn case(name: &'static str, make: fn(&Path), change: fn(&Path), check: fn(&Path)) -> Case {
    Case { name, make, change, check }
}

/// Every case.
pub(crate) const CASES: &[Case] = &[
    case("create", |_| {}, |d| write(d, "new", "text"), |d| has(d, "new", "text")),
    case(
        "modify",
        |d| write(d, "f", "old"),
        |d| write(d, "f", "new text"),
        |d| {
            has(d, "f", "new text");
        },
    ),
    case(
        "modify-same-size",
        |d| write(d, "f", "old"),
        |d| write(d, "f", "new"),
        |d| {
            has(d, "f", "new");
        },
    ),
    case(
        "replace-by-rename",
        |d| write(d, "f", "old"),
        replace,
        |d| {
            has(d, "f", "new");
            gone(d, "f.tmp");
        },
    ),
    case(
        "exchange",
        make_two,
        |d| rename(d, "a", "b", RenameFlags::EXCHANGE),
        |d| {
            has(d, "a", "of b");
            has(d, "b", "of a");
        },
    ),
    case(
        "exchange-directories",
        make_two_trees,
        |d| rename(d, "a", "b", RenameFlags::EXCHANGE),
        |d| {
            has(d, "a/file", "of b");
            has(d, "b/file", "of a");
        },
    ),
    case("tmpfile-and-link", |_| {}, link_tmpfile, |d| has(d, "linked", "without a name")),
    case("append", |d| write(d, "f", "one "), append, |d| has(d, "f", "one two")),
    case("truncate", |d| write(d, "f", "long text"), truncate, |d| has(d, "f", "long")),
    case(
        "truncate-to-nothing",
        |d| write(d, "f", "text"),
        |d| write(d, "f", ""),
        |d| has(d, "f", ""),
    ),
    case("chmod", |d| write(d, "f", ""), |d| chmod(d, "f", 0o640), |d| mode(d, "f", 0o640)),
    case("chmod-directory", |d| mkdir(d, "s"), |d| chmod(d, "s", 0o2711), |d| mode(d, "s", 0o2711)),
    case("chown", |d| write(d, "f", "x"), |d| chown(d, 33, 1234), |d| owner(d, 33, 1234)),
    case(
        "times",
        make_times,
        |d| set_time(d, "f", 1_000_000_000, 123_456_789),
        |d| {
            time(d, "f", 1_000_000_000, 123_456_789);
            time(d, "old", -86_400, 999_999_999);
            time(d, "old-directory", -1, 1);
            time(d, "late", 4_089_225_600, 5);
            time(d, "link", -7, 7);
        },
    ),
    case("attributes", make_attributes, change_attributes, |d| {
        attribute(d, "f", "user.color", Some(b"green"));
        attribute(d, "f", "user.gone", None);
        attribute(d, "s", "user.of-directory", Some(&[0, 255, 10]));
    }),
    case("acl", make_acl, change_acl, |d| {
        attribute(d, "f", ACCESS, Some(&acl(7)));
        attribute(d, "s", DEFAULT, Some(&acl(5)));
        attribute(d, "without", ACCESS, None);
    }),
    case("mkdir", |_| {}, |d| mkdir(d, "a/b/c"), |d| assert!(d.join("a/b/c").is_dir())),
    case(
        "rmdir",
        |d| mkdir(d, "a/b"),
        |d| fs::remove_dir(d.join("a/b")).unwrap(),
        |d| {
            assert!(d.join("a").is_dir());
            gone(d, "a/b");
        },
    ),
    case(
        "remove-tree",
        |d| tree(d, "t"),
        |d| fs::remove_dir_all(d.join("t")).unwrap(),
        |d| {
            gone(d, "t");
        },
    ),
    case(
        "unlink",
        |d| write(d, "f", "x"),
        |d| fs::remove_file(d.join("f")).unwrap(),
        |d| gone(d, "f"),
    ),
    case(
        "rename-file",
        |d| write(d, "f", "x"),
        |d| mv(d, "f", "g"),
        |d| {
            has(d, "g", "x");
            gone(d, "f");
        },
    ),
    case(
        "rename-over",
        make_two,
        |d| mv(d, "a", "b"),
        |d| {
            has(d, "b", "of a");
            gone(d, "a");
        },
    ),
    case(
        "rename-tree",
        |d| tree(d, "t"),
        |d| mv(d, "t", "u"),
        |d| {
            gone(d, "t");
            is_tree(d, "u");
        },
    ),
    case("rename-tree-and-back", |d| tree(d, "t"), rename_and_back, |d| is_tree(d, "t")),
    case(
        "rename-into",
        make_into,
        |d| mv(d, "t", "deeper/down/t"),
        |d| {
            gone(d, "t");
            is_tree(d, "deeper/down/t");
        },
    ),
    case("symlinks", make_links, change_links, |d| {
        target(d, "absolute", "/etc/hostname");
        target(d, "dangling", "not/there\n");
        target(d, "changed", "elsewhere");
        target(d, "upwards", "../../..");
    }),
    case("hard-links", make_hard_links, change_hard_links, |d| {
        same_file(d, &["a", "b", "s/c", "d"]);
        has(d, "a", "through b");
        has(d, "split", "on its own");
        assert_ne!(inode(d, "split"), inode(d, "was-linked"), "the link is broken");
    }),
    case(
        "hard-link-later",
        |d| write(d, "f", "x"),
        |d| link(d, "f", "g"),
        |d| same_file(d, &["f", "g"]),
    ),
    case("sparse", make_sparse, change_sparse, |d| {
        for name in ["f", "only-a-hole"] {
            let found = fs::metadata(d.join(name)).unwrap();
            let (disk, size) = (found.blocks() * 512, found.len());
            assert!(disk < size / 2, "{name} occupies {disk} of {size} bytes");
        }
        let mut end = [0; 3];
        File::open(d.join("f")).unwrap().read_exact_at(&mut end, SPARSE_BYTES).unwrap();
        assert_eq!(b"END", &end);
    }),
    case("types", make_types, change_types, |d| {
        has(d, "file-to-directory/inside", "x");
        has(d, "directory-to-file", "now a file");
        target(d, "file-to-symlink", "t");
        has(d, "symlink-to-file", "now a file");
        has(d, "symlink-to-directory/inside", "x");
        target(d, "directory-to-symlink", "t");
        has(d, "full-directory-to-file", "now a file");
    }),
    case(
        "names",
        |d| named(d, "old"),
        |d| named(d, "new"),
        |d| {
            for name in NAMES {
                let path = d.join(OsStr::from_bytes(name));
                assert_eq!(b"new", &*fs::read(&path).unwrap(), "{path:?}");
            }
            has(d, &"n".repeat(255), "new");
            has(d, &format!("{0}/{0}", "d".repeat(255)), "new");
        },
    ),
    case("long-path", |d| deep(d, "old"), |d| deep(d, "new"), |d| assert_eq!("new", read_deep(d))),
    case(
        "modes",
        make_modes,
        |d| write(d, "secret", "still secret"),
        |d| {
            mode(d, "secret", 0);
            has(d, "secret", "still secret");
            mode(d, "setuid", 0o4755);
            mode(d, "closed", 0);
            has(d, "closed/inside", "x");
            mode(d, "sticky", 0o1777);
        },
    ),
    case(
        "empty",
        |d| write(d, "f", ""),
        |d| mkdir(d, "s"),
        |d| {
            has(d, "f", "");
            assert_eq!(0, fs::read_dir(d.join("s")).unwrap().count());
        },
    ),
    case(
        "medium-file",
        |d| medium(d, 3),
        |d| medium(d, 5),
        |d| {
            assert!(fs::read(d.join("f")).unwrap() == vec![5; 3 << 20], "3 MiB of fives");
        },
    ),
];

const SPARSE_BYTES: u64 = 8 << 20;
const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";
/// Levels of 256 bytes each: more than PATH_MAX.
const DEEP_LEVELS: usize = 20;
const NAMES: &[&[u8]] = &[
    b"\xff\xfe not utf-8",
    b"new\nline",
    b" ",
    b"-rf",
    b"*",
    b"tab\t\"quote\" \\",
    b"\x01\x7f",
    "ü€😀".as_bytes(),
];

fn replace(dir: &Path) {
    write(dir, "f.tmp", "new");
    mv(dir, "f.tmp", "f");
}

fn make_two(dir: &Path) {
    write(dir, "a", "of a");
    write(dir, "b", "of b");
}

fn make_two_trees(dir: &Path) {
    mkdir(dir, "a");
    mkdir(dir, "b");
    write(dir, "a/file", "of a");
    write(dir, "b/file", "of b");
}

fn link_tmpfile(dir: &Path) {
    let flags = OFlags::TMPFILE | OFlags::WRONLY;
    let mut file = File::from(openat(CWD, dir, flags, Mode::from_raw_mode(0o644)).unwrap());
    file.write_all(b"without a name").unwrap();
    let from = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(CWD, from, CWD, dir.join("linked"), AtFlags::SYMLINK_FOLLOW).unwrap();
}

fn append(dir: &Path) {
    let mut file = OpenOptions::new().append(true).open(dir.join("f")).unwrap();
    file.write_all(b"two").unwrap();
}

fn truncate(dir: &Path) {
    rustix::fs::ftruncate(OpenOptions::new().write(true).open(dir.join("f")).unwrap(), 4).unwrap();
}

fn make_times(dir: &Path) {
    ["f", "old", "late"].iter().for_each(|name| write(dir, name, "x"));
    mkdir(dir, "old-directory");
    write(dir, "old-directory/inside", "x");
    symlink("x", dir.join("link")).unwrap();
    set_time(dir, "old", -86_400, 999_999_999);
    set_time(dir, "old-directory", -1, 1);
    set_time(dir, "late", 4_089_225_600, 5);
    set_time(dir, "link", -7, 7);
}

fn make_attributes(dir: &Path) {
    write(dir, "f", "x");
    mkdir(dir, "s");
    set_attribute(dir, "f", "user.color", b"red");
    set_attribute(dir, "f", "user.gone", b"soon");
}

fn change_attributes(dir: &Path) {
    set_attribute(dir, "f", "user.color", b"green");
    rustix::fs::removexattr(dir.join("f"), "user.gone").unwrap();
    set_attribute(dir, "s", "user.of-directory", &[0, 255, 10]);
}

fn make_acl(dir: &Path) {
    write(dir, "f", "x");
    write(dir, "without", "x");
    mkdir(dir, "s");
    set_attribute(dir, "f", ACCESS, &acl(4));
    set_attribute(dir, "without", ACCESS, &acl(4));
}

fn change_acl(dir: &Path) {
    set_attribute(dir, "f", ACCESS, &acl(7));
    set_attribute(dir, "s", DEFAULT, &acl(5));
    rustix::fs::removexattr(dir.join("without"), ACCESS).unwrap();
}

fn rename_and_back(dir: &Path) {
    mv(dir, "t", "u");
    mv(dir, "u", "t");
}

fn make_into(dir: &Path) {
    tree(dir, "t");
    mkdir(dir, "deeper/down");
}

fn make_links(dir: &Path) {
    symlink("/etc/hostname", dir.join("absolute")).unwrap();
    symlink("not/there\n", dir.join("dangling")).unwrap();
    symlink("somewhere", dir.join("changed")).unwrap();
}

fn change_links(dir: &Path) {
    symlink("elsewhere", dir.join("changed.new")).unwrap();
    mv(dir, "changed.new", "changed");
    symlink("../../..", dir.join("upwards")).unwrap();
}

fn make_hard_links(dir: &Path) {
    write(dir, "a", "linked");
    mkdir(dir, "s");
    link(dir, "a", "b");
    link(dir, "a", "s/c");
    write(dir, "was-linked", "together");
    link(dir, "was-linked", "split");
}

fn change_hard_links(dir: &Path) {
    link(dir, "s/c", "d");
    write(dir, "b", "through b");
    write(dir, "split.new", "on its own");
    mv(dir, "split.new", "split");
}

fn make_sparse(dir: &Path) {
    let file = File::create(dir.join("f")).unwrap();
    file.write_all_at(b"START", 0).unwrap();
    file.write_all_at(b"MID", SPARSE_BYTES).unwrap();
    File::create(dir.join("only-a-hole")).unwrap().set_len(SPARSE_BYTES).unwrap();
}

fn change_sparse(dir: &Path) {
    let file = OpenOptions::new().write(true).open(dir.join("f")).unwrap();
    file.write_all_at(b"END", SPARSE_BYTES).unwrap();
}

fn make_types(dir: &Path) {
    for name in ["file-to-directory", "file-to-symlink"] {
        write(dir, name, "a file");
    }
    for name in ["symlink-to-file", "symlink-to-directory"] {
        symlink("nowhere", dir.join(name)).unwrap();
    }
    for name in ["directory-to-file", "directory-to-symlink"] {
        mkdir(dir, name);
    }
    tree(dir, "full-directory-to-file");
}

fn change_types(dir: &Path) {
    for name in ["file-to-directory", "file-to-symlink", "symlink-to-file", "symlink-to-directory"]
    {
        fs::remove_file(dir.join(name)).unwrap();
    }
    for name in ["directory-to-file", "directory-to-symlink", "full-directory-to-file"] {
        fs::remove_dir_all(dir.join(name)).unwrap();
    }
    for name in ["file-to-directory", "symlink-to-directory"] {
        mkdir(dir, name);
        write(dir, &format!("{name}/inside"), "x");
    }
    for name in ["directory-to-file", "symlink-to-file", "full-directory-to-file"] {
        write(dir, name, "now a file");
    }
    for name in ["file-to-symlink", "directory-to-symlink"] {
        symlink("t", dir.join(name)).unwrap();
    }
}

fn named(dir: &Path, text: &str) {
    for name in NAMES {
        fs::write(dir.join(OsStr::from_bytes(name)), text).unwrap();
    }
    write(dir, &"n".repeat(255), text);
    mkdir(dir, &"d".repeat(255));
    write(dir, &format!("{0}/{0}", "d".repeat(255)), text);
}

/// Opens the deepest directory, making those on the way.
fn bottom(dir: &Path) -> File {
    let name = "p".repeat(255);
    let mut at = File::open(dir).unwrap();
    for _ in 0..DEEP_LEVELS {
        match mkdirat(&at, &name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => panic!("cannot make a deep directory: {error}"),
        }
        at = openat(&at, &name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap().into();
    }
    at
}

fn deep(dir: &Path, text: &str) {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let file = openat(bottom(dir), "file", flags, Mode::from_raw_mode(0o644)).unwrap();
    File::from(file).write_all(text.as_bytes()).unwrap();
}

fn read_deep(dir: &Path) -> String {
    let file = openat(bottom(dir), "file", OFlags::RDONLY, Mode::empty()).unwrap();
    std::io::read_to_string(File::from(file)).unwrap()
}

fn make_modes(dir: &Path) {
    write(dir, "secret", "secret");
    write(dir, "setuid", "x");
    mkdir(dir, "closed");
    write(dir, "closed/inside", "x");
    mkdir(dir, "sticky");
    chmod(dir, "secret", if is_root() { 0 } else { 0o200 });
    chmod(dir, "setuid", 0o4755);
    chmod(dir, "closed", 0);
    chmod(dir, "sticky", 0o1777);
}

fn medium(dir: &Path, byte: u8) {
    fs::write(dir.join("f"), vec![byte; 3 << 20]).unwrap();
}

/// The directory of a case in a replica.
pub(crate) fn folder(replica: &Path, case: &Case) -> PathBuf {
    replica.join(case.name)
}
