//! What happens to whole clusters: nodes go down, are cut off, join, are lost, removed and crash.

use std::fs;
use std::path::Path;

use rustix::process::Signal;

use crate::cluster::{Cluster, Setup};
use crate::files::{MOUNT, SOON, at, conflicts, gone, has, start, wait_conflicts, write};

fn setup(nodes: usize) -> Setup {
    Setup::new().nodes(nodes).mount(MOUNT)
}

/// Enrols a node that is no member, and starts it.
#[track_caller]
fn join(cluster: &mut Cluster, n: usize) {
    cluster.enrol(n);
    start(cluster, n);
}

/// Waits until node 1 knows that a node is down, and so is not in sync with it.
#[track_caller]
fn wait_down(cluster: &mut Cluster, name: &str) {
    cluster.wait_until(SOON, "lost link", |cluster| {
        let status = cluster.node(1).status()?;
        let nodes = status["nodes"].as_array().unwrap();
        let down = nodes.iter().any(|node| node["name"] == name && node["up"] == false);
        if down && status["in_sync"] == false { Ok(()) } else { Err(status.to_string()) }
    });
}

#[test]
fn a_node_that_was_down_catches_up() {
    let mut cluster = Cluster::start(&setup(3));
    for n in 0..100 {
        write(&cluster, 1, &format!("tree/f{n}"), "old");
    }
    write(&cluster, 1, "deleted", "old");
    write(&cluster, 1, "deleted-tree/sub/f", "old");
    cluster.wait_equal(SOON);
    cluster.node_mut(3).kill9();
    fs::remove_file(at(&cluster, 1, "deleted")).unwrap();
    fs::remove_dir_all(at(&cluster, 2, "deleted-tree")).unwrap();
    fs::rename(at(&cluster, 1, "tree"), at(&cluster, 1, "moved")).unwrap();
    write(&cluster, 2, "new/a/b", "new");
    cluster.wait_equal(SOON);
    write(&cluster, 2, "moved/f7", "changed");
    cluster.wait_equal(SOON);
    start(&mut cluster, 3);
    cluster.wait_equal(SOON);
    let all = [1, 2, 3];
    has(&cluster, &all, "moved/f6", "old");
    has(&cluster, &all, "moved/f7", "changed");
    has(&cluster, &all, "new/a/b", "new");
    for name in ["deleted", "deleted-tree", "tree"] {
        gone(&cluster, &all, name);
    }
    wait_conflicts(&mut cluster, &all, 0);
    cluster.wait_in_sync(SOON);
}

#[test]
fn both_sides_wrote_while_cut_off_and_nothing_is_lost() {
    let mut cluster = Cluster::start(&setup(3));
    let all = [1, 2, 3];
    for name in ["both", "edited-here", "deleted-here", "restored", "discarded"] {
        write(&cluster, 1, name, "before");
    }
    cluster.wait_equal(SOON);
    cluster.node(3).done(&["pause", MOUNT]);
    for name in ["both", "restored", "discarded"] {
        write(&cluster, 1, name, "of node 1");
    }
    write(&cluster, 2, "edited-here", "edited on node 2");
    fs::remove_file(at(&cluster, 2, "deleted-here")).unwrap();
    write(&cluster, 1, "only-1", "1");
    cluster.node(1).done(&["wait", "--nodes", "1"]);
    cluster.node(2).done(&["wait", "--nodes", "1"]);
    // The later edit wins: that of node 3, which knows of none of the others.
    for name in ["both", "restored", "discarded"] {
        write(&cluster, 3, name, "of node 3");
    }
    fs::remove_file(at(&cluster, 3, "edited-here")).unwrap();
    write(&cluster, 3, "deleted-here", "edited on node 3");
    write(&cluster, 3, "only-3", "3");
    cluster.node(3).done(&["resume", MOUNT]);
    cluster.wait_equal(SOON);
    // An edit beats a delete that did not see it, on whichever side it was made.
    has(&cluster, &all, "edited-here", "edited on node 2");
    has(&cluster, &all, "deleted-here", "edited on node 3");
    has(&cluster, &all, "only-1", "1");
    has(&cluster, &all, "only-3", "3");
    wait_conflicts(&mut cluster, &all, 3);
    check_losers(&mut cluster);
}

/// Every node has every loser with its bytes; one is restored, one discarded.
#[track_caller]
fn check_losers(cluster: &mut Cluster) {
    let all = [1, 2, 3];
    for n in all {
        for conflict in conflicts(cluster, n) {
            let (id, path) = (conflict["id"].as_str().unwrap(), conflict["path"].as_str().unwrap());
            let kept = cluster.node(n).done(&["conflicts", "show", id, "--content"]);
            let winner = fs::read_to_string(at(cluster, n, path)).unwrap();
            let mut both = [kept.as_str(), winner.as_str()];
            both.sort_unstable();
            assert_eq!(["of node 1", "of node 3"], both, "{path} on node {n}");
            assert_eq!(
                kept.trim_start_matches("of node "),
                &conflict["origin"].as_str().unwrap()[1..]
            );
            assert_eq!(
                (MOUNT, 9),
                (conflict["mount"].as_str().unwrap(), conflict["bytes"].as_u64().unwrap())
            );
        }
    }
    let id_of = |cluster: &Cluster, path: &str| {
        let found = conflicts(cluster, 2).into_iter().find(|c| c["path"] == path).unwrap();
        found["id"].as_str().unwrap().to_owned()
    };
    let (restored, discarded) = (id_of(cluster, "restored"), id_of(cluster, "discarded"));
    let kept = cluster.node(2).done(&["conflicts", "show", &restored, "--content"]);
    let was = fs::read_to_string(at(cluster, 2, "restored")).unwrap();
    cluster.node(2).done(&["conflicts", "restore", &restored]);
    cluster.node(2).done(&["conflicts", "discard", &discarded]);
    cluster.node(2).done(&["wait"]);
    cluster.wait_equal(SOON);
    has(cluster, &all, "restored", &kept);
    // "both", and what "restored" replaced.
    wait_conflicts(cluster, &all, 2);
    let replaced = id_of(cluster, "restored");
    assert_ne!(restored, replaced);
    for n in all {
        assert_eq!(was, cluster.node(n).done(&["conflicts", "show", &replaced, "--content"]));
        cluster.node(n).ends(&["conflicts", "show", &discarded, "--content"], 1);
    }
    cluster.wait_in_sync(SOON);
}

#[test]
fn a_node_that_hears_nothing_for_a_while_is_cut_off_and_comes_back() {
    let mut cluster = Cluster::start(&setup(3));
    write(&cluster, 1, "f", "before");
    cluster.wait_equal(SOON);
    cluster.node(3).signal(Signal::STOP);
    wait_down(&mut cluster, "n3");
    write(&cluster, 1, "f", "of node 1");
    cluster.node(1).done(&["wait", "--nodes", "quorum"]);
    write(&cluster, 3, "f", "of node 3");
    cluster.node(3).signal(Signal::CONT);
    cluster.wait_equal(SOON);
    wait_conflicts(&mut cluster, &[1, 2, 3], 1);
    cluster.wait_in_sync(SOON);
}

/// Copies a tree of plain files with their times.
fn copy(from: &Path, to: &Path) {
    for found in fs::read_dir(from).unwrap() {
        let found = found.unwrap();
        if found.file_name() == ".trefoil" {
            continue;
        }
        let target = to.join(found.file_name());
        let about = found.metadata().unwrap();
        if about.is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy(&found.path(), &target);
        } else {
            fs::copy(found.path(), &target).unwrap();
        }
        fs::File::open(&target).unwrap().set_modified(about.modified().unwrap()).unwrap();
    }
}

#[test]
fn nodes_join_a_full_cluster_empty_or_with_content_in_place() {
    let mut cluster = Cluster::prepare(&setup(4));
    for n in 0..50 {
        write(&cluster, 1, &format!("tree/f{n}"), "content");
    }
    write(&cluster, 1, "clash", "of the cluster");
    join(&mut cluster, 1);
    join(&mut cluster, 2);
    cluster.wait_equal(SOON);
    has(&cluster, &[2], "tree/f49", "content");
    let (from, to) = (cluster.node(1).path(MOUNT), cluster.node(3).path(MOUNT));
    copy(&from, &to);
    join(&mut cluster, 3);
    cluster.wait_equal(SOON);
    cluster.wait_in_sync(SOON);
    wait_conflicts(&mut cluster, &[1, 2, 3], 0);

    write(&cluster, 4, "clash", "of the newcomer");
    write(&cluster, 4, "tree/f1", "content");
    write(&cluster, 4, "tree/mine", "only the newcomer's");
    join(&mut cluster, 4);
    cluster.wait_equal(SOON);
    let all = [1, 2, 3, 4];
    has(&cluster, &all, "tree/mine", "only the newcomer's");
    has(&cluster, &all, "tree/f1", "content");
    has(&cluster, &all, "tree/f49", "content");
    wait_conflicts(&mut cluster, &all, 1);
    let conflict = conflicts(&cluster, 2).remove(0);
    assert_eq!("clash", conflict["path"]);
    let kept =
        cluster.node(2).done(&["conflicts", "show", conflict["id"].as_str().unwrap(), "--content"]);
    let mut both = [kept, fs::read_to_string(at(&cluster, 2, "clash")).unwrap()];
    both.sort();
    assert_eq!(["of the cluster", "of the newcomer"], both);
    cluster.wait_in_sync(SOON);
}

#[test]
fn a_lost_node_is_replaced_under_its_name_and_another_is_removed() {
    let mut cluster = Cluster::start(&setup(3));
    write(&cluster, 3, "from-3", "made on the lost node");
    write(&cluster, 3, "deleted", "made on the lost node");
    cluster.wait_equal(SOON);
    cluster.node_mut(3).kill9();
    fs::remove_file(at(&cluster, 1, "deleted")).unwrap();
    write(&cluster, 1, "meanwhile", "written without it");
    wait_down(&mut cluster, "n3");
    let fresh = cluster.add_node("n3");
    join(&mut cluster, fresh);
    cluster.wait_equal(SOON);
    has(&cluster, &[1, 2, fresh], "from-3", "made on the lost node");
    has(&cluster, &[1, 2, fresh], "meanwhile", "written without it");
    gone(&cluster, &[1, 2, fresh], "deleted");
    write(&cluster, fresh, "from-the-new-3", "x");
    cluster.node(fresh).done(&["wait", "--nodes", "all"]);
    has(&cluster, &[1, 2, fresh], "from-the-new-3", "x");
    cluster.wait_in_sync(SOON);
    removed_nodes_are_refused(&mut cluster);
}

/// Takes node 2 out of a running cluster.
#[track_caller]
fn removed_nodes_are_refused(cluster: &mut Cluster) {
    cluster.node_mut(2).stop();
    write(cluster, 1, "while-2-is-down", "x");
    cluster.node(1).ends(&["wait", "--timeout", "1s"], 1);
    cluster.node(1).done(&["remove", "n2"]);
    cluster.node(1).done(&["wait", "--nodes", "all"]);
    cluster.wait_in_sync(SOON);
    start(cluster, 2);
    // It is alone from now on: its peers refuse it, and what it writes stays with it.
    write(cluster, 2, "outcast", "x");
    cluster.wait_until(SOON, "refusal", |cluster| {
        let status = cluster.node(2).status()?;
        let nodes = status["nodes"].as_array().unwrap();
        let others: Vec<_> = nodes.iter().filter(|node| node["this"] == false).collect();
        let refused = others.iter().all(|node| node["up"] == false && !node["error"].is_null());
        if refused { Ok(()) } else { Err(status.to_string()) }
    });
    let told = cluster.node(2).ends(&["status"], 3);
    assert!(told.starts_with("REMOVED: ") && !told.contains("is down"), "{told}");
    write(cluster, 1, "after", "x");
    cluster.node(1).done(&["wait", "--nodes", "all"]);
    gone(cluster, &[1, 4], "outcast");
    gone(cluster, &[2], "after");
    let status = cluster.node(1).status().unwrap();
    let named = status["nodes"].as_array().unwrap().iter().any(|node| node["name"] == "n2");
    assert!(!named, "a removed node is listed: {status}");
    cluster.node_mut(2).stop();
    cluster.wait_in_sync(SOON);
}

#[test]
fn crashes_and_lost_indexes_cost_nothing() {
    let mut cluster = Cluster::start(&setup(3));
    let all = [1, 2, 3];
    for n in 0..200 {
        write(&cluster, 1 + n % 3, &format!("tree/d{}/f{n}", n % 7), "content");
    }
    // In the midst of it.
    for n in all {
        cluster.node_mut(n).kill9();
    }
    write(&cluster, 2, "while-all-were-down", "x");
    for n in all {
        start(&mut cluster, n);
    }
    cluster.wait_equal(SOON);
    for n in 0..200 {
        has(&cluster, &all, &format!("tree/d{}/f{n}", n % 7), "content");
    }
    has(&cluster, &all, "while-all-were-down", "x");
    wait_conflicts(&mut cluster, &all, 0);

    write(&cluster, 1, "deleted", "x");
    cluster.wait_equal(SOON);
    cluster.node_mut(2).stop();
    fs::remove_file(at(&cluster, 1, "deleted")).unwrap();
    write(&cluster, 1, "changed-meanwhile", "x");
    cluster.node(1).done(&["wait", "--nodes", "1"]);
    fs::remove_dir_all(cluster.node(2).state().join("index")).unwrap();
    start(&mut cluster, 2);
    cluster.wait_equal(SOON);
    cluster.wait_in_sync(SOON);
    has(&cluster, &all, "changed-meanwhile", "x");
    gone(&cluster, &all, "deleted");

    cluster.node_mut(3).stop();
    let index = cluster.node(3).state().join("index").join(format!("{MOUNT}.db"));
    fs::write(&index, b"this is no database".repeat(1000)).unwrap();
    write(&cluster, 1, "again", "x");
    start(&mut cluster, 3);
    cluster.wait_equal(SOON);
    cluster.wait_in_sync(SOON);
    has(&cluster, &all, "again", "x");
    assert!(cluster.node(3).log().contains("the index cannot be used"), "it says what it did");
    for n in all {
        cluster.node_mut(n).stop();
    }
}

fn copy_files(from: &Path, to: &Path) {
    for found in fs::read_dir(from).unwrap() {
        let found = found.unwrap();
        fs::copy(found.path(), to.join(found.file_name())).unwrap();
    }
}

/// The index as it was some changes ago, of another start of the machine.
#[test]
fn a_power_cut_that_took_the_last_commits_loses_nothing() {
    let mut cluster = Cluster::start(&setup(2));
    write(&cluster, 2, "changed", "1");
    cluster.wait_in_sync(SOON);
    // While it is linked, and nothing happens.
    let index = cluster.node(2).state().join("index");
    let saved = cluster.node(2).state().join("saved");
    fs::create_dir(&saved).unwrap();
    copy_files(&index, &saved);
    write(&cluster, 2, "changed", "2");
    write(&cluster, 2, "never-on-the-disk", "x");
    write(&cluster, 1, "learned", "x");
    cluster.wait_in_sync(SOON);

    cluster.node_mut(2).kill9();
    fs::remove_dir_all(&index).unwrap();
    fs::create_dir(&index).unwrap();
    copy_files(&saved, &index);
    fs::write(index.join(format!("{MOUNT}.boot")), "x".repeat(36)).unwrap();
    fs::remove_file(at(&cluster, 2, "never-on-the-disk")).unwrap();
    fs::remove_file(at(&cluster, 2, "learned")).unwrap();
    start(&mut cluster, 2);
    write(&cluster, 2, "changed", "3");
    write(&cluster, 1, "after", "x");
    cluster.wait_in_sync(SOON);
    cluster.wait_equal(SOON);
    has(&cluster, &[1, 2], "changed", "3");
    for name in ["never-on-the-disk", "learned", "after"] {
        has(&cluster, &[1, 2], name, "x");
    }
    let warned = |cluster: &Cluster| cluster.node(2).log().matches("the power went").count();
    assert_eq!(1, warned(&cluster), "{}", cluster.node(2).log());
    // The next start is after a kill, and the one after that after a proper end.
    cluster.node_mut(2).kill9();
    start(&mut cluster, 2);
    cluster.node_mut(2).stop();
    start(&mut cluster, 2);
    cluster.wait_in_sync(SOON);
    assert_eq!(1, warned(&cluster), "{}", cluster.node(2).log());
}

#[test]
fn the_configuration_is_reloaded_and_a_bad_one_is_not() {
    let mut cluster = Cluster::start(&setup(1));
    let file = cluster.node(1).config().to_owned();
    let good = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{good}\n[class.normal]\ntrash = \"off\"\n")).unwrap();
    cluster.node(1).signal(Signal::HUP);
    let log = |text: &'static str| {
        move |cluster: &Cluster| {
            let log = cluster.node(1).log();
            if log.contains(text) { Ok(()) } else { Err(log) }
        }
    };
    cluster.wait_until(SOON, "reload", log("reloaded"));
    assert!(cluster.node(1).log().contains("[class]"), "{}", cluster.node(1).log());
    fs::write(&file, format!("{good}\n[class.normal]\ntrahs = \"off\"\n")).unwrap();
    cluster.node(1).signal(Signal::HUP);
    cluster.wait_until(SOON, "refusal", log("not reloaded"));
    fs::write(&file, good).unwrap();
    write(&cluster, 1, "still", "works");
    cluster.node(1).done(&["wait"]);
    cluster.node_mut(1).stop();
}
