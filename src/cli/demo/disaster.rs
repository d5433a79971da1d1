//! The demo's disaster: all of a mount is deleted everywhere, and comes back from a snapshot.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::cluster::Cluster;
use crate::control::types::SnapshotReply;

/// A snapshot is taken on one node, a mount is deleted on another, and a third one puts it back.
pub(super) fn disaster(cluster: &mut Cluster) -> anyhow::Result<String> {
    let interrupt = cluster.interrupt.clone();
    let before = cluster.wait_equal(None)?;
    let taken: SnapshotReply = cluster.nodes[0].json(&["snapshot", "create"], &interrupt)?;
    ensure!(taken.state == "complete", "the snapshot is {}", taken.state);
    cluster.wait("copy of the snapshot on web2 and web3", |cluster| {
        for node in &cluster.nodes[1..] {
            let list: Vec<Value> = node.json(&["snapshot", "list"], &interrupt)?;
            let has = list.iter().any(|one| one["id"] == *taken.id);
            ensure!(has, "{} does not have it", node.name);
        }
        Ok(())
    })?;
    // Without a window the guard would hold it: here somebody was sure.
    cluster.nodes[2].command(&["deploy", "begin", "--for", "1m"], &interrupt)?;
    clear(&cluster.nodes[2].site("pub/media"))?;
    cluster.wait("deletion of all media", |cluster| {
        let left = cluster.nodes[0].site("pub/media/catalog").exists();
        ensure!(!left, "web1 still has pub/media/catalog");
        Ok(())
    })?;
    cluster.wait_equal(None).context("after the deletion")?;
    cluster.nodes[2].command(&["deploy", "end"], &interrupt)?;
    let id = &taken.id[..12];
    let args = ["restore", id, "--mount", "media", "--in-place"];
    let done: Value = cluster.nodes[1].json(&args, &interrupt)?;
    cluster.wait_equal(Some(&before)).context("after the restore")?;
    Ok(format!(
        "all of media was deleted on all nodes; `restore` on web2 made {} files anew from its own copy \
         of the snapshot, and every node is as before",
        done["made"]
    ))
}

/// Deletes what is in a mount, as an application may.
fn clear(mount: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(mount)? {
        let path = entry?.path();
        if path.ends_with(".trefoil") {
            continue;
        }
        if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(path)?;
        } else {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
