//! The integration tests, all in one binary: rules of the repository, whole clusters, the
//! command line.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::disallowed_methods, reason = "does I/O")]
#![allow(clippy::print_stderr, reason = "a failing test shows the nodes' logs")]

mod cases;
mod check;
mod classes;
mod clocks;
mod cluster;
mod cluster_life;
mod commands;
mod crashes;
mod delta;
mod demo;
mod files;
mod filesystems;
mod guards;
mod hostile;
mod indexes;
mod kills;
mod limits;
mod load;
mod local_user;
mod machines;
mod mirror;
mod mounts;
mod named;
mod outside;
mod partition;
mod promises;
mod renames;
mod repository;
mod rogue;
mod snapshot_mount;
mod snapshots;
mod steps;
mod tidy;
mod transfers;
mod trash;
mod tree;
mod watching;
mod work;
