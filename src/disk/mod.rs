//! The users' files: the only writer into a mount.

pub mod watch;
