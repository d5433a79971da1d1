//! What is kept aside and is more than it may be: the oldest goes, on real nodes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::clocks::{DAY, library, set_clock};
use crate::cluster::{Cluster, Setup};
use crate::files::{MOUNT, SOON, at, conflicts, has, restart, start, wait_conflicts, write};

const BYTES: usize = 100_000;

/// Makes a line of `[node]` part of a node's configuration, which has not heard of it yet.
fn configure(cluster: &Cluster, n: usize, line: &str) {
    let file = cluster.node(n).config();
    let text = fs::read_to_string(file).unwrap();
    fs::write(file, text.replace("[node]\n", &format!("[node]\n{line}\n"))).unwrap();
}

/// A file's text that takes up disk.
fn large(word: &str) -> String {
    word.repeat(BYTES / word.len())
}

/// Says what `status` and the check say of something that is too large.
#[track_caller]
fn wait_warning(cluster: &mut Cluster, n: usize, words: &str) {
    cluster.wait_until(SOON, words, |cluster| {
        let said = cluster.node(n).done(&["status"]);
        if said.contains(words) { Ok(()) } else { Err(said) }
    });
    let said = cluster.node(n).ends(&["check", "replication", "-v"], 1);
    assert!(said.contains(&format!("WARNING: {words}")), "{said}");
}

#[test]
fn conflicts_beyond_the_limit_go_oldest_first_on_every_node_once_they_are_a_week_old() {
    let mut cluster = Cluster::start(&Setup::new().mount(MOUNT));
    let all = [1, 2, 3];
    for (count, name) in [(1, "first"), (2, "second")] {
        write(&cluster, 1, name, "before");
        cluster.wait_equal(SOON);
        cluster.node(3).done(&["pause", MOUNT]);
        write(&cluster, 1, name, &large("one"));
        write(&cluster, 3, name, &large("three"));
        cluster.node(3).done(&["resume", MOUNT]);
        wait_conflicts(&mut cluster, &all, count);
    }
    // One is too much. None goes in its first week, and that is said.
    configure(&cluster, 1, "conflicts_max = \"150KiB\"");
    restart(&mut cluster, 1);
    wait_warning(&mut cluster, 1, "the conflict store takes up");
    assert_eq!(2, conflicts(&cluster, 2).len());
    let Some(library) = library() else { return };
    set_clock(&mut cluster, &library, 1, 8 * DAY);
    restart(&mut cluster, 1);
    wait_conflicts(&mut cluster, &all, 1);
    assert_eq!("second", conflicts(&cluster, 2)[0]["path"]);
    assert!(!cluster.node(1).done(&["status"]).contains("conflict store takes up"));
    cluster.wait_equal(SOON);
    cluster.wait_in_sync(SOON);
}

/// What lies in the trash of a node, the oldest first.
fn trash(cluster: &Cluster, n: usize) -> Vec<PathBuf> {
    let days = fs::read_dir(at(cluster, n, ".trefoil/trash")).unwrap().map(|day| day.unwrap());
    let files = days.flat_map(|day| fs::read_dir(day.path()).unwrap().map(|file| file.unwrap()));
    let mut files: Vec<_> = files.map(|file| file.path()).collect();
    files.sort_by_key(|file| secs(file));
    files
}

/// When something was put into the trash, as its name says: `v2-UNIQUE-SECS-…`.
fn secs(file: &Path) -> u64 {
    let name = file.file_name().unwrap().to_str().unwrap();
    u64::from_str_radix(name.split('-').nth(2).unwrap(), 16).unwrap()
}

/// Makes something in the trash as old as if it had been put there so many days before.
fn age(file: &Path, days: u64) {
    const DAY_SECS: u64 = 86_400;
    let (was, trash) = (secs(file), file.parent().unwrap().parent().unwrap());
    let is = was - days * DAY_SECS;
    let name = file.file_name().unwrap().to_str().unwrap();
    let name = name.replacen(&format!("-{was:x}-"), &format!("-{is:x}-"), 1);
    let day = trash.join((is / DAY_SECS).to_string());
    fs::create_dir_all(&day).unwrap();
    fs::rename(file, day.join(name)).unwrap();
}

#[track_caller]
fn wait_trash(cluster: &mut Cluster, n: usize, count: usize) {
    cluster.wait_until(SOON, &format!("{count} in the trash"), |cluster| {
        let found = trash(cluster, n);
        if found.len() == count { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

#[test]
fn a_trash_beyond_the_limit_loses_the_oldest_on_that_node_alone() {
    let mut cluster = Cluster::start(&Setup::new().mount(MOUNT));
    for word in ["first", "second", "third", "last"] {
        write(&cluster, 1, "f", &large(word));
        cluster.node(1).done(&["wait"]);
    }
    wait_trash(&mut cluster, 2, 3);
    // All are young: nothing goes, and that is said.
    configure(&cluster, 2, "trash_max = \"250KiB\"");
    restart(&mut cluster, 2);
    wait_warning(&mut cluster, 2, &format!("the trash of mount {MOUNT} takes up"));
    let lay = trash(&cluster, 2);
    assert_eq!(3, lay.len());
    cluster.node_mut(2).stop();
    let stays = fs::read_to_string(&lay[1]).unwrap();
    age(&lay[0], 6);
    age(&lay[1], 5);
    start(&mut cluster, 2);
    wait_trash(&mut cluster, 2, 2);
    assert_eq!(stays, fs::read_to_string(&trash(&cluster, 2)[0]).unwrap());
    wait_trash(&mut cluster, 3, 3);
    cluster.wait_in_sync(SOON);
    assert!(!cluster.node(2).done(&["status"]).contains("takes up"));
    has(&cluster, &[1, 2, 3], "f", &large("last"));
}
