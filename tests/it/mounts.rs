//! Mounts that come later, and mounts that are lost: only a person makes a marker.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::cluster::{Cluster, Setup};
use crate::files::{SOON, restart};

fn later(cluster: &Cluster, n: usize) -> PathBuf {
    cluster.node(n).path("later")
}

/// Adds a mount to the configuration of a node, which does not know it yet.
fn configure(cluster: &Cluster, n: usize) {
    let (config, path) = (cluster.node(n).config(), later(cluster, n));
    let mut file = fs::OpenOptions::new().append(true).open(config).unwrap();
    writeln!(file, "\n[[mount]]\nname = \"later\"\npath = \"{}\"", path.display()).unwrap();
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

/// Waits until a node says that another one has not opened the mount.
#[track_caller]
fn wait_not_open(cluster: &mut Cluster, n: usize) {
    cluster.wait_until(SOON, "word of who has not marked it", |cluster| {
        let said = cluster.node(n).ends(&["status"], 0);
        if said.contains("not open there: is it configured") { Ok(()) } else { Err(said) }
    });
}

/// Marks, and must be refused for this reason.
#[track_caller]
fn refused(cluster: &Cluster, n: usize, reason: &str) {
    let said = cluster.node(n).ends(&["mark", "later"], 1);
    assert!(said.contains(reason) && said.contains("hint: "), "{said}");
}

/// Marks, and must be told this.
#[track_caller]
fn marked(cluster: &Cluster, n: usize, words: &str) {
    let begin = std::time::Instant::now();
    let said = cluster.node(n).ends(&["mark", "later"], 0);
    // It is looked for each second; without a notice, mark would wait for five.
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    assert!(said.contains(words), "{said}");
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
fn a_mount_that_is_added_is_mirrored_once_a_person_has_marked_it() {
    let mut cluster = Cluster::start(&Setup::new().nodes(2).mount("data"));
    for n in 1..=2 {
        configure(&cluster, n);
        refused(&cluster, n, "there is no mount \"later\"");
        restart(&mut cluster, n);
        wait_hint(&mut cluster, n, "make it: mkdir -p");
        refused(&cluster, n, "No such file");
        fs::create_dir(later(&cluster, n)).unwrap();
        fs::write(later(&cluster, n).join(format!("of-{n}")), "there before").unwrap();
        wait_hint(&mut cluster, n, "if it is the right directory, run `trefoil mark later`");
        assert!(!later(&cluster, n).join(".trefoil").exists(), "nobody has said so yet");
    }
    // The other mount goes on meanwhile.
    fs::write(cluster.node(1).path("data").join("a"), "1").unwrap();
    cluster.node(1).done(&["wait", "--mount", "data"]);

    marked(&cluster, 1, "marked mount later; it is mirrored from now on");
    wait_not_open(&mut cluster, 1);
    marked(&cluster, 2, "marked mount later; it is mirrored from now on");
    has(&mut cluster, 1, "of-2", "there before");
    has(&mut cluster, 2, "of-1", "there before");
    cluster.wait_in_sync(SOON);
    marked(&cluster, 1, "marked before");
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

#[test]
fn a_mount_that_is_lost_is_not_marked_anew() {
    let mut cluster = Cluster::start(&Setup::new().nodes(2).mount("later"));
    fs::write(later(&cluster, 2).join("a"), "1").unwrap();
    has(&mut cluster, 1, "a", "1");
    cluster.node_mut(1).stop();
    fs::remove_dir_all(lose(&cluster, 1)).unwrap();
    cluster.node_mut(1).start();
    cluster.wait_ready(1);
    wait_hint(&mut cluster, 1, "mount the file system again");
    refused(&cluster, 1, "it was mirrored here before, and its marker is gone");
    fs::remove_dir(later(&cluster, 1)).unwrap();
    refused(&cluster, 1, "it was mirrored here before, and its directory is gone");

    // What was lost for good comes from the others, once nothing says that it was here.
    cluster.node_mut(1).stop();
    fs::create_dir(later(&cluster, 1)).unwrap();
    fs::remove_file(cluster.node(1).state().join("index/later.db")).unwrap();
    cluster.node_mut(1).start();
    cluster.wait_ready(1);
    marked(&cluster, 1, "marked mount later");
    has(&mut cluster, 1, "a", "1");
    cluster.wait_in_sync(SOON);
}

#[test]
fn the_mount_of_another_cluster_is_not_marked() {
    let mut cluster = Cluster::start(&Setup::new().nodes(1).mount("data"));
    let mut other = Cluster::start(&Setup::new().nodes(1).mount("later"));
    other.node_mut(1).stop();
    configure(&cluster, 1);
    restart(&mut cluster, 1);
    fs::rename(later(&other, 1), later(&cluster, 1)).unwrap();
    refused(&cluster, 1, "it has the marker of another mount, \"later\"");
    wait_hint(&mut cluster, 1, "the right directory? Correct the configuration");
    fs::write(later(&cluster, 1).join(".trefoil/marker"), "?").unwrap();
    refused(&cluster, 1, "the marker is damaged");
}

#[test]
fn a_node_that_joins_marks_mounts_that_the_cluster_does_not_know() {
    let mut cluster = Cluster::prepare(&Setup::new().nodes(2).mount("data"));
    cluster.enrol(1);
    cluster.node_mut(1).start();
    cluster.wait_ready(1);
    configure(&cluster, 2);
    fs::create_dir(later(&cluster, 2)).unwrap();
    cluster.enrol(2);
    cluster.node_mut(2).start();
    cluster.wait_ready(2);
    fs::write(later(&cluster, 2).join("a"), "1").unwrap();
    wait_not_open(&mut cluster, 2);

    configure(&cluster, 1);
    fs::create_dir(later(&cluster, 1)).unwrap();
    restart(&mut cluster, 1);
    marked(&cluster, 1, "marked mount later");
    has(&mut cluster, 1, "a", "1");
    cluster.wait_in_sync(SOON);
}
