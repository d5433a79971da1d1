//! Small content that came with an announcement, until it is applied. Bounded.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{ContentId, RelPath, limits};

/// Content by the path it is for.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    contents: BTreeMap<RelPath, (ContentId, Arc<[u8]>)>,
    bytes: usize,
}

impl Shelf {
    /// Puts content there. Says whether there was room; what does not fit is fetched later.
    pub(super) fn put(&mut self, path: RelPath, id: ContentId, content: Arc<[u8]>) -> bool {
        self.drop(&path);
        if self.bytes + content.len() > limits::SHELF_BYTES_MAX {
            return false;
        }
        self.bytes += content.len();
        self.contents.insert(path, (id, content));
        true
    }

    /// The content for a path, if it is this.
    pub(super) fn find(&self, path: &RelPath, id: ContentId) -> Option<Arc<[u8]>> {
        self.contents.get(path).filter(|(other, _)| *other == id).map(|(_, c)| c.clone())
    }

    /// The path needs nothing any more.
    pub(super) fn drop(&mut self, path: &RelPath) {
        if let Some((_, content)) = self.contents.remove(path) {
            self.bytes -= content.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_and_room_comes_back() {
        let mut shelf = Shelf::default();
        let path = |n: usize| RelPath::parse(n.to_string().as_bytes()).unwrap();
        let half: Arc<[u8]> = vec![0; limits::SHELF_BYTES_MAX / 2].into();
        let id = ContentId::of(&half);
        assert!(shelf.put(path(1), id, half.clone()) && shelf.put(path(2), id, half.clone()));
        assert!(shelf.put(path(2), id, half.clone()));
        assert!(!shelf.put(path(3), id, half.clone()));
        shelf.drop(&path(1));
        assert!(shelf.put(path(3), id, half) && shelf.find(&path(3), id).is_some());
        assert!(shelf.find(&path(3), ContentId::empty()).is_none());
    }
}
