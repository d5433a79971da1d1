//! Rows: one per path, with the record, its sequence and what `stat` said.

use rusqlite::{OptionalExtension, Row as SqlRow};

use super::{Index, IndexError, limit, reading, signed, unsigned};
use crate::engine::fingerprint::Fingerprint;
use crate::model::limits::CLOCK_NS_MAX;
use crate::model::{
    ContentId, Entry, Lane, LinkGroup, Mtime, NodeId, Record, RelPath, Sequence, Signature,
};

/// A record with what the index knows about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The record.
    pub record: Record,
    /// What `stat` said when it was last known to be so; nothing for a tombstone.
    pub signature: Option<Signature>,
    /// Its place in this node's order of changes.
    pub sequence: Sequence,
    /// In which lane it is announced.
    pub lane: Lane,
    /// The peer it was learned from; nothing for an edit made here.
    pub via: Option<NodeId>,
    /// Whether peers must make it visible only after everything before it.
    pub ordered: bool,
}

/// A live child of a directory, for comparing with a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// The last name.
    pub name: Box<[u8]>,
    /// What `stat` said of it.
    pub signature: Option<Signature>,
}

pub(super) const COLUMNS: &str = "record, signature, seq, lane, via, ordered";
const SIGNATURE_BYTES: usize = 49;

impl Index {
    /// The row of a path.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn row(&self, path: &RelPath) -> Result<Option<Row>, IndexError> {
        let Some((dir, name)) = path.split() else { return Ok(None) };
        let sql = "SELECT record, signature, seq, lane, via, ordered FROM records WHERE dir = ?1 AND \
             name = ?2";
        let mut statement = self.db.prepare_cached(sql).map_err(reading)?;
        let found = statement.query_row((dir, name), raw_row).optional().map_err(reading)?;
        found.map(RawRow::decode).transpose()
    }

    /// Whether a live directory is at the path; true for the root.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn is_live_dir(&self, path: &RelPath) -> Result<bool, IndexError> {
        Ok(path.is_root() || self.row(path)?.is_some_and(|row| row.record.is_dir()))
    }

    /// Stores a record with a new sequence, in the open transaction. Gives its row, and where that of
    /// the path was before.
    ///
    /// `wall_ns` keeps sequences growing although an index that was not synced lost its last ones.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn store(
        &mut self,
        record: &Record,
        signature: Option<Signature>,
        lane: Lane,
        via: Option<NodeId>,
        wall_ns: u64,
    ) -> Result<(Row, Option<(Lane, Sequence)>), IndexError> {
        let before = self.row(&record.path)?;
        let was = before.as_ref().map(|row| (row.lane, row.sequence));
        let was_dir = before.as_ref().is_some_and(|row| row.record.is_dir());
        // What went before anything of it was known here may have been a directory, with children
        // that some peer still has: it waits for their removal there.
        let may_have_been = before.is_none() && !record.is_live();
        let ordered_by_kind = was_dir && !record.is_dir() || may_have_been;
        self.account(before.as_ref().map(|row| &row.record), record);
        self.head = Sequence((wall_ns / 1000).max(self.head.0 + 1));
        self.lane_heads[lane as usize] = self.head;
        let version = &record.version;
        // What does not set the clock is no counter to go on from, either.
        let counters = [version.stamp.counter, version.touched.counter];
        let believed = counters.into_iter().filter(|counter| *counter < CLOCK_NS_MAX).max();
        self.last_counter = self.last_counter.max(believed.unwrap_or_default());
        let kept = before.as_ref().and_then(|row| row.signature).filter(|_| record.is_live());
        // Until the path is a directory again, whoever has not seen it go must see it go in order.
        let still = !record.is_dir() && before.is_some_and(|row| row.ordered);
        let row = Row {
            record: record.clone(),
            signature: signature.or(kept),
            sequence: self.head,
            lane,
            via,
            ordered: ordered_by_kind || still,
        };
        self.insert(&row)?;
        Ok((row, was))
    }

    fn insert(&mut self, row: &Row) -> Result<(), IndexError> {
        let Some((dir, name)) = row.record.path.split() else { return Ok(()) };
        let sql = "INSERT OR REPLACE INTO records (dir, name, live, ordered, lane, seq, via, \
                   inode, signature, content, record) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
        let content = row.record.entry.as_ref().and_then(Entry::content);
        let content = content.filter(|&(_, size)| size > 0).map(|(id, _)| id.0);
        let parameters = rusqlite::params![
            dir,
            name,
            row.record.is_live(),
            row.ordered,
            row.lane.number(),
            signed(row.sequence.0),
            signed(row.via.unwrap_or_default().0),
            signed(row.signature.map_or(0, |s| s.inode)),
            row.signature.map(signature_bytes),
            content,
            row.record.encode(),
        ];
        self.dirty = true;
        self.execute("write", sql, parameters).map(drop)
    }

    /// Notes what `stat` says now of a path that has not changed otherwise.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn refresh(&mut self, path: &RelPath, signature: Signature) -> Result<(), IndexError> {
        let Some((dir, name)) = path.split() else { return Ok(()) };
        let sql = "UPDATE records SET inode = ?3, signature = ?4 \
                   WHERE dir = ?1 AND name = ?2";
        let parameters = (dir, name, signed(signature.inode), signature_bytes(signature));
        self.execute("write", sql, parameters).map(drop)
    }

    fn account(&mut self, before: Option<&Record>, after: &Record) {
        let totals = &mut self.totals;
        let bytes = |record: &Record| {
            record.entry.as_ref().and_then(Entry::content).map_or(0, |(_, size)| size)
        };
        let files = |record: &Record| u64::from(record.is_live() && !record.is_dir());
        if let Some(before) = before {
            totals.fingerprint.remove(Fingerprint::of_entry(before));
            totals.versions.remove(Fingerprint::of_version(before));
            totals.files -= files(before);
            totals.bytes -= bytes(before);
        }
        totals.fingerprint.add(Fingerprint::of_entry(after));
        totals.versions.add(Fingerprint::of_version(after));
        totals.files += files(after);
        totals.bytes += bytes(after);
    }

    /// The live children of a directory, sorted by name.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn children(&self, dir: &RelPath) -> Result<Vec<Child>, IndexError> {
        let sql = "SELECT name, signature FROM records WHERE dir = ?1 AND live ORDER BY name";
        let mut statement = self.db.prepare_cached(sql).map_err(reading)?;
        let child = |row: &SqlRow<'_>| {
            let name: Vec<u8> = row.get(0)?;
            let signature: Option<[u8; SIGNATURE_BYTES]> = row.get(1)?;
            let signature = signature.map(|bytes| signature_from(&bytes));
            Ok(Child { name: name.into(), signature })
        };
        let rows = statement.query_map([dir.as_bytes()], child).map_err(reading)?;
        rows.collect::<Result<_, _>>().map_err(reading)
    }

    /// How many live children a directory has, counted up to `most`.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn count_children(&self, dir: &RelPath, most: usize) -> Result<usize, IndexError> {
        let sql = "SELECT count(*) FROM \
                   (SELECT 1 FROM records WHERE dir = ?1 AND live LIMIT ?2)";
        let mut statement = self.db.prepare_cached(sql).map_err(reading)?;
        statement.query_row((dir.as_bytes(), limit(most)), count).map_err(reading)
    }

    /// At most so many live paths below a directory, children before their parents.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn live_below(&self, dir: &RelPath, most: usize) -> Result<Vec<RelPath>, IndexError> {
        let (from, to) = subtree(dir);
        let order = "ORDER BY dir DESC, name DESC LIMIT ?2";
        let deeper =
            format!("SELECT dir, name FROM records WHERE live AND dir >= ?1 AND dir < ?3 {order}");
        let direct = format!("SELECT dir, name FROM records WHERE live AND dir = ?1 {order}");
        let mut paths = self.paths(&deeper, (from, limit(most), to))?;
        let rest = limit(most.saturating_sub(paths.len()));
        paths.extend(self.paths(&direct, (dir.as_bytes(), rest))?);
        Ok(paths)
    }

    fn paths(&self, sql: &str, of: impl rusqlite::Params) -> Result<Vec<RelPath>, IndexError> {
        let mut statement = self.db.prepare_cached(sql).map_err(reading)?;
        let rows =
            statement.query_map(of, |row| Ok((row.get(0)?, row.get(1)?))).map_err(reading)?;
        rows.map(|row| {
            let (dir, name): (Vec<u8>, Vec<u8>) = row.map_err(reading)?;
            let bytes = if dir.is_empty() { name } else { [dir, name].join(&b'/') };
            RelPath::parse(&bytes).map_err(|source| {
                let (path, source) = (RelPath::root(), source.into());
                IndexError::Decode { path, source }
            })
        })
        .collect()
    }

    /// Paths of live files with this content, at most `most`.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn with_content(&self, content: ContentId, most: usize) -> Result<Vec<Row>, IndexError> {
        self.rows_where("content = ?1 AND live LIMIT ?2", (content.0, limit(most)))
    }

    /// Live records whose `stat` gave this inode.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn with_inode(&self, inode: u64) -> Result<Vec<Row>, IndexError> {
        self.rows_where("inode = ?1 AND inode != 0 AND live", [signed(inode)])
    }

    /// A live file of the group with the same content and metadata, at another path.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn link_of(&self, record: &Record, group: LinkGroup) -> Result<Option<Row>, IndexError> {
        let Some(entry) = &record.entry else { return Ok(None) };
        let Some((content, _)) = entry.content() else { return Ok(None) };
        let same =
            self.with_content(content, 64)?.into_iter().find(|row| {
                row.record.path != record.path
                    && row.record.entry.as_ref().is_some_and(|other| {
                        other.group() == Some(group) && other.meta == entry.meta
                    })
            });
        Ok(same)
    }

    /// Up to `most` rows of a lane after a sequence, in order, without those learned from
    /// `not_via`; and the sequence up to which the lane was looked through.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn rows_after(
        &self,
        lane: Lane,
        after: Sequence,
        most: usize,
        not_via: NodeId,
    ) -> Result<(Vec<Row>, Sequence), IndexError> {
        let condition = "lane = ?1 AND seq > ?2 AND via != ?3 ORDER BY seq LIMIT ?4";
        let parameters = (lane.number(), signed(after.0), signed(not_via.0), limit(most));
        let rows = self.rows_where(condition, parameters)?;
        let last = rows.last().map(|row| row.sequence).filter(|_| rows.len() == most);
        let through = last.unwrap_or_else(|| self.lane_head(lane).max(after));
        Ok((rows, through))
    }

    /// How many rows a lane has in `after < sequence <= up_to`, without those learned from
    /// `not_via`, counted up to `most`; and the lowest of them.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn count_after(
        &self,
        lane: Lane,
        after: Sequence,
        up_to: Sequence,
        not_via: NodeId,
        most: usize,
    ) -> Result<usize, IndexError> {
        let sql = "SELECT count(*) FROM (SELECT 1 FROM records \
                   WHERE lane = ?1 AND seq > ?2 AND seq <= ?3 AND via != ?4 LIMIT ?5)";
        let mut statement = self.db.prepare_cached(sql).map_err(reading)?;
        let (after, up_to) = (signed(after.0), signed(up_to.0));
        let parameters = (lane.number(), after, up_to, signed(not_via.0), limit(most));
        statement.query_row(parameters, count).map_err(reading)
    }

    /// Deletes tombstones in `lane` up to `up_to` whose edit is older than `before_ns`. Gives their
    /// number.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn drop_tombstones(
        &mut self,
        lane: Lane,
        up_to: Sequence,
        before_ns: u64,
        most: usize,
    ) -> Result<usize, IndexError> {
        let condition = "lane = ?1 AND NOT live AND seq <= ?2 ORDER BY seq LIMIT ?3";
        let rows = self.rows_where(condition, (lane.number(), signed(up_to.0), limit(most)))?;
        let mut dropped = 0;
        for row in rows.iter().filter(|row| row.record.version.stamp.counter < before_ns) {
            let Some((dir, name)) = row.record.path.split() else { continue };
            self.begin()?;
            self.totals.versions.remove(Fingerprint::of_version(&row.record));
            self.dirty = true;
            let sql = "DELETE FROM records WHERE dir = ?1 AND name = ?2";
            dropped += self.execute("write", sql, (dir, name))?;
            self.set_dropped(lane, row.sequence)?;
        }
        Ok(dropped)
    }

    pub(super) fn rows_where(
        &self,
        condition: &str,
        parameters: impl rusqlite::Params,
    ) -> Result<Vec<Row>, IndexError> {
        let sql = format!("SELECT {COLUMNS} FROM records WHERE {condition}");
        let mut statement = self.db.prepare_cached(&sql).map_err(reading)?;
        let rows = statement.query_map(parameters, raw_row).map_err(reading)?;
        rows.map(|row| row.map_err(reading)?.decode()).collect()
    }
}

fn count(row: &SqlRow<'_>) -> rusqlite::Result<usize> {
    row.get(0).map(|n: i64| usize::try_from(n).unwrap_or(0))
}

/// First and past-the-last `dir` strictly below a directory.
fn subtree(dir: &RelPath) -> (Vec<u8>, Vec<u8>) {
    if dir.is_root() {
        return (vec![0], vec![0xff; 2]);
    }
    let with = |last: u8| [dir.as_bytes(), &[last]].concat();
    (with(b'/'), with(b'/' + 1))
}

pub(super) struct RawRow {
    record: Vec<u8>,
    signature: Option<[u8; SIGNATURE_BYTES]>,
    sequence: i64,
    lane: u32,
    via: i64,
    ordered: bool,
}

pub(super) fn raw_row(row: &SqlRow<'_>) -> rusqlite::Result<RawRow> {
    Ok(RawRow {
        record: row.get(0)?,
        signature: row.get(1)?,
        sequence: row.get(2)?,
        lane: row.get(3)?,
        via: row.get(4)?,
        ordered: row.get(5)?,
    })
}

impl RawRow {
    pub(super) fn decode(self) -> Result<Row, IndexError> {
        let record = Record::decode(&self.record)
            .map_err(|source| IndexError::Decode { path: RelPath::root(), source })?;
        let via = NodeId(unsigned(self.via));
        Ok(Row {
            record,
            signature: self.signature.map(|bytes| signature_from(&bytes)),
            sequence: Sequence(unsigned(self.sequence)),
            lane: Lane::from_number(self.lane).unwrap_or(Lane::Normal),
            via: (via != NodeId::default()).then_some(via),
            ordered: self.ordered,
        })
    }
}

fn signature_bytes(signature: Signature) -> [u8; SIGNATURE_BYTES] {
    let mut bytes = [0; SIGNATURE_BYTES];
    bytes[0..8].copy_from_slice(&signature.inode.to_le_bytes());
    bytes[8..16].copy_from_slice(&signature.size.to_le_bytes());
    bytes[16..20].copy_from_slice(&signature.mode.to_le_bytes());
    bytes[20..28].copy_from_slice(&signature.mtime.secs.to_le_bytes());
    bytes[28..32].copy_from_slice(&signature.mtime.nanos.to_le_bytes());
    bytes[32..40].copy_from_slice(&signature.ctime.secs.to_le_bytes());
    bytes[40..44].copy_from_slice(&signature.ctime.nanos.to_le_bytes());
    bytes[44..48].copy_from_slice(&signature.links.to_le_bytes());
    bytes[48] = u8::from(signature.racy);
    bytes
}

fn signature_from(bytes: &[u8; SIGNATURE_BYTES]) -> Signature {
    let long = |at: usize| bytes[at..at + 8].iter().rev().fold(0, |n, &b| n << 8 | u64::from(b));
    let short = |at: usize| bytes[at..at + 4].iter().rev().fold(0, |n, &b| n << 8 | u32::from(b));
    let time = |at: usize| Mtime { secs: long(at).cast_signed(), nanos: short(at + 8) };
    Signature {
        inode: long(0),
        size: long(8),
        mode: short(16),
        mtime: time(20),
        ctime: time(32),
        links: short(44),
        racy: bytes[48] != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Incarnation, Kind, Meta, Mtime, Stamp, Version};

    fn ordered(index: &mut Index, kind: Option<Kind>, counter: u64) -> bool {
        let meta =
            Meta { mode: 0o755, uid: 0, gid: 0, mtime: Mtime::default(), xattrs: Vec::new() };
        let version = Version::edit(Stamp { counter, node: NodeId(2) }, None);
        let path = RelPath::parse(b"d").unwrap();
        let record = Record { path, entry: kind.map(|kind| Entry { kind, meta }), version };
        index.begin().unwrap();
        index.store(&record, None, Lane::Forward, Some(NodeId(2)), counter).unwrap().0.ordered
    }

    #[test]
    fn a_removal_of_what_was_never_known_waits_as_that_of_a_directory() {
        let folder = tempfile::tempdir().unwrap();
        let (mut index, _) = Index::open(&folder.path().join("index.db"), Incarnation(7)).unwrap();
        assert!(ordered(&mut index, None, 1), "a peer may have children of it");
        assert!(!ordered(&mut index, Some(Kind::Dir), 2));
        assert!(ordered(&mut index, None, 3));
        let link = || Some(Kind::Symlink { target: b"x".as_slice().into() });
        assert!(ordered(&mut index, link(), 4), "it replaces a directory");
    }

    #[test]
    fn the_log_does_not_grow_with_what_is_written() {
        const COMMITS: u64 = 12_000;
        let folder = tempfile::tempdir().unwrap();
        let (mut index, _) = Index::open(&folder.path().join("index.db"), Incarnation(7)).unwrap();
        let log = folder.path().join("index.db-wal");
        let mut longest = 0;
        for counter in 1..=COMMITS {
            ordered(&mut index, Some(Kind::Dir), counter);
            index.commit().unwrap();
            longest = longest.max(std::fs::metadata(&log).unwrap().len());
        }
        let page = 4096;
        assert!(longest > 8 * page, "commits go through the log");
        let allowed = super::super::WAL_PAGES_MAX.unsigned_abs() * (page + 24) + 64 * page;
        assert!(longest < allowed, "{longest} bytes");
        assert!(COMMITS * 3 * page > allowed, "so much was written that it had to be cut");
    }
}
