//! Networks that are cut while all nodes go on writing, and what comes of it when they heal.

use std::time::Duration;

use crate::cluster::{Cluster, Setup};
use crate::files::{MOUNT, SOON};
use crate::load::Load;
use crate::machines::Machines;

const LATER: Duration = Duration::from_secs(300);

/// Waits until a node says of another one that it is up, or down.
#[track_caller]
fn wait_link(cluster: &mut Cluster, n: usize, other: &str, up: bool) {
    let what = format!("word of node {n} that {other} is {}", if up { "up" } else { "down" });
    cluster.wait_until(SOON, &what, |cluster| {
        let status = cluster.node(n).status()?;
        let nodes = status["nodes"].as_array().unwrap();
        let told = nodes.iter().any(|node| node["name"] == other && node["up"] == up);
        if told { Ok(()) } else { Err(status["nodes"].to_string()) }
    });
}

#[test]
fn a_partition_in_which_both_sides_write_heals_and_loses_nothing() {
    let Some((mut cluster, machines)) = Machines::start(&Setup::new().mount(MOUNT), 3) else {
        return;
    };
    let all = [1, 2, 3];
    let mut load = Load::start(&cluster, &all, 1);
    load.take(100);
    // Once shorter than a link lives without an answer, once longer.
    machines.cut(3);
    load.take(150);
    machines.mend(3);
    load.take(100);
    machines.cut(3);
    load.take(150);
    wait_link(&mut cluster, 1, "n3", false);
    wait_link(&mut cluster, 3, "n1", false);
    load.take(150);
    machines.mend(3);
    load.take(50);
    let ledgers = load.finish();
    cluster.wait_in_sync(LATER);
    cluster.wait_equal(LATER);
    ledgers.check(&cluster, &all);
}

#[test]
fn nodes_that_do_not_reach_each_other_have_everything_through_a_third() {
    let Some((mut cluster, machines)) = Machines::start(&Setup::new().mount(MOUNT), 3) else {
        return;
    };
    let all = [1, 2, 3];
    let mut load = Load::start(&cluster, &all, 2);
    load.take(100);
    machines.part([1, 2], true);
    load.take(100);
    wait_link(&mut cluster, 1, "n2", false);
    wait_link(&mut cluster, 2, "n1", false);
    load.take(200);
    let ledgers = load.finish();
    // Some are too large for an announcement: they are fetched from the one that can be reached.
    cluster.wait_equal(LATER);
    ledgers.check(&cluster, &all);
    wait_link(&mut cluster, 1, "n3", true);
    wait_link(&mut cluster, 1, "n2", false);

    machines.part([1, 2], false);
    cluster.wait_in_sync(SOON);
    cluster.wait_equal(SOON);
    ledgers.check(&cluster, &all);
}

#[test]
fn a_line_that_drops_large_packets_carries_everything_all_the_same() {
    let Some((mut cluster, machines)) = Machines::start(&Setup::new().mount(MOUNT), 3) else {
        return;
    };
    // What both ends had found out about the line is wrong from now on.
    cluster.wait_in_sync(SOON);
    machines.drop_larger_than(3, 1280);
    for n in [1, 3] {
        let large: Vec<u8> = (0..3_000_000_u32).flat_map(|i| (i * n).to_le_bytes()).collect();
        std::fs::write(cluster.node(n as usize).path(MOUNT).join(format!("large-{n}")), large)
            .unwrap();
    }
    cluster.wait_equal(LATER);
    cluster.wait_in_sync(SOON);
}
