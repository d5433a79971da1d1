//! One real mount for tests, whose turns the test takes itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, RwLock};
use std::thread::JoinHandle;
use std::time::SystemTime;

use tempfile::TempDir;

use super::actor::{Actor, Place};
use super::{Shared, conflict_policy, conflicts, deep, delta, expire, open};
use crate::config::Watch;
use crate::disk::{self, Mount};
use crate::model::NodeId;
use crate::net::{self, Member, MemberState, Members};

/// A turn without anything to do takes up to a second.
const TURNS_MAX: usize = 1000;

/// A node of a cluster of its own, with a mount.
pub(super) struct Fixture {
    pub actor: Actor,
    _threads: Vec<JoinHandle<()>>,
    _folder: TempDir,
}

impl Fixture {
    /// A mount that is watched, has been scanned once and is at rest.
    pub(super) fn start() -> Self {
        Self::of("data", |_, folder| folder.join("data"), Some(Watch::Inotify))
    }

    /// The same of the conflict store, which nobody watches.
    pub(super) fn conflict_store() -> Self {
        Self::of(conflicts::MOUNT, |state, _| conflicts::folder(state), None)
    }

    fn of(name: &str, path: impl Fn(&Path, &Path) -> PathBuf, watch: Option<Watch>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let made = net::init(&state, "n1", &[], &[name.to_owned()]).unwrap();
        let marker = disk::MarkerId(made.members.mounts()[name].0);
        let path = path(&state, folder.path());
        for folder in [&path, &conflicts::folder(&state)] {
            fs::create_dir_all(folder).unwrap();
        }
        Mount::create_marker(&path, marker, name).unwrap();
        let shared = Arc::new(Shared {
            state: state.clone(),
            node: made.id,
            started: SystemTime::now(),
            actors: RwLock::default(),
            halts: RwLock::default(),
            openings: tokio::sync::watch::Sender::default(),
            links: RwLock::default(),
            members: RwLock::new(Arc::new(made.members)),
            net: OnceLock::new(),
            verifying: deep::Progress::default(),
            limits: expire::Limits::default(),
            recipes: delta::Recipes::default(),
            backup: super::backup::Backup::default(),
            stopping: std::sync::atomic::AtomicBool::new(false),
        });
        let place = Place {
            name: name.to_owned(),
            path,
            marker,
            watch,
            policy: Arc::new(conflict_policy()),
            node: made.id,
            state,
        };
        let (actor, threads) = open::open(&place, &shared).unwrap();
        let mut fixture = Self { actor, _threads: threads, _folder: folder };
        fixture.actor.start().unwrap();
        fixture.turn_until(|actor| actor.scanned && actor.engine.is_read());
        fixture
    }

    /// The cluster has these nodes as well, none of them linked.
    pub(super) fn add_members(&self, ids: &[NodeId]) {
        let mut members = Members::clone(&self.actor.shared.members());
        for &id in ids {
            let (name, addresses, state) = (id.to_string(), Vec::new(), MemberState::Active);
            members.put(Member { id, name, addresses, state, changed: 1, key: None });
        }
        *self.actor.shared.members.write().unwrap() = Arc::new(members);
    }

    /// Where the mount is.
    pub(super) fn mount(&self) -> PathBuf {
        self.actor.place.path.clone()
    }

    /// Takes turns until it is so.
    pub(super) fn turn_until(&mut self, is_so: impl Fn(&Actor) -> bool) {
        for _ in 0..TURNS_MAX {
            if is_so(&self.actor) {
                return;
            }
            self.actor.turn().unwrap();
        }
        panic!("it does not come to it in {TURNS_MAX} turns");
    }
}
