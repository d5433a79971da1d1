//! The demo's first steps: a cluster, a shop on it, a release, and how fast a file travels.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::cluster::{Cluster, NODES, told};
use super::shop;
use crate::cli::compare::{Description, Kind, Tree};
use crate::cli::words::{count, size};
use crate::control::types::StatusReply;

/// Files whose way is timed.
const TIMED: u64 = 50;
/// Size of each.
const TIMED_BYTES: usize = 4 << 10;
/// Pause between two looks for a timed file: small against what is timed.
const LOOK: Duration = Duration::from_micros(200);

/// `init` on the first node; `invite` and `join` for the others.
pub(super) fn found(cluster: &mut Cluster) -> anyhow::Result<String> {
    let interrupt = cluster.interrupt.clone();
    cluster.nodes[0].command(&["init"], &interrupt)?;
    cluster.nodes[0].daemon.start()?;
    wait_linked(cluster, 1)?;
    for n in 1..NODES.len() {
        let printed = cluster.nodes[0].command(&["invite", "--ttl", "5m"], &interrupt)?;
        let printed = String::from_utf8(printed)?;
        let ticket = printed.lines().last().context("`trefoil invite` printed no ticket")?;
        cluster.nodes[n].command(&["join", ticket], &interrupt)?;
        cluster.nodes[n].daemon.start()?;
        wait_linked(cluster, n + 1)?;
    }
    let tree = cluster.wait_equal(Some(&Tree::new()))?;
    ensure!(tree.is_empty(), "the replicas are not empty");
    Ok("init, invite and join; each of the 3 nodes is linked with both others".to_owned())
}

/// Waits until each of the first `size` nodes says that it is linked with the others.
pub(super) fn wait_linked(cluster: &mut Cluster, size: usize) -> anyhow::Result<()> {
    cluster.wait("links between the nodes", |cluster| {
        for node in &cluster.nodes[..size] {
            let status: StatusReply = node.json(&["status"], &cluster.interrupt)?;
            let up = status.nodes.iter().filter(|other| other.up).count();
            ensure!(up == size, "{} sees {up} of {size} nodes", node.name);
        }
        Ok(())
    })
}

/// A shop written on the first node reaches the others.
pub(super) fn shop(cluster: &mut Cluster) -> anyhow::Result<String> {
    shop::plant(&cluster.nodes[0].site("")).context("cannot write the shop")?;
    // Read before the daemons can have had a part in it.
    let written = cluster.nodes[0].tree()?;
    cluster.wait_equal(Some(&written))?;
    let bytes = written.values().map(bytes_of).sum();
    let (entries, size) = (count(written.len() as u64), size(bytes));
    Ok(format!(
        "{entries} entries, {size} (one file of {}, links, odd names) from web1 on web2 and web3",
        self::size(shop::LARGE_BYTES as u64),
    ))
}

fn bytes_of(what: &Description) -> u64 {
    if let Kind::File { bytes, .. } = what.kind { bytes } else { 0 }
}

/// A release written on the second node is complete wherever its version is visible.
pub(super) fn release(cluster: &mut Cluster) -> anyhow::Result<String> {
    const SWITCH: &str = "pub/static/deployed_version.txt";
    const VERSION: &str = "1790000000";
    shop::release(&cluster.nodes[1].site(""), VERSION).context("cannot write the release")?;
    let mut waiting = vec![0, 2];
    let mut incomplete = Vec::new();
    let mut files = 0;
    cluster.wait("new release on web1 and web3", |cluster| {
        // What is there after the version was seen was there when it was seen, or came since: the
        // shorter the time in between, the sharper the proof. So nothing else is read before.
        let seen = |n: &usize| fs::read(cluster.nodes[*n].site(SWITCH)).ok();
        for n in waiting.clone() {
            if seen(&n).as_deref() != Some(VERSION.as_bytes()) {
                continue;
            }
            waiting.retain(|other| *other != n);
            let found = cluster.nodes[n].release_files()?;
            let written = cluster.nodes[1].release_files()?;
            files = written.len();
            let missing = written.iter().filter(|(path, what)| {
                found.get(*path).is_none_or(|there| there.kind != what.kind)
            });
            let name = cluster.nodes[n].name;
            let line = |path: &Vec<u8>| format!("{name}: {}", path.escape_ascii());
            incomplete.extend(missing.map(|(path, _)| line(path)));
        }
        ensure!(waiting.is_empty(), "the version is not there yet");
        Ok(())
    })?;
    told("the release and what was visible with its version", &incomplete)?;
    cluster.wait_equal_below("pub/static", None)?;
    let files = count(files as u64);
    Ok(format!("{files} entries from web2 complete on web1 and web3 when the version appeared"))
}

/// How long single small files take from the first node to the others.
pub(super) fn latency(cluster: &mut Cluster) -> anyhow::Result<String> {
    let folder = "pub/media/timed";
    fs::create_dir(cluster.nodes[0].site(folder))?;
    cluster.wait_equal_below(folder, None)?;
    let mut times = Vec::new();
    for n in 0..TIMED {
        let content = shop::noise(n + 5_000, TIMED_BYTES);
        let path = format!("{folder}/{n:02}.jpg");
        let began = Instant::now();
        fs::write(cluster.nodes[0].site(&path), &content)?;
        let mut waiting = vec![1, 2];
        while !waiting.is_empty() {
            waiting.retain(|node: &usize| {
                let read = fs::read(cluster.nodes[*node].site(&path));
                let arrived = read.is_ok_and(|bytes| bytes == content);
                if arrived {
                    times.push(began.elapsed());
                }
                !arrived
            });
            cluster.interrupt.pause(LOOK)?;
            cluster.check_daemons()?;
            let took = began.elapsed();
            ensure!(took < Duration::from_secs(10), "{path} is not on all nodes after {took:.1?}");
        }
    }
    cluster.wait_equal_below(folder, None)?;
    times.sort_unstable();
    let worst = times.last().context("nothing was timed")?.as_secs_f64() * 1e3;
    let median = times[times.len() / 2].as_secs_f64() * 1e3;
    Ok(format!(
        "{TIMED} files of 4 KiB from web1: readable on web2 and web3 after {median:.1} ms (p50), \
         {worst:.1} ms (worst)"
    ))
}
