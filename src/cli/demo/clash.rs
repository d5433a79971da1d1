//! The demo's steps in which several nodes write at once.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Barrier;
use std::thread;

use anyhow::{Context as _, anyhow, ensure};

use super::cluster::{Cluster, NODES};
use super::shop;
use crate::cli::compare::Kind;
use crate::control::types::ConflictStatus;

/// Files that each node writes alone.
const OWN: u64 = 60;
/// Paths that all nodes write.
const SHARED: u64 = 20;

/// What node `n` writes to its own file `i`.
fn own_content(n: u64, i: u64) -> Vec<u8> {
    shop::noise(10_000 + n * 1_000 + i, 300 + usize::try_from(i * 97).unwrap_or(0))
}

/// What node `n` writes to the file `i` that all write.
fn shared_content(n: u64, i: u64) -> Vec<u8> {
    shop::noise(20_000 + n * 1_000 + i, 2_000)
}

/// All nodes write different files in one folder, and the same files.
pub(super) fn at_once(cluster: &mut Cluster) -> anyhow::Result<String> {
    let start = Barrier::new(NODES.len());
    let sites: Vec<_> = cluster.nodes.iter().map(|node| node.site("pub/media")).collect();
    let written: Vec<io::Result<()>> = thread::scope(|scope| {
        let mut writers = Vec::new();
        for (n, media) in (0..).zip(&sites) {
            let start = &start;
            writers.push(scope.spawn(move || {
                start.wait();
                write_all(n, media)
            }));
        }
        let panicked = |_| Err(io::Error::other("a writer ended in a panic"));
        writers.into_iter().map(|writer| writer.join().unwrap_or_else(panicked)).collect()
    });
    written.into_iter().collect::<io::Result<()>>().context("cannot write")?;
    let mut tree = cluster.wait_equal_below("pub/media/orders", None)?;
    tree.extend(cluster.wait_equal_below("pub/media/shared", None)?);
    let holds = |path: &str, content: &[u8]| {
        let expected = *blake3::hash(content).as_bytes();
        let what = tree.get(path.as_bytes()).map(|what| &what.kind);
        matches!(what, Some(Kind::File { hash, .. }) if *hash == expected)
    };
    for n in 0..NODES.len() as u64 {
        for i in 0..OWN {
            let path = format!("pub/media/orders/{n}-{i}");
            ensure!(holds(&path, &own_content(n, i)), "{path} is not what was written");
        }
    }
    for i in 0..SHARED {
        let path = format!("pub/media/shared/{i}");
        let one = (0..NODES.len() as u64).any(|n| holds(&path, &shared_content(n, i)));
        ensure!(one, "{path} is not what any of the nodes wrote");
    }
    Ok(format!(
        "3 nodes wrote {OWN} files each in one folder, and {SHARED} files all of them: \
         equal on all, no file missing or mixed"
    ))
}

fn write_all(n: u64, media: &Path) -> io::Result<()> {
    for i in 0..OWN {
        shop::write(&media.join(format!("orders/{n}-{i}")), own_content(n, i))?;
        if i < SHARED {
            shop::write(&media.join(format!("shared/{i}")), shared_content(n, i))?;
        }
    }
    Ok(())
}

/// Two nodes that do not hear of each other write the same path: all keep the same one in place, and
/// can show the other.
pub(super) fn conflict(cluster: &mut Cluster) -> anyhow::Result<String> {
    const PATH: &str = "pub/media/contract.pdf";
    let interrupt = cluster.interrupt.clone();
    fs::write(cluster.nodes[2].site(PATH), "before")?;
    cluster.wait_equal_below(PATH, None)?;
    for node in &cluster.nodes[..2] {
        node.command(&["pause", "media"], &interrupt)?;
    }
    let edits = [shop::noise(30_001, 9_000), shop::noise(30_002, 11_000)];
    for (node, edit) in cluster.nodes.iter().zip(&edits) {
        fs::write(node.site(PATH), edit)?;
    }
    for node in &cluster.nodes[..2] {
        node.command(&["resume", "media"], &interrupt)?;
    }
    // Until all are equal *and* hold one of the edits: they may be so with what was there before.
    let winner = cluster.wait("winner on all nodes", |cluster| {
        let read = |n: usize| fs::read(cluster.nodes[n].site(PATH));
        let first = read(0)?;
        ensure!(first == read(1)? && first == read(2)?, "the nodes differ at {PATH}");
        edits.iter().position(|edit| *edit == first).context("neither of the edits is in place")
    })?;
    cluster.wait_equal_below(PATH, None)?;
    let loser = &edits[1 - winner];
    cluster.wait("loser on all nodes", |cluster| {
        cluster.nodes.iter().try_for_each(|node| {
            let name = node.name;
            let list: Vec<ConflictStatus> = node.json(&["conflicts", "list"], &interrupt)?;
            let here = list.iter().filter(|it| it.mount == "media" && it.path == "contract.pdf");
            for conflict in here {
                let show = ["conflicts", "show", &conflict.id, "--content"];
                if node.command(&show, &interrupt)? == *loser {
                    return Ok(());
                }
            }
            Err(anyhow!("{name} does not list the loser's {} bytes", loser.len()))
        })
    })?;
    let (won, lost) = (NODES[winner], NODES[1 - winner]);
    Ok(format!("{won}'s edit won on all three; {lost}'s was kept, and each node shows its bytes"))
}
