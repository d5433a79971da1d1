//! Clocks that are wrong: hours or a year apart, or going back while the daemon runs.
//!
//! A daemon is given its time by `libfaketime`, which answers in the kernel's place. What the
//! kernel itself notes, the times of files, stays right. Without that library nothing is tested.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cluster::{Cluster, Setup};
use crate::files::{MOUNT, SOON, at, conflicts, restart};

pub(crate) const DAY: i64 = 86_400;

/// Where Debian's package `faketime` puts it.
pub(crate) fn library() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").unwrap();
    let paths = folders.map(|folder| folder.unwrap().path().join("faketime/libfaketime.so.1"));
    let found = paths.into_iter().find(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: wrong clocks need the package faketime");
    }
    found
}

/// Gives a node a clock that is so many seconds off, from its next start on. It reads how many
/// from a file each time, so they can change while it runs.
pub(crate) fn set_clock(cluster: &mut Cluster, library: &Path, n: usize, seconds: i64) {
    let file = cluster.node(n).state().with_file_name("clock");
    fs::write(&file, format!("{seconds:+}\n")).unwrap();
    let preload = format!("LD_PRELOAD={}", library.display());
    let file = format!("FAKETIME_TIMESTAMP_FILE={}", file.display());
    cluster.node_mut(n).run_below(&[
        "env",
        &preload,
        &file,
        "FAKETIME_NO_CACHE=1",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
        "DONT_FAKE_MONOTONIC=1",
        "NO_FAKE_STAT=1",
    ]);
}

/// Each node in turn changes the same files, having seen what the one before it did: the last one
/// counts, whatever its clock says, and nothing is a conflict.
#[track_caller]
fn take_turns(cluster: &mut Cluster, rounds: usize) {
    for round in 0..rounds {
        let n = [1, 3, 2, 3, 1, 2][round % 6];
        fs::write(at(cluster, n, "edited"), format!("{round}")).unwrap();
        let removed = at(cluster, n, "removed");
        if round % 2 == 0 {
            fs::write(removed, format!("{round}")).unwrap();
        } else {
            fs::remove_file(removed).unwrap();
        }
        cluster.node(n).done(&["wait"]);
        for other in 1..=3 {
            let found = fs::read_to_string(at(cluster, other, "edited")).unwrap();
            assert_eq!(round.to_string(), found, "on node {other}");
            assert_eq!(round % 2 == 0, at(cluster, other, "removed").exists(), "on node {other}");
        }
    }
    assert!(conflicts(cluster, 1).is_empty());
}

/// Nodes 1 and 3 have clocks that are so many seconds off.
fn check_apart(one: i64, three: i64) {
    let Some(library) = library() else { return };
    let mut cluster = Cluster::start(&Setup::new().mount(MOUNT));
    set_clock(&mut cluster, &library, 1, one);
    set_clock(&mut cluster, &library, 3, three);
    restart(&mut cluster, 1);
    restart(&mut cluster, 3);
    let said = cluster.node(1).status().unwrap()["started"].as_str().unwrap().to_owned();
    let other = cluster.node(3).status().unwrap()["started"].as_str().unwrap().to_owned();
    assert!(said > other, "the clocks are wrong as they should be: {said}, {other}");
    cluster.wait_in_sync(SOON);
    take_turns(&mut cluster, 12);
    cluster.wait_in_sync(SOON);
    cluster.wait_equal(SOON);
}

#[test]
fn clocks_that_are_hours_apart_decide_nothing_that_someone_has_seen() {
    check_apart(3600, -3 * 3600);
}

#[test]
fn clocks_that_are_a_year_apart_decide_nothing_that_someone_has_seen() {
    check_apart(366 * DAY, 0);
    check_apart(0, -366 * DAY);
}

#[test]
fn a_clock_that_jumps_back_undoes_nothing() {
    let Some(library) = library() else { return };
    let mut cluster = Cluster::start(&Setup::new().mount(MOUNT));
    set_clock(&mut cluster, &library, 1, 5 * 3600);
    restart(&mut cluster, 1);
    cluster.wait_in_sync(SOON);
    take_turns(&mut cluster, 6);
    set_clock(&mut cluster, &library, 1, -5 * 3600);
    take_turns(&mut cluster, 6);
    // And at a start, when nothing but the index says what time it was.
    restart(&mut cluster, 1);
    cluster.wait_in_sync(SOON);
    take_turns(&mut cluster, 6);
    cluster.wait_in_sync(SOON);
    cluster.wait_equal(SOON);
}

#[test]
fn a_clock_that_is_three_years_wrong_is_told_of_and_costs_nothing() {
    let Some(library) = library() else { return };
    for off in [3 * 366 * DAY, -3 * 366 * DAY] {
        let mut cluster = Cluster::start(&Setup::new().mount(MOUNT));
        fs::write(at(&cluster, 1, "both"), "before").unwrap();
        cluster.node(1).done(&["wait"]);
        set_clock(&mut cluster, &library, 3, off);
        restart(&mut cluster, 3);
        cluster.wait_until(SOON, "word of the clock", |cluster| {
            let said = cluster.node(3).status()?["nodes"].to_string();
            if said.contains("clock") { Ok(()) } else { Err(said) }
        });
        fs::write(at(&cluster, 3, "of-3"), "written in another year").unwrap();
        fs::write(at(&cluster, 1, "of-1"), "written meanwhile").unwrap();
        cluster.node(1).done(&["wait", "--nodes", "quorum"]);
        cluster.node_mut(3).run_below(&[]);
        restart(&mut cluster, 3);
        cluster.wait_in_sync(SOON);
        cluster.wait_equal(SOON);
        take_turns(&mut cluster, 6);
        for n in 1..=3 {
            assert!(at(&cluster, n, "of-3").exists() && at(&cluster, n, "of-1").exists());
        }
        cluster.wait_equal(SOON);
    }
}

#[test]
fn a_node_that_was_away_for_longer_than_deletions_are_kept_brings_nothing_back() {
    let Some(library) = library() else { return };
    let mut cluster = Cluster::start(&Setup::new().mount(MOUNT));
    for name in ["deleted-with-it", "deleted-without-it", "kept"] {
        fs::write(at(&cluster, 1, name), name).unwrap();
    }
    cluster.node(1).done(&["wait"]);
    fs::remove_file(at(&cluster, 1, "deleted-with-it")).unwrap();
    cluster.node(1).done(&["wait"]);
    cluster.wait_in_sync(SOON);
    cluster.node_mut(3).stop();
    fs::remove_file(at(&cluster, 1, "deleted-without-it")).unwrap();
    cluster.node(1).done(&["wait", "--nodes", "quorum"]);
    for n in 1..=3 {
        set_clock(&mut cluster, &library, n, 70 * DAY);
    }
    restart(&mut cluster, 1);
    restart(&mut cluster, 2);
    // That a deletion goes when all have had it for a day is tested in `daemon::tidy`: clocks do not
    // move the time that a daemon has run.
    cluster.node_mut(3).start();
    cluster.wait_ready(3);
    cluster.wait_in_sync(SOON);
    cluster.wait_equal(SOON);
    for n in 1..=3 {
        assert!(at(&cluster, n, "kept").exists());
        assert!(
            !at(&cluster, n, "deleted-without-it").exists()
                && !at(&cluster, n, "deleted-with-it").exists()
        );
    }
}
