//! Everything that users do to a tree reaches every node, with both ways of watching.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use trefoil::model::limits;

use crate::cases::{CASES, folder};
use crate::cluster::{Cluster, Setup};
use crate::files::{MOUNT, SOON};
use crate::tree::describe;

/// How long a change of a few files may take on a busy machine.
/// How long many or large files may take.
const LATER: Duration = Duration::from_secs(300);

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs every case of [`CASES`] on three nodes: made on the first, changed on the second, removed
/// on the third, and compared on all of them each time.
fn check_backend(backend: &str) {
    let setup = Setup::new().mount(MOUNT).mount_lines(&format!("watch = \"{backend}\""));
    let mut cluster = Cluster::start(&setup);
    for n in 1..=3 {
        let status = cluster.node(n).status().unwrap();
        assert_eq!(backend, status["mounts"][0]["backend"], "{status}");
    }
    for case in CASES {
        let dir = folder(&cluster.node(1).path(MOUNT), case);
        fs::create_dir(&dir).unwrap();
        (case.make)(&dir);
    }
    cluster.wait_equal(SOON);
    for case in CASES {
        (case.change)(&folder(&cluster.node(2).path(MOUNT), case));
    }
    cluster.wait_equal(SOON);
    for n in 1..=3 {
        for case in CASES {
            eprintln!("checking {} on node {n}", case.name);
            (case.check)(&folder(&cluster.node(n).path(MOUNT), case));
        }
    }
    cluster.wait_in_sync(SOON);
    cluster.node(1).done(&["verify", "--deep"]);
    open_files_are_mirrored(&mut cluster);
    special_files_are_reported_and_left_alone(&mut cluster);
    for case in CASES {
        fs::remove_dir_all(folder(&cluster.node(3).path(MOUNT), case)).unwrap();
    }
    cluster.wait_equal(SOON);
    for n in 1..=3 {
        let left: Vec<_> = describe(&cluster.node(n).path(MOUNT)).unwrap().into_keys().collect();
        let left: Vec<_> = left.iter().map(|path| path.escape_ascii().to_string()).collect();
        assert_eq!(["open.log"], *left, "on node {n}");
        let conflicts = cluster.node(n).json(&["conflicts", "list"]);
        assert_eq!(serde_json::json!([]), conflicts, "one writer at a time makes no conflicts");
    }
}

#[test]
fn every_change_reaches_every_node_with_inotify() {
    check_backend("inotify");
}

#[test]
fn every_change_reaches_every_node_with_fanotify() {
    if !is_root() {
        eprintln!("skipped: fanotify needs privileges");
        return;
    }
    check_backend("fanotify");
}

/// Waits until the file of that name is `text` on nodes 2 and 3.
#[track_caller]
fn wait_text(cluster: &mut Cluster, name: &str, text: &str) {
    cluster.wait_until(SOON, &format!("{name} = {text:?}"), |cluster| {
        for n in 2..=3 {
            let found = fs::read_to_string(cluster.node(n).path(MOUNT).join(name));
            if !found.as_ref().is_ok_and(|found| found == text) {
                return Err(format!("node {n}: {found:?}"));
            }
        }
        Ok(())
    });
}

/// A file that somebody holds open for writing is mirrored all the same, again and again.
fn open_files_are_mirrored(cluster: &mut Cluster) {
    let path = cluster.node(1).path(MOUNT).join("open.log");
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    let mut text = String::new();
    for line in ["one\n", "two\n", "three\n"] {
        file.write_all(line.as_bytes()).unwrap();
        text += line;
        wait_text(cluster, "open.log", &text);
    }
    drop(file);
    cluster.wait_equal(SOON);
}

pub(crate) fn special_files_are_reported_and_left_alone(cluster: &mut Cluster) {
    let dir = cluster.node(1).path(MOUNT).join("special");
    fs::create_dir(&dir).unwrap();
    let mode = Mode::from_raw_mode(0o600);
    mknodat(CWD, dir.join("fifo"), FileType::Fifo, mode, 0).unwrap();
    // Bound by a short name: the address holds 107 bytes.
    let short = tempfile::Builder::new().prefix("s").tempdir_in("/tmp").unwrap();
    std::os::unix::fs::symlink(&dir, short.path().join("d")).unwrap();
    let _socket = UnixListener::bind(short.path().join("d/socket")).unwrap();
    let device = rustix::fs::makedev(1, 3);
    let made = mknodat(CWD, dir.join("device"), FileType::CharacterDevice, mode, device);
    let mut names = vec!["special/fifo", "special/socket"];
    names.extend(made.is_ok().then_some("special/device"));
    names.sort_unstable();
    fs::write(dir.join("file"), "beside them").unwrap();
    wait_text(cluster, "special/file", "beside them");
    cluster.wait_until(SOON, "problems", |cluster| {
        let status = cluster.node(1).status()?;
        let problems = status["mounts"][0]["problems"].as_array().unwrap();
        let mut paths: Vec<_> = problems.iter().filter_map(|p| p["path"].as_str()).collect();
        paths.sort_unstable();
        if paths == names { Ok(()) } else { Err(status.to_string()) }
    });
    cluster.node(1).ends(&["status"], 3);
    for n in 2..=3 {
        let there = cluster.node(n).path(MOUNT).join("special");
        assert_eq!(1, fs::read_dir(there).unwrap().count(), "special files are not mirrored");
        cluster.node(n).ends(&["status"], 0);
    }
    assert!(fs::metadata(dir.join("fifo")).unwrap().file_type().is_fifo());
    fs::remove_dir_all(&dir).unwrap();
    cluster.wait_until(SOON, "end of the problems", |cluster| {
        let status = cluster.node(1).status()?;
        if status["mounts"][0]["problem_count"] == 0 { Ok(()) } else { Err(status.to_string()) }
    });
    cluster.wait_equal(SOON);
}

/// Makes a directory of so many files on one node, moves it on another, removes it on the third.
fn check_many_files(count: usize) {
    let mut cluster = Cluster::start(&Setup::new().mount(MOUNT));
    let many = cluster.node(1).path(MOUNT).join("many");
    fs::create_dir(&many).unwrap();
    for n in 0..count {
        fs::write(many.join(format!("file-{n}")), n.to_le_bytes()).unwrap();
    }
    cluster.node(1).done(&["wait", "--timeout", "600s"]);
    cluster.wait_equal(LATER);
    let dir = cluster.node(2).path(MOUNT);
    fs::rename(dir.join("many"), dir.join("moved")).unwrap();
    cluster.node(2).done(&["wait", "--timeout", "600s"]);
    cluster.wait_equal(LATER);
    for n in 1..=3 {
        let there = fs::read_dir(cluster.node(n).path(MOUNT).join("moved")).unwrap().count();
        assert_eq!(count, there, "on node {n}");
        assert_memory_is_bounded(&cluster, n);
    }
    cluster.node(3).done(&["deploy", "begin"]);
    fs::remove_dir_all(cluster.node(3).path(MOUNT).join("moved")).unwrap();
    cluster.node(3).done(&["wait", "--timeout", "600s"]);
    cluster.wait_equal(LATER);
    cluster.wait_in_sync(SOON);
    assert!(!cluster.node(1).path(MOUNT).join("moved").exists());
}

#[test]
fn a_directory_of_20_000_files_is_mirrored() {
    check_many_files(20_000);
}

#[test]
#[ignore = "takes minutes; tests/run --large"]
fn a_directory_of_100_000_files_is_mirrored() {
    check_many_files(100_000);
}

#[test]
#[ignore = "takes a minute; tests/run --large"]
fn more_removed_directories_than_a_peer_can_have_under_way_all_go() {
    let mut cluster = Cluster::start(&Setup::new().nodes(2).mount(MOUNT));
    let top = cluster.node(1).path(MOUNT).join("top");
    for n in 0..limits::SHARE_MAX + 4000 {
        fs::create_dir_all(top.join(format!("{}/{n}", n % 100))).unwrap();
    }
    cluster.node(1).done(&["wait", "--timeout", "600s"]);
    cluster.wait_equal(LATER);
    cluster.node_mut(2).stop();
    cluster.node(1).done(&["deploy", "begin"]);
    fs::remove_dir_all(&top).unwrap();
    cluster.node_mut(2).start();
    cluster.wait_in_sync(LATER);
    assert!(!cluster.node(2).path(MOUNT).join("top").exists());
    assert!(!top.exists(), "none came back");
    let log = cluster.node(2).log();
    assert!(log.contains("asks again for what was let go"), "{log}");
    assert_memory_is_bounded(&cluster, 2);
}

/// The most memory that the daemon ever had.
pub(crate) fn assert_memory_is_bounded(cluster: &Cluster, n: usize) {
    let status = fs::read_to_string(format!("/proc/{}/status", cluster.node(n).pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 150 << 10, "node {n} had {kib} KiB in memory");
}

/// Bytes that no compression makes smaller.
pub(crate) fn write_noise(path: &Path, bytes: u64) {
    let mut file = File::create(path).unwrap();
    let mut noise =
        blake3::Hasher::new().update(path.as_os_str().as_encoded_bytes()).finalize_xof();
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..bytes >> 20 {
        noise.fill(&mut buffer);
        file.write_all(&buffer).unwrap();
    }
}

/// Mirrors a file of that size, with the receiver killed on the way. Gives the bytes that the
/// receiver wrote before and after the kill.
fn check_large_file(bytes: u64) {
    let mut cluster = Cluster::start(&Setup::new().nodes(2).mount(MOUNT));
    let stage = cluster.node(2).path(MOUNT).join(".trefoil/stage");
    write_noise(&cluster.node(1).path(MOUNT).join("large"), bytes);
    let part = |stage: &Path| {
        let names = fs::read_dir(stage).unwrap().map(|found| found.unwrap());
        let mut parts = names.filter(|n| n.file_name().to_string_lossy().starts_with("fetch-"));
        parts.next().and_then(|found| found.metadata().ok()).map_or((0, 0), |m| (m.len(), m.ino()))
    };
    cluster.wait_until(LATER, "part of the file", |_| match part(&stage).0 {
        size if size > bytes / 8 => Ok(()),
        size => Err(format!("{size} bytes")),
    });
    cluster.node_mut(2).kill9();
    let (partial, _) = part(&stage);
    assert!(partial > bytes / 8 && partial < bytes, "killed in the middle: {partial}");
    cluster.node_mut(2).start();
    cluster.wait_ready(2);
    cluster.node(1).done(&["wait", "--timeout", "600s"]);
    let io = fs::read_to_string(format!("/proc/{}/io", cluster.node(2).pid())).unwrap();
    let written = io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap();
    let written: u64 = written.parse().unwrap();
    let missing = bytes - partial;
    assert!(written < missing + (16 << 20), "wrote {written} bytes of {missing} missing");
    assert_memory_is_bounded(&cluster, 1);
    assert_memory_is_bounded(&cluster, 2);
    cluster.wait_equal(LATER);
}

#[test]
fn a_large_file_is_resumed_after_a_kill_and_needs_little_memory() {
    check_large_file(300 << 20);
}

#[test]
#[ignore = "takes minutes and 20 GiB of disk; tests/run --large"]
fn a_file_of_10_gib_is_resumed_after_a_kill_and_needs_little_memory() {
    check_large_file(10 << 30);
}
