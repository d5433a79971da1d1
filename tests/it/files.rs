//! Files in the mount that most tests have, and the nodes that hold them, by their numbers.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::cluster::Cluster;

/// The one mount.
pub(crate) const MOUNT: &str = "data";

/// How long anything may take that takes a moment.
pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) fn at(cluster: &Cluster, n: usize, name: &str) -> PathBuf {
    cluster.node(n).path(MOUNT).join(name)
}

/// Writes a file, and makes the directories that it needs.
#[track_caller]
pub(crate) fn write(cluster: &Cluster, n: usize, name: &str, text: &str) {
    let path = at(cluster, n, name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[track_caller]
pub(crate) fn has(cluster: &Cluster, nodes: &[usize], name: &str, text: &str) {
    for &n in nodes {
        assert_eq!(text, fs::read_to_string(at(cluster, n, name)).unwrap(), "{name} on node {n}");
    }
}

#[track_caller]
pub(crate) fn gone(cluster: &Cluster, nodes: &[usize], name: &str) {
    for &n in nodes {
        assert!(at(cluster, n, name).symlink_metadata().is_err(), "{name} is on node {n}");
    }
}

/// Starts a node that is down.
#[track_caller]
pub(crate) fn start(cluster: &mut Cluster, n: usize) {
    cluster.node_mut(n).start();
    cluster.wait_ready(n);
}

/// Starts a node anew.
#[track_caller]
pub(crate) fn restart(cluster: &mut Cluster, n: usize) {
    cluster.node_mut(n).stop();
    start(cluster, n);
}

/// The conflicts that a node lists.
pub(crate) fn conflicts(cluster: &Cluster, n: usize) -> Vec<Value> {
    cluster.node(n).json(&["conflicts", "list"]).as_array().unwrap().clone()
}

/// Waits until these nodes list this many conflicts, the same ones.
#[track_caller]
pub(crate) fn wait_conflicts(cluster: &mut Cluster, nodes: &[usize], count: usize) {
    let ids = |cluster: &Cluster, n: usize| {
        let mut ids: Vec<_> =
            conflicts(cluster, n).iter().map(|c| c["id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    };
    cluster.wait_until(SOON, &format!("list of {count} conflicts"), |cluster| {
        let all: Vec<_> = nodes.iter().map(|&n| ids(cluster, n)).collect();
        let same = all.iter().all(|ids| ids.len() == count && *ids == all[0]);
        if same { Ok(()) } else { Err(format!("{all:?}")) }
    });
}
