//! What is renamed on one node is renamed on the others: nothing is made anew, and nothing goes to the
//! trash.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use crate::cluster::{Cluster, Setup};
use crate::files::{MOUNT, SOON, at, gone, has, write};

const FILES: usize = 300;

fn inodes(cluster: &Cluster, n: usize, dir: &str) -> BTreeMap<String, u64> {
    let files = fs::read_dir(at(cluster, n, dir)).unwrap().map(Result::unwrap);
    let files = files.filter(|file| file.file_type().unwrap().is_file());
    files
        .map(|file| (file.file_name().into_string().unwrap(), file.metadata().unwrap().ino()))
        .collect()
}

#[test]
fn a_directory_that_is_renamed_keeps_its_files_on_every_node() {
    let mut cluster = Cluster::start(&Setup::new().mount(MOUNT));
    for n in 0..FILES {
        write(&cluster, 1, &format!("old/{n}"), &format!("file {n}"));
    }
    write(&cluster, 1, "old/below/deep", "deep");
    cluster.node(1).done(&["wait"]);
    cluster.wait_in_sync(SOON);
    let before: Vec<_> = [2, 3].map(|n| (n, inodes(&cluster, n, "old"))).into();
    fs::rename(at(&cluster, 1, "old"), at(&cluster, 1, "new")).unwrap();
    cluster.node(1).done(&["wait"]);
    cluster.wait_in_sync(SOON);
    for (n, before) in before {
        let after = inodes(&cluster, n, "new");
        assert_eq!(FILES, after.len(), "node {n}");
        let kept = after.iter().filter(|(name, inode)| before[*name] == **inode).count();
        // Where the two halves of a rename come in two messages, the file is copied.
        assert!(kept * 10 >= FILES * 9, "{kept} of {FILES} are the same file on node {n}");
        let trash = cluster.node(n).json(&["trash", "list"]);
        let files = trash["items"].as_array().unwrap().iter().map(|item| item["path"].to_string());
        let files =
            files.filter(|path| before.keys().any(|name| path.contains(&format!("/{name}"))));
        assert!(files.count() * 10 <= FILES, "{trash}");
    }
    has(&cluster, &[1, 2, 3], "new/17", "file 17");
    has(&cluster, &[1, 2, 3], "new/below/deep", "deep");
    gone(&cluster, &[1, 2, 3], "old");
    cluster.wait_equal(SOON);
}

#[test]
fn what_is_edited_in_the_moment_of_a_rename_is_not_lost() {
    let mut cluster = Cluster::start(&Setup::new().mount(MOUNT));
    for n in 0..FILES {
        write(&cluster, 1, &format!("old/{n}"), &format!("file {n}"));
    }
    cluster.node(1).done(&["wait"]);
    cluster.wait_in_sync(SOON);
    fs::rename(at(&cluster, 1, "old"), at(&cluster, 1, "new")).unwrap();
    // Node 2 goes on writing where the files were.
    for n in (0..FILES).step_by(10) {
        drop(fs::write(at(&cluster, 2, &format!("old/{n}")), format!("edited {n}")));
        drop(fs::write(at(&cluster, 2, &format!("new/{n}")), format!("edited {n}")));
    }
    cluster.node(1).done(&["wait"]);
    cluster.wait_in_sync(SOON);
    for n in 0..FILES {
        let edited = n % 10 == 0;
        let text = if edited { format!("edited {n}") } else { format!("file {n}") };
        let there = |dir: &str| {
            let file = fs::read_to_string(at(&cluster, 3, &format!("{dir}/{n}")));
            file.is_ok_and(|there| there == text)
        };
        assert!(there("old") || there("new"), "{n}");
    }
    cluster.wait_equal(SOON);
}
