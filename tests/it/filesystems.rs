//! Mounts on file systems of their own, and what happens when those fail: full, read-only, with
//! errors, gone, replaced. And everything that users do, on ext4, xfs and btrfs at once.
//!
//! Each needs root, to mount files as file systems; without it, that is said and the test passes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::cases::{CASES, folder};
use crate::cluster::{Cluster, Setup};
use crate::files::{MOUNT, SOON};
use crate::steps::is_root;
use crate::tree::describe;

/// Runs a program, which must succeed.
#[track_caller]
fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {}\n{said}", output.status);
}

/// A file system in a file, with the mount's root in a directory of it. Unmounted in the end.
struct FileSystem {
    folder: tempfile::TempDir,
}

impl FileSystem {
    /// Makes and mounts one of `kind`.
    #[track_caller]
    fn new(kind: &str, bytes: u64) -> Self {
        let folder = tempfile::Builder::new().prefix("trefoil-fs-").tempdir().unwrap();
        let system = Self { folder };
        fs::File::create(system.image()).unwrap().set_len(bytes).unwrap();
        fs::create_dir(system.at()).unwrap();
        let quiet = if kind == "ext4" { ["-q", "-F"] } else { ["-q", "-f"] };
        let image = system.image();
        run(&format!("mkfs.{kind}"), &[quiet[0], quiet[1], image.to_str().unwrap()]);
        system.mount();
        fs::create_dir(system.root()).unwrap();
        system
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn at(&self) -> PathBuf {
        self.folder.path().join("at")
    }

    /// Where the mirrored mount is.
    fn root(&self) -> PathBuf {
        self.at().join("root")
    }

    #[track_caller]
    fn mount(&self) {
        let (image, at) = (self.image(), self.at());
        run("mount", &["-o", "loop", image.to_str().unwrap(), at.to_str().unwrap()]);
    }

    /// Unmounts it as an administrator does, who does not wait for those who use it.
    #[track_caller]
    fn unmount(&self) {
        run("umount", &["-l", self.at().to_str().unwrap()]);
    }

    #[track_caller]
    fn remount(&self, how: &str) {
        run("mount", &["-o", &format!("remount,{how}"), self.at().to_str().unwrap()]);
    }

    /// Takes all space but so much.
    fn fill(&self, bytes_left: u64) {
        let stat = rustix::fs::statvfs(self.at()).unwrap();
        let bytes = stat.f_bavail * stat.f_frsize - bytes_left;
        fs::write(self.at().join("filler"), vec![7; usize::try_from(bytes).unwrap()]).unwrap();
        // What is only promised by the page cache is not taken yet.
        rustix::fs::syncfs(fs::File::open(self.at()).unwrap()).unwrap();
    }

    fn empty(&self) {
        fs::remove_file(self.at().join("filler")).unwrap();
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        while Command::new("umount").arg("-l").arg(self.at()).output().unwrap().status.success() {}
    }
}

/// The first file systems are those of the last nodes of a cluster of three.
struct Lab {
    // Ends before what it lies on.
    cluster: Cluster,
    systems: Vec<FileSystem>,
}

impl Lab {
    /// A cluster with the mount of node `n + 1` at the root of system `n`, and those after it.
    #[track_caller]
    fn new(systems: Vec<FileSystem>) -> Self {
        let mut cluster = Cluster::prepare(&Setup::new().mount(MOUNT));
        let first = 4 - systems.len();
        for (n, system) in (first..).zip(&systems) {
            let usual = cluster.node(n).path(MOUNT);
            fs::remove_dir(&usual).unwrap();
            std::os::unix::fs::symlink(system.root(), &usual).unwrap();
            let config = fs::read_to_string(cluster.node(n).config()).unwrap();
            let text = |path: &Path| path.to_str().unwrap().to_owned();
            let config = config.replace(&text(&usual), &text(&system.root()));
            fs::write(cluster.node(n).config(), config).unwrap();
        }
        for n in 1..=3 {
            cluster.enrol(n);
            cluster.node_mut(n).start();
            cluster.wait_ready(n);
        }
        Self { cluster, systems }
    }

    fn path(&self, n: usize, name: &str) -> PathBuf {
        self.cluster.node(n).path(MOUNT).join(name)
    }

    fn write(&self, n: usize, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(n, name), text).unwrap();
    }

    #[track_caller]
    fn wait_text(&mut self, nodes: &[usize], name: &str, text: &str) {
        for &n in nodes {
            let path = self.path(n, name);
            self.cluster.wait_until(SOON, &format!("{name} on node {n}"), |_| {
                match fs::read_to_string(&path) {
                    Ok(found) if found == text => Ok(()),
                    other => Err(format!("{:?}", other.map(|found| found.len()))),
                }
            });
        }
    }

    /// Waits until node 3 lists a problem of each path that says this, with its next try.
    #[track_caller]
    fn wait_problems(&mut self, paths: &[&str], reason: &str) {
        self.cluster.wait_until(SOON, "problems", |cluster| {
            let status = cluster.node(3).status()?["mounts"][0].clone();
            let problems = status["problems"].as_array().unwrap();
            let is = |problem: &Value, path: &str| {
                let said = problem["reason"].as_str().unwrap_or_default().to_lowercase();
                problem["path"] == path && said.contains(reason) && !problem["next_retry"].is_null()
            };
            let listed = |path: &&str| problems.iter().any(|problem| is(problem, path));
            if paths.iter().all(listed) { Ok(()) } else { Err(status.to_string()) }
        });
        self.cluster.node(3).ends(&["status"], 3);
    }

    /// Waits until nothing is wrong any more on any node, and everything is the same.
    #[track_caller]
    fn wait_well(&mut self) {
        self.cluster.wait_until(SOON, "end of the problems", |cluster| {
            let status = cluster.node(3).status()?;
            let well = status["mounts"][0]["problem_count"] == 0
                && status["guards"] == Value::from(Vec::<()>::new());
            if well { Ok(()) } else { Err(status.to_string()) }
        });
        self.cluster.wait_in_sync(SOON);
        self.cluster.wait_equal(SOON);
        for n in 1..=3 {
            self.cluster.node(n).ends(&["status"], 0);
        }
    }

    /// Waits until node 3 says that its mount is halted, why, and what to do.
    #[track_caller]
    fn wait_halted(&mut self, reason: &str, hint: &str) {
        self.cluster.wait_until(SOON, "halt", |cluster| {
            let guard = cluster.node(3).status()?["guards"][0].clone();
            let has = |key: &str, text| guard[key].as_str().unwrap_or_default().contains(text);
            let told = guard["mount"] == MOUNT && has("reason", reason) && has("hint", hint);
            if told { Ok(()) } else { Err(guard.to_string()) }
        });
    }
}

/// Whether the test can run.
fn is_possible() -> bool {
    let programs = ["mkfs.ext4", "mkfs.xfs", "mkfs.btrfs", "mount"];
    let is_there = |program: &&str| Command::new(program).arg("-V").output().is_ok();
    let why = match () {
        () if !is_root() => "only root can mount file systems",
        () if !Path::new("/dev/loop-control").exists() => "there are no loop devices",
        () if !programs.iter().all(is_there) => "a program that makes file systems is missing",
        () => return true,
    };
    eprintln!("SKIPPED: {why}");
    false
}

fn small(kind: &str) -> FileSystem {
    let mib = match kind {
        "xfs" => 320,
        "btrfs" => 128,
        _ => 32,
    };
    FileSystem::new(kind, mib << 20)
}

#[test]
fn a_full_disk_holds_up_only_what_does_not_fit_and_recovers_by_itself() {
    if !is_possible() {
        return;
    }
    let mut lab = Lab::new(vec![small("ext4")]);
    lab.write(1, "before", "x");
    lab.write(1, "replaced", "old");
    lab.wait_text(&[2, 3], "before", "x");
    lab.wait_text(&[3], "replaced", "old");
    lab.systems[0].fill(1 << 20);
    let large = "l".repeat(3 << 20);
    lab.write(1, "large", &large);
    lab.write(2, "replaced", &large);
    lab.wait_text(&[1, 2], "large", &large);
    lab.wait_problems(&["large", "replaced"], "no space left on device");
    // The others go on among themselves, and what fits still arrives.
    for n in 0..20 {
        lab.write(1 + n % 2, &format!("small-{n}"), "fits");
    }
    for n in 0..20 {
        lab.wait_text(&[1, 2, 3], &format!("small-{n}"), "fits");
    }
    assert_eq!("old", fs::read_to_string(lab.path(3, "replaced")).unwrap());
    assert!(!lab.path(3, "large").exists(), "never half of it");
    lab.systems[0].empty();
    lab.wait_well();
    lab.wait_text(&[3], "large", &large);
    lab.wait_text(&[3], "replaced", &large);
}

#[test]
fn a_quota_holds_up_only_what_does_not_fit_and_recovers_by_itself() {
    if !is_possible() {
        return;
    }
    // Quotas of btrfs: those of the other file systems are not in every kernel.
    let system = small("btrfs");
    fs::remove_dir(system.root()).unwrap();
    let (at, root) = (system.at(), system.root());
    let (at, root) = (at.to_str().unwrap(), root.to_str().unwrap());
    run("btrfs", &["quota", "enable", at]);
    run("btrfs", &["subvolume", "create", root]);
    run("btrfs", &["qgroup", "limit", "4M", root]);
    let mut lab = Lab::new(vec![system]);
    let large = "l".repeat(8 << 20);
    lab.write(1, "large", &large);
    lab.wait_text(&[2], "large", &large);
    lab.wait_problems(&["large"], "quota exceeded");
    lab.write(2, "small", "fits");
    lab.wait_text(&[1, 2, 3], "small", "fits");
    run("btrfs", &["qgroup", "limit", "none", root]);
    lab.wait_well();
    lab.wait_text(&[3], "large", &large);
}

#[test]
fn a_file_system_that_becomes_read_only_holds_up_nobody_else_and_recovers_by_itself() {
    if !is_possible() {
        return;
    }
    let mut lab = Lab::new(vec![small("ext4")]);
    lab.write(1, "changed", "old");
    lab.write(1, "removed", "old");
    lab.wait_text(&[2, 3], "removed", "old");
    lab.cluster.wait_in_sync(SOON);
    lab.systems[0].remount("ro");
    lab.write(1, "changed", "new");
    lab.write(2, "new", "new");
    fs::remove_file(lab.path(2, "removed")).unwrap();
    lab.wait_text(&[1, 2], "changed", "new");
    lab.wait_text(&[1, 2], "new", "new");
    lab.wait_problems(&["changed", "new", "removed"], "read-only file system");
    assert_eq!("old", fs::read_to_string(lab.path(3, "changed")).unwrap());
    lab.systems[0].remount("rw");
    lab.wait_well();
    lab.wait_text(&[3], "changed", "new");
    assert!(!lab.path(3, "removed").exists());
}

#[test]
fn a_disk_with_errors_holds_up_nobody_else_and_recovers_by_itself() {
    let mut cluster = Cluster::start(&Setup::new().mount(MOUNT));
    cluster.node_mut(3).stop();
    cluster.node_mut(3).start_with(&[
        "apply/rename.create:1-15:EIO",
        "apply/rename.apply:1-4:EIO",
        "read/read.content:1-4:EIO",
        "sync.fetched:1-4:EIO",
    ]);
    cluster.wait_ready(3);
    let mut lab = Lab { cluster, systems: Vec::new() };
    for n in 0..5 {
        lab.write(1, &format!("f{n}"), "of node 1");
    }
    lab.wait_text(&[1, 2], "f4", "of node 1");
    lab.wait_problems(&["f0"], "cannot rename to the target: input/output error");
    lab.wait_well();
    lab.write(2, "f0", "replaced");
    lab.wait_text(&[1, 2], "f0", "replaced");
    lab.wait_problems(&["f0"], "cannot rename over the target: input/output error");
    lab.wait_well();
    lab.write(3, "mine", "of node 3");
    lab.wait_problems(&["mine"], "cannot read: input/output error");
    lab.wait_text(&[1, 2], "mine", "of node 3");
    lab.wait_well();
    let large = "l".repeat(2 << 20);
    lab.write(1, "large", &large);
    lab.wait_problems(&["large"], "cannot make fetched content durable: input/output error");
    lab.wait_well();
    lab.wait_text(&[2, 3], "large", &large);
}

#[test]
fn a_file_system_that_is_unmounted_is_held_and_goes_on_when_it_is_back() {
    if !is_possible() {
        return;
    }
    let mut lab = Lab::new(vec![small("ext4")]);
    for name in ["a", "b", "c"] {
        lab.write(1, name, "kept");
        lab.wait_text(&[1, 2, 3], name, "kept");
    }
    lab.cluster.wait_in_sync(SOON);
    lab.systems[0].unmount();
    lab.wait_halted("", "mount the file system again");
    lab.write(2, "meanwhile", "new");
    lab.wait_text(&[1], "meanwhile", "new");
    // A person makes the directory anew, and the marker with it: it is not the same mount.
    let (root, real) = (lab.systems[0].root(), lab.path(1, ".trefoil/marker"));
    fs::create_dir_all(root.join(".trefoil")).unwrap();
    fs::copy(real, root.join(".trefoil/marker")).unwrap();
    lab.wait_halted("another marker file", "trefoil");
    for name in ["a", "b", "c"] {
        lab.wait_text(&[1, 2], name, "kept");
    }
    // The daemon tries again each second whether it is the right one, and makes files to find out.
    lab.cluster.wait_until(SOON, "removal", |_| {
        fs::remove_dir_all(&root).map_err(|error| error.to_string())
    });
    // It really is unmounted: nobody holds it, so that it can be checked and moved elsewhere.
    let image = lab.systems[0].image();
    lab.cluster.wait_until(SOON, "free image", |_| {
        let used = Command::new("losetup").arg("-j").arg(&image).output().unwrap().stdout;
        if used.is_empty() { Ok(()) } else { Err(String::from_utf8_lossy(&used).into_owned()) }
    });
    // Another device number: one more loop device is in use before it.
    let other = small("ext4");
    lab.systems[0].mount();
    lab.wait_well();
    drop(other);
    for name in ["a", "b", "c"] {
        lab.wait_text(&[1, 2, 3], name, "kept");
    }
    lab.wait_text(&[3], "meanwhile", "new");
    lab.write(3, "again", "new");
    lab.wait_text(&[1, 2], "again", "new");
}

#[test]
fn everything_that_users_do_is_mirrored_between_ext4_xfs_and_btrfs() {
    if !is_possible() {
        return;
    }
    let mut lab = Lab::new(["ext4", "xfs", "btrfs"].map(small).into());
    let dirs = |lab: &Lab, n: usize| {
        let replica = lab.cluster.node(n).path(MOUNT);
        CASES.iter().map(move |case| (case, folder(&replica, case))).collect::<Vec<_>>()
    };
    for (case, dir) in dirs(&lab, 1) {
        fs::create_dir(&dir).unwrap();
        (case.make)(&dir);
    }
    lab.cluster.wait_equal(SOON);
    for (case, dir) in dirs(&lab, 2) {
        (case.change)(&dir);
    }
    lab.cluster.wait_equal(SOON);
    for n in 1..=3 {
        for (case, dir) in dirs(&lab, n) {
            eprintln!("checking {} on node {n}", case.name);
            (case.check)(&dir);
        }
    }
    lab.wait_well();
    lab.cluster.node(1).done(&["verify", "--deep"]);
    crate::mirror::special_files_are_reported_and_left_alone(&mut lab.cluster);
    // From one of the others to the first.
    for (_, dir) in dirs(&lab, 3) {
        fs::remove_dir_all(dir).unwrap();
    }
    lab.cluster.wait_equal(SOON);
    for n in 1..=3 {
        assert!(describe(&lab.cluster.node(n).path(MOUNT)).unwrap().is_empty(), "on node {n}");
    }
    lab.wait_well();
}
