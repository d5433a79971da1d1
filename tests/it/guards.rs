//! Deletions beyond their budget: held where they were made, let through, or undone.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::cluster::{Cluster, Setup};
use crate::files::SOON;

/// More than the budget of `precious` files: 50.
const FILES: usize = 80;

/// Three nodes with pictures of a shop.
fn shop() -> Cluster {
    let mut cluster = Cluster::start(&Setup::new().mount("media").preset("magento"));
    let dir = picture(&cluster, 1, 0).parent().unwrap().to_owned();
    fs::create_dir_all(&dir).unwrap();
    for n in 0..FILES {
        fs::write(picture(&cluster, 1, n), format!("picture {n}")).unwrap();
    }
    cluster.node(1).done(&["wait"]);
    cluster.wait_in_sync(SOON);
    cluster
}

fn picture(cluster: &Cluster, node: usize, n: usize) -> PathBuf {
    cluster.node(node).path("media").join("wysiwyg").join(format!("{n}.jpg"))
}

fn pictures(cluster: &Cluster, node: usize) -> usize {
    fs::read_dir(cluster.node(node).path("media").join("wysiwyg")).map_or(0, Iterator::count)
}

fn delete(cluster: &Cluster) {
    fs::remove_dir_all(cluster.node(1).path("media").join("wysiwyg")).unwrap();
}

/// Waits until so many deletions of node 1 are held.
#[track_caller]
fn wait_held(cluster: &mut Cluster, count: u64) {
    cluster.wait_until(SOON, "held deletions", |cluster| {
        let held = &cluster.node(1).status()?["mounts"][0]["held"];
        let counted = if held.is_null() { Some(0) } else { held["count"].as_u64() };
        if counted == Some(count) { Ok(()) } else { Err(held.to_string()) }
    });
}

/// What went through within the budget, and the directory, which waits for the others.
const HELD: u64 = FILES as u64 - 50 + 1;

#[test]
fn what_is_beyond_the_budget_waits_until_it_is_approved() {
    let mut cluster = shop();
    delete(&cluster);
    wait_held(&mut cluster, HELD);
    assert_eq!((FILES - 50, FILES - 50), (pictures(&cluster, 2), pictures(&cluster, 3)));

    let said = cluster.node(1).ends(&["status"], 3);
    assert!(said.starts_with("NOT in sync"), "{said}");
    assert!(said.contains("the budget of precious (50 or 1%) is spent"), "{said}");
    assert!(said.contains("`trefoil approve media` lets them through"), "{said}");
    cluster.wait_until(SOON, "word of it elsewhere", |cluster| {
        let said =
            String::from_utf8_lossy(&cluster.node(2).trefoil(&["status"]).stdout).into_owned();
        let told = said.contains("not compared with n1 (deletions made there are held)");
        if told { Ok(()) } else { Err(said) }
    });
    let listed = cluster.node(1).done(&["approve", "media", "--list"]);
    assert_eq!(HELD, listed.lines().count() as u64, "{listed}");
    let waited = cluster.node(1).ends(&["wait", "--timeout", "1s"], 1);
    assert!(waited.contains("are held"), "{waited}");

    // Everything else goes on, and so it does after a restart.
    cluster.node_mut(1).kill9();
    cluster.node_mut(1).start();
    cluster.wait_ready(1);
    fs::write(cluster.node(1).path("media").join("new.jpg"), "new").unwrap();
    cluster.wait_until(SOON, "the new one", |cluster| {
        fs::read(cluster.node(3).path("media").join("new.jpg")).map(drop).map_err(|e| e.to_string())
    });
    wait_held(&mut cluster, HELD);
    assert_eq!(FILES - 50, pictures(&cluster, 2));

    let reply: Value = cluster.node(1).json(&["approve", "media"]);
    assert_eq!(Some(HELD), reply["held"]["count"].as_u64());
    cluster.node(1).done(&["wait"]);
    cluster.wait_in_sync(SOON);
    assert!(!cluster.node(3).path("media").join("wysiwyg").exists());
    let nothing = cluster.node(1).ends(&["approve", "media"], 0);
    assert!(nothing.contains("nothing is held in mount media"), "{nothing}");
}

#[test]
fn what_was_deleted_by_mistake_comes_back_from_the_other_nodes() {
    let mut cluster = shop();
    delete(&cluster);
    wait_held(&mut cluster, HELD);
    cluster.node(1).done(&["revert", "media"]);
    cluster.node(1).done(&["wait"]);
    cluster.wait_in_sync(SOON);
    assert_eq!(FILES - 50, pictures(&cluster, 1), "the others were deleted within the budget");
    let left = (0..FILES).find(|&n| picture(&cluster, 1, n).exists()).unwrap();
    let modified = |node| fs::metadata(picture(&cluster, node, left)).unwrap().modified().unwrap();
    assert_eq!(modified(2), modified(1));
    cluster.wait_equal(SOON);
}

#[test]
fn a_directory_that_is_renamed_is_not_held() {
    let mut cluster = shop();
    let media = cluster.node(1).path("media");
    fs::rename(media.join("wysiwyg"), media.join("renamed")).unwrap();
    cluster.wait_until(SOON, "the new name", |cluster| {
        let there = fs::read_dir(cluster.node(3).path("media").join("renamed"));
        let there = there.map_or(0, Iterator::count);
        if there == FILES { Ok(()) } else { Err(format!("{there} files")) }
    });
    cluster.wait_in_sync(SOON);
    assert_eq!(0, pictures(&cluster, 2));
}

#[test]
fn nothing_is_held_while_a_deployment_is_announced() {
    let mut cluster = shop();
    let reply = cluster.node(1).json(&["deploy", "begin", "media", "--for", "10m"]);
    assert_eq!("media", reply["mounts"][0]);
    let said = cluster.node(1).ends(&["status"], 0);
    assert!(said.contains("mount media: a deployment; no deletion is held for"), "{said}");
    delete(&cluster);
    cluster.node(1).done(&["wait"]);
    cluster.wait_in_sync(SOON);
    assert!(!cluster.node(2).path("media").join("wysiwyg").exists());
    cluster.node(1).done(&["deploy", "end"]);
    assert!(cluster.node(1).status().unwrap()["mounts"][0]["deploying_until"].is_null());
    let said = cluster.node(1).ends(&["deploy", "begin", "other"], 1);
    assert!(said.contains("there is no mount \"other\""), "{said}");
}

#[test]
fn a_deployment_that_clears_and_rebuilds_static_files_passes_without_a_question() {
    let mut cluster = Cluster::start(&Setup::new().mount("static").preset("magento"));
    let of = |cluster: &Cluster, n: usize| cluster.node(n).path("static");
    let deploy = |cluster: &Cluster, version: usize| {
        let root = of(cluster, 1);
        for entry in fs::read_dir(&root).unwrap() {
            let path = entry.unwrap().path();
            if path.ends_with(".trefoil") {
                continue;
            }
            if path.is_dir() {
                fs::remove_dir_all(&path).unwrap();
            } else {
                fs::remove_file(&path).unwrap();
            }
        }
        for n in 0..1500 {
            let dir = root.join(format!("frontend/{}/css", n % 30));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(format!("{n}.css")), format!("{version} {n}")).unwrap();
        }
        fs::write(root.join("deployed_version.txt"), version.to_string()).unwrap();
    };
    for version in 1..=2 {
        deploy(&cluster, version);
        cluster.node(1).done(&["wait"]);
        cluster.wait_in_sync(SOON);
        let at = of(&cluster, 3).join("deployed_version.txt");
        assert_eq!(version.to_string(), fs::read_to_string(at).unwrap());
    }
    assert!(!cluster.node(1).log().contains("budget"), "nothing was ever held");
}
