//! Looking at paths and listing directories.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::symlink as make_symlink;
use std::sync::atomic::Ordering;

use super::*;

#[test]
fn what_is_there_is_found() {
    let f = fixture();
    f.write("d/f", b"hello");
    make_symlink("/nowhere/\u{e4}", f.path("l")).unwrap();
    set_mode(&f.path("d/f"), 0o4755);
    let found = f.look("d/f");
    let Found::Entry { entry, content, .. } = found else { panic!("{found:?}") };
    assert_eq!(Some((ContentId::of(b"hello"), 5)), entry.content());
    assert_eq!(0o4755, entry.meta.mode);
    assert_eq!(Some(&b"hello"[..]), content.as_deref());
    assert!(f.entry("d").0.is_dir());
    assert!(f.entry("").0.is_dir());
    let (link, _) = f.entry("l");
    assert_eq!(Kind::Symlink { target: "/nowhere/\u{e4}".as_bytes().into() }, link.kind);
    assert_eq!(0o777, link.meta.mode);
    assert_eq!(Found::Absent, f.look("d/f/below"));
    assert_eq!(Found::Absent, f.look("none/none"));
}

#[test]
fn a_known_file_is_not_opened_again() {
    let f = fixture();
    f.write("a", b"hello");
    let (_, signature) = f.entry("a");
    let known = Some(Signature { racy: false, ..signature });
    let opened = f.mount.counters.files_opened.load(Ordering::Relaxed);
    let path = rel("a");
    let look = |known| {
        read(&f.mount, &ReadRequest { path: &path, known, moved: None, even_if_open: false })
    };
    assert_eq!(Found::Unchanged, look(known));
    assert_eq!(opened, f.mount.counters.files_opened.load(Ordering::Relaxed));
    f.write("a", b"other");
    assert!(matches!(look(known), Found::Entry { .. }));
    let racy = Some(Signature { racy: true, ..f.entry("a").1 });
    assert!(matches!(look(racy), Found::Entry { .. }));
}

#[test]
fn a_fresh_change_is_racy_where_times_are_coarse() {
    let Fixture { dir, mount } = fixture();
    let mount = std::sync::Arc::into_inner(mount).expect("the only one");
    let f = Fixture { dir, mount: mount.with_coarse_times().into() };
    f.write("a", b"hello");
    assert!(f.entry("a").1.racy);
}

#[test]
fn a_file_open_for_writing_is_busy() {
    let f = fixture();
    let mut writer = File::create(f.path("a")).unwrap();
    writer.write_all(b"half").unwrap();
    assert_eq!(Found::Busy, f.look("a"));
    let path = rel("a");
    let request = ReadRequest { path: &path, known: None, moved: None, even_if_open: true };
    assert!(matches!(read(&f.mount, &request), Found::Entry { .. }));
    drop(writer);
    assert!(matches!(f.look("a"), Found::Entry { .. }));
}

#[test]
fn what_is_not_mirrored_is_special_and_never_opened() {
    let f = fixture();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, f.path("fifo"), fifo, mode, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(f.path("socket")).unwrap();
    assert_eq!(Found::Special("a FIFO"), f.look("fifo"));
    assert_eq!(Found::Special("a socket"), f.look("socket"));
}

#[test]
fn a_file_that_cannot_be_opened_says_why() {
    let f = fixture();
    f.write("a", b"x");
    set_mode(&f.path("a"), 0);
    match f.look("a") {
        Found::Failed(reason) => assert_eq!("cannot open: permission denied", reason),
        found => assert!(is_root() && matches!(found, Found::Entry { .. })),
    }
}

#[test]
fn attributes_and_acls_are_read_sorted() {
    let f = fixture();
    f.write("a", b"x");
    set_mode(&f.path("a"), 0o640);
    if !set_xattr(&f.path("a"), "user.b", b"2") {
        return; // none on this file system
    }
    set_xattr(&f.path("a"), "user.a", &[0xff; 1000]);
    let acls = set_xattr(&f.path("a"), "system.posix_acl_access", &acl(0o640, 1234));
    let names: Vec<_> = f.entry("a").0.meta.xattrs.into_iter().map(|(name, _)| name).collect();
    let mut expected: Vec<&[u8]> = vec![b"user.a", b"user.b"];
    if acls {
        expected.insert(0, b"system.posix_acl_access");
    }
    assert_eq!(expected, names.iter().map(|name| &**name).collect::<Vec<_>>());
}

#[test]
fn holes_are_seen() {
    let f = fixture();
    File::create(f.path("a")).unwrap().set_len(1 << 20).unwrap();
    let Kind::File { sparse, size, .. } = f.entry("a").0.kind else { panic!() };
    assert!(sparse);
    assert_eq!(1 << 20, size);
    f.write("b", &[1; 1 << 20]);
    assert!(matches!(f.entry("b").0.kind, Kind::File { sparse: false, .. }));
}

#[test]
fn a_directory_lists_its_children_sorted() {
    let f = fixture();
    for i in 0..3000 {
        f.write(&format!("d/{i:05}"), b"");
    }
    std::fs::write(f.path(b"d/\xff\n"), b"").unwrap();
    std::fs::create_dir(f.path("d/sub")).unwrap();
    let listed = list(&f.mount, &rel("d")).unwrap().unwrap();
    assert_eq!(3002, listed.len());
    assert!(listed.is_sorted_by(|a, b| a.name < b.name));
    assert_eq!(b"\xff\n", &*listed[3001].name);
    assert!(listed[3000].is_dir);
    assert!(f.entry("d/00007").1.unchanged(&listed[7].signature));
    assert_eq!(None, list(&f.mount, &rel("d/00007")).unwrap());
    assert_eq!(None, list(&f.mount, &rel("none")).unwrap());
}

#[test]
fn a_path_longer_than_the_kernel_takes_works() {
    let f = fixture();
    let name = "n".repeat(255);
    let mut path = RelPath::root();
    for _ in 0..40 {
        path = path.join(name.as_bytes()).unwrap();
        assert!(done(&f.apply(put_dir(path.as_bytes()))), "{}", path.as_bytes().len());
    }
    let file_path = path.join(name.as_bytes()).unwrap();
    f.check_done(put_file(file_path.as_bytes(), b"deep"));
    assert_eq!(1, list(&f.mount, &path).unwrap().unwrap().len());
    let replaced = f.apply_over(put_file(file_path.as_bytes(), b"deeper"));
    assert!(done(&replaced), "{replaced:?}");
    assert!(f.look_again().is_empty());
    assert!(f.own("displaced").is_empty());
    let deleted = f.apply_over(delete(file_path.as_bytes()));
    assert!(done(&deleted), "{deleted:?}");
}
