//! Snapshots of a real daemon, looked at through the kernel.

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::cases::CASES;
use crate::cluster::{Cluster, Setup};
use crate::files::{MOUNT, SOON, at, start, write};
use crate::steps::{acl, chmod, is_root, set_attribute};
use crate::tree::{Kind, Tree, describe, differences};

/// Whether the test can run.
fn is_possible() -> bool {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse");
    let why = match device {
        _ if !is_root() => "only root can mount without a program that may",
        Err(_) => "there is no /dev/fuse",
        Ok(_) => return true,
    };
    eprintln!("SKIPPED: {why}");
    false
}

/// `trefoil snapshot mount`, and where it shows the snapshots. Nothing is left mounted in the end.
struct Mounted {
    dir: TempDir,
    child: Child,
}

impl Mounted {
    /// It has said that they are there.
    #[track_caller]
    fn new(cluster: &Cluster, options: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("trefoil-snapshots-").tempdir().unwrap();
        let path = dir.path().to_str().unwrap().to_owned();
        let mut child = cluster.node(1).spawn(&[&["snapshot", "mount", &path], options].concat());
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mounted = Self { dir, child };
        let said =
            format!("snapshots are at {path}; press Ctrl-C, or run `umount {path}`, to end\n");
        assert_eq!(said, line);
        mounted
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn latest(&self) -> PathBuf {
        self.path().join("latest").join(MOUNT)
    }

    fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        mounts.lines().any(|line| line.split(' ').nth(1) == self.path().to_str())
    }

    /// Names of the snapshots, and of `latest`.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Waits until it ends, which must be as if nothing had been wrong. Gives what it wrote to stderr.
    #[track_caller]
    fn ended(&mut self) -> String {
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(self.child.wait().unwrap().success(), "{said}");
        assert!(!self.is_mounted());
        said
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        while Command::new("umount").arg("-l").arg(self.path()).output().unwrap().status.success() {
        }
    }
}

/// Everything but holes, of which a file system in user space tells nothing.
fn seen(root: &Path) -> Tree {
    let mut tree = describe(root).unwrap();
    for description in tree.values_mut() {
        if let Kind::File { holes, .. } = &mut description.kind {
            *holes = false;
        }
    }
    tree
}

#[track_caller]
fn is_read_only<T>(result: io::Result<T>) {
    let error = result.err().expect("it is refused");
    assert_eq!(Some(Errno::ROFS.raw_os_error()), error.raw_os_error(), "{error}");
}

/// Whether a user and group may read a file.
fn may_read(id: u32, file: &Path) -> bool {
    let mut cat = Command::new("cat");
    cat.arg(file).uid(id).gid(id).current_dir("/").output().unwrap().status.success()
}

#[test]
fn snapshots_are_seen_as_they_were_and_nothing_can_be_written() {
    if !is_possible() {
        return;
    }
    let mut cluster = Cluster::start(&Setup::new().mount(MOUNT).nodes(1));
    for case in CASES.iter().filter(|case| case.name != "long-path") {
        let dir = at(&cluster, 1, case.name);
        fs::create_dir(&dir).unwrap();
        (case.make)(&dir);
    }
    let mut noise = vec![0; 5 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    fs::write(at(&cluster, 1, "large"), &noise).unwrap();
    fs::create_dir(at(&cluster, 1, "many")).unwrap();
    for n in 0..3000 {
        write(&cluster, 1, &format!("many/{n}"), "");
    }
    cluster.node(1).done(&["wait"]);
    // The times of directories follow what is made in them; the scan of a start has them all.
    cluster.node_mut(1).stop();
    start(&mut cluster, 1);
    cluster.node(1).done(&["wait"]);
    let first = cluster.node(1).json(&["snapshot", "create"]);
    assert_eq!("complete", first["state"], "{first}");

    let mut mounted = Mounted::new(&cluster, &[]);
    let found = differences(&seen(&cluster.node(1).path(MOUNT)), &seen(&mounted.latest()));
    assert!(found.is_empty(), "{}", found.join("\n"));
    let large = fs::File::open(mounted.latest().join("large")).unwrap();
    let mut part = vec![0; 100_000];
    large.read_exact_at(&mut part, 3_333_333).unwrap();
    assert!(part == noise[3_333_333..3_433_333]);
    assert_eq!(0, large.read_at(&mut part, 5 << 20).unwrap());
    drop(large);

    is_read_only(fs::write(mounted.latest().join("large"), "x"));
    is_read_only(fs::create_dir(mounted.latest().join("new")));
    is_read_only(fs::remove_dir(mounted.path().join("latest/data")));
    is_read_only(fs::remove_file(mounted.path().join("latest")));

    // What is taken and removed meanwhile comes and goes.
    write(&cluster, 1, "later", "text");
    let second = cluster.node(1).json(&["snapshot", "create"]);
    let id = &second["id"].as_str().unwrap()[..12];
    let is_there = |mounted: &Mounted| mounted.names().iter().any(|name| name.ends_with(id));
    cluster.wait_until(SOON, "the new snapshot", |_| {
        if is_there(&mounted) { Ok(()) } else { Err(format!("{:?}", mounted.names())) }
    });
    assert_eq!("text", fs::read_to_string(mounted.latest().join("later")).unwrap());
    assert_eq!(3, mounted.names().len());
    let newest = fs::read_link(mounted.path().join("latest")).unwrap();
    assert_eq!(mounted.names()[1], newest.to_str().unwrap(), "it sorts by time");
    let first = first["id"].as_str().unwrap();
    cluster.node(1).done(&["snapshot", "remove", first]);
    cluster.node(1).done(&["snapshot", "prune", "--now"]);
    cluster.wait_until(SOON, "the end of the first one", |_| {
        if mounted.names().len() == 2 { Ok(()) } else { Err(format!("{:?}", mounted.names())) }
    });
    let found = differences(&seen(&cluster.node(1).path(MOUNT)), &seen(&mounted.latest()));
    assert!(found.iter().all(|line| line.starts_with("later: ")), "{}", found.join("\n"));

    let unmounted = Command::new("umount").arg(mounted.path()).output().unwrap();
    assert!(unmounted.status.success(), "{unmounted:?}");
    assert_eq!("", mounted.ended());
}

#[test]
fn a_mount_of_snapshots_ends_when_it_is_told_to_and_says_why_it_cannot_begin() {
    if !is_possible() {
        return;
    }
    let cluster = Cluster::start(&Setup::new().mount(MOUNT).nodes(1));
    write(&cluster, 1, "file", "text");
    cluster.node(1).done(&["snapshot", "create"]);
    for (signal, is_in_use) in [(Signal::INT, false), (Signal::TERM, true), (Signal::HUP, false)] {
        let mut mounted = Mounted::new(&cluster, &[]);
        let opened = is_in_use.then(|| fs::File::open(mounted.latest().join("file")).unwrap());
        kill_process(Pid::from_child(&mounted.child), signal).unwrap();
        let said = mounted.ended();
        assert_eq!(is_in_use, said.contains("is in use"), "{said}");
        drop(opened);
    }

    let folder = tempfile::tempdir().unwrap();
    let refused = |dir: &Path, reason: &str, hint: &str| {
        let dir = dir.to_str().unwrap();
        let said = cluster.node(1).ends(&["snapshot", "mount", dir], 1);
        let begins = format!("error: cannot mount on {dir}: {reason}");
        assert!(said.starts_with(&begins) && said.contains(hint), "{said}");
    };
    let missing = folder.path().join("missing");
    refused(&missing, "No such file", &format!("hint: make it: mkdir -p {}", missing.display()));
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    refused(&file, "Not a directory", "hint: name an empty directory");
    refused(folder.path(), "it is not empty", "hint: name an empty directory");
    // Somebody killed the one that answered there.
    let mut mounted = Mounted::new(&cluster, &[]);
    mounted.child.kill().unwrap();
    mounted.child.wait().unwrap();
    refused(mounted.path(), "Transport endpoint", "hint: unmount what is left there: umount");
}

#[test]
fn others_get_into_a_mount_of_snapshots_only_if_they_are_let_in_and_then_read_what_is_theirs() {
    if !is_possible() {
        return;
    }
    let cluster = Cluster::start(&Setup::new().mount(MOUNT).nodes(1));
    for (name, mode) in [("open", 0o644), ("closed", 0o600), ("list", 0o644)] {
        write(&cluster, 1, name, "text");
        chmod(&cluster.node(1).path(MOUNT), name, mode);
    }
    // All may read it, but for user 33.
    set_attribute(&cluster.node(1).path(MOUNT), "list", "system.posix_acl_access", &acl(0));
    cluster.node(1).done(&["snapshot", "create"]);
    let mut mounted = Mounted::new(&cluster, &[]);
    assert!(!may_read(34, &mounted.latest().join("open")));
    kill_process(Pid::from_child(&mounted.child), Signal::TERM).unwrap();
    mounted.ended();
    let mounted = Mounted::new(&cluster, &["--allow-other"]);
    for (name, id, may) in
        [("open", 34, true), ("closed", 34, false), ("list", 34, true), ("list", 33, false)]
    {
        assert_eq!(may, may_read(id, &mounted.latest().join(name)), "{name}, {id}");
    }
}
