//! Watchers at their limits: queues that overflow, more directories than may be watched, and
//! directories that come and go faster than they can be watched.

use std::fs;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::cluster::{Cluster, Setup};
use crate::files::{MOUNT, SOON, at};
use crate::steps::is_root;

const LATER: Duration = Duration::from_secs(600);

fn watched_by(backend: &str) -> Cluster {
    Cluster::start(&Setup::new().mount(MOUNT).mount_lines(&format!("watch = \"{backend}\"")))
}

/// The ways of watching that there are for this user.
fn backends() -> Vec<&'static str> {
    if is_root() {
        return vec!["fanotify", "inotify"];
    }
    eprintln!("skipped for fanotify, which needs privileges");
    vec!["inotify"]
}

#[test]
fn a_queue_that_overflows_hides_nothing() {
    let most = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let most: usize = most.trim().parse().unwrap();
    let mut cluster = watched_by("inotify");
    fs::write(at(&cluster, 1, "removed"), "before").unwrap();
    fs::create_dir_all(at(&cluster, 1, "tree/sub")).unwrap();
    cluster.node(1).done(&["wait"]);
    // Nobody empties the queue meanwhile.
    cluster.node(1).signal(Signal::STOP);
    for n in 0..most / 3 + 100 {
        // Told of at least three times: made, written, closed.
        fs::write(at(&cluster, 1, &format!("f{n}")), "x").unwrap();
    }
    fs::write(at(&cluster, 1, "tree/sub/late"), "untold").unwrap();
    fs::remove_file(at(&cluster, 1, "removed")).unwrap();
    cluster.node(1).signal(Signal::CONT);
    cluster.node(1).done(&["wait", "--timeout", "60s"]);
    cluster.wait_equal(SOON);
    assert!(!at(&cluster, 3, "removed").exists() && at(&cluster, 3, "tree/sub/late").exists());
    let status = cluster.node(1).status().unwrap();
    assert!(status["mounts"][0]["overflows"].as_u64() > Some(0), "{status}");
}

/// Makes and removes so many directories; half of them are gone before anyone can look.
fn check_many_directories(backend: &str, count: usize) {
    let mut cluster = watched_by(backend);
    let top = at(&cluster, 1, "many");
    for n in 0..count {
        let dir = top.join(format!("{}/{}/d{n}", n % 10, n % 97));
        fs::create_dir_all(&dir).unwrap();
        if n % 2 == 0 {
            fs::remove_dir(&dir).unwrap();
        }
    }
    fs::write(top.join("1/1/d1/file"), "in one of them").unwrap();
    cluster.node(1).done(&["wait", "--timeout", "600s"]);
    cluster.wait_equal(LATER);
    assert!(at(&cluster, 3, "many/1/1/d1/file").exists());
    fs::remove_dir_all(at(&cluster, 2, "many")).unwrap();
    cluster.node(2).done(&["wait", "--timeout", "600s"]);
    cluster.wait_equal(LATER);
    assert!(!at(&cluster, 1, "many").exists());
    cluster.wait_in_sync(SOON);
}

#[test]
fn five_thousand_directories_come_and_go() {
    backends().into_iter().for_each(|backend| check_many_directories(backend, 5000));
}

#[test]
#[ignore = "takes minutes; tests/run --large"]
fn a_hundred_thousand_directories_come_and_go() {
    backends().into_iter().for_each(|backend| check_many_directories(backend, 100_000));
}

fn check_renamed_and_made_anew(backend: &str) {
    const ROUNDS: usize = 40;
    let mut cluster = watched_by(backend);
    let (dir, old) = (at(&cluster, 1, "dir"), |n: usize| format!("old-{n}"));
    fs::create_dir_all(dir.join("sub")).unwrap();
    for n in 0..ROUNDS {
        fs::write(dir.join("sub/file"), format!("of {n}")).unwrap();
        fs::rename(&dir, at(&cluster, 1, &old(n))).unwrap();
        fs::create_dir_all(dir.join("sub")).unwrap();
    }
    cluster.node(1).done(&["wait"]);
    // Each is watched where it is now.
    for n in 0..ROUNDS {
        fs::write(at(&cluster, 1, &old(n)).join("sub/late"), format!("later {n}")).unwrap();
    }
    fs::write(dir.join("sub/file"), "the last").unwrap();
    cluster.node(1).done(&["wait"]);
    cluster.wait_equal(SOON);
    for n in 0..ROUNDS {
        let there = at(&cluster, 3, &old(n)).join("sub");
        assert_eq!(format!("of {n}"), fs::read_to_string(there.join("file")).unwrap());
        assert_eq!(format!("later {n}"), fs::read_to_string(there.join("late")).unwrap());
    }
    assert_eq!("the last", fs::read_to_string(at(&cluster, 3, "dir/sub/file")).unwrap());
}

#[test]
fn a_directory_that_is_renamed_and_made_anew_at_once_is_two() {
    backends().into_iter().for_each(check_renamed_and_made_anew);
}

/// In a user namespace of its own, which has a limit of its own.
const LIMITED: [&str; 6] = [
    "unshare",
    "--user",
    "--map-root-user",
    "sh",
    "-c",
    "echo 60 >/proc/sys/user/max_inotify_watches && exec \"$0\" \"$@\"",
];

#[test]
fn a_limit_of_watches_is_told_and_what_was_not_watched_is_found_later() {
    let may = Command::new("unshare").args(["--user", "--map-root-user", "true"]).status();
    if !may.is_ok_and(|status| status.success()) {
        eprintln!("skipped: user namespaces are not allowed here");
        return;
    }
    let mut cluster = watched_by("inotify");
    cluster.node_mut(1).stop();
    cluster.node_mut(1).run_below(&LIMITED);
    cluster.node_mut(1).start();
    cluster.wait_ready(1);
    for n in 0..100 {
        fs::create_dir(at(&cluster, 1, &format!("d{n}"))).unwrap();
        fs::write(at(&cluster, 1, &format!("d{n}/f")), "x").unwrap();
    }
    cluster.wait_until(SOON, "word of the limit", |cluster| {
        let status = cluster.node(1).status()?;
        let told = status["guards"][0]["hint"].to_string().contains("max_user_watches");
        if told { Ok(()) } else { Err(status.to_string()) }
    });
    // The others go on.
    fs::write(at(&cluster, 2, "elsewhere"), "x").unwrap();
    cluster.node(2).done(&["wait", "--nodes", "quorum"]);
    assert!(at(&cluster, 3, "elsewhere").exists());

    let space = format!("--user=/proc/{}/ns/user", cluster.node(1).pid());
    let raise = "echo 10000 >/proc/sys/user/max_inotify_watches";
    let raised = Command::new("nsenter")
        .args([&space, "--preserve-credentials", "sh", "-c", raise])
        .status();
    assert!(raised.unwrap().success());
    cluster.wait_in_sync(SOON);
    cluster.wait_equal(SOON);
    assert!(at(&cluster, 3, "d99/f").exists() && at(&cluster, 1, "elsewhere").exists());
}
