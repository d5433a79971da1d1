//! A group of changes: order, directory times, independence.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::sync::atomic::Ordering;

use super::*;

#[test]
fn a_tree_is_made_and_removed_in_one_group() {
    let f = fixture();
    let make = [put_dir(b"d"), put_dir(b"d/e"), put_file(b"d/e/f", b"x"), put_file(b"d/g", b"y")];
    let outcomes = apply_group(&f.mount, &make, |_| {});
    for (request, outcome) in make.iter().zip(outcomes) {
        let Outcome::Done { signature } = outcome else { panic!("{}: {outcome:?}", request.path) };
        f.check_is(&request.path, request.target.as_ref(), signature);
    }
    let remove: Vec<_> = make
        .iter()
        .rev()
        .map(|request| {
            let path = request.path.as_bytes();
            ApplyRequest { expected: Some(f.entry(path)), ..delete(path) }
        })
        .collect();
    assert!(apply_group(&f.mount, &remove, |_| {}).iter().all(done));
    assert_eq!(Found::Absent, f.look("d"));
}

#[test]
fn one_failure_stops_no_other() {
    let f = fixture();
    f.write("taken", b"mine");
    let outcomes = apply_group(
        &f.mount,
        &[
            put_file(b"taken", b"x"),
            put_file(b"none/x", b"x"),
            put_file(b"a", b"a"),
            request(b"b", Some(file(b"b", 0o644)), Source::Staged),
            put_file(b"c", b"c"),
        ],
        |_| {},
    );
    assert_eq!(Outcome::Changed, outcomes[0]);
    assert_eq!(Outcome::ParentMissing, outcomes[1]);
    assert!(done(&outcomes[2]));
    assert_eq!(Outcome::ContentMissing, outcomes[3]);
    assert!(done(&outcomes[4]));
}

#[test]
fn nothing_is_visible_before_it_is_noted_and_nothing_if_it_is_not() {
    let f = fixture();
    f.write("gone", b"x");
    f.write("old", b"x");
    let group = || {
        let (gone, old) = (Some(f.entry("gone")), Some(f.entry("old")));
        let mode = request(b"old", Some(file(b"x", 0o600)), Source::None);
        [
            put_file(b"new", b"y"),
            put_dir(b"dir"),
            ApplyRequest { expected: gone, ..delete(b"gone") },
            ApplyRequest { expected: old, ..mode },
        ]
    };
    let before = || {
        assert!(!f.path("new").exists() && !f.path("dir").exists() && f.path("gone").exists());
        assert_ne!(0o600, f.entry("old").0.meta.mode);
    };
    let refused = || {
        before();
        Err("the index is full".to_owned())
    };
    for outcome in apply_noted(&f.mount, &group(), refused, |i| panic!("{i} is visible")) {
        assert_eq!(Outcome::failed("the index is full"), outcome);
    }
    before();
    assert_eq!(0, std::fs::read_dir(f.path(".trefoil/stage")).unwrap().count(), "all taken back");
    let noted = || {
        before();
        Ok(())
    };
    let mut visible = Vec::new();
    assert!(apply_noted(&f.mount, &group(), noted, |i| visible.push(i)).iter().all(done));
    assert_eq!(vec![0, 1, 2, 3], visible);
    assert!(f.path("new").exists() && !f.path("gone").exists());
}

#[test]
fn a_file_that_goes_and_comes_is_renamed() {
    let f = fixture();
    fault_cases::make_file(&f);
    let (inode, times) = (inode(&f.path("d/f")), (mtime(&f.path("d")), mtime(f.dir.path())));
    let group = fault_cases::moved(&f, b"d/f", b"new");
    let opened = f.mount.counters.bytes_hashed.load(Ordering::Relaxed);
    let outcomes = apply_group(&f.mount, &group, |_| {});
    let Outcome::Done { signature } = outcomes[0] else { panic!("{outcomes:?}") };
    assert_eq!(opened, f.mount.counters.bytes_hashed.load(Ordering::Relaxed), "nothing is read");
    f.check_is(&group[0].path, group[0].target.as_ref(), signature);
    assert!(done(&outcomes[1]) && !f.path("d/f").exists());
    assert_eq!(inode, self::inode(&f.path("new")));
    assert_eq!(times, (mtime(&f.path("d")), mtime(f.dir.path())));
    assert_eq!(0, std::fs::read_dir(f.path(".trefoil/displaced")).unwrap().count());
}

#[test]
fn a_file_that_is_not_what_was_expected_or_is_open_is_not_renamed() {
    let f = fixture();
    f.write("old", b"x");
    let group = fault_cases::moved(&f, b"old", b"new");
    let writer = std::fs::OpenOptions::new().append(true).open(f.path("old")).unwrap();
    let outcomes = apply_group(&f.mount, &group, |_| {});
    assert_eq!([Outcome::ContentMissing, Outcome::Busy], *outcomes);
    drop(writer);
    f.write("old", b"edited");
    let outcomes = apply_group(&f.mount, &group, |_| {});
    assert_eq!([Outcome::ContentMissing, Outcome::Changed], *outcomes);
    f.write("new", b"taken");
    let group = fault_cases::moved(&f, b"old", b"new");
    let outcomes = apply_group(&f.mount, &group[..1], |_| {});
    assert_eq!([Outcome::Changed], *outcomes);
    let gone = fault_cases::moved(&f, b"old", b"gone/new");
    assert_eq!([Outcome::ParentMissing], *apply_group(&f.mount, &gone[..1], |_| {}));
    let read = |name| std::fs::read(f.path(name)).unwrap();
    assert_eq!((&b"edited"[..], &b"taken"[..]), (&*read("old"), &*read("new")));
}

#[test]
fn changing_children_leaves_the_directorys_time() {
    let f = fixture();
    f.write("d/old", b"x");
    f.write("d/other", b"x");
    let (root, dir) = (mtime(f.dir.path()), mtime(&f.path("d")));
    let expected = Some(f.entry("d/old"));
    let replaced = Some(f.entry("d/other"));
    let group = [
        put_file(b"d/new", b"x"),
        ApplyRequest { expected, ..delete(b"d/old") },
        ApplyRequest { expected: replaced, ..put_file(b"d/other", b"yy") },
        put_file(b"top", b"x"),
    ];
    assert!(apply_group(&f.mount, &group, |_| {}).iter().all(done));
    assert_eq!((root, dir), (mtime(f.dir.path()), mtime(&f.path("d"))));
}

#[test]
fn a_directory_in_the_group_gets_its_own_time() {
    let f = fixture();
    f.write("d/old", b"x");
    let expected = f.entry("d");
    let mut entry = expected.0.clone();
    entry.meta.mtime = Mtime { secs: 42, nanos: 42 };
    let change = request(b"d", Some(entry), Source::None);
    let change = ApplyRequest { expected: Some(expected), ..change };
    for group in [
        vec![put_file(b"d/a", b"x"), change.clone()],
        vec![change.clone(), put_file(b"d/b", b"x")],
        vec![put_file(b"d/c", b"x"), change.clone(), put_file(b"d/d", b"x")],
    ] {
        rustix::fs::utimensat(
            rustix::fs::CWD,
            f.path("d"),
            &rustix::fs::Timestamps {
                last_access: rustix::fs::Timespec { tv_sec: 0, tv_nsec: 0 },
                last_modification: rustix::fs::Timespec { tv_sec: 9, tv_nsec: 9 },
            },
            rustix::fs::AtFlags::empty(),
        )
        .unwrap();
        let outcomes = apply_group(&f.mount, &group, |_| {});
        assert!(outcomes.iter().all(done), "{outcomes:?}");
        assert_eq!((42, 42), mtime(&f.path("d")));
        let at = group.iter().position(|r| r.path == rel("d")).unwrap();
        let Outcome::Done { signature: Some(signature) } = outcomes[at] else { panic!() };
        assert!(signature.unchanged(&f.entry("d").1));
    }
}

#[test]
fn groups_in_one_directory_leave_its_time() {
    let f = fixture();
    f.write("d/old", b"x");
    let before = mtime(&f.path("d"));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let f = &f;
            scope.spawn(move || {
                for i in 0..25 {
                    let path = format!("d/{thread}-{i}");
                    assert!(done(&f.apply(put_file(path.as_bytes(), b"x"))));
                }
            });
        }
    });
    assert_eq!(before, mtime(&f.path("d")));
}

#[test]
fn content_in_the_stage_serves_every_request_of_a_group() {
    let f = fixture();
    let mut staged = Staged::open(&f.mount, ContentId::of(b"twice"), 5).unwrap();
    staged.write(b"twice").unwrap();
    staged.finish().unwrap();
    let put = |path: &[u8]| request(path, Some(file(b"twice", 0o644)), Source::Staged);
    let outcomes = apply_group(&f.mount, &[put(b"a"), put(b"b")], |_| {});
    assert!(outcomes.iter().all(done), "{outcomes:?}");
    assert_ne!(inode(&f.path("a")), inode(&f.path("b")));
    assert!(!exists_complete(&f.mount, ContentId::of(b"twice")));
    assert!(f.own("stage").is_empty());
}

#[test]
fn many_files_cost_few_syncs() {
    let f = fixture();
    assert!(done(&f.apply(put_dir(b"d"))));
    let before = f.mount.counters.syncs.load(Ordering::Relaxed);
    let group: Vec<_> = (0..100).map(|i| put_file(format!("d/{i}").as_bytes(), b"x")).collect();
    assert!(apply_group(&f.mount, &group, |_| {}).iter().all(done));
    assert_eq!(2, f.mount.counters.syncs.load(Ordering::Relaxed) - before);
}
