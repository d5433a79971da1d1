//! Slow housekeeping beside the mounts: displaced files, trash, stage and conflict store.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::{ActorHandle, Shared, conflicts, expire};
use crate::disk;

/// How often displaced files are looked at again.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How long a writer may go on with a file after it was displaced before it is looked at.
const LOOK_AFTER: Duration = Duration::from_secs(3);

/// How often what is old is cleared away.
const CLEAR_EVERY: Duration = Duration::from_secs(3600);

/// How long fetched content that nobody asked for again stays.
const STAGE_FOR: Duration = Duration::from_secs(24 * 3600);

/// Runs until the daemon stops.
pub(super) fn run(shared: &Arc<Shared>) {
    let mut cleared: Option<Instant> = None;
    while !shared.is_stopping() {
        std::thread::park_timeout(LOOK_EVERY);
        let clear = cleared.is_none_or(|at| at.elapsed() >= CLEAR_EVERY);
        for name in shared.actor_names() {
            let Some(actor) = shared.actor(&name) else { continue };
            for late in disk::look_again(&actor.mount, LOOK_AFTER) {
                if let Err(error) = conflicts::import_late(shared, &name, &late) {
                    tracing::error!(mount = name, path = %late.path, error = %error,
                        "cannot keep what was written to a replaced file");
                }
            }
            shared.import_kept(&name);
            if clear {
                clear_mount(shared, &name, &actor);
            }
        }
        if clear {
            cleared = Some(Instant::now());
            if let Err(error) = expire::clear_conflicts(shared, SystemTime::now()) {
                tracing::warn!(error = %error, "cannot clear the conflict store");
            }
        }
    }
}

fn clear_mount(shared: &Shared, name: &str, actor: &ActorHandle) {
    if let Err(error) = expire::clear_trash(shared, name, actor, SystemTime::now()) {
        tracing::warn!(mount = name, error = %error, "cannot clear the trash");
    }
    if let Err(error) = disk::expire_stage(&actor.mount, STAGE_FOR) {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(mount = name, error, "cannot clear the stage");
    }
}
