//! A large file that changes a little: only what is new of it is sent.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::fs;
use std::os::unix::fs::FileExt;

use crate::cluster::{Cluster, Setup};
use crate::files::{MOUNT, SOON, at};
use crate::mirror::write_noise;

const MIB: usize = 1 << 20;

/// What the log of a node says it had sent, transfer by transfer.
fn sent(cluster: &Cluster, n: usize) -> Vec<usize> {
    let log = cluster.node(n).log();
    let lines = log.lines().filter(|line| line.contains("only what is not here is sent"));
    let of = |line: &str| {
        let field = line.split_whitespace().find_map(|word| word.strip_prefix("sent="));
        field.unwrap_or_else(|| panic!("{line}")).parse().unwrap()
    };
    lines.map(of).collect()
}

#[track_caller]
fn settle(cluster: &mut Cluster, content: &[u8], name: &str) {
    cluster.node(1).done(&["wait"]);
    cluster.wait_in_sync(SOON);
    for n in [1, 2] {
        assert!(fs::read(at(cluster, n, name)).unwrap() == content, "node {n}");
    }
}

#[test]
fn of_a_large_file_that_changed_only_what_is_new_is_sent() {
    let mut cluster = Cluster::start(&Setup::new().nodes(2).mount(MOUNT));
    write_noise(&at(&cluster, 1, "db"), 16 * MIB as u64);
    let mut content = fs::read(at(&cluster, 1, "db")).unwrap();
    settle(&mut cluster, &content, "db");
    assert!(sent(&cluster, 2).is_empty(), "it was all new");

    // In place.
    content[9 * MIB..][..4096].fill(7);
    let file = fs::File::options().write(true).open(at(&cluster, 1, "db")).unwrap();
    file.write_all_at(&content[9 * MIB..][..4096], 9 * MIB as u64).unwrap();
    drop(file);
    settle(&mut cluster, &content, "db");
    // A new version beside the old one, with something put in near the front.
    content.splice(MIB..MIB, [1; 5000]);
    fs::write(at(&cluster, 1, "db.tmp"), &content).unwrap();
    fs::rename(at(&cluster, 1, "db.tmp"), at(&cluster, 1, "db")).unwrap();
    settle(&mut cluster, &content, "db");
    // The other way, and what was at hand is not new.
    content.truncate(10 * MIB);
    fs::write(at(&cluster, 2, "db"), &content).unwrap();
    cluster.node(2).done(&["wait"]);
    settle(&mut cluster, &content, "db");

    let (to_2, to_1) = (sent(&cluster, 2), sent(&cluster, 1));
    assert_eq!(1, to_1.len(), "{to_1:?}");
    assert!(to_2.len() >= 2, "{to_2:?}");
    assert!(to_2.iter().chain(&to_1).all(|&sent| sent <= MIB), "{to_2:?} {to_1:?}");
}

#[test]
fn what_shares_nothing_with_what_was_there_is_sent_as_a_whole() {
    let mut cluster = Cluster::start(&Setup::new().nodes(2).mount(MOUNT));
    write_noise(&at(&cluster, 1, "db"), 6 * MIB as u64);
    cluster.node(1).done(&["wait"]);
    write_noise(&at(&cluster, 1, "other"), 5 * MIB as u64);
    let content = fs::read(at(&cluster, 1, "other")).unwrap();
    fs::rename(at(&cluster, 1, "other"), at(&cluster, 1, "db")).unwrap();
    settle(&mut cluster, &content, "db");
    assert!(sent(&cluster, 2).is_empty());
}

#[test]
fn a_comparison_that_is_killed_on_the_way_is_done_again() {
    let mut cluster = Cluster::start(&Setup::new().nodes(2).mount(MOUNT));
    write_noise(&at(&cluster, 1, "db"), 64 * MIB as u64);
    let mut content = fs::read(at(&cluster, 1, "db")).unwrap();
    settle(&mut cluster, &content, "db");
    for round in 0..4_usize {
        content.splice(round * MIB..round * MIB, [9; 3000]);
        fs::write(at(&cluster, 1, "db.tmp"), &content).unwrap();
        fs::rename(at(&cluster, 1, "db.tmp"), at(&cluster, 1, "db")).unwrap();
        cluster.node_mut(round % 2 + 1).kill9();
        cluster.node_mut(round % 2 + 1).start();
    }
    settle(&mut cluster, &content, "db");
    cluster.wait_equal(SOON);
}
