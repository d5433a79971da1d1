//! trefoil keeps directory trees identical on several nodes, all of them accepting writes.
//!
//! The modules, from the bottom up; each uses only those above it in this list (`tests/it/tidy.rs`
//! enforces it). What happens when a file changes is told in [`engine`].

pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod disk;
pub mod engine;
pub mod index;
pub mod model;
pub mod net;
pub mod snapshot;
