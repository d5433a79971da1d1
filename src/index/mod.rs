//! What this node knows of one mount: SQLite, one file per mount, one writer.
//!
//! The files are the truth; this is knowledge about them. It holds observations (records with what
//! `stat` said), never pending work, but for the journal of applies in flight. It is the only giver
//! of sequences. Losing it costs time, not data: a new index has a new [`Incarnation`] and the node
//! joins its cluster again. It never looks at the files of a mount.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

mod boot;
mod cursors;
mod pages;
mod records;
mod schema;

use std::fs::File;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

pub use self::boot::{Boot, Token};
pub use self::cursors::Cursors;
pub use self::records::{Child, Row};
use crate::engine::fingerprint::Fingerprint;
use crate::model::{DecodeError, Incarnation, Lane, RelPath, Sequence};

/// A failure of the index. The open transaction is rolled back.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// A row does not hold what it should: damage, or a later release wrote it.
    #[error("cannot decode the record of {path}")]
    Decode {
        /// Where.
        path: RelPath,
        /// What is wrong.
        source: DecodeError,
    },
    /// The files, or a peer, know changes that it had made: somebody has put an old one in its
    /// place.
    #[error("the index is older than {than}")]
    Old {
        /// Who knows more, as in "the files".
        than: String,
    },
    /// The index is of a release that knows more.
    #[error("index {0} was written by a later release")]
    Later(PathBuf),
    /// The operating system refused.
    #[error("cannot {doing} the index")]
    Io {
        /// A verb, as in "sync".
        doing: &'static str,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// SQLite refused.
    #[error("cannot {doing} the index")]
    Sqlite {
        /// A verb, as in "write".
        doing: &'static str,
        /// SQLite's reason.
        source: rusqlite::Error,
    },
}

impl IndexError {
    /// Whether the file itself is damaged, or not the one it should be, so that only a new one helps.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        use rusqlite::{Error, ErrorCode};
        match self {
            Self::Decode { .. } | Self::Old { .. } => true,
            Self::Sqlite { source, .. } => match source {
                // Unknown is what statements get that do not fit the tables: ours do, unless the
                // file's head says something else.
                Error::SqliteFailure(error, _) => matches!(
                    error.code,
                    ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown
                ),
                // A value of another kind than was written, or a row that is always there.
                Error::FromSqlConversionFailure(..)
                | Error::IntegralValueOutOfRange(..)
                | Error::InvalidColumnType(..)
                | Error::QueryReturnedNoRows => true,
                _ => false,
            },
            _ => false,
        }
    }
}

/// Sums over the live records of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Totals {
    /// Live files and links; directories do not count.
    pub files: u64,
    /// Bytes of regular files.
    pub bytes: u64,
    /// Set hash of what a user sees.
    pub fingerprint: Fingerprint,
    /// Set hash of the histories, tombstones included.
    pub versions: Fingerprint,
}

/// The index of one mount. Not shared: its thread is its writer.
#[derive(Debug)]
pub struct Index {
    db: Connection,
    wal: File,
    incarnation: Incarnation,
    head: Sequence,
    lane_heads: [Sequence; Lane::ALL.len()],
    last_counter: u64,
    totals: Totals,
    dirty: bool,
}

/// Bytes the write-ahead log keeps on disk after a checkpoint.
const WAL_BYTES_KEPT: i64 = 32 << 20;

/// Pages of 4 KiB in the write-ahead log before a commit copies them into the file, which takes two
/// syncs: pages that change again and again meanwhile are copied once.
const WAL_PAGES_MAX: i64 = 8192;

/// The smallest SQLite this is tested with: 3.51.3 fixed a bug in WAL resets.
const SQLITE_VERSION_MIN: i32 = 3_051_003;

impl Index {
    /// Opens the index at `path`, or makes a new one with this incarnation. Says which.
    ///
    /// # Errors
    /// [`IndexError`]; [`IndexError::is_damage`] tells whether setting the file aside would help.
    pub fn open(path: &Path, new: Incarnation) -> Result<(Self, bool), IndexError> {
        assert!(rusqlite::version_number() >= SQLITE_VERSION_MIN, "SQLite is too old");
        let doing = "open";
        let sqlite = |source| IndexError::Sqlite { doing, source };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags).map_err(sqlite)?;
        db.set_prepared_statement_cache_capacity(64);
        db.pragma_update(None, "journal_mode", "WAL").map_err(sqlite)?;
        db.pragma_update(None, "synchronous", "NORMAL").map_err(sqlite)?;
        db.pragma_update(None, "locking_mode", "EXCLUSIVE").map_err(sqlite)?;
        db.pragma_update(None, "journal_size_limit", WAL_BYTES_KEPT).map_err(sqlite)?;
        db.pragma_update(None, "wal_autocheckpoint", WAL_PAGES_MAX).map_err(sqlite)?;
        db.pragma_update(None, "cache_size", -16_384).map_err(sqlite)?;
        let made = schema::prepare(&db, path, new)?;
        db.execute_batch(schema::ADDED).map_err(sqlite)?;
        // Has SQLite make the log, which is synced by a handle of our own.
        db.execute("UPDATE state SET head = head", ()).map_err(sqlite)?;
        let wal = wal_of(path);
        let wal = File::open(&wal).map_err(|source| IndexError::Io { doing, source })?;
        let mut index = Self {
            db,
            wal,
            incarnation: new,
            head: Sequence(0),
            lane_heads: [Sequence(0); Lane::ALL.len()],
            last_counter: 0,
            totals: Totals::default(),
            dirty: false,
        };
        index.load()?;
        Ok((index, made))
    }

    /// This life of the index.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The last sequence given.
    #[must_use]
    pub fn head(&self) -> Sequence {
        self.head
    }

    /// The last sequence given in a lane.
    #[must_use]
    pub fn lane_head(&self, lane: Lane) -> Sequence {
        self.lane_heads[lane as usize]
    }

    /// The highest counter of any stamp that was ever stored.
    #[must_use]
    pub fn last_counter(&self) -> u64 {
        self.last_counter
    }

    /// Sums over the live records, with what is not committed yet.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Opens a transaction, if none is open. Everything is in one until [`Index::commit`].
    ///
    /// # Errors
    /// [`IndexError::Sqlite`].
    pub fn begin(&mut self) -> Result<(), IndexError> {
        if self.db.is_autocommit() {
            self.execute("begin", "BEGIN IMMEDIATE", ())?;
        }
        Ok(())
    }

    /// Makes everything since [`Index::begin`] permanent against a crash of the process.
    ///
    /// # Errors
    /// [`IndexError::Sqlite`].
    pub fn commit(&mut self) -> Result<(), IndexError> {
        if self.dirty {
            self.save()?;
            self.dirty = false;
        }
        if !self.db.is_autocommit() {
            self.execute("commit to", "COMMIT", ())?;
        }
        Ok(())
    }

    /// Makes everything committed permanent against a loss of power.
    ///
    /// # Errors
    /// [`IndexError::Io`].
    pub fn sync(&self) -> Result<(), IndexError> {
        self.wal.sync_data().map_err(|source| IndexError::Io { doing: "sync", source })
    }

    fn execute(
        &self,
        doing: &'static str,
        sql: &str,
        parameters: impl rusqlite::Params,
    ) -> Result<usize, IndexError> {
        let sqlite = |source| IndexError::Sqlite { doing, source };
        self.db
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(parameters))
            .map_err(sqlite)
    }
}

fn wal_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// A number of rows, as SQLite takes it.
fn limit(most: usize) -> i64 {
    i64::try_from(most).unwrap_or(i64::MAX)
}

fn reading(source: rusqlite::Error) -> IndexError {
    IndexError::Sqlite { doing: "read", source }
}

/// SQLite has signed integers only; the bits are kept.
fn signed(number: u64) -> i64 {
    number.cast_signed()
}

fn unsigned(number: i64) -> u64 {
    number.cast_unsigned()
}
