//! Indexes and state folders that are lost, damaged or older than the files: the node recovers by
//! itself, or says the one thing to do. Nothing is lost, and nothing that was deleted comes back.

use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use crate::cluster::{Cluster, Setup};
use crate::files::{MOUNT, SOON, at, gone, has, start, write};
use crate::load::Random;

/// Makes an index of some hundred pages.
const FILES: usize = 800;

fn index(cluster: &Cluster, n: usize) -> PathBuf {
    cluster.node(n).state().join("index").join(format!("{MOUNT}.db"))
}

/// Copies a folder with all that is in it, as a backup does.
fn back_up(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success());
}

/// Takes a folder back to what was saved of it.
fn restore(saved: &Path, to: &Path) {
    fs::remove_dir_all(to).unwrap();
    back_up(saved, to);
}

/// Overwrites pages, in a place that the seed gives.
fn garble(path: &Path, pages: u64, seed: u64) {
    let mut random = Random::new(seed);
    let mut file = fs::OpenOptions::new().write(true).read(true).open(path).unwrap();
    let all = usize::try_from(file.metadata().unwrap().len() / 4096).unwrap();
    for _ in 0..pages {
        let noise: Vec<u8> = (0..4096).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
        let page = 1 + random.below(all - 1) as u64;
        file.seek(SeekFrom::Start(page * 4096)).unwrap();
        file.write_all(&noise).unwrap();
    }
}

/// Fails if something else than these paths has a loser in the conflict store.
#[track_caller]
fn only_these_conflict(cluster: &Cluster, paths: &[&str]) {
    for conflict in cluster.node(1).json(&["conflicts", "list"]).as_array().unwrap() {
        assert!(paths.contains(&conflict["path"].as_str().unwrap()), "{conflict}");
    }
}

/// What is done to an index.
type Damage = fn(&Path);

const DAMAGES: [(&str, Damage); 7] = [
    ("deleted", |path| fs::remove_file(path).unwrap()),
    ("emptied", |path| fs::write(path, b"").unwrap()),
    ("cut in half", |path| {
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    }),
    ("garbled in one page", |path| garble(path, 1, 7)),
    ("garbled in the middle", |path| garble(path, 40, 8)),
    ("garbled in what is written first", |path| {
        let sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'told'";
        let index = rusqlite::Connection::open(path).unwrap();
        let page: u64 =
            index.query_row(sql, (), |row| row.get::<_, i64>(0)).unwrap().cast_unsigned();
        drop(index);
        let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.seek(SeekFrom::Start((page - 1) * 4096)).unwrap();
        file.write_all(&[255; 4096]).unwrap();
    }),
    ("garbled in a header", |path| {
        let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
        file.seek(SeekFrom::Start(40)).unwrap();
        file.write_all(&[255; 60]).unwrap();
    }),
];

#[test]
fn an_index_that_is_deleted_cut_short_or_garbled_is_made_anew() {
    let mut cluster = Cluster::start(&Setup::new().mount(MOUNT));
    let all = [1, 2, 3];
    for n in 0..FILES {
        write(&cluster, 1, &format!("tree/d{}/f{n}", n % 40), "content");
    }
    for (what, damage) in DAMAGES {
        eprintln!("{what}");
        write(&cluster, 2, "deleted", "by node 1 while 2 is down");
        write(&cluster, 2, "changed", "before");
        cluster.node(2).done(&["wait"]);
        cluster.node_mut(2).stop();
        fs::remove_file(at(&cluster, 1, "deleted")).unwrap();
        write(&cluster, 3, "changed", what);
        damage(&index(&cluster, 2));
        start(&mut cluster, 2);
        write(&cluster, 2, &format!("{what}.txt"), "new");
        cluster.wait_in_sync(SOON);
        cluster.wait_equal(SOON);
        gone(&cluster, &all, "deleted");
        has(&cluster, &all, "changed", what);
        has(&cluster, &all, &format!("{what}.txt"), "new");
        // Whether its own version was an edit that nobody has seen cannot be told without an index.
        only_these_conflict(&cluster, &["changed", "deleted"]);
    }
    // Without an index and with an empty one there is nothing to set aside, and one page may be one
    // that is not read so soon.
    let said = cluster.node(2).log().matches("the index cannot be used").count();
    assert!(said >= 3, "{}", cluster.node(2).log());
    let count = |n: usize| cluster.node(n).status().unwrap()["mounts"][0]["files"].clone();
    assert_eq!(count(1), count(2));
}

/// What node 2 did and what it learned after its index was saved, and what happened while it was
/// down.
fn live_on(cluster: &mut Cluster) {
    write(cluster, 2, "mine", "2");
    fs::remove_file(at(cluster, 2, "removed-by-me")).unwrap();
    write(cluster, 1, "theirs", "2");
    write(cluster, 1, "learned-and-deleted", "x");
    write(cluster, 1, "learned-and-kept", "x");
    write(cluster, 2, "made-and-deleted", "x");
    cluster.wait_in_sync(SOON);
    cluster.wait_equal(SOON);
    cluster.node_mut(2).stop();
    fs::remove_file(at(cluster, 1, "learned-and-deleted")).unwrap();
    fs::remove_file(at(cluster, 3, "made-and-deleted")).unwrap();
    write(cluster, 3, "theirs", "3");
    cluster.node(1).done(&["wait", "--nodes", "quorum"]);
}

/// Three nodes in sync, the second one stopped.
fn stopped_once() -> Cluster {
    let mut cluster = Cluster::start(&Setup::new().mount(MOUNT));
    for name in ["mine", "theirs", "removed-by-me"] {
        write(&cluster, 2, name, "1");
    }
    cluster.wait_in_sync(SOON);
    cluster.node_mut(2).stop();
    cluster
}

#[track_caller]
fn is_as_the_others_have_it(cluster: &mut Cluster) {
    let all = [1, 2, 3];
    // More changes than were forgotten: sequences that peers know are given again.
    for n in 0..50 {
        write(cluster, 2, &format!("after/{n}"), "restored");
    }
    cluster.wait_in_sync(SOON);
    cluster.wait_equal(SOON);
    has(cluster, &all, "mine", "2");
    has(cluster, &all, "theirs", "3");
    has(cluster, &all, "learned-and-kept", "x");
    for name in ["removed-by-me", "learned-and-deleted", "made-and-deleted"] {
        gone(cluster, &all, name);
    }
    for n in 0..50 {
        has(cluster, &all, &format!("after/{n}"), "restored");
    }
    // Whether what it had was an edit that nobody has seen cannot be told without an index.
    let mine = ["mine", "theirs", "removed-by-me", "learned-and-deleted", "made-and-deleted"];
    only_these_conflict(cluster, &mine);
}

#[test]
fn an_old_index_beside_newer_files_brings_nothing_back() {
    let mut cluster = stopped_once();
    let saved = cluster.node(2).state().join("saved");
    let folder = cluster.node(2).state().join("index");
    back_up(&folder, &saved);
    start(&mut cluster, 2);
    live_on(&mut cluster);
    restore(&saved, &folder);
    start(&mut cluster, 2);
    is_as_the_others_have_it(&mut cluster);
    let log = cluster.node(2).log();
    assert!(log.contains("older than the files"), "it says what it did: {log}");
}

#[test]
fn a_whole_node_that_is_restored_from_a_backup_catches_up() {
    let mut cluster = stopped_once();
    let home = cluster.node(2).state().parent().unwrap().to_owned();
    let saved = home.with_file_name("saved");
    fs::create_dir(&saved).unwrap();
    for folder in ["state", "data"] {
        back_up(&home.join(folder), &saved.join(folder));
    }
    start(&mut cluster, 2);
    live_on(&mut cluster);
    for folder in ["state", "data"] {
        restore(&saved.join(folder), &home.join(folder));
    }
    start(&mut cluster, 2);
    // A copy of the mount is not believed to be whole before a person has said so.
    cluster.wait_until(SOON, "word of the copy", |cluster| {
        let guards = cluster.node(2).status()?["guards"].to_string();
        if guards.contains("trefoil mark") { Ok(()) } else { Err(guards) }
    });
    cluster.node(2).done(&["mark", MOUNT]);
    is_as_the_others_have_it(&mut cluster);
}

#[test]
fn a_node_that_lost_its_state_folder_says_so_and_joins_again_with_its_files() {
    let mut cluster = stopped_once();
    start(&mut cluster, 2);
    live_on(&mut cluster);
    fs::remove_dir_all(cluster.node(2).state()).unwrap();
    let said = cluster.node(2).ends(&["daemon"], 1);
    assert!(said.contains("trefoil join"), "{said}");
    cluster.wait_until(SOON, "word that it is down", |cluster| {
        let status = cluster.node(1).status()?;
        let nodes = status["nodes"].as_array().unwrap();
        let down = nodes.iter().any(|node| node["name"] == "n2" && node["up"] == false);
        if down { Ok(()) } else { Err(status.to_string()) }
    });
    cluster.enrol(2);
    start(&mut cluster, 2);
    is_as_the_others_have_it(&mut cluster);
}
