//! Transfers to peers that are slow, stop reading or vanish: they go on where they were, and
//! nobody else waits for them.

use std::fs;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::cluster::{Cluster, Setup};
use crate::files::{MOUNT, SOON, at};
use crate::machines::Machines;
use crate::mirror::{assert_memory_is_bounded, write_noise};

const LATER: Duration = Duration::from_secs(600);
const MIB: u64 = 1 << 20;

/// Bytes of the content that a node is fetching.
fn fetched(cluster: &Cluster, n: usize) -> u64 {
    let stage = at(cluster, n, ".trefoil/stage");
    let files = fs::read_dir(stage).unwrap().map(|file| file.unwrap());
    let parts = files.filter(|file| file.file_name().to_string_lossy().starts_with("fetch-"));
    parts.filter_map(|part| part.metadata().ok()).map(|about| about.len()).sum()
}

/// Waits until a node has fetched so much and no more than can come in a moment.
#[track_caller]
fn wait_fetched(cluster: &Cluster, n: usize, bytes: u64) {
    // Looks more often than a wait for something that is told of.
    let (_open, nothing) = channel::<()>();
    let until = Instant::now() + LATER;
    while fetched(cluster, n) < bytes {
        assert!(Instant::now() < until, "{} of {bytes} bytes", fetched(cluster, n));
        assert!(nothing.recv_timeout(Duration::from_millis(1)).is_err());
    }
}

/// Waits until a node has a file.
#[track_caller]
fn wait_there(cluster: &Cluster, n: usize, name: &str) {
    let (_open, nothing) = channel::<()>();
    let until = Instant::now() + SOON;
    while !at(cluster, n, name).exists() {
        assert!(Instant::now() < until, "{name}");
        assert!(nothing.recv_timeout(Duration::from_millis(1)).is_err());
    }
}

/// Bytes that a running daemon has written by system calls.
fn written(cluster: &Cluster, n: usize) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", cluster.node(n).pid())).unwrap();
    io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse().unwrap()
}

/// Writes some files too large for an announcement, and waits until a majority has them.
#[track_caller]
fn others_go_on(cluster: &Cluster, n: usize, name: &str) {
    fs::create_dir(at(cluster, n, name)).unwrap();
    for number in 0..30_usize {
        let content = number.to_string().repeat(100_000);
        fs::write(at(cluster, n, name).join(number.to_string()), content).unwrap();
    }
    cluster.node(n).done(&["wait", "--nodes", "quorum"]);
    let there = |n: usize| fs::read_dir(at(cluster, n, name)).map_or(0, Iterator::count);
    assert_eq!((30, 30), (there(1), there(2)), "{name}");
    assert!(there(3) < 30, "the third has them already: it did not hang");
}

#[test]
fn a_limit_on_what_is_sent_does_not_hold_up_what_is_small() {
    let setup = Setup::new().nodes(2).mount(MOUNT).node_lines("bandwidth_max = \"1MiB\"\n");
    let mut cluster = Cluster::start(&setup);
    write_noise(&at(&cluster, 1, "large"), 12 * MIB);
    wait_fetched(&cluster, 2, 1);
    // Without a limit the large file is there before any of these.
    for n in 0..4 {
        let name = format!("small{n}");
        fs::write(at(&cluster, 1, &name), &name).unwrap();
        wait_there(&cluster, 2, &name);
    }
    assert!(!at(&cluster, 2, "large").exists());
    cluster.node(1).done(&["wait"]);
    cluster.wait_equal(SOON);
}

#[test]
fn a_slow_peer_delays_nobody_else() {
    let Some((mut cluster, machines)) = Machines::start(&Setup::new().mount(MOUNT), 3) else {
        return;
    };
    machines.slow(3, "1mbit");
    write_noise(&at(&cluster, 1, "large"), 20 * MIB);
    others_go_on(&cluster, 1, "from-1");
    others_go_on(&cluster, 2, "from-2");
    // At this rate it takes minutes.
    assert!(!at(&cluster, 3, "large").exists());
    machines.unslow(3);
    cluster.wait_in_sync(SOON);
    cluster.wait_equal(SOON);
}

#[test]
fn a_peer_that_stops_reading_in_the_middle_of_a_transfer_delays_nobody_else() {
    let Some((mut cluster, machines)) = Machines::start(&Setup::new().mount(MOUNT), 3) else {
        return;
    };
    machines.slow(3, "100mbit");
    write_noise(&at(&cluster, 1, "large"), 100 * MIB);
    wait_fetched(&cluster, 3, 10 * MIB);
    cluster.node(3).signal(Signal::STOP);
    others_go_on(&cluster, 1, "from-1");
    others_go_on(&cluster, 2, "from-2");
    cluster.node(3).signal(Signal::CONT);
    cluster.wait_in_sync(SOON);
    cluster.wait_equal(SOON);
    for n in 1..=3 {
        assert_memory_is_bounded(&cluster, n);
    }
}

#[test]
fn a_transfer_whose_sender_vanishes_goes_on_from_another_node_where_it_was() {
    let Some((mut cluster, machines)) = Machines::start(&Setup::new().mount(MOUNT), 3) else {
        return;
    };
    let bytes = 60 * MIB;
    machines.slow(3, "100mbit");
    write_noise(&at(&cluster, 1, "large"), bytes);
    cluster.node(1).done(&["wait", "--nodes", "quorum"]);
    wait_fetched(&cluster, 3, bytes / 4);
    let before = written(&cluster, 3);
    let missing = bytes - fetched(&cluster, 3);
    cluster.node_mut(1).kill9();
    others_go_on_without_the_first(&cluster);
    cluster.wait_until(SOON, "the file", |cluster| match at(cluster, 3, "large").exists() {
        true => Ok(()),
        false => Err(format!("{} bytes", fetched(cluster, 3))),
    });
    let more = written(&cluster, 3) - before;
    assert!(more < missing + 16 * MIB, "wrote {more} bytes of {missing} missing");
    cluster.node_mut(1).start();
    cluster.wait_ready(1);
    cluster.wait_in_sync(SOON);
    cluster.wait_equal(SOON);
}

/// What is written meanwhile arrives, and before the large file.
#[track_caller]
fn others_go_on_without_the_first(cluster: &Cluster) {
    fs::write(at(cluster, 2, "small"), "meanwhile").unwrap();
    cluster.node(2).done(&["wait", "--nodes", "quorum"]);
    assert_eq!("meanwhile", fs::read_to_string(at(cluster, 3, "small")).unwrap());
    assert!(!at(cluster, 3, "large").exists());
}

/// Kills receiver and sender in turn, five times.
fn check_cuts(bytes: u64, rate: &str) {
    let Some((mut cluster, machines)) = Machines::start(&Setup::new().mount(MOUNT), 2) else {
        return;
    };
    machines.slow(2, rate);
    write_noise(&at(&cluster, 1, "large"), bytes);
    let mut before = 0;
    for cut in 1..=5 {
        wait_fetched(&cluster, 2, cut * bytes / 7);
        let victim = if cut % 2 == 1 { 2 } else { 1 };
        if victim == 2 {
            cluster.node(2).signal(Signal::STOP);
            before += written(&cluster, 2);
        }
        cluster.node_mut(victim).kill9();
        cluster.node_mut(victim).start();
        cluster.wait_ready(victim);
        assert!(!at(&cluster, 2, "large").exists(), "cut too late");
    }
    cluster.wait_until(LATER, "the file", |cluster| match at(cluster, 2, "large").exists() {
        true => Ok(()),
        false => Err(format!("{} bytes", fetched(cluster, 2))),
    });
    cluster.wait_in_sync(LATER);
    let all = before + written(&cluster, 2);
    assert!(all < bytes + 32 * MIB, "wrote {all} bytes of {bytes}");
    cluster.wait_equal(LATER);
    assert_memory_is_bounded(&cluster, 2);
}

#[test]
fn a_transfer_that_is_cut_five_times_goes_on_where_it_was() {
    check_cuts(200 * MIB, "500mbit");
}

#[test]
#[ignore = "takes minutes and 10 GiB of disk; tests/run --large"]
fn a_transfer_of_5_gib_that_is_cut_five_times_goes_on_where_it_was() {
    check_cuts(5 << 30, "2gbit");
}
