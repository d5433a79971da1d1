//! Tables of the index, and the few numbers that are kept beside the records.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use super::{Index, IndexError, reading, signed, unsigned};
use crate::engine::Class;
use crate::engine::fingerprint::Fingerprint;
use crate::model::{Incarnation, Lane, Sequence};

/// Version of the tables. A later release that changes them raises it and migrates.
const SCHEMA: i64 = 1;

/// A path is kept as its directory and its name, so that a directory's children lie together.
/// `via` is the peer a record was learned from, 0 for an edit made here. `former` is the life of the
/// index that this one goes on from, and its last sequence.
const TABLES: &str = "
CREATE TABLE records (
  dir BLOB NOT NULL, name BLOB NOT NULL,
  live INTEGER NOT NULL, ordered INTEGER NOT NULL,
  lane INTEGER NOT NULL, seq INTEGER NOT NULL, via INTEGER NOT NULL,
  inode INTEGER NOT NULL, signature BLOB,
  content BLOB, record BLOB NOT NULL,
  PRIMARY KEY (dir, name)) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX records_by_lane ON records (lane, seq);
CREATE INDEX records_by_content ON records (content) WHERE content IS NOT NULL;
CREATE INDEX records_by_inode ON records (inode) WHERE inode != 0;
CREATE TABLE journal (
  dir BLOB NOT NULL, name BLOB NOT NULL, record BLOB NOT NULL,
  PRIMARY KEY (dir, name)) STRICT, WITHOUT ROWID;
CREATE TABLE peers (peer INTEGER PRIMARY KEY, incarnation INTEGER NOT NULL) STRICT;
CREATE TABLE cursors (
  peer INTEGER NOT NULL, lane INTEGER NOT NULL,
  done INTEGER NOT NULL, acknowledged INTEGER NOT NULL,
  PRIMARY KEY (peer, lane)) STRICT, WITHOUT ROWID;
CREATE TABLE former (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  incarnation INTEGER NOT NULL, head INTEGER NOT NULL) STRICT;
CREATE TABLE state (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  incarnation INTEGER NOT NULL, scanned INTEGER NOT NULL,
  head INTEGER NOT NULL, last_counter INTEGER NOT NULL,
  files INTEGER NOT NULL, bytes INTEGER NOT NULL,
  fingerprint BLOB NOT NULL, versions BLOB NOT NULL) STRICT;
";

/// What a later release added, and an earlier one does without. `told` is up to where a peer can have
/// heard of this index, `lives` holds its own and those of others that peers knew when they were first
/// linked with it, `marks` where it was at the last two full minutes, `passed` from where on something that a peer told was passed over, under which rules.
pub(super) const ADDED: &str = "
CREATE TABLE IF NOT EXISTS guard (class INTEGER PRIMARY KEY) STRICT;
CREATE TABLE IF NOT EXISTS told (peer INTEGER PRIMARY KEY, until INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS lives (incarnation INTEGER PRIMARY KEY, own INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS had (
  peer INTEGER NOT NULL, lane INTEGER NOT NULL, until INTEGER NOT NULL,
  PRIMARY KEY (peer, lane)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS arrived (
  peer INTEGER NOT NULL, lane INTEGER NOT NULL, until INTEGER NOT NULL,
  PRIMARY KEY (peer, lane)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dropped (lane INTEGER PRIMARY KEY, until INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS marks (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  earlier INTEGER NOT NULL, last INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS passed (
  peer INTEGER NOT NULL, lane INTEGER NOT NULL, seq INTEGER NOT NULL, rules BLOB NOT NULL,
  PRIMARY KEY (peer, lane)) STRICT, WITHOUT ROWID;
";

/// Makes the tables if the file is new. Says whether it was.
pub(super) fn prepare(db: &Connection, path: &Path, new: Incarnation) -> Result<bool, IndexError> {
    let found: i64 =
        db.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(reading)?;
    if found > SCHEMA {
        return Err(IndexError::Later(path.to_owned()));
    }
    if found == SCHEMA {
        return Ok(false);
    }
    let zero = Fingerprint::default().to_bytes();
    let make = || {
        db.execute_batch("BEGIN EXCLUSIVE")?;
        db.execute_batch(TABLES)?;
        db.execute(
            "INSERT INTO state VALUES (1, ?1, 0, 0, 0, 0, 0, ?2, ?2)",
            (signed(new.0), zero.as_slice()),
        )?;
        db.pragma_update(None, "user_version", SCHEMA)?;
        db.execute_batch("COMMIT")
    };
    make().map_err(|source| IndexError::Sqlite { doing: "create", source })?;
    Ok(true)
}

impl Index {
    /// Reads the numbers beside the records.
    pub(super) fn load(&mut self) -> Result<(), IndexError> {
        let sql = "SELECT incarnation, head, last_counter, files, bytes, fingerprint, versions \
                   FROM state";
        let read = |row: &rusqlite::Row<'_>| {
            let number = |at| row.get(at).map(unsigned);
            let sum = |at| row.get(at).map(|bytes: [u8; 32]| Fingerprint::from_bytes(&bytes));
            self.incarnation = Incarnation(number(0)?);
            self.head = Sequence(number(1)?);
            self.last_counter = number(2)?;
            self.totals.files = number(3)?;
            self.totals.bytes = number(4)?;
            self.totals.fingerprint = sum(5)?;
            self.totals.versions = sum(6)?;
            Ok(())
        };
        self.db.query_row(sql, (), read).map_err(reading)?;
        for lane in Lane::ALL {
            let sql = "SELECT coalesce(max(seq), 0) FROM records WHERE lane = ?1";
            let head = self.db.query_row(sql, [lane.number()], |row| row.get(0));
            self.lane_heads[lane as usize] = Sequence(unsigned(head.map_err(reading)?));
        }
        Ok(())
    }

    /// Writes them, in the open transaction.
    pub(super) fn save(&mut self) -> Result<(), IndexError> {
        let sql = "UPDATE state SET head = ?1, last_counter = ?2, files = ?3, bytes = ?4, \
                   fingerprint = ?5, versions = ?6";
        let totals = &self.totals;
        let parameters = (
            signed(self.head.0),
            signed(self.last_counter),
            signed(totals.files),
            signed(totals.bytes),
            totals.fingerprint.to_bytes(),
            totals.versions.to_bytes(),
        );
        self.execute("write", sql, parameters).map(drop)
    }

    /// Goes on as another life after the power went, which may have taken the last commits. Peers
    /// have what was in those, and new changes come in their place with the same sequences. What
    /// peers have learned from this node is to be told to it again.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn begin_life(&mut self, new: Incarnation) -> Result<(), IndexError> {
        self.begin()?;
        let sql = "INSERT OR REPLACE INTO former VALUES (1, ?1, ?2)";
        self.execute("write", sql, (signed(self.incarnation.0), signed(self.head.0)))?;
        self.execute("write", "UPDATE state SET incarnation = ?1", [signed(new.0)])?;
        self.part_with_life()?;
        let sql = "UPDATE cursors SET done = 0 WHERE lane = ?1";
        self.execute("write", sql, [Lane::Forward.number()])?;
        // What was written without a sync may be as before though `stat` says what it said: whatever
        // changed last is read again.
        let sql = "UPDATE records SET signature = NULL \
                   WHERE seq > coalesce((SELECT earlier FROM marks), 0)";
        self.execute("write", sql, ())?;
        // What peers have acknowledged of the lost commits says nothing of what comes after them.
        let sql = "UPDATE cursors SET acknowledged = min(acknowledged, ?1)";
        self.execute("write", sql, [signed(self.head.0)])?;
        self.incarnation = new;
        self.commit()?;
        self.sync()
    }

    /// To be called at most once a minute, by a clock that never jumps: what was stored before the mark
    /// before this one is on the disk, as Linux writes what nobody syncs within half a minute.
    /// Permanent with the open transaction.
    ///
    /// # Errors
    /// [`IndexError::Sqlite`].
    pub fn mark(&mut self) -> Result<(), IndexError> {
        self.begin()?;
        let sql = "INSERT INTO marks VALUES (1, 0, ?1) \
                   ON CONFLICT DO UPDATE SET earlier = last, last = ?1";
        self.execute("write", sql, [signed(self.head.0)]).map(drop)
    }

    /// The life that this one goes on from, and its last sequence.
    ///
    /// # Errors
    /// [`IndexError::Sqlite`].
    pub fn former(&self) -> Result<Option<(Incarnation, Sequence)>, IndexError> {
        let sql = "SELECT incarnation, head FROM former";
        let read = |row: &rusqlite::Row<'_>| {
            let (life, head) = (row.get(0)?, row.get(1)?);
            Ok((Incarnation(unsigned(life)), Sequence(unsigned(head))))
        };
        self.db.query_row(sql, (), read).optional().map_err(reading)
    }

    /// The classes whose deletions are held.
    ///
    /// # Errors
    /// [`IndexError::Sqlite`].
    pub fn held_classes(&self) -> Result<Vec<Class>, IndexError> {
        let mut statement = self.db.prepare_cached("SELECT class FROM guard").map_err(reading)?;
        let numbers = statement.query_map((), |row| row.get(0)).map_err(reading)?;
        let numbers: Vec<u8> = numbers.collect::<Result<_, _>>().map_err(reading)?;
        let known = |number| Class::ALL.into_iter().find(|class| class.number() == number);
        Ok(numbers.into_iter().filter_map(known).collect())
    }

    /// Notes the classes whose deletions are held; permanent with the open transaction.
    ///
    /// # Errors
    /// [`IndexError::Sqlite`].
    pub fn set_held_classes(&mut self, classes: &[Class]) -> Result<(), IndexError> {
        self.begin()?;
        self.execute("write", "DELETE FROM guard", ())?;
        for class in classes {
            self.execute("write", "INSERT INTO guard VALUES (?1)", [class.number()])?;
        }
        Ok(())
    }

    /// Whether this index has everything that one of this life had up to `head`.
    ///
    /// # Errors
    /// [`IndexError::Sqlite`].
    pub fn has_reached(&self, life: Incarnation, head: Sequence) -> Result<bool, IndexError> {
        let now = (self.incarnation, self.head);
        let reached = |(own, until)| own == life && until >= head;
        Ok(reached(now) || self.former()?.is_some_and(reached))
    }

    /// Whether the first scan of this index has ended: what is found later is an edit.
    ///
    /// # Errors
    /// [`IndexError::Sqlite`].
    pub fn is_scanned(&self) -> Result<bool, IndexError> {
        self.db.query_row("SELECT scanned FROM state", (), |row| row.get(0)).map_err(reading)
    }

    /// Notes that the first scan has ended.
    ///
    /// # Errors
    /// [`IndexError::Sqlite`].
    pub fn set_scanned(&mut self) -> Result<(), IndexError> {
        self.begin()?;
        self.execute("write", "UPDATE state SET scanned = 1", ()).map(drop)
    }
}
