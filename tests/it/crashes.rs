//! The daemon is killed at each call of an apply in turn, right before it and right after it, and
//! started again: files and indexes are right afterwards, and nothing became a conflict.
//!
//! Several nodes die at a time, each at a call of its own, while they take in the same changes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::cluster::{Cluster, Setup};
use crate::files::{MOUNT, SOON};
use crate::steps::{chmod, gone, has, link, mkdir, same_file, set_attribute, set_time, write};
use crate::tree::{Tree, describe};

/// Nodes that die at a time, besides the one that writes.
const VICTIMS: usize = 4;
/// More than what comes along with an announcement.
const LARGE_BYTES: usize = 300 << 10;

/// What is there before, of everything that an apply can change.
fn make(dir: &Path) {
    for name in ["replaced", "removed", "meta", "to-dir", "to-link", "linked", "grown"] {
        write(dir, name, "old");
    }
    for name in ["gone/below", "to-file", "dir-meta", "deep"] {
        mkdir(dir, name);
    }
    write(dir, &deep(), "old");
    write(dir, "gone/below/f", "old");
    link(dir, "linked", "linked-too");
    symlink("old", dir.join("link")).unwrap();
    symlink("old", dir.join("link-to-file")).unwrap();
}

/// What node `n` edits at the same time as node 1.
fn clash(n: usize) -> String {
    format!("clash-{n}")
}

/// A name whose path does not fit beside what is noted of a displaced file.
fn deep() -> String {
    format!("deep/{}", "n".repeat(250))
}

fn change(dir: &Path) {
    for name in ["replaced", "new", &deep()] {
        write(dir, name, "newer");
    }
    fs::write(dir.join("grown"), vec![7; LARGE_BYTES]).unwrap();
    fs::remove_file(dir.join("removed")).unwrap();
    fs::remove_dir_all(dir.join("gone")).unwrap();
    mkdir(dir, "made/below");
    write(dir, "made/below/f", "newer");
    for (name, mode) in [("meta", 0o751), ("dir-meta", 0o2711)] {
        chmod(dir, name, mode);
        set_attribute(dir, name, "user.new", b"1");
        if crate::steps::is_root() {
            std::os::unix::fs::chown(dir.join(name), Some(33), Some(1234)).unwrap();
            chmod(dir, name, mode);
        }
        set_time(dir, name, 1_000_000_000, 5);
    }
    for name in ["to-dir", "to-link", "link-to-file", "link"] {
        fs::remove_file(dir.join(name)).unwrap();
    }
    fs::remove_dir(dir.join("to-file")).unwrap();
    mkdir(dir, "to-dir");
    write(dir, "to-file", "newer");
    write(dir, "link-to-file", "newer");
    symlink("new", dir.join("to-link")).unwrap();
    symlink("new", dir.join("link")).unwrap();
    link(dir, "linked", "linked-later");
    let sparse = fs::File::create(dir.join("sparse")).unwrap();
    sparse.set_len(1 << 20).unwrap();
}

fn check(dir: &Path) {
    has(dir, "replaced", "newer");
    for n in Crashes::victims() {
        has(dir, &clash(n), "newer");
    }
    has(dir, &deep(), "newer");
    gone(dir, "removed");
    gone(dir, "gone");
    has(dir, "made/below/f", "newer");
    same_file(dir, &["linked", "linked-too", "linked-later"]);
}

/// Clusters of one node that writes and some that die.
struct Crashes {
    cluster: Cluster,
    round: usize,
    /// Losers that the nodes must have: one of each round and node that died.
    losers: usize,
}

impl Crashes {
    fn start() -> Self {
        let setup = Setup::new().nodes(1 + VICTIMS).mount(MOUNT);
        Self { cluster: Cluster::start(&setup), round: 0, losers: 0 }
    }

    fn victims() -> std::ops::RangeInclusive<usize> {
        2..=1 + VICTIMS
    }

    /// Makes a tree everywhere, ends the victims, changes the tree, and starts them with a fault
    /// each. Gives the trees before and after.
    fn provoke(&mut self, faults: &[String]) -> (Tree, Tree) {
        self.round += 1;
        let cluster = &mut self.cluster;
        let name = format!("r{}", self.round);
        let dir = cluster.node(1).path(MOUNT).join(&name);
        mkdir(&dir, "");
        make(&dir);
        cluster.wait_in_sync(SOON);
        cluster.wait_equal(SOON);
        let before = describe(&dir).unwrap();
        // They edit what node 1 edits later, without knowing of each other: theirs is to be kept.
        cluster.node(1).done(&["pause", MOUNT]);
        for n in Self::victims() {
            write(&cluster.node(n).path(MOUNT).join(&name), &clash(n), &format!("of node {n}"));
            cluster.node(n).done(&["wait", "--nodes", "1"]);
        }
        for n in Self::victims() {
            cluster.node_mut(n).stop();
        }
        change(&dir);
        for n in Self::victims() {
            write(&dir, &clash(n), "newer");
        }
        cluster.node(1).done(&["resume", MOUNT]);
        for (n, fault) in Self::victims().zip(faults) {
            cluster.node_mut(n).start_with(&[fault]);
        }
        (before, describe(&dir).unwrap())
    }

    /// Lets every node die as its fault says, and start again.
    fn crash(&mut self, faults: &[String]) {
        let (before, after) = self.provoke(faults);
        for (n, fault) in Self::victims().zip(faults) {
            let status = self.cluster.node_mut(n).wait_end();
            let signal = std::os::unix::process::ExitStatusExt::signal(&status);
            assert_eq!(Some(9), signal, "{fault} was not reached: {status}");
            let dir = self.cluster.node(n).path(MOUNT).join(format!("r{}", self.round));
            check_old_or_new(&before, &after, &describe(&dir).unwrap(), fault);
        }
        for n in Self::victims() {
            self.cluster.node_mut(n).start();
        }
        for n in Self::victims() {
            self.cluster.wait_ready(n);
        }
        self.settle(faults);
    }

    fn settle(&mut self, faults: &[String]) {
        eprintln!("round {}: {faults:?}", self.round);
        self.cluster.wait_equal(SOON);
        self.cluster.wait_in_sync(SOON);
        check(&self.cluster.node(1).path(MOUNT).join(format!("r{}", self.round)));
        self.losers += VICTIMS;
        let losers = self.losers;
        self.cluster.wait_until(SOON, "losers and no more", |cluster| {
            let list = cluster.node(2).json(&["conflicts", "list"]);
            // What was not kept yet when the daemon died is kept once more, as a late write.
            let paths: BTreeSet<_> =
                list.as_array().unwrap().iter().map(|c| c["path"].as_str().unwrap()).collect();
            let right = paths.len() == losers && paths.iter().all(|path| path.contains("/clash-"));
            if right { Ok(()) } else { Err(format!("{} of {losers}: {paths:?}", paths.len())) }
        });
    }

    /// The labels that the victims' apply threads reach, in the order of their names.
    fn labels(&mut self) -> BTreeSet<String> {
        self.provoke(&vec!["list".to_owned(); VICTIMS]);
        for n in Self::victims() {
            self.cluster.wait_ready(n);
        }
        self.settle(&[]);
        let mut labels = BTreeSet::new();
        for n in Self::victims() {
            let log = self.cluster.node(n).log();
            let applies = log.lines().filter(|line| line.contains("thread=\"apply data\""));
            let label =
                |line: &str| Some(line.split("label=\"").nth(1)?.split('"').next()?.to_owned());
            labels.extend(applies.filter_map(label));
        }
        labels
    }
}

/// Each path is as it was or as it is to be. Metadata that is set in place may be half set, and a
/// directory has the time of its last change.
fn check_old_or_new(before: &Tree, after: &Tree, now: &Tree, fault: &str) {
    let plain = |tree: &Tree| -> BTreeMap<Vec<u8>, _> {
        let mut tree = tree.clone();
        for (path, found) in &mut tree {
            let is_dir = found.kind == crate::tree::Kind::Directory;
            if is_dir || path.as_slice() == b"meta" {
                (found.mode, found.uid, found.gid, found.mtime) = (0, 0, 0, (0, 0));
                found.xattrs.clear();
            }
            // Names of one file come one by one.
            if let crate::tree::Kind::File { linked, .. } = &mut found.kind {
                *linked = None;
            }
        }
        tree
    };
    let (before, after, now) = (plain(before), plain(after), plain(now));
    let paths: BTreeSet<_> = before.keys().chain(after.keys()).chain(now.keys()).collect();
    for path in paths {
        let is = now.get(path);
        let mine = path.starts_with(b"clash-");
        let right = is == before.get(path) || is == after.get(path) || mine && is.is_some();
        assert!(right, "{fault}: {} is {is:?}", path.escape_ascii());
    }
}

/// Kills at the first call with each label that `is_of` picks.
fn check_crashes(is_of: impl Fn(&str) -> bool) {
    let mut crashes = Crashes::start();
    let labels = crashes.labels();
    assert!(labels.len() > 25, "{labels:?}");
    let mut faults = Vec::new();
    for label in labels.iter().filter(|label| is_of(label)) {
        faults.extend(["before", "after"].map(|what| format!("apply data/{label}:1:kill-{what}")));
    }
    // The last round is filled up from the first.
    let short = faults.len().next_multiple_of(VICTIMS) - faults.len();
    faults.extend_from_within(..short);
    for faults in faults.chunks(VICTIMS) {
        crashes.crash(faults);
    }
    crashes.cluster.node(1).done(&["verify", "--deep"]);
}

#[test]
fn a_daemon_that_is_killed_while_it_makes_changes_visible_loses_nothing() {
    check_crashes(|label| {
        ["rename.apply", "rename.create", "chmod", "link.stage"].contains(&label)
    });
}

#[test]
#[ignore = "takes minutes; tests/run --large"]
fn a_daemon_that_is_killed_at_any_call_of_an_apply_loses_nothing() {
    check_crashes(|_| true);
}
