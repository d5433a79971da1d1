//! The trash of a whole cluster: what was deleted or overwritten on one node comes back from others.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::cluster::{Cluster, Setup};
use crate::files::{MOUNT, SOON};

fn cluster() -> Cluster {
    Cluster::start(&Setup::new().nodes(3).mount(MOUNT))
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Waits until the replicas are equal and a name is there on node 2, or not.
fn wait_for(cluster: &mut Cluster, name: &str, is_there: bool) {
    cluster.node(1).done(&["wait"]);
    cluster.wait_until(SOON, "the change on the others", |cluster| {
        match (2..=3).all(|n| cluster.node(n).path(MOUNT).join(name).exists() == is_there) {
            true => Ok(()),
            false => Err(format!("{name} is still there, or not yet")),
        }
    });
    cluster.wait_equal(SOON);
}

fn items(cluster: &Cluster, n: usize, args: &[&str]) -> Vec<Value> {
    let listed = cluster.node(n).json(&[&["trash", "list"], args].concat());
    listed["items"].as_array().unwrap().clone()
}

fn texts(items: &[Value], field: &str) -> Vec<String> {
    items.iter().map(|item| item[field].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_deleted_tree_comes_back_whole_from_the_trash_of_the_other_nodes() {
    let mut cluster = cluster();
    let root = cluster.node(1).path(MOUNT);
    let odd = OsStr::from_bytes(b"odd \xff\n%2F");
    fs::create_dir_all(root.join("tree/sub/empty")).unwrap();
    for name in [OsStr::new("a"), odd] {
        fs::write(root.join("tree/sub").join(name), name.as_bytes()).unwrap();
    }
    std::os::unix::fs::symlink("a", root.join("tree/sub/link")).unwrap();
    set_mode(&root.join("tree/sub/a"), 0o640);
    set_mode(&root.join("tree/sub"), 0o750);
    let old = std::time::UNIX_EPOCH + Duration::from_millis(1_500_000_000_123);
    fs::File::open(root.join("tree/sub/a")).unwrap().set_modified(old).unwrap();
    wait_for(&mut cluster, "tree/sub/a", true);
    fs::remove_dir_all(root.join("tree")).unwrap();
    wait_for(&mut cluster, "tree", false);

    let listed = items(&cluster, 1, &[MOUNT, "--since", "1h"]);
    assert_eq!(6, listed.len(), "{listed:#?}");
    for item in &listed {
        assert_eq!(
            ("n1", "removed"),
            (item["by"].as_str().unwrap(), item["happened"].as_str().unwrap())
        );
        assert_eq!(["n2", "n3"], *texts(item["copies"].as_array().unwrap(), "node"), "{item}");
    }
    let mut paths = texts(&listed, "path");
    paths.sort();
    let odd_shown = "tree/sub/odd \\xff\\x0a%2F";
    assert_eq!(
        ["tree", "tree/sub", "tree/sub/a", "tree/sub/empty", "tree/sub/link", odd_shown],
        *paths
    );
    let absolute = root.join("tree/sub").to_str().unwrap().to_owned();
    for (pattern, number) in [("tree/sub/*[ak]", 2), ("sub", 5), ("none", 0), (&absolute, 5)] {
        assert_eq!(number, items(&cluster, 1, &["--path", pattern]).len(), "{pattern}");
    }

    let tree = root.join("tree");
    let said = cluster.node(1).ends(&["trash", "restore", tree.to_str().unwrap()], 1);
    assert!(said.contains("--all-below"), "{said}");
    let all = ["trash", "restore", "--all-below", tree.to_str().unwrap()];
    let said = cluster.node(1).ends(&all, 0);
    assert!(said.contains("restored 6 things") && said.contains("put back on n2"), "{said}");
    cluster.node(2).done(&["wait"]);
    cluster.wait_equal(SOON);
    for n in 1..=3 {
        let sub = cluster.node(n).path(MOUNT).join("tree/sub");
        let about = fs::metadata(sub.join("a")).unwrap();
        assert_eq!((0o640, 1_500_000_000), (about.mode() & 0o777, about.mtime()));
        assert_eq!(0o750, fs::metadata(&sub).unwrap().mode() & 0o777);
        assert_eq!(odd.as_bytes(), fs::read(sub.join(odd)).unwrap());
        assert_eq!(Path::new("a"), fs::read_link(sub.join("link")).unwrap());
        assert!(sub.join("empty").is_dir());
    }
    let said = cluster.node(1).ends(&all, 0);
    assert!(said.contains("restored 0 things") && said.contains("6 there already"), "{said}");

    // One file alone gets its directories back as they were.
    fs::remove_dir_all(root.join("tree")).unwrap();
    wait_for(&mut cluster, "tree", false);
    let said = cluster.node(1).ends(&["trash", "restore", tree.join("sub/a").to_str().unwrap()], 0);
    assert!(said.contains("restored tree/sub/a"), "{said}");
    cluster.node(2).done(&["wait"]);
    cluster.wait_equal(SOON);
    assert_eq!(0o750, fs::metadata(root.join("tree/sub")).unwrap().mode() & 0o777);
    assert!(!root.join("tree/sub/empty").exists());
}

#[test]
fn what_is_there_is_not_overwritten_unless_it_is_said_and_goes_to_the_trash_then() {
    let mut cluster = cluster();
    let path = cluster.node(1).path(MOUNT).join("file");
    let file = path.to_str().unwrap().to_owned();
    fs::write(&path, "first").unwrap();
    wait_for(&mut cluster, "file", true);
    fs::write(&path, "second one").unwrap();
    cluster.node(1).done(&["wait"]);
    cluster.wait_equal(SOON);

    let listed = items(&cluster, 3, &[]);
    assert_eq!(["overwritten"], *texts(&listed, "happened"), "{listed:#?}");
    let id = listed[0]["id"].as_str().unwrap().to_owned();
    let (begin, restore) = (&id[..10], ["trash", "restore"]);
    let say = |cluster: &Cluster, args: &[&str], code: i32, words: &[&str]| {
        let said = cluster.node(1).ends(&[&restore, args].concat(), code);
        for word in words {
            assert!(said.contains(word), "{args:?} does not say {word:?}:\n{said}");
        }
    };
    say(&cluster, &[begin], 1, &["cannot restore file", "a file is there", "--replace", "--to"]);
    say(&cluster, &["0123456789abcdef"], 1, &["nothing in the trash has the id"]);
    say(&cluster, &[&format!("{file}-not")], 1, &["is not in the trash"]);
    say(&cluster, &["/etc/passwd"], 1, &["is not below a mount"]);
    say(&cluster, &[], 2, &["ID|PATH"]);
    assert_eq!("second one", fs::read_to_string(&path).unwrap());

    let other = format!("{}/new/place", cluster.node(1).path(MOUNT).display());
    say(&cluster, &[begin, "--to", &other], 0, &["restored new/place"]);
    wait_for(&mut cluster, "new/place", true);
    assert_eq!("first", fs::read_to_string(&other).unwrap());

    say(&cluster, &[&file, "--replace"], 0, &["restored file"]);
    cluster.wait_until(SOON, "the old content everywhere", |cluster| {
        let read = |n| fs::read_to_string(cluster.node(n).path(MOUNT).join("file"));
        match (1..=3).all(|n| read(n).is_ok_and(|text| text == "first")) {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        }
    });
    cluster.wait_in_sync(SOON);
    let listed = items(&cluster, 1, &["--path", "/file"]);
    let second = listed.iter().find(|item| item["bytes"] == 10).expect("what was replaced");
    assert_eq!(
        ["n1", "n2", "n3"],
        *texts(second["copies"].as_array().unwrap(), "node"),
        "{second}"
    );

    cluster.node_mut(3).stop();
    let said = cluster.node(1).ends(&["trash", "list"], 3);
    assert!(said.contains("warning: what only n3 has is missing: not connected"), "{said}");
    assert!(said.contains(&id[..8]) && said.contains("2 things in the trash"), "{said}");
}

#[test]
fn a_node_whose_mount_is_halted_still_has_others_restore() {
    let mut cluster = cluster();
    let root = cluster.node(1).path(MOUNT);
    fs::write(root.join("file"), "x").unwrap();
    wait_for(&mut cluster, "file", true);
    fs::remove_file(root.join("file")).unwrap();
    wait_for(&mut cluster, "file", false);
    cluster.node_mut(1).stop();
    let away = root.with_extension("away");
    fs::rename(&root, &away).unwrap();
    cluster.node_mut(1).start();
    cluster.wait_ready(1);
    cluster.wait_until(SOON, "links", |cluster| {
        let output = cluster.node(1).trefoil(&["check", "cluster"]);
        if output.status.success() { Ok(()) } else { Err("not yet".to_owned()) }
    });
    let said = cluster.node(1).ends(&["trash", "list", MOUNT], 3);
    let words = ["warning: what only n1 has is missing: the mount is not open", "n2,n3"];
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
    let file = root.join("file").to_str().unwrap().to_owned();
    let said = cluster.node(1).ends(&["trash", "restore", &file], 0);
    assert!(said.contains("restored file") && said.contains("put back on n2"), "{said}");
    fs::rename(&away, &root).unwrap();
    cluster.wait_until(SOON, "the file", |_| match fs::read(&file) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    });
    cluster.wait_equal(SOON);
}
