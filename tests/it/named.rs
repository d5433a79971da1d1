//! Failures that are known from other products and have no place elsewhere, each as a test.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use crate::cluster::{Cluster, Setup};
use crate::files::{MOUNT, SOON, at, conflicts};

/// Adds lines to the table of the one mount, which is at the end, and starts the node anew.
#[track_caller]
fn reconfigure(cluster: &mut Cluster, n: usize, from: &str, to: &str) {
    let file = cluster.node(n).config().to_owned();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(from));
    cluster.node_mut(n).stop();
    fs::write(file, text.replace(from, to)).unwrap();
    cluster.node_mut(n).start();
    cluster.wait_ready(n);
}

#[test]
fn rules_that_ignore_more_delete_nothing_on_the_way_nor_on_the_way_back() {
    let kept = "watch = \"auto\"";
    let ignoring = "watch = \"auto\"\nignore = [\"*.log\", \"logs/\"]";
    let mut cluster = Cluster::start(&Setup::new().nodes(2).mount(MOUNT).mount_lines(kept));
    fs::create_dir(at(&cluster, 1, "logs")).unwrap();
    for name in ["a.log", "logs/b", "c.txt"] {
        fs::write(at(&cluster, 1, name), name).unwrap();
    }
    cluster.node(1).done(&["wait"]);
    for (n, from, to) in
        [(1, kept, ignoring), (2, kept, ignoring), (1, ignoring, kept), (2, ignoring, kept)]
    {
        reconfigure(&mut cluster, n, from, to);
        if n == 1 {
            // Nothing is exchanged while they disagree, and both say so.
            cluster.wait_until(SOON, "word of the rules", |cluster| {
                let status = cluster.node(2).status()?.to_string();
                if status.contains("its rules") { Ok(()) } else { Err(status) }
            });
        }
        for node in 1..=2 {
            for name in ["a.log", "logs/b", "c.txt"] {
                assert!(at(&cluster, node, name).exists(), "{name} on node {node}");
            }
        }
    }
    fs::write(at(&cluster, 2, "a.log"), "changed").unwrap();
    cluster.wait_in_sync(SOON);
    cluster.wait_equal(SOON);
    assert_eq!("changed", fs::read_to_string(at(&cluster, 1, "a.log")).unwrap());
    assert!(conflicts(&cluster, 1).is_empty());
}

#[test]
fn what_was_passed_over_while_it_was_ignored_comes_when_it_is_not() {
    let kept = "watch = \"auto\"";
    let ignoring = "watch = \"auto\"\nignore = [\"*.log\"]";
    let mut cluster = Cluster::start(&Setup::new().nodes(2).mount(MOUNT).mount_lines(kept));
    fs::write(at(&cluster, 1, "old.log"), "before").unwrap();
    cluster.node(1).done(&["wait"]);
    cluster.node_mut(2).stop();
    fs::write(at(&cluster, 1, "old.log"), "changed").unwrap();
    fs::write(at(&cluster, 1, "new.log"), "new").unwrap();
    cluster.wait_until(SOON, "both files in the index", |cluster| {
        let status = cluster.node(1).status()?;
        let all = status["mounts"][0]["bytes"] == "changed".len() + "new".len();
        if all { Ok(()) } else { Err(status.to_string()) }
    });
    reconfigure(&mut cluster, 1, kept, ignoring);
    cluster.node_mut(2).start();
    cluster.wait_ready(2);
    reconfigure(&mut cluster, 2, kept, ignoring);
    // Node 2 has been told of all by now, and takes none of it.
    fs::write(at(&cluster, 1, "c.txt"), "c").unwrap();
    cluster.node(1).done(&["wait"]);
    assert_eq!("before", fs::read_to_string(at(&cluster, 2, "old.log")).unwrap());
    assert!(!at(&cluster, 2, "new.log").exists());
    reconfigure(&mut cluster, 1, ignoring, kept);
    reconfigure(&mut cluster, 2, ignoring, kept);
    cluster.wait_in_sync(SOON);
    cluster.wait_equal(SOON);
    assert_eq!("changed", fs::read_to_string(at(&cluster, 2, "old.log")).unwrap());
    assert!(conflicts(&cluster, 1).is_empty());
}

/// Fails if anything below a folder can be read by others than its owner.
#[track_caller]
fn nobody_else_reads(top: &Path, is_open_below: bool) {
    let mode = top.symlink_metadata().unwrap().permissions().mode();
    assert_eq!(0, mode & 0o077, "{}: {mode:o}", top.display());
    if is_open_below && top.is_dir() {
        for found in fs::read_dir(top).unwrap() {
            nobody_else_reads(&found.unwrap().path(), true);
        }
    }
}

#[test]
fn what_is_kept_of_a_secret_is_as_secret_as_it_was() {
    let mut cluster = Cluster::start(&Setup::new().mount(MOUNT));
    let write = |cluster: &Cluster, n: usize, text: &str| {
        fs::write(at(cluster, n, "env.php"), text).unwrap();
        fs::set_permissions(at(cluster, n, "env.php"), fs::Permissions::from_mode(0o600)).unwrap();
    };
    write(&cluster, 1, "password 1");
    cluster.node(1).done(&["wait"]);
    cluster.wait_equal(SOON);
    write(&cluster, 1, "password 2");
    cluster.node(1).done(&["wait"]);
    cluster.node(3).done(&["pause", MOUNT]);
    write(&cluster, 1, "password of node 1");
    cluster.node(1).done(&["wait", "--nodes", "1"]);
    write(&cluster, 3, "password of node 3");
    cluster.node(3).done(&["resume", MOUNT]);
    cluster.wait_until(SOON, "the conflict everywhere", |cluster| {
        let counts: Vec<_> = (1..=3).map(|n| conflicts(cluster, n).len()).collect();
        if counts == [1, 1, 1] { Ok(()) } else { Err(format!("{counts:?}")) }
    });
    cluster.wait_in_sync(SOON);
    for n in 1..=3 {
        // The trash and all that is on its way are below it: in the mount, but nobody gets there.
        nobody_else_reads(&at(&cluster, n, ".trefoil"), false);
        nobody_else_reads(&cluster.node(n).state(), false);
        let losers = fs::read_dir(cluster.node(n).state().join("conflicts")).unwrap();
        let losers = losers.map(|found| found.unwrap().path());
        losers.filter(|path| path.is_file()).for_each(|path| nobody_else_reads(&path, true));
        assert_eq!(0o600, at(&cluster, n, "env.php").metadata().unwrap().mode() & 0o7777);
    }
}

#[test]
fn the_same_content_written_on_two_nodes_at_once_is_no_conflict() {
    let mut cluster = Cluster::start(&Setup::new().nodes(2).mount(MOUNT));
    cluster.node(2).done(&["pause", MOUNT]);
    for n in 1..=2 {
        for name in ["one", "two"] {
            fs::write(at(&cluster, n, name), name).unwrap();
            let time = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + n as u64);
            fs::File::open(at(&cluster, n, name)).unwrap().set_modified(time).unwrap();
        }
    }
    cluster.node(2).done(&["resume", MOUNT]);
    cluster.wait_in_sync(SOON);
    cluster.wait_equal(SOON);
    assert_eq!([0, 0], [1, 2].map(|n| conflicts(&cluster, n).len()));
}
