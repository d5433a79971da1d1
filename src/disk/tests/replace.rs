//! Replacing what is there: compare and swap, changes of kind, metadata in place.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::fs::OpenOptions;

use super::*;

#[test]
fn a_file_is_replaced_if_it_is_what_was_expected() {
    let f = fixture();
    f.write("a", b"old");
    let expected = Some(f.entry("a"));
    let before = inode(&f.path("a"));
    f.check_done(ApplyRequest { expected, ..put_file(b"a", b"new") });
    assert_ne!(before, inode(&f.path("a")));
    assert_eq!(1, f.own("displaced").len());
    assert!(f.look_again().is_empty());
    assert!(f.own("displaced").is_empty());
}

#[test]
fn a_file_that_changed_since_is_left_alone() {
    let f = fixture();
    f.write("a", b"old");
    let expected = Some(f.entry("a"));
    f.write("a", b"edited");
    for request in [put_file(b"a", b"new"), delete(b"a")] {
        let outcome = f.apply(ApplyRequest { expected: expected.clone(), ..request });
        assert_eq!(Outcome::Changed, outcome);
    }
    let mut chmod = expected.clone().unwrap().0;
    chmod.meta.mode = 0o600;
    let chmod = request(b"a", Some(chmod), Source::None);
    assert_eq!(Outcome::Changed, f.apply(ApplyRequest { expected: expected.clone(), ..chmod }));
    assert_eq!(b"edited".to_vec(), std::fs::read(f.path("a")).unwrap());
    assert!(f.own("displaced").is_empty() && f.own("stage").is_empty());
    std::fs::remove_file(f.path("a")).unwrap();
    let outcome = f.apply(ApplyRequest { expected, ..put_file(b"a", b"new") });
    assert_eq!(Outcome::Changed, outcome);
    assert_eq!(Found::Absent, f.look("a"));
}

#[test]
fn fetched_content_is_not_lost_when_the_file_changed() {
    let f = fixture();
    f.write("a", b"old");
    let expected = Some(f.entry("a"));
    f.write("a", b"edited");
    let content = ContentId::of(b"new");
    let mut staged = Staged::open(&f.mount, content, 3).unwrap();
    staged.write(b"new").unwrap();
    staged.finish().unwrap();
    let mut target = file(b"new", 0o000);
    target.meta.xattrs.push(((*b"user.a").into(), (*b"1").into()));
    let put = ApplyRequest { expected, ..request(b"a", Some(target), Source::Staged) };
    assert_eq!(Outcome::Changed, f.apply(put));
    assert!(exists_complete(&f.mount, content));
    let again = request(b"b", Some(file(b"new", 0o644)), Source::Staged);
    f.check_done(again);
}

#[test]
fn a_file_that_a_writer_has_open_is_busy() {
    let f = fixture();
    f.write("a", b"old");
    let expected = Some(f.entry("a"));
    let writer = OpenOptions::new().append(true).open(f.path("a")).unwrap();
    for request in [put_file(b"a", b"new"), delete(b"a")] {
        let outcome = f.apply(ApplyRequest { expected: expected.clone(), ..request });
        assert_eq!(Outcome::Busy, outcome);
    }
    assert_eq!(b"old".to_vec(), std::fs::read(f.path("a")).unwrap());
    drop(writer);
    f.check_done(ApplyRequest { expected, ..put_file(b"a", b"new") });
}

#[test]
fn only_metadata_differs_so_the_inode_stays() {
    let f = fixture();
    f.write("a", b"same");
    std::fs::create_dir(f.path("d")).unwrap();
    std::os::unix::fs::symlink("x", f.path("l")).unwrap();
    for (path, mode) in [("a", 0o4711), ("d", 0o1700), ("l", 0o777)] {
        let (before, opened) = (inode(&f.path(path)), f.mount.counters.files_staged.load(ORDER));
        let expected = f.entry(path);
        let mut entry = expected.0.clone();
        entry.meta.mode = mode;
        entry.meta.mtime = Mtime { secs: -5, nanos: 5 };
        if is_root() {
            entry.meta.uid = 1234;
        }
        let change = request(path.as_bytes(), Some(entry), Source::None);
        f.check_done(ApplyRequest { expected: Some(expected), ..change });
        assert_eq!(before, inode(&f.path(path)));
        assert_eq!(opened, f.mount.counters.files_staged.load(ORDER));
    }
}

const ORDER: std::sync::atomic::Ordering = std::sync::atomic::Ordering::Relaxed;

#[test]
fn the_roots_metadata_is_set_in_place() {
    let f = fixture();
    let expected = f.entry("");
    let mut entry = expected.0.clone();
    entry.meta.mode = 0o751;
    entry.meta.mtime = Mtime { secs: 77, nanos: 7 };
    let change = request(b"", Some(entry), Source::None);
    f.check_done(ApplyRequest { expected: Some(expected), ..change });
    let outcome = f.apply_over(delete(b""));
    assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
}

#[test]
fn kinds_change_into_each_other() {
    let f = fixture();
    let kinds = [
        put_file(b"a", b"file"),
        request(b"a", Some(symlink(b"/x")), Source::None),
        put_dir(b"a"),
        put_file(b"a", b"again"),
        put_dir(b"a"),
        request(b"a", Some(symlink(b"y")), Source::None),
        put_file(b"a", b"last"),
    ];
    f.check_done(kinds[0].clone());
    for next in &kinds[1..] {
        let expected = Some(f.entry("a"));
        f.check_done(ApplyRequest { expected, ..next.clone() });
    }
    assert!(f.look_again().is_empty());
    assert!(f.own("displaced").is_empty());
}

#[test]
fn a_directory_with_children_is_neither_replaced_nor_removed() {
    let f = fixture();
    f.write("d/child", b"x");
    assert_eq!(Outcome::NotEmpty, f.apply_over(put_file(b"d", b"new")));
    assert_eq!(Outcome::NotEmpty, f.apply_over(delete(b"d")));
    assert_eq!(b"x".to_vec(), std::fs::read(f.path("d/child")).unwrap());
    assert!(f.own("displaced").is_empty() && f.own("stage").is_empty());
    // A directory that others work in is still the one expected, unless its mode changed.
    let expected = Some(f.entry("d"));
    f.write("d/other", b"x");
    let outcome = f.apply(ApplyRequest { expected: expected.clone(), ..delete(b"d") });
    assert_eq!(Outcome::NotEmpty, outcome);
    std::fs::remove_file(f.path("d/other")).unwrap();
    std::fs::remove_file(f.path("d/child")).unwrap();
    set_mode(&f.path("d"), 0o711);
    assert_eq!(Outcome::Changed, f.apply(ApplyRequest { expected, ..delete(b"d") }));
    assert!(done(&f.apply_over(delete(b"d"))));
    assert_eq!(Found::Absent, f.look("d"));
}

#[test]
fn what_is_gone_already_is_deleted() {
    let f = fixture();
    f.write("d/a", b"x");
    let expected = Some(f.entry("d/a"));
    std::fs::remove_dir_all(f.path("d")).unwrap();
    let gone = Outcome::Done { signature: None };
    assert_eq!(gone, f.apply(ApplyRequest { expected, ..delete(b"d/a") }));
    assert_eq!(gone, f.apply(delete(b"never/there")));
}

#[test]
fn a_racy_signature_is_checked_by_content() {
    let f = fixture();
    f.write("a", b"old");
    let (entry, signature) = f.entry("a");
    let racy = Signature { racy: true, ..signature };
    // The same times, but other bytes than the engine believes.
    let believed = Entry { kind: file(b"odd", 0).kind, ..entry.clone() };
    for request in [put_file(b"a", b"new"), delete(b"a")] {
        let expected = Some((believed.clone(), racy));
        assert_eq!(Outcome::Changed, f.apply(ApplyRequest { expected, ..request }));
    }
    assert_eq!(b"old".to_vec(), std::fs::read(f.path("a")).unwrap());
    let racy = Signature { racy: true, ..f.entry("a").1 };
    f.check_done(ApplyRequest { expected: Some((entry, racy)), ..put_file(b"a", b"new") });
}

#[test]
fn a_reader_never_sees_a_gap() {
    let f = fixture();
    f.write("a", &[0; 100]);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(ORDER) {
                let bytes = std::fs::read(f.path("a")).unwrap();
                assert!(bytes.len() == 100 && bytes.iter().all(|b| *b == bytes[0]));
            }
        });
        for i in 1..100 {
            let outcome = f.apply_over(put_file(b"a", &[i; 100]));
            assert!(done(&outcome), "{outcome:?}");
        }
        stop.store(true, ORDER);
    });
}

#[test]
fn edits_that_race_with_replacing_are_never_lost() {
    let f = fixture();
    for round in 0..40 {
        f.write("a", b"0");
        let edit = |i: u32| format!("edit {round} {i}").into_bytes();
        let edits = 30;
        let mut seen = Vec::new();
        std::thread::scope(|scope| {
            let editor = scope.spawn(|| {
                for i in 0..edits {
                    std::fs::write(f.path("tmp"), edit(i)).unwrap();
                    std::fs::rename(f.path("tmp"), f.path("a")).unwrap();
                }
            });
            while !editor.is_finished() {
                let Found::Entry { entry, signature, .. } = f.look("a") else { continue };
                let content = entry.content().unwrap().0;
                let put = put_file(b"a", format!("theirs {}", seen.len()).as_bytes());
                let expected = Some((entry, signature));
                match f.apply(ApplyRequest { expected, ..put }) {
                    Outcome::Done { .. } => seen.push(content),
                    Outcome::Changed | Outcome::Busy => {}
                    other => panic!("{other:?}"),
                }
            }
        });
        // The last edit is at the path, or was replaced knowingly, or is handed out.
        let last = ContentId::of(&edit(edits - 1));
        let here = ContentId::of(&std::fs::read(f.path("a")).unwrap());
        let mut known = here == last || seen.contains(&last);
        for late in f.look_again() {
            let bytes = std::fs::read(&late.file).unwrap();
            known |= ContentId::of(&bytes) == last;
            // Never an item of ours that nobody saw.
            assert!(bytes.starts_with(b"edit"), "{}", String::from_utf8_lossy(&bytes));
            std::fs::remove_file(late.file).unwrap();
        }
        assert!(known, "round {round}");
        assert!(f.own("displaced").is_empty() && f.own("stage").is_empty());
    }
}
