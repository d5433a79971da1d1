//! A user of the machine without any rights, who owns a directory of a mount and races the daemon,
//! which is root: directories become symbolic links to outside and back, files become FIFOs and
//! sockets, while the daemon reads, and applies what another node writes there.
//!
//! Nothing outside may be read, which is seen by a secret that must not turn up in any replica, stage,
//! trash or conflict store, nor written, which is seen by all that `stat` says of it. As root only.

use std::fs;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, ResolveFlags, mknodat, openat, openat2,
    renameat_with, unlinkat,
};

use crate::cluster::{Cluster, Setup};
use crate::steps::is_root;

const MOUNT: &str = "var";
const NOBODY: u32 = 65_534;
const SECRET: &str = "the-secret-that-only-root-may-read-5e7c";
const FOLDER: &str = "TREFOIL_RACE_FOLDER";
const OUTSIDE: &str = "TREFOIL_RACE_OUTSIDE";
const SECONDS: &str = "TREFOIL_RACE_SECONDS";
const SEED: &str = "TREFOIL_RACE_SEED";

/// Small, seeded.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Not a test of its own: the process of the user, started by those below.
#[test]
#[ignore = "the process of the user, which the tests of this file start"]
fn racer() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    assert_eq!(NOBODY, rustix::process::geteuid().as_raw());
    let number = |name| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let (folder, outside) = (PathBuf::from(folder), PathBuf::from(std::env::var(OUTSIDE).unwrap()));
    let end = Instant::now() + Duration::from_secs(number(SECONDS));
    let mut dice = Dice(number(SEED));
    assert!(fs::read(outside.join("secret")).is_err(), "the user may not read it himself");
    let mut rounds = 0_u64;
    while Instant::now() < end {
        // Errors are part of it: two of these race each other, and the daemon.
        drop(trick(&folder, &outside, &mut dice));
        rounds += 1;
    }
    assert!(rounds > 10, "{rounds} rounds");
}

fn trick(folder: &Path, outside: &Path, dice: &mut Dice) -> std::io::Result<()> {
    let d = folder.join(format!("d{}", dice.below(3)));
    let aside = folder.join(format!("aside{}", dice.below(1000)));
    let f = d.join(["secret", "a", "folder"][usize::try_from(dice.below(3)).unwrap()]);
    match dice.below(9) {
        0 | 1 => {
            fs::create_dir_all(d.join("folder"))?;
            put(&d.join("secret"), &format!("harmless {}", dice.below(99)))?;
            put(&d.join("folder/kept"), &format!("harmless {}", dice.below(99)))?;
        }
        // A directory is a link to outside for some microseconds, and then it is not.
        2 | 3 => {
            fs::rename(&d, &aside)?;
            symlink(outside, &d)?;
            spin(dice);
            fs::remove_file(&d)?;
            fs::rename(&aside, &d)?;
        }
        4 => {
            symlink(outside, &aside)?;
            for _ in 0..2 + 2 * dice.below(20) {
                renameat_with(CWD, &aside, CWD, &d, RenameFlags::EXCHANGE)?;
                spin(dice);
            }
            drop(fs::remove_file(&aside));
            fs::remove_dir_all(&aside)?;
        }
        5 => {
            symlink(outside.join("secret"), &aside)?;
            fs::rename(&aside, &f)?;
            spin(dice);
            put(&aside, "harmless")?;
            fs::rename(&aside, &f)?;
        }
        6 => {
            // Refused where hard links of others' files are protected, as is usual.
            fs::hard_link(outside.join("secret"), &aside)?;
            fs::rename(&aside, &f)?;
        }
        7 => {
            mknodat(CWD, &aside, FileType::Fifo, Mode::from_raw_mode(0o666), 0)?;
            fs::rename(&aside, &f)?;
        }
        _ => {
            drop(UnixListener::bind(&aside)?);
            fs::rename(&aside, &f)?;
        }
    }
    Ok(())
}

/// Writes a file. What is there may be a FIFO meanwhile, at which an ordinary open would wait.
fn put(path: &Path, text: &str) -> std::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NONBLOCK;
    let file = openat(CWD, path, flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o644))?;
    fs::File::from(file).write_all(text.as_bytes())
}

fn spin(dice: &mut Dice) {
    for _ in 0..dice.below(50) {
        std::thread::yield_now();
    }
}

/// What a process of `NOBODY` may run: the test's own file may lie where only root comes.
fn start_racer(
    program: &Path,
    folder: &Path,
    outside: &Path,
    (seconds, seed): (u64, u64),
) -> Child {
    Command::new(program)
        .args(["--exact", "local_user::racer", "--ignored", "--quiet", "--nocapture"])
        .env(FOLDER, folder)
        .env(OUTSIDE, outside)
        .env(SECONDS, seconds.to_string())
        .env(SEED, seed.to_string())
        .current_dir("/")
        .uid(NOBODY)
        .gid(NOBODY)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// All that can be told of a tree without following a link, a line a path. Reading changes none of it.
fn facts(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let about = fs::symlink_metadata(&path).unwrap();
        let content = if about.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        lines.push(format!(
            "{} {:o} {}:{} links {} changed {}.{} {content:?}",
            path.display(),
            about.mode(),
            about.uid(),
            about.gid(),
            about.nlink(),
            about.ctime(),
            about.ctime_nsec(),
        ));
        if about.is_dir() {
            pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    lines.sort();
    lines
}

/// The files below `root` that contain the secret.
fn leaks(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        // Whatever goes meanwhile was looked at by whoever took it away, or will be.
        let Ok(about) = fs::symlink_metadata(&path) else { continue };
        if about.is_dir() {
            let Ok(entries) = fs::read_dir(&path) else { continue };
            pending.extend(entries.flatten().map(|entry| entry.path()));
        } else if about.is_file() {
            let Ok(bytes) = fs::read(&path) else { continue };
            if bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()) {
                found.push(path);
            }
        }
    }
    found
}

/// What an application on the other node does meanwhile, with the care that a root process needs among
/// links that others make: no link is followed.
fn write_elsewhere(root: &OwnedFd, dice: &mut Dice) -> rustix::io::Result<()> {
    let contained = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    // One level is refused by what the kernel does with a link at the end of a path; the second is not.
    let below = ["", "/folder"][usize::try_from(dice.below(2)).unwrap()];
    let dir = format!("shop/d{}{below}", dice.below(3));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = openat2(root, &dir, flags, Mode::empty(), contained)?;
    let name = ["secret", "planted", "a", "kept"][usize::try_from(dice.below(4)).unwrap()];
    if dice.below(4) == 0 {
        return unlinkat(&dir, name, AtFlags::empty());
    }
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mode = Mode::from_raw_mode(0o600 + u32::try_from(dice.below(0o77)).unwrap());
    let file = openat(dir.as_fd(), name, flags | OFlags::CLOEXEC, mode)?;
    let mut file = fs::File::from(file);
    drop(write!(file, "of the other node, {}", dice.below(1000)));
    rustix::fs::fchmod(&file, mode)
}

fn race(seconds: u64) {
    if !is_root() {
        eprintln!("SKIPPED: a race against a user without rights has to be started as root");
        return;
    }
    // The tricks remove more than any person means to.
    let setup = Setup::new().nodes(2).mount(MOUNT);
    let setup = setup.mount_lines("[class.normal]\ndelete_budget = \"off\"");
    let mut cluster = Cluster::start(&setup);
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    let mount = cluster.node(1).path(MOUNT);
    mount.ancestors().take(4).for_each(open);
    let shop = mount.join("shop");
    for n in 0..3 {
        fs::create_dir_all(shop.join(format!("d{n}/folder"))).unwrap();
        chown(shop.join(format!("d{n}/folder")), Some(NOBODY), Some(NOBODY)).unwrap();
        chown(shop.join(format!("d{n}")), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    chown(&shop, Some(NOBODY), Some(NOBODY)).unwrap();
    let outside = tempfile::tempdir().unwrap();
    open(outside.path());
    fs::write(outside.path().join("secret"), SECRET).unwrap();
    fs::set_permissions(outside.path().join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::create_dir(outside.path().join("folder")).unwrap();
    fs::write(outside.path().join("folder/kept"), SECRET).unwrap();
    fs::set_permissions(outside.path().join("folder/kept"), fs::Permissions::from_mode(0o600))
        .unwrap();
    cluster.wait_equal(Duration::from_secs(20));
    let before = facts(outside.path());

    let tools = tempfile::tempdir().unwrap();
    open(tools.path());
    let program = tools.path().join("racer");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut racers: Vec<Child> =
        (1..=2).map(|n| start_racer(&program, &shop, outside.path(), (seconds, n))).collect();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, cluster.node(2).path(MOUNT), flags, Mode::empty()).unwrap();
    let mut dice = Dice(7);
    let mut written = 0_u64;
    let late = Instant::now() + Duration::from_secs(seconds + 60);
    let statuses: Vec<_> = racers
        .iter_mut()
        .map(|racer| {
            loop {
                if let Some(status) = racer.try_wait().unwrap() {
                    break status;
                }
                written += u64::from(write_elsewhere(&root, &mut dice).is_ok());
                if Instant::now() > late {
                    // Shown by its status.
                    drop(racer.kill());
                }
                std::thread::yield_now();
            }
        })
        .collect();
    assert!(statuses.iter().all(std::process::ExitStatus::success), "{statuses:?}");
    assert!(written > 10, "the other node wrote {written} times");

    let home = |n: usize| cluster.node(n).config().parent().unwrap().to_owned();
    for n in [1, 2] {
        assert_eq!(Vec::<PathBuf>::new(), leaks(&home(n)), "of node {n}");
    }
    assert_eq!(before, facts(outside.path()));
    // What is left of it is mirrored, once the tricks are taken away.
    cluster.wait_until(Duration::from_secs(60), "the tricks to go", |_| {
        // What the other node wrote last may come just then.
        match fs::remove_dir_all(&shop) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
            _ => Ok(()),
        }
    });
    fs::write(mount.join("after"), "the race").unwrap();
    cluster.wait_equal(Duration::from_secs(60));
    assert_eq!(before, facts(outside.path()));
    eprintln!("raced for {seconds} s against {written} writes of the other node");
}

#[test]
fn a_user_who_races_the_daemon_has_it_read_and_write_nothing_outside() {
    race(8);
}

#[test]
#[ignore = "a minute; tests/run --large"]
fn a_user_who_races_the_daemon_for_a_minute_has_it_read_and_write_nothing_outside() {
    race(60);
}
