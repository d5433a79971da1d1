//! The commands against real daemons: what they answer, and how they end.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;

use crate::cluster::{Cluster, Setup};
use crate::files::{MOUNT, SOON, write};
use crate::steps::{link, same_file};

fn setup(nodes: usize) -> Setup {
    Setup::new().nodes(nodes).mount(MOUNT)
}

/// Runs a command that must end with `code` and say all of `words`.
#[track_caller]
fn says(cluster: &Cluster, n: usize, args: &[&str], code: i32, words: &[&str]) {
    let said = cluster.node(n).ends(args, code);
    for word in words {
        assert!(said.contains(word), "{args:?} does not say {word:?}:\n{said}");
    }
}

fn ticket(cluster: &Cluster, args: &[&str]) -> String {
    let printed = cluster.node(1).done(&[&["invite"], args].concat());
    printed.lines().last().unwrap().to_owned()
}

#[test]
fn tickets_are_for_one_node_and_for_a_time() {
    let mut cluster = Cluster::prepare(&setup(4));
    says(&cluster, 1, &["invite"], 1, &["in no cluster yet"]);
    says(&cluster, 1, &["daemon"], 1, &["belongs to no cluster"]);
    cluster.enrol(1);
    says(&cluster, 1, &["init"], 1, &["belongs to one already"]);
    says(&cluster, 1, &["status"], 1, &["cannot reach the daemon"]);
    cluster.node_mut(1).start();
    cluster.wait_ready(1);

    let first = ticket(&cluster, &[]);
    cluster.node(2).done(&["join", &first]);
    says(&cluster, 2, &["join", &first], 1, &["belongs to one already"]);
    says(&cluster, 3, &["join", &first], 1, &["used", "trefoil invite"]);
    says(&cluster, 3, &["join", "garbage"], 2, &["cannot join"]);
    says(&cluster, 3, &["join", &first[..first.len() - 9]], 2, &["cannot join"]);
    let short = ticket(&cluster, &["--ttl", "1s"]);
    let said = std::cell::RefCell::new(String::new());
    cluster.wait_until(SOON, "expiry of a ticket", |cluster| {
        // What is wrong with the name is found after what is wrong with the ticket.
        let home = cluster.node(4).config().to_owned();
        let text = fs::read_to_string(&home).unwrap();
        fs::write(&home, text.replace("name = \"n4\"", "name = \"n1\"")).unwrap();
        let output = cluster.node(4).trefoil(&["join", &short]);
        assert_eq!(Some(1), output.status.code());
        *said.borrow_mut() = String::from_utf8_lossy(&output.stderr).into_owned();
        if said.borrow().contains("expired") { Ok(()) } else { Err(said.borrow().clone()) }
    });
    assert!(!cluster.node(3).state().join("index").exists(), "a refused node is no member");
}

#[test]
fn wait_says_what_is_missing_where_and_status_tells_the_truth() {
    let mut cluster = Cluster::start(&setup(3));
    write(&cluster, 1, "a", "1");
    cluster.node(1).done(&["wait"]);
    for n in 1..=3 {
        assert_eq!("1", fs::read_to_string(cluster.node(n).path(MOUNT).join("a")).unwrap());
    }
    cluster.node(1).done(&["wait", "--nodes", "quorum", "--mount", MOUNT]);
    cluster.node(1).done(&["wait", "--nodes", "2", "--timeout", "30s"]);
    says(&cluster, 1, &["wait", "--nodes", "3"], 1, &["2 other nodes"]);
    says(&cluster, 1, &["wait", "--nodes", "some"], 2, &["all, quorum, or a number"]);
    says(&cluster, 1, &["wait", "--mount", "other"], 1, &["no mount \"other\"", MOUNT]);
    cluster.wait_in_sync(SOON);

    cluster.node_mut(3).kill9();
    write(&cluster, 1, "missing-there", "2");
    cluster.node(1).done(&["wait", "--nodes", "quorum"]);
    cluster.node(1).done(&["wait", "--nodes", "1"]);
    let missing = ["n3", "missing-there", MOUNT];
    says(&cluster, 1, &["wait", "--timeout", "500ms"], 1, &missing);
    let output = cluster.node(1).trefoil(&["wait", "--timeout", "500ms", "--json"]);
    let reply: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(Some(1), output.status.code());
    let nodes = reply["mounts"][0]["nodes"].as_array().unwrap();
    assert_eq!((true, false), (nodes[0]["done"] == true, nodes[1]["done"] == true), "{reply}");
    cluster.wait_until(SOON, "status that tells it", |cluster| {
        let status = cluster.node(1).status()?;
        let node = status["nodes"].as_array().unwrap().iter().find(|n| n["name"] == "n3").unwrap();
        let peers = status["mounts"][0]["peers"].as_array().unwrap();
        let peer = peers.iter().find(|peer| peer["name"] == "n3").unwrap();
        let told = node["up"] == false && status["in_sync"] == false && peer["lag_changes"] == 1;
        if told { Ok(()) } else { Err(status.to_string()) }
    });
    says(&cluster, 1, &["verify"], 1, &["n3", "not connected"]);
    cluster.node_mut(3).start();
    cluster.node(1).done(&["wait"]);
    cluster.wait_in_sync(SOON);
    says(&cluster, 1, &["verify"], 0, &["equal: 1 mount identical on all nodes"]);
}

#[test]
fn verify_names_what_was_damaged_behind_the_daemons_back() {
    let mut cluster = Cluster::start(&setup(3));
    for name in ["fine", "damaged"] {
        write(&cluster, 1, name, "content");
    }
    cluster.node(1).done(&["wait"]);
    cluster.wait_in_sync(SOON);
    says(&cluster, 2, &["verify", "--deep"], 0, &["every file read and hashed"]);
    cluster.node(3).done(&["pause", MOUNT]);
    let path = cluster.node(3).path(MOUNT).join("damaged");
    let time = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "CONTENT").unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    let output = cluster.node(1).trefoil(&["verify", "--deep", "--json"]);
    let reply: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(Some(1), output.status.code(), "{reply}");
    let found = reply["mounts"][0]["differences"].as_array().unwrap();
    assert_eq!(1, found.len(), "{reply}");
    assert_eq!(
        ("damaged", "n3"),
        (found[0]["path"].as_str().unwrap(), found[0]["node"].as_str().unwrap())
    );
    assert!(found[0]["what"].as_str().unwrap().contains("content"), "{reply}");
}

#[test]
fn a_deep_verify_compares_which_names_are_one_file() {
    let cluster = &mut Cluster::start(&setup(2));
    let mount = cluster.node(1).path(MOUNT);
    write(cluster, 1, "a", "content");
    for name in ["b", "c"] {
        link(&mount, "a", name);
    }
    write(cluster, 1, "outside", "x");
    cluster.node(1).done(&["wait"]);
    cluster.wait_in_sync(SOON);
    let there = cluster.node(2).path(MOUNT);
    same_file(&there, &["a", "b", "c"]);
    // A name that is not mirrored belongs to no group.
    cluster.node(1).done(&["pause", MOUNT]);
    cluster.node(2).done(&["pause", MOUNT]);
    fs::hard_link(mount.join("outside"), mount.join("../outside")).unwrap();
    let said = cluster.node(1).ends(&["verify", "--deep"], 0);
    assert!(said.contains("read in mount data: n1 4 of 4 (22 B), n2 4 of 4 (22 B)"), "{said}");

    let copy = there.join("../copy");
    fs::copy(there.join("b"), &copy).unwrap();
    let time = fs::metadata(there.join("b")).unwrap().modified().unwrap();
    fs::File::options().write(true).open(&copy).unwrap().set_modified(time).unwrap();
    fs::rename(&copy, there.join("b")).unwrap();
    says(cluster, 1, &["verify"], 0, &[]);
    for (n, other) in [(1, "n2"), (2, "n1")] {
        let output = cluster.node(n).trefoil(&["verify", "--deep", "--json"]);
        let reply: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (Some(1), ""),
            (output.status.code(), &*String::from_utf8_lossy(&output.stderr))
        );
        let found = reply["mounts"][0]["differences"].as_array().unwrap();
        let names: Vec<_> = found.iter().map(|one| one["path"].as_str().unwrap()).collect();
        assert_eq!(["a", "b", "c"], *names, "{reply}");
        let b = (found[1]["node"].as_str().unwrap(), found[1]["what"].as_str().unwrap());
        let (one, own) = ("one file with a, c", "a file of its own");
        let (theirs, ours) = if n == 1 { (own, one) } else { (one, own) };
        assert_eq!((other, &*format!("hard links: {theirs} there, {ours} here")), b);
    }
}

#[test]
fn verify_gives_up_a_node_that_hangs_and_names_it() {
    let mut cluster = Cluster::start(&setup(3));
    write(&cluster, 1, "a", "1");
    cluster.node(1).done(&["wait"]);
    cluster.wait_in_sync(SOON);
    cluster.node(3).signal(Signal::STOP);
    let said = cluster.node(1).ends(&["verify", "--deep"], 1);
    cluster.node(3).signal(Signal::CONT);
    assert!(said.contains("error: mount data on n3: "), "{said}");
    assert!(said.contains("read in mount data: n1 1 of 1 (1 B), n2 1 of 1 (1 B)"), "{said}");
}

#[test]
fn why_tells_what_every_node_holds_and_what_it_waits_for() {
    let mut cluster = Cluster::start(&setup(3));
    write(&cluster, 1, "file", "1");
    write(&cluster, 1, "gone", "1");
    cluster.wait_in_sync(SOON);
    fs::remove_file(cluster.node(2).path(MOUNT).join("gone")).unwrap();
    cluster.wait_in_sync(SOON);
    let path = |name: &str| cluster.node(1).path(MOUNT).join(name).to_str().unwrap().to_owned();
    let (file, gone, new) = (path("file"), path("gone"), path("new"));
    let outside = cluster.node(1).state().to_str().unwrap().to_owned();
    let words = ["all nodes hold the same edit", "mount data, path file", "class normal", "n3"];
    says(&cluster, 1, &["why", &file], 0, &words);
    let told = cluster.node(1).json(&["why", &gone]);
    assert_eq!(("deleted", "n2"), record_of(&told, 2), "{told}");
    says(&cluster, 1, &["why", &outside], 1, &["is not below a mount", "mounts are"]);
    says(&cluster, 1, &["why", &new], 0, &["neither knows of it"]);
    let root = cluster.node(1).path(MOUNT).to_str().unwrap().to_owned();
    says(&cluster, 1, &["why", &root], 1, &["is mount data"]);

    cluster.node(2).done(&["pause", MOUNT]);
    cluster.node_mut(3).stop();
    write(&cluster, 1, "file", "2");
    write(&cluster, 1, "new", "2");
    cluster.wait_until(SOON, "news at the paused node", |cluster| {
        let said = cluster.node(1).ends(&["why", &file], 3);
        let words = ["the nodes do NOT agree", "older: what is here", "not connected"];
        match words.iter().find(|word| !said.contains(**word)) {
            None => Ok(()),
            Some(word) => Err(format!("no {word:?} in {said}")),
        }
    });
    says(&cluster, 1, &["why", &new], 3, &["has not heard of it"]);
}

#[test]
fn why_waits_for_nodes_that_hang_at_the_same_time() {
    let mut cluster = Cluster::start(&setup(4));
    write(&cluster, 1, "file", "1");
    cluster.wait_in_sync(SOON);
    for n in 2..=4 {
        cluster.node(n).signal(Signal::STOP);
    }
    let path = cluster.node(1).path(MOUNT).join("file").to_str().unwrap().to_owned();
    let begin = std::time::Instant::now();
    let said = cluster.node(1).ends(&["why", &path], 3);
    let took = begin.elapsed();
    for n in 2..=4 {
        cluster.node(n).signal(Signal::CONT);
        assert!(said.contains(&format!("n{n}")), "{said}");
    }
    // One after the other would take three times as long as one.
    assert!(took < Duration::from_secs(9), "{took:?}\n{said}");
}

/// What the node at a place of the reply holds, and who made it.
fn record_of(told: &serde_json::Value, at: usize) -> (&str, &str) {
    let record = &told["nodes"][at]["record"];
    (record["kind"].as_str().unwrap(), record["author"].as_str().unwrap())
}

#[test]
fn a_pause_outlasts_a_restart() {
    let mut cluster = Cluster::start(&setup(2));
    write(&cluster, 1, "before", "x");
    cluster.wait_equal(SOON);
    cluster.wait_in_sync(SOON);
    cluster.node(2).done(&["pause", MOUNT]);
    cluster.wait_until(SOON, "word of the pause", |cluster| {
        let status = cluster.node(1).status()?;
        if status["in_sync"] == false { Ok(()) } else { Err(status.to_string()) }
    });
    cluster.node_mut(2).stop();
    write(&cluster, 1, "meanwhile", "x");
    write(&cluster, 2, "meanwhile-there", "x");
    cluster.node_mut(2).start();
    cluster.wait_ready(2);
    let status = cluster.node(2).status().unwrap();
    assert_eq!("paused", status["mounts"][0]["state"], "{status}");
    says(&cluster, 1, &["wait", "--timeout", "1s"], 1, &["n2"]);
    says(&cluster, 2, &["wait", "--timeout", "1s"], 1, &["paused"]);
    assert!(!cluster.node(2).path(MOUNT).join("meanwhile").exists());
    assert!(!cluster.node(1).path(MOUNT).join("meanwhile-there").exists());
    for n in 1..=2 {
        assert_eq!(false, cluster.node(n).status().unwrap()["in_sync"]);
    }
    says(&cluster, 2, &["pause", "other"], 1, &["no mount \"other\""]);
    cluster.node(2).done(&["resume", MOUNT]);
    cluster.wait_equal(SOON);
    cluster.wait_in_sync(SOON);
    assert!(cluster.node(1).path(MOUNT).join("meanwhile-there").exists());
}

#[test]
fn a_configuration_is_checked_to_the_line() {
    let cluster = Cluster::prepare(&setup(1));
    cluster.node(1).ends(&["config", "check"], 0);
    let file = cluster.node(1).config().to_owned();
    let good = fs::read_to_string(&file).unwrap();
    fs::write(&file, good.replace("listen =", "lissten =")).unwrap();
    says(&cluster, 1, &["config", "check"], 2, &["lissten", "line 4", "listen"]);
    says(&cluster, 1, &["status"], 2, &["lissten"]);
    fs::write(&file, "[node\n").unwrap();
    says(&cluster, 1, &["config", "check"], 2, &["not TOML", "line 1"]);
    says(&cluster, 1, &["frobnicate"], 2, &[]);
    fs::remove_dir(cluster.node(1).path(MOUNT)).unwrap();
    fs::write(&file, good).unwrap();
    says(&cluster, 1, &["config", "check"], 3, &["problem", MOUNT]);
}
