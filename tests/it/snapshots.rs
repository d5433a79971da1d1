//! Snapshots by real daemons, and what comes back from them.

use std::fs;
use std::path::PathBuf;

use crate::cases::CASES;
use crate::cluster::{Cluster, Setup};
use crate::files::{MOUNT, SOON, gone, has, start, write};
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
    assert_equal(&[kept.clone(), to.clone()]);
    let to_before = kept;
    let list = node.json(&["snapshot", "list"]);
    let notes = list.as_array().unwrap().iter().filter(|one| one["note"] == "before").count();
    assert_eq!(1, notes, "{list}");
    node.done(&["restore", "latest", "--to", to.join("all").to_str().unwrap()]);
    assert_eq!("changed", fs::read_to_string(to.join("all/data/create/new")).unwrap());
    node.done(&["snapshot", "verify", "--read-data"]);
    // A tar stream has the same, as far as tar goes.
    let tar = cluster.node(1).state().join("tar");
    fs::create_dir(&tar).unwrap();
    let stream = node.trefoil(&["snapshot", "export", id]).stdout;
    fs::write(tar.join("stream"), stream).unwrap();
    let mut unpack = std::process::Command::new("tar");
    unpack.args(["-x", "--xattrs", "--xattrs-include=*", "-f", "stream"]).current_dir(&tar);
    assert!(unpack.status().unwrap().success());
    let listed = |dir: &std::path::Path| {
        let found = crate::tree::describe(dir).unwrap();
        found.into_keys().collect::<Vec<_>>()
    };
    assert_eq!(listed(&to_before), listed(&tar.join(MOUNT)));
    assert!(fs::read(tar.join("data/large")).unwrap() == vec![7; 3 << 20]);
    let shown = node.done(&["snapshot", "ls", "latest:data/create"]);
    assert!(shown.contains("new"), "{shown}");
}

/// With everything that a copy can keep.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
    fs::remove_dir_all(to.join(".trefoil")).unwrap();
}

/// Ids of the snapshots of a node, the newest first.
fn ids(cluster: &Cluster, n: usize) -> Vec<String> {
    if !cluster.node(n).state().join("repository/format").exists() {
        return Vec::new();
    }
    let list = cluster.node(n).json(&["snapshot", "list"]);
    list.as_array().unwrap().iter().map(id).collect()
}

fn id(one: &serde_json::Value) -> String {
    one["id"].as_str().unwrap().to_owned()
}

/// Takes a snapshot on a node, and gives its id.
fn create(cluster: &Cluster, n: usize) -> String {
    let taken = cluster.node(n).json(&["snapshot", "create"]);
    taken["id"].as_str().unwrap().to_owned()
}

#[track_caller]
fn wait_ids(cluster: &mut Cluster, nodes: &[usize], wanted: &[&str]) {
    let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
    cluster.wait_until(SOON, &format!("snapshots {wanted:?}"), |cluster| {
        let found: Vec<_> = nodes.iter().map(|&n| ids(cluster, n)).collect();
        if found.iter().all(|ids| *ids == wanted) { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

#[test]
fn a_snapshot_is_soon_whole_on_every_node_and_outlives_the_one_that_took_it() {
    let mut cluster = Cluster::start(&Setup::new().mount(MOUNT));
    write(&cluster, 1, "dir/a", "first");
    fs::write(at(&cluster, "large"), vec![7; 3 << 20]).unwrap();
    cluster.wait_in_sync(SOON);
    let first = create(&cluster, 1);
    wait_ids(&mut cluster, &[1, 2, 3], &[&first]);

    // What a node has itself does not cross the network: with the same tree, nothing does.
    let copied = |log: &str| -> Vec<u64> {
        let lines = log.lines().filter(|line| line.contains("copied a snapshot"));
        let bytes = |line: &str| {
            let (_, rest) = line.split_once("received_bytes=").unwrap();
            rest.split_whitespace().next().unwrap().parse().unwrap()
        };
        lines.map(bytes).collect()
    };
    for n in [2, 3] {
        let bytes = copied(&cluster.node(n).log());
        assert!(bytes.len() == 1 && bytes[0] < 20_000, "node {n}: {bytes:?}");
    }

    // A node that was away has it soon after it is back, though the files are others by then.
    cluster.node_mut(3).stop();
    write(&cluster, 1, "dir/a", "second");
    cluster.wait_until(SOON, "the second on node 2", |cluster| {
        let found = fs::read_to_string(crate::files::at(cluster, 2, "dir/a"));
        if found.as_deref().ok() == Some("second") { Ok(()) } else { Err(format!("{found:?}")) }
    });
    let second = create(&cluster, 2);
    write(&cluster, 1, "dir/a", "third");
    wait_ids(&mut cluster, &[1, 2], &[&second, &first]);
    start(&mut cluster, 3);
    wait_ids(&mut cluster, &[3], &[&second, &first]);
    let to = cluster.node(3).state().join("to");
    let node = cluster.node(3);
    node.done(&["restore", &second, "--mount", MOUNT, "--to", to.to_str().unwrap()]);
    assert_eq!("second", fs::read_to_string(to.join("dir/a")).unwrap());
    for n in [1, 2, 3] {
        cluster.node(n).done(&["snapshot", "verify", "--read-data"]);
    }
    let found = cluster.node(3).ends(&["snapshot", "diff", &first[..8], &second[..8]], 1);
    assert!(found.contains("M data/dir/a"), "{found}");
}

#[test]
fn what_is_decided_of_a_snapshot_on_one_node_holds_on_all() {
    let mut cluster = Cluster::start(&Setup::new().mount(MOUNT).nodes(2));
    let mut made = Vec::new();
    for text in ["one", "two", "three"] {
        // What was written before is in it: nobody has to wait first.
        write(&cluster, 1, "file", text);
        made.push(create(&cluster, 1));
    }
    let [one, two, three] = &made[..] else { unreachable!() };
    for (id, text) in [(one, "one"), (two, "two"), (three, "three")] {
        let place = format!("{}:{MOUNT}/file", &id[..8]);
        assert_eq!(text, cluster.node(1).done(&["snapshot", "cat", &place]));
    }
    wait_ids(&mut cluster, &[1, 2], &[three, two, one]);
    let versions = cluster.node(2).done(&["snapshot", "history", &format!("{MOUNT}/file")]);
    assert_eq!(4, versions.lines().count(), "{versions}");
    let found = cluster.node(2).done(&["snapshot", "find", "fi*"]);
    assert!([one, two, three].iter().all(|id| found.contains(&id[..12])), "{found}");
    cluster.node(2).done(&["snapshot", "rebuild-catalog"]);
    cluster.node(2).done(&["snapshot", "verify", "--read-data"]);
    cluster.node(2).done(&["snapshot", "pin", &one[..8]]);
    let refused = cluster.node(2).ends(&["snapshot", "remove", &one[..8]], 1);
    assert!(refused.contains("pinned"), "{refused}");
    let refused = cluster.node(2).ends(&["snapshot", "remove", &three[..8]], 1);
    assert!(refused.contains("last"), "{refused}");
    cluster.node(2).done(&["snapshot", "remove", &two[..8]]);
    wait_ids(&mut cluster, &[1, 2], &[three, one]);
    cluster.node(1).done(&["snapshot", "undelete", &two[..8]]);
    wait_ids(&mut cluster, &[1, 2], &[three, two, one]);
    cluster.wait_until(SOON, "the pin on node 1", |cluster| {
        let list = cluster.node(1).json(&["snapshot", "list"]);
        let pinned = list.as_array().unwrap().iter().filter(|one| one["pinned"] == true).count();
        if pinned == 1 { Ok(()) } else { Err(list.to_string()) }
    });
    let kept = cluster.node(1).json(&["snapshot", "prune", "--dry-run"]);
    assert_eq!(3, kept["kept"].as_array().unwrap().len(), "{kept}");
}

#[test]
fn snapshots_are_taken_on_schedule_once_for_all_nodes() {
    let setup = Setup::new().mount(MOUNT).nodes(2).snapshot_lines("schedule = \"*/2 * * * * *\"");
    let mut cluster = Cluster::start(&setup);
    write(&cluster, 1, "file", "text");
    cluster.wait_until(SOON, "two snapshots on both nodes", |cluster| {
        let found = [ids(cluster, 1), ids(cluster, 2)];
        if found.iter().all(|ids| ids.len() >= 2) { Ok(()) } else { Err(format!("{found:?}")) }
    });
    // Only one of them takes them.
    let list = cluster.node(1).json(&["snapshot", "list"]);
    let by: std::collections::BTreeSet<_> =
        list.as_array().unwrap().iter().map(|one| one["by"].to_string()).collect();
    assert_eq!(1, by.len(), "{list}");
    let told = cluster.node(1).done(&["check", "snapshots", "--copies-warning", "1:"]);
    assert!(told.starts_with("TREFOIL SNAPSHOTS OK"), "{told}");
}

#[test]
fn a_mount_is_put_back_in_place_and_the_others_follow() {
    let mut cluster = Cluster::start(&Setup::new().mount(MOUNT).nodes(2));
    for (name, text) in [("kept", "kept"), ("dir/a", "a"), ("dir/b", "b"), ("other/c", "c")] {
        write(&cluster, 1, name, text);
    }
    cluster.wait_in_sync(SOON);
    let id = create(&cluster, 1);
    let kept = at(&cluster, "kept").metadata().unwrap();
    fs::write(at(&cluster, "dir/a"), "broken").unwrap();
    fs::remove_file(at(&cluster, "dir/b")).unwrap();
    fs::write(at(&cluster, "dir/new"), "new").unwrap();
    fs::remove_dir_all(at(&cluster, "other")).unwrap();
    fs::write(at(&cluster, "other"), "a file where a directory was").unwrap();
    cluster.wait_in_sync(SOON);

    let node = cluster.node(2);
    let would = node.json(&["restore", &id[..8], "--in-place", "--dry-run"]);
    assert_eq!((Some(2), Some(1)), (would["made"].as_u64(), would["extra"].as_u64()), "{would}");
    assert_eq!("broken", fs::read_to_string(crate::files::at(&cluster, 2, "dir/a")).unwrap());
    let args = ["restore", &id[..8], "--mount", MOUNT, "dir", "--in-place"];
    let done = node.json(&args);
    assert_eq!((Some(1), Some(1)), (done["made"].as_u64(), done["replaced"].as_u64()), "{done}");
    let safety = done["safety"].as_str().unwrap().to_owned();
    cluster.node(2).done(&["wait"]);
    has(&cluster, &[1, 2], "dir/a", "a");
    has(&cluster, &[1, 2], "dir/b", "b");
    has(&cluster, &[1, 2], "dir/new", "new");
    has(&cluster, &[1, 2], "other", "a file where a directory was");

    cluster.node(2).done(&["restore", &id[..8], "--in-place", "--delete", "--no-safety"]);
    cluster.node(2).done(&["wait"]);
    has(&cluster, &[1, 2], "other/c", "c");
    gone(&cluster, &[1, 2], "dir/new");
    let now = at(&cluster, "kept").metadata().unwrap();
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!(
        (kept.ino(), kept.ctime_nsec()),
        (now.ino(), now.ctime_nsec()),
        "it was not touched"
    );

    // Run again, it means the same one, not how it was before the first time.
    let again = cluster.node(2).json(&["restore", "latest", "--in-place", "--dry-run"]);
    assert_eq!(Some(&*id), again["snapshot"].as_str());

    // And back to how it was before.
    cluster.node(1).done(&["restore", &safety[..12], "--in-place", "--delete", "--no-safety"]);
    cluster.node(1).done(&["wait"]);
    has(&cluster, &[1, 2], "dir/a", "broken");
    has(&cluster, &[1, 2], "other", "a file where a directory was");
    cluster.node_mut(1).stop();
    let refused = cluster.node(1).ends(&["restore", &id[..8], "--in-place"], 1);
    assert!(refused.contains("--no-safety"), "{refused}");
}

/// Flips a bit in the middle of each pack of a node's repository.
fn damage(cluster: &Cluster, n: usize) {
    let packs = cluster.node(n).state().join("repository/packs");
    let folders =
        fs::read_dir(packs).unwrap().flat_map(|dir| fs::read_dir(dir.unwrap().path()).unwrap());
    for path in folders.map(|entry| entry.unwrap().path()) {
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn damage_in_a_repository_is_named_and_healed_from_the_files_and_from_other_nodes() {
    let mut cluster = Cluster::start(&Setup::new().mount(MOUNT));
    fs::write(at(&cluster, "a"), vec![7; 100_000]).unwrap();
    let mut noise = vec![0; 3 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    fs::write(at(&cluster, "large"), noise).unwrap();
    cluster.wait_in_sync(SOON);
    let first = create(&cluster, 1);
    wait_ids(&mut cluster, &[1, 2, 3], &[&first]);
    let read = ["snapshot", "verify", "--read-data"];
    assert!(cluster.node(1).done(&read).contains(", 0 faults;"));
    assert_eq!(0, cluster.node(1).json(&["snapshot", "list"])[0]["faults"]);

    let second = create(&cluster, 1);
    damage(&cluster, 1);
    let told = cluster.node(1).ends(&read, 1);
    assert!(told.contains("1 fault"), "{told}");
    let list = cluster.node(1).json(&["snapshot", "list"]);
    assert_eq!((&second, &first), (&id(&list[0]), &id(&list[1])));
    // It has the same damaged object: nobody may say that it was found sound.
    assert!(list[0]["faults"].is_null() && list[1]["faults"] == 1, "{list}");
    let healed = cluster.node(1).json(&["snapshot", "verify", "--heal"]);
    assert_eq!(0, healed["faults"], "{healed}");
    assert_eq!(
        (1, 0),
        (
            healed["healed"]["from_files"].as_u64().unwrap(),
            healed["healed"]["from_nodes"].as_u64().unwrap()
        )
    );
    let aside = cluster.node(1).state().join("repository/quarantine");
    assert_eq!(1, fs::read_dir(&aside).unwrap().count());

    // What is in no file any more, the others have.
    fs::remove_file(at(&cluster, "large")).unwrap();
    cluster.wait_in_sync(SOON);
    damage(&cluster, 1);
    cluster.node_mut(2).stop();
    let healed = cluster.node(1).json(&["snapshot", "verify", "--heal"]);
    assert_eq!(0, healed["faults"], "{healed}");
    assert!(healed["healed"]["from_nodes"].as_u64().unwrap() >= 1, "{healed}");
    let to = cluster.node(1).state().join("to");
    cluster.node(1).done(&["restore", &first, "--mount", MOUNT, "--to", to.to_str().unwrap()]);
    assert_eq!(3 << 20, fs::metadata(to.join("large")).unwrap().len());

    // Nobody can: it is named, and nothing else is lost.
    start(&mut cluster, 2);
    (1..=3).for_each(|n| damage(&cluster, n));
    let told = cluster.node(1).ends(&["snapshot", "verify", "--heal"], 1);
    assert!(told.contains("NOT healed: "), "{told}");
}
