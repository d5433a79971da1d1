//! Mounts that are lost for a while.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::cluster::{Cluster, Setup};

const SOON: Duration = Duration::from_secs(60);

fn later(cluster: &Cluster, n: usize) -> PathBuf {
    cluster.node(n).path("later")
}

/// Waits until a node says that its mount is halted, and what to do.
#[track_caller]
fn wait_hint(cluster: &mut Cluster, n: usize, hint: &str) {
    cluster.wait_until(SOON, hint, |cluster| {
        let guard = cluster.node(n).status()?["guards"][0].clone();
        let told = guard["mount"] == "later" && guard["hint"].to_string().contains(hint);
        if told { Ok(()) } else { Err(guard.to_string()) }
    });
}

#[track_caller]
fn has(cluster: &mut Cluster, n: usize, name: &str, text: &str) {
    let path = later(cluster, n).join(name);
    cluster.wait_until(SOON, name, |_| match fs::read_to_string(&path) {
        Ok(found) if found == text => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// Puts an empty directory where the mount was; gives where its content is.
fn lose(cluster: &Cluster, n: usize) -> PathBuf {
    let away = later(cluster, n).with_file_name("away");
    fs::rename(later(cluster, n), &away).unwrap();
    fs::create_dir(later(cluster, n)).unwrap();
    away
}

#[test]
fn a_mount_that_comes_back_is_mirrored_with_nodes_that_were_linked_before() {
    let mut cluster = Cluster::start(&Setup::new().nodes(2).mount("later"));
    fs::write(later(&cluster, 2).join("a"), "1").unwrap();
    has(&mut cluster, 1, "a", "1");
    cluster.node_mut(1).stop();
    let away = lose(&cluster, 1);
    cluster.node_mut(1).start();
    cluster.wait_ready(1);
    wait_hint(&mut cluster, 1, "mount the file system again");
    cluster.wait_until(SOON, "a link", |cluster| {
        let nodes = cluster.node(1).status()?["nodes"].clone();
        let up = nodes.as_array().unwrap().iter().all(|node| node["up"] == true);
        if up { Ok(()) } else { Err(nodes.to_string()) }
    });
    fs::remove_dir(later(&cluster, 1)).unwrap();
    fs::rename(&away, later(&cluster, 1)).unwrap();
    fs::write(later(&cluster, 2).join("b"), "meanwhile").unwrap();
    has(&mut cluster, 1, "b", "meanwhile");
    has(&mut cluster, 2, "a", "1");
    cluster.wait_in_sync(SOON);
}
