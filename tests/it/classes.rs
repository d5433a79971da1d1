//! The Magento preset on real nodes: what stays local, what waits for what, what is held.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::cluster::{Cluster, Setup};
use crate::files::SOON;

fn at(cluster: &Cluster, n: usize, mount: &str, name: &str) -> PathBuf {
    cluster.node(n).path(mount).join(name)
}

fn write(cluster: &Cluster, n: usize, mount: &str, name: &str, text: &str) {
    let path = at(cluster, n, mount, name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Looks on in a thread of its own until it is dropped, which fails if what it looked at ever
/// did.
struct Onlooker {
    done: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<u64>>,
}

impl Onlooker {
    fn new(mut look: impl FnMut() + Send + 'static) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let until = done.clone();
        let thread = Some(thread::spawn(move || {
            let mut looks = 0;
            while !until.load(Ordering::Relaxed) {
                look();
                looks += 1;
                thread::yield_now();
            }
            looks
        }));
        Self { done, thread }
    }

    /// Ends it and gives how often it looked.
    fn finish(mut self) -> u64 {
        self.done.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().expect("what it saw was right")
    }
}

impl Drop for Onlooker {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
    }
}

#[test]
fn local_paths_stay_where_they_are() {
    let mut cluster = Cluster::start(&Setup::new().mount("var").mount("media").preset("magento"));
    for name in ["log/system.log", "cache/a/b", "import/a.csv.lock", "session/s"] {
        write(&cluster, 1, "var", name, "local");
    }
    write(&cluster, 2, "media", "DELETING_old/a.jpg", "local");
    write(&cluster, 1, "var", "import/a.csv", "mirrored");
    write(&cluster, 1, "media", "catalog/product/a/a.jpg", "mirrored");
    write(&cluster, 2, "media", "dir/b.jpg", "mirrored");
    let arrived = |mount: &'static str, name: &'static str| {
        move |cluster: &Cluster| {
            let missing: Vec<_> =
                (1..=3).filter(|&n| !at(cluster, n, mount, name).exists()).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("{name} not on {missing:?}")) }
        }
    };
    cluster.wait_until(SOON, "import", arrived("var", "import/a.csv"));
    cluster.wait_until(SOON, "image", arrived("media", "dir/b.jpg"));
    for n in 1..=3 {
        cluster.node(n).done(&["wait"]);
    }
    cluster.wait_in_sync(SOON);
    for n in [2, 3] {
        for name in ["log", "cache", "import/a.csv.lock", "session"] {
            assert!(!at(&cluster, n, "var", name).exists(), "{name} on node {n}");
        }
    }
    // Out of sight of the peers is gone for the peers; with them nothing else happens to it.
    fs::rename(at(&cluster, 2, "media", "dir"), at(&cluster, 2, "media", "DELETING_dir")).unwrap();
    cluster.node(2).done(&["wait"]);
    for n in [1, 3] {
        assert!(!at(&cluster, n, "media", "dir").exists(), "dir on node {n}");
        assert!(!at(&cluster, n, "media", "DELETING_dir").exists());
    }
    assert!(at(&cluster, 2, "media", "DELETING_dir/b.jpg").exists());
    // And back again.
    fs::rename(at(&cluster, 2, "media", "DELETING_dir"), at(&cluster, 2, "media", "back")).unwrap();
    cluster.node(2).done(&["wait"]);
    cluster.wait_until(SOON, "image", arrived("media", "back/b.jpg"));
    // A local file does not keep its directory when that is removed elsewhere: it keeps itself.
    write(&cluster, 1, "var", "export/a", "mirrored");
    cluster.node(1).done(&["wait"]);
    write(&cluster, 3, "var", "export/b.lock", "local");
    fs::remove_dir_all(at(&cluster, 1, "var", "export")).unwrap();
    cluster.node(1).done(&["wait"]);
    assert!(at(&cluster, 3, "var", "export/b.lock").exists(), "a local file was removed");
    assert!(!at(&cluster, 3, "var", "export/a").exists());
}

#[test]
fn a_barrier_is_never_seen_before_what_was_written_before_it() {
    const FILES: usize = 150;
    const ROUNDS: usize = 6;
    let mut cluster = Cluster::start(&Setup::new().mount("static").preset("magento"));
    let onlookers: Vec<_> = [2, 3]
        .map(|n| {
            let root = cluster.node(n).path("static");
            let mut known = String::new();
            Onlooker::new(move || {
                let Ok(version) = fs::read_to_string(root.join("deployed_version.txt")) else {
                    assert!(known.is_empty(), "deployed_version.txt vanished");
                    return;
                };
                if version == known {
                    return;
                }
                for f in 0..FILES {
                    let name = format!("{version}/sub{}/f{f}.js", f % 10);
                    let found = fs::read_to_string(root.join(&name));
                    let found = found.unwrap_or_else(|e| panic!("{name} on node {n}: {e}"));
                    assert!(found.starts_with(&version), "{name} on node {n}: {found:?}");
                }
                known = version;
            })
        })
        .into();
    for round in 0..ROUNDS {
        let version = format!("v{round}");
        for f in 0..FILES {
            // Some of them do not fit into an announcement.
            let bytes = if f % 50 == 7 { 200_000 } else { 100 };
            let text = format!("{version} {}", "x".repeat(bytes));
            write(&cluster, 1, "static", &format!("{version}/sub{}/f{f}.js", f % 10), &text);
        }
        write(&cluster, 1, "static", "deployed_version.txt", &version);
        cluster.node(1).done(&["wait"]);
    }
    cluster.wait_equal(SOON);
    for onlooker in onlookers {
        assert!(onlooker.finish() > 0);
    }
}

#[test]
fn an_emptied_config_is_held_and_a_mended_one_is_never_seen_empty() {
    let mut cluster = Cluster::start(&Setup::new().mount("etc").preset("magento"));
    write(&cluster, 1, "etc", "env.php", "<?php return ['a' => 1];");
    cluster.node(1).done(&["wait"]);
    let onlookers: Vec<_> = [2, 3]
        .map(|n| {
            let path = at(&cluster, n, "etc", "env.php");
            Onlooker::new(move || {
                let found = fs::read_to_string(&path).expect("env.php is there at every instant");
                assert!(found.starts_with("<?php"), "node {n} sees {found:?}");
            })
        })
        .into();
    // What a careless deployment does: emptied, and some time later written.
    write(&cluster, 1, "etc", "env.php", "");
    write(&cluster, 1, "etc", "other.txt", "written after it");
    cluster.wait_until(SOON, "later file", |cluster| {
        let there = |n: &usize| at(cluster, *n, "etc", "other.txt").exists();
        if [2, 3].iter().all(there) { Ok(()) } else { Err(String::new()) }
    });
    write(&cluster, 1, "etc", "env.php", "<?php return ['a' => 2];");
    cluster.node(1).done(&["wait"]);
    cluster.wait_equal(SOON);
    for onlooker in onlookers {
        assert!(onlooker.finish() > 0);
    }
    // Who means it gets it, a little later.
    write(&cluster, 1, "etc", "env.php", "");
    cluster.wait_equal(SOON);
    assert_eq!("", fs::read_to_string(at(&cluster, 3, "etc", "env.php")).unwrap());
}
