//! The nouns as values: paths, entries, records, versions and identifiers.
//!
//! Lowest layer: it knows no other module, does no I/O and reads no clock.

mod codec;
mod entry;
mod found;
mod ids;
pub mod limits;
mod path;
mod record;
mod signature;
mod version;

pub use codec::{DecodeError, RecordBytes};
pub use entry::{ContentId, Entry, Kind, LinkGroup, Meta, Mtime, Xattrs};
pub use found::Found;
pub use ids::{Incarnation, Lane, NodeId, Sequence};
pub use path::{PathError, RelPath};
pub use record::Record;
pub use signature::Signature;
pub use version::{Stamp, Version, VersionVector};
