//! Three nodes in three folders, and what the demo asks of them.
//!
//! A node's replicas are looked at with `cli::compare` alone, which knows nothing of the daemons; what
//! the daemons say is asked with the commands that a user has.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::de::DeserializeOwned;

use super::folder::Folder;
use super::interrupt::Interrupt;
use super::process::{self, Daemon};
use crate::cli::compare::{Tree, describe, differences};

/// The mounts: name, and path below the shop.
pub(super) const MOUNTS: [(&str, &str); 4] =
    [("var", "var"), ("media", "pub/media"), ("static", "pub/static"), ("etc", "app/etc")];

/// The nodes' names.
pub(super) const NODES: [&str; 3] = ["web1", "web2", "web3"];

/// How long a step waits for one thing.
const WAIT: Duration = Duration::from_secs(25);
/// How long the demo waits for anything: it ends in under a minute, whatever happens.
const WHOLE: Duration = Duration::from_secs(50);
/// Pauses between two looks: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));
/// Differences that are told of.
const LINES_MAX: usize = 6;

/// One node.
pub(super) struct Node {
    /// Its name.
    pub(super) name: &'static str,
    /// Its daemon.
    pub(super) daemon: Daemon,
    home: PathBuf,
    config: PathBuf,
}

/// The three nodes. Dropping it ends their daemons first, and then goes for the folder.
pub(super) struct Cluster {
    /// In the order of [`NODES`].
    pub(super) nodes: [Node; 3],
    /// Ends every wait.
    pub(super) interrupt: Interrupt,
    /// Where they live.
    pub(super) folder: Folder,
    end: Instant,
}

impl Node {
    fn new(name: &'static str, folder: &Path, address: &str) -> anyhow::Result<Self> {
        let home = folder.join(name);
        for (_, path) in MOUNTS {
            fs::create_dir_all(home.join("site").join(path))?;
        }
        let config = home.join("trefoil.toml");
        fs::write(&config, configuration(name, address))?;
        let daemon = Daemon::new(name, &config, &home.join("log"));
        Ok(Self { name, daemon, home, config })
    }

    /// A path of the shop on this node, such as `pub/media`.
    pub(super) fn site(&self, path: &str) -> PathBuf {
        self.home.join("site").join(path)
    }

    /// All replicas of this node, read now: paths are relative to the shop.
    pub(super) fn tree(&self) -> anyhow::Result<Tree> {
        self.tree_below("")
    }

    /// What is below `top` in the replicas, such as `pub/media/wysiwyg`, and `top` itself.
    fn tree_below(&self, top: &str) -> anyhow::Result<Tree> {
        let mut all = Tree::new();
        for (_, path) in MOUNTS.iter().filter(|(_, path)| top.starts_with(path) || top.is_empty()) {
            let tree = describe(&self.site(path)).with_context(|| self.name)?;
            let below = |name: Vec<u8>| [path.as_bytes(), b"/", &name].concat();
            all.extend(tree.into_iter().map(|(name, what)| (below(name), what)));
        }
        if !top.is_empty() {
            let is_below = |path: &[u8]| {
                path.strip_prefix(top.as_bytes())
                    .is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
            };
            all.retain(|path, _| is_below(path));
        }
        Ok(all)
    }

    /// The release in `pub/static`, without the file that switches to it.
    pub(super) fn release_files(&self) -> anyhow::Result<Tree> {
        let mut tree = describe(&self.site("pub/static")).with_context(|| self.name)?;
        tree.remove(b"deployed_version.txt".as_slice());
        Ok(tree)
    }

    /// Runs a command, which must succeed. Gives what it printed on stdout.
    pub(super) fn command(&self, args: &[&str], interrupt: &Interrupt) -> anyhow::Result<Vec<u8>> {
        let finished = process::command(&self.config, args, interrupt)?;
        if finished.status.success() {
            return Ok(finished.stdout);
        }
        let (name, args, status) = (self.name, args.join(" "), finished.status);
        bail!("{name}: `trefoil {args}`: {status}: {}", finished.stderr)
    }

    /// Runs a command with `--json`, which must succeed. Gives its answer.
    pub(super) fn json<T: DeserializeOwned>(
        &self,
        args: &[&str],
        interrupt: &Interrupt,
    ) -> anyhow::Result<T> {
        let printed = self.command(&[args, &["--json"]].concat(), interrupt)?;
        let answer = serde_json::from_slice(&printed);
        answer.with_context(|| format!("{}: cannot read the answer to {args:?}", self.name))
    }
}

impl Cluster {
    /// Makes the folders and configurations; nothing runs yet.
    pub(super) fn prepare(folder: Folder, interrupt: Interrupt) -> anyhow::Result<Self> {
        let [a, b, c] = NODES.map(|name| Node::new(name, folder.path(), &free_address(name)?));
        Ok(Self { nodes: [a?, b?, c?], interrupt, folder, end: Instant::now() + WHOLE })
    }

    /// Waits until `look` gives something; it says what is missing otherwise.
    ///
    /// # Errors
    /// What was missing last, when it takes too long; at once when a daemon ended by itself, or the
    /// demo was told to stop.
    pub(super) fn wait<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let began = Instant::now();
        let end = (began + WAIT).min(self.end);
        let mut pause = PAUSES.0;
        loop {
            // What a dead node cannot show is not proven, even if the others are equal.
            self.check_daemons()?;
            let looked = Instant::now();
            let missing = match look(self) {
                Ok(found) => return Ok(found),
                Err(missing) => missing,
            };
            if Instant::now() >= end {
                let waited = format!("no {what} after {:.1} s", began.elapsed().as_secs_f64());
                let all = if end == self.end { "; the demo's time is used up" } else { "" };
                return Err(missing.context(waited + all));
            }
            // Looking shall not take more time from the daemons than it leaves them.
            self.interrupt.pause(pause.max(looked.elapsed()))?;
            pause = (pause * 3 / 2).min(PAUSES.1);
        }
    }

    /// Fails if a daemon that should be running has ended.
    pub(super) fn check_daemons(&mut self) -> anyhow::Result<()> {
        self.nodes.iter_mut().try_for_each(|node| node.daemon.check())
    }

    /// Waits until the replicas of all running nodes are what is expected, or, if nothing is, equal
    /// to each other. Gives them.
    pub(super) fn wait_equal(&mut self, expected: Option<&Tree>) -> anyhow::Result<Tree> {
        self.wait_equal_below("", expected)
    }

    /// Like [`Self::wait_equal`], for what is at and below `top`, so that a step does not fail for
    /// what another left behind.
    pub(super) fn wait_equal_below(
        &mut self,
        top: &str,
        expected: Option<&Tree>,
    ) -> anyhow::Result<Tree> {
        self.wait("equal replicas", |cluster| {
            let running = cluster.nodes.iter().filter(|node| node.daemon.is_running());
            let mut found: Option<(&str, Tree)> = None;
            for node in running {
                let tree = node.tree_below(top)?;
                let reference = expected.map(|tree| ("expected", tree));
                let reference =
                    reference.or_else(|| found.as_ref().map(|(name, tree)| (*name, tree)));
                if let Some((name, reference)) = reference {
                    let lines = differences(reference, &tree);
                    told(&format!("{name} / {}", node.name), &lines)?;
                }
                found.get_or_insert((node.name, tree));
            }
            found.map(|(_, tree)| tree).context("no node is running")
        })
    }
}

/// Fails with the first of the lines, if there are any.
pub(super) fn told(about: &str, lines: &[String]) -> anyhow::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let shown = &lines[..lines.len().min(LINES_MAX)];
    bail!("{} differences between {about}:\n{}", lines.len(), shown.join("\n"))
}

fn configuration(name: &str, address: &str) -> String {
    let mut text = format!(
        "[node]\nname = \"{name}\"\nstate = \"state\"\nlisten = \"{address}\"\n\
         advertise = \"{address}\"\n\n[control]\nsocket = \"control.sock\"\n"
    );
    for (mount, path) in MOUNTS {
        text.push_str(&format!(
            "\n[[mount]]\nname = \"{mount}\"\npath = \"site/{path}\"\npreset = \"magento\"\n"
        ));
    }
    text
}

/// A loopback address of the node's own with a UDP port that is free.
///
/// The port is free when it is looked at. As each process has a network 127.x.y.0 by its id,
/// nothing else is likely to take it before the daemon does.
fn free_address(name: &str) -> anyhow::Result<String> {
    let host = NODES.iter().position(|node| *node == name).unwrap_or(NODES.len());
    let [high, low] = u16::try_from(std::process::id() % 64_000 + 1_000)?.to_be_bytes();
    let ip = IpAddr::V4(Ipv4Addr::new(127, high, low, u8::try_from(host + 1)?));
    let socket =
        UdpSocket::bind((ip, 0)).with_context(|| format!("cannot use the address {ip}"))?;
    Ok(socket.local_addr()?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_configuration_of_a_node_is_valid() {
        let folder = Folder::open(None).unwrap();
        let node = Node::new("web1", folder.path(), "127.0.0.1:7").unwrap();
        let config = Config::load(&node.config).unwrap();
        let names: Vec<_> = config.mounts.iter().map(|mount| mount.name.as_str()).collect();
        assert_eq!(MOUNTS.map(|(name, _)| name).as_slice(), names);
    }

    #[test]
    fn a_difference_is_found_without_any_daemon() {
        let folder = Folder::open(None).unwrap();
        let node = Node::new("web1", folder.path(), "127.0.0.1:7").unwrap();
        let before = node.tree().unwrap();
        fs::write(node.site("pub/media/a"), "a").unwrap();
        let lines = differences(&before, &node.tree().unwrap());
        assert_eq!(vec!["pub/media/a: only in the second"], lines);
        assert!(told("", &lines).is_err_and(|error| error.to_string().contains("pub/media/a")));
    }
}
