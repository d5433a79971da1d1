//! Objects: strings with a kind and an id, of which everything in a repository consists.

use std::fmt;

use crate::model::ContentId;

/// Bytes of an object, at most.
pub const OBJECT_BYTES_MAX: usize = 64 << 20;

/// Bytes of a file that is one object; larger ones are cut into pieces.
pub const WHOLE_BYTES_MAX: u64 = 1 << 20;

/// What an object is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Kind {
    /// A file's content, or a piece of it.
    Data,
    /// Entries of a directory.
    Page,
    /// The pages of a directory.
    Index,
    /// Of which data objects a large file consists.
    Pieces,
}

impl Kind {
    /// Its number in the format.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Page => 2,
            Self::Index => 3,
            Self::Pieces => 4,
        }
    }

    /// The kind of this number.
    #[must_use]
    pub fn of(number: u8) -> Option<Self> {
        [Self::Data, Self::Page, Self::Index, Self::Pieces]
            .into_iter()
            .find(|kind| kind.number() == number)
    }

    /// The context in which ids of this kind are derived; data is hashed plainly, as in the mirror.
    const fn context(self) -> Option<&'static str> {
        match self {
            Self::Data => None,
            Self::Page => Some("trefoil 2026 repository page"),
            Self::Index => Some("trefoil 2026 repository index"),
            Self::Pieces => Some("trefoil 2026 repository pieces"),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Data => "data",
            Self::Page => "page",
            Self::Index => "index",
            Self::Pieces => "pieces",
        })
    }
}

/// Names an object by its kind and bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub [u8; 32]);

impl ObjectId {
    /// The id of an object.
    #[must_use]
    pub fn of(kind: Kind, bytes: &[u8]) -> Self {
        match kind.context() {
            None => Self(*blake3::hash(bytes).as_bytes()),
            Some(context) => Self(blake3::derive_key(context, bytes)),
        }
    }
}

impl From<ContentId> for ObjectId {
    /// A content that is stored whole has its own id.
    fn from(content: ContentId) -> Self {
        Self(content.0)
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_content_can_be_taken_for_a_directory() {
        let kinds = [Kind::Data, Kind::Page, Kind::Index, Kind::Pieces];
        for kind in kinds {
            assert_eq!(Some(kind), Kind::of(kind.number()));
        }
        let ids = kinds.map(|kind| ObjectId::of(kind, b"same"));
        let distinct: std::collections::BTreeSet<_> = ids.into_iter().collect();
        assert_eq!(4, distinct.len());
        assert_eq!(ObjectId::from(ContentId::of(b"same")), ids[0]);
    }
}
