//! Why a mount is halted, in words, and what a person can do about it.
//!
//! In: what was refused. Out: a [`Halt`]. It changes nothing; that a mount goes on is decided where
//! it was halted.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::path::Path;

use crate::disk::MountError;
use crate::disk::watch::WatchError;

/// Why a mount takes no part for now, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Halt {
    pub reason: String,
    pub hint: String,
}

impl Halt {
    /// It is not known yet whether the mount can be opened.
    pub(super) fn opening() -> Self {
        Self { reason: "it is being opened".to_owned(), hint: "wait a moment".to_owned() }
    }

    /// A directory that nobody has said of yet that it is the right one.
    pub(super) fn unmarked(name: &str, path: &Path) -> Self {
        let path = path.display();
        Self {
            reason: format!("{path} has no marker yet"),
            hint: format!("if it is the right directory, run `trefoil mark {name}`"),
        }
    }

    /// It has the right marker, in another file than it was.
    pub(super) fn copied(reason: String, name: &str, path: &Path) -> Self {
        let path = path.display();
        let hint = format!(
            "mount the file system again, and mirroring goes on by itself. If {path} is its copy, with \
             all its files, run `trefoil mark {name}`"
        );
        Self { reason: format!("cannot use {path}: {reason}"), hint }
    }

    /// A mount that was never open here and whose directory is not there.
    pub(super) fn no_directory(name: &str, path: &Path) -> Self {
        let path = path.display();
        Self {
            reason: format!("there is no directory {path}"),
            hint: format!("make it: mkdir -p {path}; then run `trefoil mark {name}`"),
        }
    }

    /// The directory is not what it should be.
    pub(super) fn unusable(error: &MountError, path: &Path) -> Self {
        let shown = path.display();
        let hint = match error {
            MountError::InUse => "end the other daemon".to_owned(),
            MountError::NotOurs { .. } => {
                format!("give {shown}/.trefoil to the user that the daemon runs as")
            }
            MountError::OtherMarker { .. } => format!(
                "is {shown} the right directory? Correct the configuration, or mount the right \
                 file system"
            ),
            MountError::BadMarker | MountError::Moved | MountError::NoMarker => again(),
            MountError::Refused(_) if path.exists() => format!("look after {shown}"),
            MountError::Refused(_) => again(),
        };
        let reason = format!("cannot use {shown}: {}", super::chain(error));
        Self { reason, hint: by_itself(&hint) }
    }

    /// The directory is there, but changes in it would go unnoticed.
    pub(super) fn unwatched(error: &WatchError, path: &Path) -> Self {
        let hint = match error {
            WatchError::TooManyWatches => sysctl("fs.inotify.max_user_watches=1048576"),
            WatchError::TooManyInstances => sysctl("fs.inotify.max_user_instances=1024"),
            WatchError::Fanotify { .. } => {
                return Self {
                    reason: super::chain(error),
                    hint: "run the daemon as root, or set `watch = \"auto\"` for this mount; then \
                           restart the daemon"
                        .to_owned(),
                };
            }
            WatchError::Inotify { .. }
            | WatchError::Cookie { .. }
            | WatchError::Timeout
            | WatchError::Lost(_) => format!("look after {}", path.display()),
        };
        Self { reason: super::chain(error), hint: by_itself(&hint) }
    }

    /// What trefoil keeps about the mount cannot be used.
    pub(super) fn state(reason: String, state: &Path) -> Self {
        Self { reason, hint: by_itself(&format!("look after {}", state.display())) }
    }
}

/// For a mount that was there and is not.
fn again() -> String {
    "mount the file system again, or restore the directory with its .trefoil".to_owned()
}

fn sysctl(setting: &str) -> String {
    format!("run `sysctl -w {setting}`, and put it into a file in /etc/sysctl.d")
}

fn by_itself(hint: &str) -> String {
    format!("{hint}; mirroring goes on by itself")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_fits_the_reason() {
        let gone = Halt::unusable(&MountError::NoMarker, Path::new("/srv/media"));
        assert!(gone.hint.starts_with("mount the file system again"), "{gone:?}");
        assert!(gone.hint.ends_with("goes on by itself"), "{gone:?}");
        for (error, what) in [
            (WatchError::TooManyWatches, "fs.inotify.max_user_watches=1048576"),
            (WatchError::TooManyInstances, "fs.inotify.max_user_instances=1024"),
        ] {
            let halt = Halt::unwatched(&error, Path::new("/srv/media"));
            assert!(halt.hint.contains(what), "{halt:?}");
            assert!(!halt.hint.contains("file system"), "{halt:?}");
        }
        let source = std::io::Error::from_raw_os_error(1);
        let refused = WatchError::Fanotify { doing: "make a queue", source };
        let halt = Halt::unwatched(&refused, Path::new("/srv/media"));
        assert!(halt.hint.contains("watch = \"auto\""), "{halt:?}");
    }
}
