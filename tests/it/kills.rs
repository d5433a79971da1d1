//! Daemons that are killed again and again while applications write on every node.
//!
//! The applications go on while a daemon is down. Afterwards replicas are equal, and everything
//! that was written is accounted for.

use std::time::Duration;

use crate::cluster::{Cluster, Setup};
use crate::files::{MOUNT, conflicts};
use crate::load::{Load, Random};

const LATER: Duration = Duration::from_secs(300);

/// Kills one node after the other, or all at once, so many times.
fn check_kills(kills: usize, seed: u64) {
    eprintln!("seed {seed}");
    let mut random = Random::new(seed);
    // The writers remove more than any person means to.
    let setup = Setup::new().mount(MOUNT).mount_lines("[class.normal]\ndelete_budget = \"off\"");
    let mut cluster = Cluster::start(&setup);
    let all = [1, 2, 3];
    let mut load = Load::start(&cluster, &all, seed);
    for kill in 0..kills {
        load.take(20 + random.below(150));
        let nodes = if kill % 4 == 3 { all.to_vec() } else { vec![1 + random.below(3)] };
        nodes.iter().for_each(|&n| cluster.node_mut(n).kill9());
        load.take(random.below(40));
        nodes.iter().for_each(|&n| cluster.node_mut(n).start());
        // The others are killed in the midst of their start now and then.
        if random.below(2) == 0 {
            nodes.iter().for_each(|&n| cluster.wait_ready(n));
        }
    }
    all.iter().for_each(|&n| cluster.wait_ready(n));
    let ledgers = load.finish();
    cluster.wait_in_sync(LATER);
    cluster.wait_equal(LATER);
    ledgers.check(&cluster, &all);
    eprintln!("{} writes, {} conflicts", ledgers.writes(), conflicts(&cluster, 1).len());
}

#[test]
fn nodes_that_are_killed_again_and_again_while_all_write_lose_nothing() {
    check_kills(16, u64::from(std::process::id()));
}

#[test]
#[ignore = "takes minutes; tests/run --large"]
fn nodes_that_are_killed_for_minutes_while_all_write_lose_nothing() {
    check_kills(400, u64::from(std::process::id()));
}
