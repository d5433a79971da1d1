//! One real mount for tests, whose turns the test takes itself.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock, RwLock};
use std::thread::JoinHandle;
use std::time::SystemTime;

use tempfile::TempDir;

use super::actor::{Actor, Place};
use super::{Shared, conflict_policy, open};
use crate::config::Watch;
use crate::disk::{self, Mount};
use crate::model::NodeId;
use crate::net::{self, Member, MemberState, Members};

const MOUNT: &str = "data";

/// A turn without anything to do takes up to a second.
const TURNS_MAX: usize = 1000;

/// A node of a cluster of its own, with a mount.
pub(super) struct Fixture {
    pub actor: Actor,
    _threads: Vec<JoinHandle<()>>,
    folder: TempDir,
}

impl Fixture {
    /// A mount that is watched, has been scanned once and is at rest.
    pub(super) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let made = net::init(&state, "n1", &[], &[MOUNT.to_owned()]).unwrap();
        let marker = disk::MarkerId(made.members.mounts()[MOUNT].0);
        let path = folder.path().join(MOUNT);
        std::fs::create_dir(&path).unwrap();
        Mount::create_marker(&path, marker, MOUNT).unwrap();
        std::fs::create_dir(super::conflicts::folder(&state)).unwrap();
        let shared = Arc::new(Shared {
            state: state.clone(),
            node: made.id,
            started: SystemTime::now(),
            actors: RwLock::default(),
            halts: RwLock::default(),
            links: RwLock::default(),
            members: RwLock::new(Arc::new(made.members)),
            net: OnceLock::new(),
            stopping: std::sync::atomic::AtomicBool::new(false),
        });
        let place = Place {
            name: MOUNT.to_owned(),
            path,
            marker,
            watch: Some(Watch::Inotify),
            policy: Arc::new(conflict_policy()),
            node: made.id,
            state,
        };
        let (actor, threads) = open::open(&place, &shared).unwrap();
        let mut fixture = Self { actor, _threads: threads, folder };
        fixture.actor.start().unwrap();
        fixture.turn_until(|actor| actor.scanned && actor.engine.is_read());
        fixture
    }

    /// The cluster has these nodes as well, none of them linked.
    pub(super) fn add_members(&self, ids: &[NodeId]) {
        let mut members = Members::clone(&self.actor.shared.members());
        for &id in ids {
            let (name, addresses, state) = (id.to_string(), Vec::new(), MemberState::Active);
            members.put(Member { id, name, addresses, state, changed: 1 });
        }
        *self.actor.shared.members.write().unwrap() = Arc::new(members);
    }

    /// Where the mount is.
    pub(super) fn mount(&self) -> PathBuf {
        self.folder.path().join(MOUNT)
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
