//! Someone edits in the very moment of an apply: before and after each of its calls, not by luck.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::rc::Rc;

use rustix::fs::{FlockOperation, flock};

use super::fault_cases::{CASES, Case, make_file};
use super::map_sys::Map;
use super::*;
use crate::disk::fault::hook;

/// What is written by whoever races.
const MINE: &[u8] = b"#!#";

/// An edit of a path; whether it came to be.
type Edit = fn(&Path) -> bool;

const EDITS: &[(&str, Edit)] = &[
    ("write", |path| std::fs::write(path, MINE).is_ok()),
    ("append", |path| {
        let file = OpenOptions::new().append(true).open(path);
        file.is_ok_and(|mut file| file.write_all(MINE).is_ok())
    }),
    ("replace", |path| {
        let new = path.with_extension("mine");
        if std::fs::write(&new, MINE).is_err() {
            return false;
        }
        let moved = std::fs::rename(&new, path).is_ok();
        drop(std::fs::remove_file(new));
        moved
    }),
    ("write-below", |path| std::fs::write(path.join("child"), MINE).is_ok()),
];

/// Nothing on a disk is needed: what a writer does shows in times, except for mapped files.
fn quick(case: &Case) -> (Fixture, Vec<ApplyRequest>) {
    let memory = Path::new("/dev/shm");
    let f = if memory.is_dir() { fixture_in(memory) } else { fixture() };
    std::fs::create_dir(f.path("d")).unwrap();
    (case.make)(&f);
    let requests = (case.requests)(&f);
    (f, requests)
}

/// Applies, and does something before or after the call that comes as number `at`. Whether there
/// was one.
fn apply_with(
    f: &Fixture,
    requests: &[ApplyRequest],
    at: usize,
    act: impl FnOnce() + 'static,
) -> (Vec<Outcome>, bool) {
    let act = Rc::new(RefCell::new(Some(act)));
    let left = act.clone();
    let mut moments = 0;
    let hook = move |_, _| {
        if moments == at
            && let Some(act) = act.borrow_mut().take()
        {
            act();
        }
        moments += 1;
        None
    };
    let outcomes = hook::during(hook, || apply_group(&f.mount, requests, |_| {}));
    (outcomes, left.borrow().is_none())
}

/// Whether what was written is at a path, was handed out, or is kept as a loser.
fn is_safe(f: &Fixture) -> bool {
    let mut files = Vec::new();
    let mut dirs = vec![f.dir.path().to_owned()];
    while let Some(dir) = dirs.pop() {
        for found in std::fs::read_dir(dir).unwrap() {
            let path = found.unwrap().path();
            let is_dir = path.symlink_metadata().unwrap().is_dir();
            if is_dir && !path.ends_with(".trefoil") {
                dirs.push(path);
            } else if !is_dir {
                files.push(path);
            }
        }
    }
    // What a displaced directory held is handed out a look later.
    for _ in 0..3 {
        files.extend(f.look_again().into_iter().map(|late| late.file));
    }
    files.extend(f.own("kept"));
    let holds = |bytes: Vec<u8>| bytes.windows(MINE.len()).any(|part| part == MINE);
    files.iter().any(|file| std::fs::read(file).is_ok_and(holds))
}

/// A signature that was given for done must not hide that it is not what was applied.
fn check_noticed(f: &Fixture, requests: &[ApplyRequest], outcomes: &[Outcome], name: &str) {
    for (request, outcome) in requests.iter().zip(outcomes) {
        let Outcome::Done { signature } = outcome else { continue };
        let (Found::Entry { entry, signature: now, .. }, Some(signature), Some(target)) =
            (f.look(request.path.as_bytes()), signature, &request.target)
        else {
            continue;
        };
        let same = entry.same_kind_content(target);
        let hidden = !same && !signature.racy && signature.unchanged(&now);
        assert!(!hidden, "{name}: nobody would look at {}", request.path);
    }
}

#[test]
fn an_edit_in_any_moment_of_an_apply_survives() {
    let mut made = 0;
    for case in CASES {
        for (edit_name, edit) in EDITS {
            for at in 0.. {
                let _alone = alone();
                let (f, requests) = quick(case);
                let name = format!("{}, {edit_name} at moment {at}", case.name);
                let Some(path) = requests.last().map(|request| request.path.clone()) else { break };
                let path = f.path(path.as_bytes());
                let came = Rc::new(RefCell::new(false));
                let (told, edit) = (came.clone(), *edit);
                let act = move || *told.borrow_mut() = edit(&path);
                let (outcomes, is_reached) = apply_with(&f, &requests, at, act);
                if !is_reached {
                    break;
                }
                made += u32::from(*came.borrow());
                check_noticed(&f, &requests, &outcomes, &name);
                assert!(!*came.borrow() || is_safe(&f), "{name}: lost, {outcomes:?}");
                // Fetched content waits for the next attempt.
                let mut left = f.own("stage").into_iter();
                let is_content = |path: PathBuf| path.to_string_lossy().contains("/whole-");
                assert!(left.all(is_content), "{name}: {:?}", f.own("stage"));
            }
        }
    }
    assert!(made > 1000, "only {made} edits");
}

fn case(name: &str) -> &'static Case {
    CASES.iter().find(|case| case.name == name).unwrap()
}

/// Opens the file in each moment, holds it over the rest of the apply, then writes.
#[track_caller]
fn check_held(case: &Case, even_if_open: bool, write: fn(File)) {
    for at in 0.. {
        let _alone = alone();
        let f = fixture();
        std::fs::create_dir(f.path("d")).unwrap();
        (case.make)(&f);
        let mut requests = (case.requests)(&f);
        requests[0].even_if_open = even_if_open;
        let path = f.path("d/f");
        let held = Rc::new(RefCell::new(None));
        let opened = held.clone();
        let act = move || {
            *opened.borrow_mut() = OpenOptions::new().read(true).append(true).open(&path).ok();
        };
        let (outcomes, is_reached) = apply_with(&f, &requests, at, act);
        if !is_reached {
            return;
        }
        let Some(file) = held.take() else { continue };
        let name = format!("{}, held from moment {at}, {outcomes:?}", case.name);
        assert!(f.look_again().is_empty(), "{name}: not while it is open");
        write(file);
        assert!(is_safe(&f), "{name}: lost");
        check_noticed(&f, &requests, &outcomes, &name);
    }
}

#[test]
fn what_a_writer_writes_who_held_the_file_open_over_an_apply_survives() {
    let write = |mut file: File| file.write_all(MINE).unwrap();
    for name in ["replace", "replace-and-keep", "remove", "remove-to-trash", "file-to-directory"] {
        for even_if_open in [false, true] {
            check_held(case(name), even_if_open, write);
        }
    }
}

#[test]
fn what_is_written_to_a_file_that_was_mapped_over_an_apply_survives() {
    let write = |file: File| {
        let map = Map::new(&file);
        drop(file);
        map.write(MINE);
    };
    for name in ["replace", "remove"] {
        for even_if_open in [false, true] {
            check_held(case(name), even_if_open, write);
        }
    }
}

#[test]
fn a_file_that_is_only_mapped_counts_as_open() {
    let _alone = alone();
    let f = fixture();
    make_file_below(&f);
    let file = OpenOptions::new().read(true).write(true).open(f.path("d/f")).unwrap();
    let map = Map::new(&file);
    drop(file);
    assert_eq!(Found::Busy, f.look("d/f"));
    map.write(MINE);
    drop(map);
    assert_eq!(Some(ContentId::of(MINE)), f.entry("d/f").0.content().map(|content| content.0));
}

fn make_file_below(f: &Fixture) {
    std::fs::create_dir(f.path("d")).unwrap();
    make_file(f);
}

#[test]
fn a_lock_outlives_a_change_of_metadata() {
    let _alone = alone();
    let f = fixture();
    make_file_below(&f);
    let locked = File::open(f.path("d/f")).unwrap();
    flock(&locked, FlockOperation::LockExclusive).unwrap();
    let requests = (case("file-metadata").requests)(&f);
    assert!(apply_group(&f.mount, &requests, |_| {}).iter().all(done));
    let other = File::open(f.path("d/f")).unwrap();
    let second = flock(&other, FlockOperation::NonBlockingLockExclusive);
    assert_eq!(Err(rustix::io::Errno::WOULDBLOCK), second, "still the file that is locked");
}
