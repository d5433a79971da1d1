//! What was decoded lately, up to so many bytes; what was used longest ago goes first. Pure.
//!
//! What came last stays whatever its size, so that a value larger than the limit is not decoded anew for
//! each use: there is never more than the limit and that one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::snapshot::ObjectId;

/// Values by the object they were decoded from.
#[derive(Debug)]
pub(super) struct Cache<V> {
    bytes_max: usize,
    bytes: usize,
    /// Counts uses.
    now: u64,
    kept: HashMap<ObjectId, Kept<V>>,
    /// By their last use.
    order: BTreeMap<u64, ObjectId>,
}

#[derive(Debug)]
struct Kept<V> {
    value: Arc<V>,
    bytes: usize,
    used: u64,
}

impl<V> Cache<V> {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: 0, now: 0, kept: HashMap::new(), order: BTreeMap::new() }
    }

    /// What is kept of an object, used just now.
    pub(super) fn get(&mut self, id: ObjectId) -> Option<Arc<V>> {
        self.now += 1;
        let kept = self.kept.get_mut(&id)?;
        self.order.remove(&kept.used);
        kept.used = self.now;
        self.order.insert(self.now, id);
        Some(kept.value.clone())
    }

    /// Keeps a value that takes so many bytes.
    pub(super) fn put(&mut self, id: ObjectId, value: Arc<V>, bytes: usize) {
        self.now += 1;
        let kept = Kept { value, bytes, used: self.now };
        if let Some(before) = self.kept.insert(id, kept) {
            self.order.remove(&before.used);
            self.bytes -= before.bytes;
        }
        self.order.insert(self.now, id);
        self.bytes += bytes;
        while self.bytes > self.bytes_max && self.kept.len() > 1 {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            self.bytes -= self.kept.remove(&oldest).map_or(0, |kept| kept.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn id(n: u8) -> ObjectId {
        ObjectId([n; 32])
    }

    #[test]
    fn what_was_used_longest_ago_goes_and_the_limit_holds() {
        let mut cache = Cache::new(100);
        for n in 0..200 {
            cache.put(id(n), Arc::new(n), 30);
            // The first is used all the time.
            assert_eq!(Some(0), cache.get(id(0)).map(|value| *value), "{n}");
            assert!(cache.bytes <= 100 && cache.kept.len() == cache.order.len());
        }
        assert_eq!(3, cache.kept.len());
        assert!(cache.get(id(199)).is_some() && cache.get(id(197)).is_none());
    }

    #[test]
    fn the_last_stays_whatever_its_size_and_what_is_put_twice_counts_once() {
        let mut cache = Cache::new(100);
        cache.put(id(1), Arc::new(()), 40);
        cache.put(id(1), Arc::new(()), 50);
        assert_eq!(50, cache.bytes);
        cache.put(id(2), Arc::new(()), 1000);
        assert!(cache.get(id(2)).is_some() && cache.get(id(1)).is_none());
        cache.put(id(3), Arc::new(()), 1);
        assert_eq!((1, true), (cache.bytes, cache.get(id(3)).is_some()));
    }
}
