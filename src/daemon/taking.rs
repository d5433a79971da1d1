//! How far the snapshot is that is being taken, for whoever waits for it.
//!
//! Numbers only: nothing is decided by them.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::control::types::SnapshotProgress;

/// The snapshot that is being taken, if one is.
#[derive(Default)]
pub(super) struct Taking(Mutex<Option<(Instant, Arc<Far>)>>);

/// How far it is.
#[derive(Default)]
pub(super) struct Far {
    /// Files, links and directories that are to be looked at, as far as is known.
    total: AtomicU64,
    files: AtomicU64,
    bytes: AtomicU64,
    /// Bytes that the repository has grown by.
    added: AtomicU64,
}

impl Far {
    /// So many more files are to be looked at.
    pub(super) fn expect(&self, files: u64) {
        self.total.fetch_add(files, Ordering::Relaxed);
    }

    /// So many were looked at.
    pub(super) fn looked(&self, files: u64) {
        self.files.fetch_add(files, Ordering::Relaxed);
    }

    pub(super) fn added(&self, bytes: u64) {
        self.added.store(bytes, Ordering::Relaxed);
    }

    /// The same reader; what is read of it counts.
    pub(super) fn reading<'a>(&'a self, of: impl Read + 'a) -> impl Read + 'a {
        Counted { far: self, of }
    }
}

struct Counted<'a, R> {
    far: &'a Far,
    of: R,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.of.read(buffer)?;
        self.far.bytes.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

impl Taking {
    /// Begins to count anew.
    pub(super) fn begin(&self) -> Arc<Far> {
        let far = Arc::new(Far::default());
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((Instant::now(), far.clone()));
        far
    }

    pub(super) fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// How far it is now.
    pub(super) fn now(&self) -> Option<SnapshotProgress> {
        let taking = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (began, far) = taking.as_ref()?;
        let number = |at: &AtomicU64| at.load(Ordering::Relaxed);
        let files = number(&far.files);
        Some(SnapshotProgress {
            files,
            files_total: number(&far.total).max(files),
            bytes: number(&far.bytes),
            added_bytes: number(&far.added),
            seconds: began.elapsed().as_secs_f64(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_and_looked_at_is_told_while_it_is_being_taken() {
        let taking = Taking::default();
        assert!(taking.now().is_none());
        let far = taking.begin();
        far.expect(3);
        far.looked(1);
        io::copy(&mut far.reading([7_u8; 100].as_slice()), &mut io::sink()).unwrap();
        far.added(40);
        let now = taking.now().unwrap();
        assert_eq!((1, 3, 100, 40), (now.files, now.files_total, now.bytes, now.added_bytes));
        taking.end();
        assert!(taking.now().is_none());
    }
}
