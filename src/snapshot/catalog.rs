//! Which object is where: a cache in SQLite, made again from the packs whenever it is not there.
//!
//! It is never the only place of a fact. What it says of a pack that is gone is forgotten when the
//! repository is opened, and what it does not know of a pack that is there is read from that.

#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

use super::object::{Kind, ObjectId};

const SCHEMA: i64 = 1;

const TABLES: &str = "
CREATE TABLE packs (number INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE) STRICT;
CREATE TABLE objects (
  id BLOB NOT NULL, kind INTEGER NOT NULL,
  pack INTEGER NOT NULL, offset INTEGER NOT NULL, stored INTEGER NOT NULL,
  PRIMARY KEY (id, kind)) STRICT, WITHOUT ROWID;
CREATE INDEX objects_by_pack ON objects (pack);
";

/// The name of a pack: the hash of all its bytes.
pub(super) type PackName = [u8; 32];

/// Where an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub pack: PackName,
    pub offset: u64,
    /// Bytes of it, stored.
    pub stored: u64,
}

/// The file. Not shared: its owner is its only user.
#[derive(Debug)]
pub(super) struct Catalog {
    db: Connection,
}

impl Catalog {
    /// Opens the catalog, or makes an empty one. What is there and cannot be used is removed first.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn open(path: &Path) -> rusqlite::Result<Self> {
        Self::try_open(path).or_else(|_| {
            for ending in ["", "-wal", "-shm"] {
                let mut name = path.as_os_str().to_owned();
                name.push(ending);
                drop(std::fs::remove_file(name));
            }
            Self::try_open(path)
        })
    }

    fn try_open(path: &Path) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Self::prepared(Connection::open_with_flags(path, flags)?)
    }

    /// One that is gone with the process, for whoever may not write.
    ///
    /// # Errors
    /// SQLite's.
    pub(super) fn in_memory() -> rusqlite::Result<Self> {
        Self::prepared(Connection::open_in_memory()?)
    }

    fn prepared(db: Connection) -> rusqlite::Result<Self> {
        db.busy_timeout(std::time::Duration::from_secs(10))?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "NORMAL")?;
        db.pragma_update(None, "cache_size", -8192)?;
        let found: i64 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if found != SCHEMA {
            if found != 0 {
                return Err(rusqlite::Error::InvalidQuery);
            }
            db.execute_batch("BEGIN EXCLUSIVE")?;
            db.execute_batch(TABLES)?;
            db.pragma_update(None, "user_version", SCHEMA)?;
            db.execute_batch("COMMIT")?;
        }
        Ok(Self { db })
    }

    /// The packs that it knows.
    pub(super) fn packs(&self) -> rusqlite::Result<Vec<PackName>> {
        let mut statement = self.db.prepare_cached("SELECT name FROM packs ORDER BY number")?;
        let rows = statement.query_map((), |row| row.get(0))?;
        rows.collect()
    }

    /// Takes in a pack: kind, id, offset and stored bytes of each object. Of two places of one object
    /// the first stays.
    pub(super) fn add(
        &mut self,
        pack: &PackName,
        records: impl IntoIterator<Item = (Kind, ObjectId, u64, u64)>,
    ) -> rusqlite::Result<()> {
        let transaction = self.db.transaction()?;
        let sql = "INSERT OR IGNORE INTO packs (name) VALUES (?1)";
        if transaction.execute(sql, [pack.as_slice()])? == 0 {
            // Another process has found it in the meantime.
            return Ok(());
        }
        let number = transaction.last_insert_rowid();
        {
            let sql = "INSERT OR IGNORE INTO objects (id, kind, pack, offset, stored) \
                       VALUES (?1, ?2, ?3, ?4, ?5)";
            let mut statement = transaction.prepare_cached(sql)?;
            for (kind, id, offset, stored) in records {
                let (offset, stored) = (offset.cast_signed(), stored.cast_signed());
                statement.execute((id.0.as_slice(), kind.number(), number, offset, stored))?;
            }
        }
        transaction.commit()
    }

    /// What a known pack has is had from there from now on.
    pub(super) fn move_to(
        &mut self,
        pack: &PackName,
        records: impl IntoIterator<Item = (Kind, ObjectId, u64, u64)>,
    ) -> rusqlite::Result<()> {
        let transaction = self.db.transaction()?;
        {
            let sql = "INSERT OR REPLACE INTO objects (id, kind, pack, offset, stored) \
                       SELECT ?1, ?2, number, ?4, ?5 FROM packs WHERE name = ?3";
            let mut statement = transaction.prepare_cached(sql)?;
            for (kind, id, offset, stored) in records {
                let (offset, stored) = (offset.cast_signed(), stored.cast_signed());
                let pack = pack.as_slice();
                statement.execute((id.0.as_slice(), kind.number(), pack, offset, stored))?;
            }
        }
        transaction.commit()
    }

    /// The pack is gone. What was in it may be in others: those are to be added again.
    pub(super) fn forget(&mut self, pack: &PackName) -> rusqlite::Result<()> {
        let transaction = self.db.transaction()?;
        let sql = "DELETE FROM objects WHERE pack = (SELECT number FROM packs WHERE name = ?1)";
        transaction.execute(sql, [pack.as_slice()])?;
        transaction.execute("DELETE FROM packs WHERE name = ?1", [pack.as_slice()])?;
        transaction.commit()
    }

    /// Where an object is, if it is anywhere.
    pub(super) fn find(&self, kind: Kind, id: ObjectId) -> rusqlite::Result<Option<Place>> {
        let sql = "SELECT name, offset, stored FROM objects JOIN packs ON packs.number = objects.pack \
                   WHERE id = ?1 AND kind = ?2";
        let mut statement = self.db.prepare_cached(sql)?;
        let place = statement.query_row((id.0.as_slice(), kind.number()), |row| {
            let number = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
            Ok(Place { pack: row.get(0)?, offset: number(1)?, stored: number(2)? })
        });
        place.optional()
    }

    /// What is in a pack: kind, id, offset and stored bytes of each object that is had from there.
    pub(super) fn of_pack(
        &self,
        pack: &PackName,
    ) -> rusqlite::Result<Vec<(Kind, ObjectId, u64, u64)>> {
        let sql = "SELECT kind, id, offset, stored FROM objects JOIN packs ON packs.number = objects.pack \
                   WHERE packs.name = ?1";
        let mut statement = self.db.prepare_cached(sql)?;
        let rows = statement.query_map([pack.as_slice()], |row| {
            let kind = row.get(0).map(Kind::of)?.ok_or(rusqlite::Error::InvalidQuery)?;
            let number = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
            Ok((kind, ObjectId(row.get(1)?), number(2)?, number(3)?))
        })?;
        rows.collect()
    }

    /// Objects, and their stored bytes.
    pub(super) fn totals(&self) -> rusqlite::Result<(u64, u64)> {
        let sql = "SELECT count(*), coalesce(sum(stored), 0) FROM objects";
        self.db.query_row(sql, (), |row| {
            let number = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
            Ok((number(0)?, number(1)?))
        })
    }
}
