//! The work that is done is counted: none where nothing changed, and once for what did.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::fs;

use crate::cluster::{Cluster, Setup};
use crate::files::{MOUNT, SOON, at, has, write};

/// What a node has counted for the mount since its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Work {
    opened: u64,
    hashed: u64,
    staged: u64,
    messages: u64,
}

fn work(cluster: &Cluster, n: usize) -> Work {
    let status = cluster.node(n).json(&["status"]);
    let mounts = status["mounts"].as_array().unwrap();
    let mount = mounts.iter().find(|mount| mount["name"] == MOUNT).unwrap();
    let count = |name: &str| mount["work"][name].as_u64().unwrap();
    let [opened, hashed] = ["files_opened", "bytes_hashed"].map(count);
    let [staged, messages] = ["files_staged", "messages"].map(count);
    Work { opened, hashed, staged, messages }
}

fn since(before: Work, after: Work) -> Work {
    Work {
        opened: after.opened - before.opened,
        hashed: after.hashed - before.hashed,
        staged: after.staged - before.staged,
        messages: after.messages - before.messages,
    }
}

fn settled() -> Cluster {
    let mut cluster = Cluster::start(&Setup::new().mount(MOUNT));
    for n in 0..200 {
        write(&cluster, 1, &format!("d{}/{n}", n % 10), &format!("file {n}"));
    }
    quiet(&mut cluster);
    cluster
}

/// Everything is everywhere, also the times of directories, which lag behind.
fn quiet(cluster: &mut Cluster) {
    cluster.node(1).done(&["wait"]);
    cluster.wait_equal(SOON);
    cluster.wait_in_sync(SOON);
}

#[test]
fn a_start_where_nothing_changed_opens_no_file_and_announces_nothing() {
    let mut cluster = settled();
    let before = [1, 3].map(|n| work(&cluster, n));
    cluster.node_mut(2).stop();
    cluster.node_mut(2).start();
    cluster.wait_in_sync(SOON);
    let nothing = Work { opened: 0, hashed: 0, staged: 0, messages: 0 };
    assert_eq!(nothing, work(&cluster, 2), "all of it was looked at, by its times and sizes");
    for (n, before) in [1, 3].into_iter().zip(before) {
        assert_eq!(nothing, since(before, work(&cluster, n)), "node {n}");
    }
}

#[test]
fn one_file_that_changed_is_read_once_and_written_once_on_each_peer() {
    let mut cluster = settled();
    for (name, bytes) in [("small", 4096), ("large", 1 << 20)] {
        write(&cluster, 1, name, "first");
        quiet(&mut cluster);
        let before = [1, 2, 3].map(|n| work(&cluster, n));
        let content = vec![7; bytes];
        fs::write(at(&cluster, 1, name), &content).unwrap();
        quiet(&mut cluster);
        let done: Vec<_> = [1, 2, 3]
            .iter()
            .zip(before)
            .map(|(&n, before)| since(before, work(&cluster, n)))
            .collect();
        // Once to be hashed, and once for each peer if it is too large for its announcement.
        let opened = if bytes > 64 << 10 { 3 } else { 1 };
        let once = Work { opened, hashed: bytes as u64, staged: 0, messages: 2 };
        assert_eq!(once, done[0], "{name}");
        for peer in &done[1..] {
            let once = Work { opened: 0, hashed: 0, staged: 1, messages: 0 };
            assert_eq!(once, *peer, "{name}");
        }
    }
    has(&cluster, &[1, 2, 3], "d3/13", "file 13");
}
