//! Making new things visible, with all their metadata.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use super::*;
use crate::model::LinkGroup;

#[test]
fn every_kind_is_made_with_its_metadata() {
    let f = fixture();
    f.check_done(put_file(b"file", b"hello"));
    f.check_done(put_file(b"empty", b""));
    f.check_done(request(b"empty2", Some(file(b"", 0o600)), Source::None));
    f.check_done(put_dir(b"dir"));
    f.check_done(request(b"link", Some(symlink(b"/no/where")), Source::None));
    assert_eq!(b"hello".to_vec(), std::fs::read(f.path("file")).unwrap());
}

#[test]
fn names_are_bytes() {
    let f = fixture();
    for name in [&b"new\nline"[..], b"\xff\xfe", &[b'x'; 255], b" ", b"%2F-%long"] {
        f.check_done(put_file(name, b"x"));
        assert!(done(&f.apply_over(put_file(name, b"yy"))));
        assert!(done(&f.apply_over(delete(name))));
        assert!(f.look_again().is_empty());
    }
    assert!(f.own("displaced").is_empty());
}

#[test]
fn odd_modes_and_times_are_kept() {
    let f = fixture();
    for (i, secs) in [-1, -86_400 * 300, 4_070_908_800].into_iter().enumerate() {
        for (j, mode) in [0o4755, 0o2750, 0o1777, 0].into_iter().enumerate() {
            let mut entry = file(b"x", mode);
            entry.meta.mtime = Mtime { secs, nanos: 999_999_999 };
            let path = format!("{i}{j}");
            let outcome = f.apply(request(
                path.as_bytes(),
                Some(entry.clone()),
                Source::Inline((*b"x").into()),
            ));
            assert!(done(&outcome), "{outcome:?}");
            let made = std::fs::symlink_metadata(f.path(&path)).unwrap();
            assert_eq!((mode, secs), (made.mode() & 0o7777, made.mtime()));
            assert_eq!(999_999_999, made.mtime_nsec());
            let mut dir = directory(mode);
            dir.meta.mtime = entry.meta.mtime;
            let path = format!("d{i}{j}");
            let outcome = f.apply(request(path.as_bytes(), Some(dir), Source::None));
            assert!(done(&outcome), "{outcome:?}");
        }
    }
}

#[test]
fn owners_are_kept_by_the_privileged_only() {
    let f = fixture();
    let mut entry = file(b"x", 0o4755);
    (entry.meta.uid, entry.meta.gid) = (1234, 2345);
    let put = request(b"a", Some(entry.clone()), Source::Inline((*b"x").into()));
    let outcome = f.apply(put.clone());
    assert!(done(&outcome), "{outcome:?}");
    let made = std::fs::metadata(f.path("a")).unwrap();
    assert_eq!(0o4755, made.mode() & 0o7777);
    if is_root() {
        assert_eq!((1234, 2345), (made.uid(), made.gid()));
        assert!(f.entry("a").0.same(&entry));
        // Where the origin knows no owner, the one that is there stays.
        let mut next = file(b"yy", 0o600);
        (next.meta.uid, next.meta.gid) = (OWNER_UNKNOWN, OWNER_UNKNOWN);
        let over = request(b"a", Some(next), Source::Inline((*b"yy").into()));
        assert!(done(&f.apply_over(over)));
        assert_eq!(1234, std::fs::metadata(f.path("a")).unwrap().uid());
    } else {
        assert_eq!(OWNER_UNKNOWN, f.entry("a").0.meta.uid);
    }
}

#[test]
fn attributes_and_acls_are_set_and_removed() {
    let f = fixture();
    f.write("probe", b"");
    if !set_xattr(&f.path("probe"), "user.a", b"1") {
        return; // none on this file system
    }
    let acls = set_xattr(&f.path("probe"), "system.posix_acl_access", &acl(0o640, 1234));
    for mode in [0o640, 0o440] {
        let mut entry = file(b"x", mode);
        if acls {
            let value = acl(u16::try_from(mode).unwrap(), 1234);
            entry.meta.xattrs.push(((*b"system.posix_acl_access").into(), value.into()));
        }
        entry.meta.xattrs.push(((*b"user.a").into(), (*b"1").into()));
        entry.meta.xattrs.push(((*b"user.b").into(), [7; 3000].into()));
        let path = format!("a{mode}").into_bytes();
        f.check_done(request(&path, Some(entry.clone()), Source::Inline((*b"x").into())));
        entry.meta.xattrs = vec![((*b"user.b").into(), (*b"2").into())];
        let before = inode(&f.path(&path));
        let expected = Some(f.entry(&path));
        let change = request(&path, Some(entry), Source::None);
        f.check_done(ApplyRequest { expected, ..change });
        assert_eq!(before, inode(&f.path(&path)));
    }
    let mut dir = directory(0o750);
    if acls {
        dir.meta.xattrs.push(((*b"system.posix_acl_default").into(), acl(0o750, 1).into()));
    }
    f.check_done(request(b"dir", Some(dir), Source::None));
    // Nothing is inherited from it.
    f.check_done(put_file(b"dir/child", b"x"));
}

#[test]
fn a_sparse_file_stays_sparse() {
    let f = fixture();
    let mut bytes = vec![0; 1 << 20];
    bytes[500_000] = 1;
    let mut entry = file(&bytes, 0o644);
    let Kind::File { sparse, .. } = &mut entry.kind else { unreachable!() };
    *sparse = true;
    f.check_done(request(b"a", Some(entry.clone()), Source::Inline(bytes.clone().into())));
    assert!(std::fs::metadata(f.path("a")).unwrap().blocks() * 512 <= 8192);
    // From the stage too, whether it was written with holes or without.
    for holes in [true, false] {
        let (content, size) = entry.content().unwrap();
        let mut staged = Staged::open(&f.mount, content, size).unwrap().with_holes(holes);
        bytes.chunks(10_000).for_each(|chunk| staged.write(chunk).unwrap());
        staged.finish().unwrap();
        let path = format!("b{holes}");
        f.check_done(request(path.as_bytes(), Some(entry.clone()), Source::Staged));
        assert!(std::fs::metadata(f.path(path)).unwrap().blocks() * 512 <= 8192);
    }
}

#[test]
fn nothing_is_replaced_where_nothing_is_expected() {
    let f = fixture();
    f.write("a", b"mine");
    std::fs::create_dir(f.path("d")).unwrap();
    assert_eq!(Outcome::Changed, f.apply(put_file(b"a", b"theirs")));
    assert_eq!(Outcome::Changed, f.apply(put_dir(b"d")));
    assert_eq!(Outcome::Changed, f.apply(request(b"a", Some(symlink(b"x")), Source::None)));
    assert_eq!(Outcome::Changed, f.apply(delete(b"a")));
    assert_eq!(Outcome::ParentMissing, f.apply(put_file(b"none/a", b"x")));
    assert_eq!(Outcome::ParentMissing, f.apply(put_file(b"a/b", b"x")));
    assert_eq!(b"mine".to_vec(), std::fs::read(f.path("a")).unwrap());
    assert!(f.own("stage").is_empty());
}

#[test]
fn wrong_or_missing_content_makes_nothing() {
    let f = fixture();
    let lie = request(b"a", Some(file(b"truth", 0o644)), Source::Inline((*b"wrong").into()));
    assert_eq!(Outcome::ContentMissing, f.apply(lie));
    for source in [Source::None, Source::Staged, Source::LinkTo(rel("none"))] {
        let request = request(b"a", Some(file(b"truth", 0o644)), source);
        assert_eq!(Outcome::ContentMissing, f.apply(request));
    }
    assert!(f.own("stage").is_empty());
    assert_eq!(Found::Absent, f.look("a"));
}

#[test]
fn a_hard_link_is_made_to_the_very_file() {
    let f = fixture();
    let mut entry = file(b"shared", 0o644);
    let Kind::File { group, .. } = &mut entry.kind else { unreachable!() };
    *group = Some(LinkGroup(1));
    let first = request(b"a", Some(entry.clone()), Source::Inline((*b"shared").into()));
    let link = |path: &[u8]| request(path, Some(entry.clone()), Source::LinkTo(rel("a")));
    let outcomes = apply_group(&f.mount, &[first, link(b"b")], |_| {});
    let now = f.entry("a").1;
    for outcome in &outcomes {
        let Outcome::Done { signature: Some(signature) } = outcome else { panic!("{outcome:?}") };
        assert!(signature.unchanged(&now));
        assert_eq!(2, signature.links);
    }
    f.write("c", b"something else");
    assert!(done(&f.apply_over(link(b"c"))));
    assert!(done(&f.apply_over(link(b"c"))));
    let inodes = ["a", "b", "c"].map(|path| inode(&f.path(path)));
    assert_eq!([inodes[0]; 3], inodes);
    let mut other = entry.clone();
    other.meta.mtime.nanos += 1;
    let wrong = request(b"d", Some(other), Source::LinkTo(rel("a")));
    assert_eq!(Outcome::ContentMissing, f.apply(wrong));
}

#[test]
fn a_file_that_is_no_longer_linked_gets_an_inode_of_its_own() {
    let f = fixture();
    f.write("a", b"shared");
    std::fs::hard_link(f.path("a"), f.path("b")).unwrap();
    let mut entry = f.entry("b").0;
    entry.meta.mode = 0o600;
    assert!(done(&f.apply_over(request(b"b", Some(entry.clone()), Source::None))));
    assert_ne!(inode(&f.path("a")), inode(&f.path("b")));
    assert!(f.entry("b").0.same(&entry));
    assert_ne!(0o600, f.entry("a").0.meta.mode);
    assert!(f.own("displaced").is_empty());
}
