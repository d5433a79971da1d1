//! Snapshots by real daemons, and what comes back from them.

use std::fs;
use std::path::PathBuf;

use crate::cases::CASES;
use crate::cluster::{Cluster, Setup};
use crate::files::{MOUNT, SOON, start};
use crate::tree::assert_equal;

fn at(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.node(1).path(MOUNT).join(name)
}

#[test]
fn what_was_deleted_everywhere_comes_back_from_a_snapshot_without_the_daemon() {
    let mut cluster = Cluster::start(&Setup::new().mount(MOUNT));
    for case in CASES.iter().filter(|case| case.name != "long-path") {
        let dir = at(&cluster, case.name);
        fs::create_dir(&dir).unwrap();
        (case.make)(&dir);
    }
    fs::write(at(&cluster, "large"), vec![7; 3 << 20]).unwrap();
    cluster.wait_in_sync(SOON);
    // The times of directories follow what is made in them; the scan of a start has them all.
    cluster.node_mut(1).stop();
    start(&mut cluster, 1);
    cluster.wait_in_sync(SOON);
    let first = cluster.node(1).json(&["snapshot", "create", "--note", "before"]);
    assert_eq!("complete", first["state"], "{first}");
    let kept = cluster.node(1).state().join("kept");
    copy(&cluster.node(1).path(MOUNT), &kept);

    // Nothing changed: nothing is looked at. Then one file did.
    let opened = |cluster: &Cluster| {
        cluster.node(1).status().unwrap()["mounts"][0]["work"]["files_opened"].clone()
    };
    let before = opened(&cluster);
    let same = cluster.node(1).json(&["snapshot", "create"]);
    assert_eq!((Some(0), before), (same["added_bytes"].as_u64(), opened(&cluster)));
    fs::write(at(&cluster, "create/new"), "changed").unwrap();
    cluster.wait_in_sync(SOON);
    let next = cluster.node(1).json(&["snapshot", "create"]);
    assert!(next["added_bytes"].as_u64().unwrap() < 20_000, "{next}");

    for found in fs::read_dir(cluster.node(1).path(MOUNT)).unwrap() {
        let path = found.unwrap().path();
        match path.file_name().unwrap().to_str().unwrap() {
            ".trefoil" => {}
            _ if path.is_dir() => fs::remove_dir_all(path).unwrap(),
            _ => fs::remove_file(path).unwrap(),
        }
    }
    cluster.wait_in_sync(SOON);
    cluster.node_mut(1).kill9();
    let id = &first["id"].as_str().unwrap()[..8];
    let to = cluster.node(1).state().join("to");
    let node = cluster.node(1);
    node.done(&["restore", id, "--mount", MOUNT, "--to", to.to_str().unwrap()]);
    assert_equal(&[kept, to.clone()]);
    let list = node.json(&["snapshot", "list"]);
    let notes = list.as_array().unwrap().iter().filter(|one| one["note"] == "before").count();
    assert_eq!(1, notes, "{list}");
    node.done(&["restore", "latest", "--to", to.join("all").to_str().unwrap()]);
    assert_eq!("changed", fs::read_to_string(to.join("all/data/create/new")).unwrap());
    node.done(&["snapshot", "verify", "--read-data"]);
    let shown = node.done(&["snapshot", "ls", "latest:data/create"]);
    assert!(shown.contains("new"), "{shown}");
}

/// With everything that a copy can keep.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
    fs::remove_dir_all(to.join(".trefoil")).unwrap();
}
