//! Rows in order, some at a time: for comparing replicas, and for snapshots.

use super::records::{COLUMNS, Row, raw_row};
use super::{Index, IndexError, limit, reading, signed};
use crate::model::{Lane, Record, RelPath, Sequence};

impl Index {
    /// Up to `most` live records after a path, sorted by directory and name.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn page(&self, after: Option<&RelPath>, most: usize) -> Result<Vec<Record>, IndexError> {
        let (dir, name) = after.and_then(RelPath::split).unwrap_or((&[], &[]));
        let condition = "live AND (dir, name) > (?1, ?2) ORDER BY dir, name LIMIT ?3";
        let rows = self.rows_where(condition, (dir, name, limit(most)))?;
        Ok(rows.into_iter().map(|row| row.record).collect())
    }

    /// Up to `most` live records before a path, or the last ones, in descending order of directory and name:
    /// what is in a directory comes before the directory.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn page_before(
        &self,
        before: Option<&RelPath>,
        most: usize,
    ) -> Result<Vec<Record>, IndexError> {
        let order = "ORDER BY dir DESC, name DESC";
        let rows = match before.and_then(RelPath::split) {
            Some((dir, name)) => {
                let condition = format!("live AND (dir, name) < (?1, ?2) {order} LIMIT ?3");
                self.rows_where(&condition, (dir, name, limit(most)))?
            }
            None => self.rows_where(&format!("live {order} LIMIT ?1"), [limit(most)])?,
        };
        Ok(rows.into_iter().map(|row| row.record).collect())
    }

    /// The records after a sequence, tombstones included; nothing if they are more than `most`, or if
    /// tombstones after it are gone.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn changed_after(
        &self,
        after: Sequence,
        most: usize,
    ) -> Result<Option<Vec<Record>>, IndexError> {
        if self.dropped()?.iter().any(|&(_, until)| until > after) {
            return Ok(None);
        }
        let mut records = Vec::new();
        for lane in Lane::ALL {
            let left = most + 1 - records.len();
            let condition = "lane = ?1 AND seq > ?2 LIMIT ?3";
            let parameters = (lane.number(), signed(after.0), limit(left));
            let rows = self.rows_where(condition, parameters)?;
            records.extend(rows.into_iter().map(|row| row.record));
            if records.len() > most {
                return Ok(None);
            }
        }
        Ok(Some(records))
    }

    /// Calls `each` for every row, tombstones included, sorted by directory and name.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn each(&self, mut each: impl FnMut(Row)) -> Result<(), IndexError> {
        let sql = format!("SELECT {COLUMNS} FROM records ORDER BY dir, name");
        let mut statement = self.db.prepare_cached(&sql).map_err(reading)?;
        let mut rows = statement.query(()).map_err(reading)?;
        while let Some(row) = rows.next().map_err(reading)? {
            each(raw_row(row).map_err(reading)?.decode()?);
        }
        Ok(())
    }

    /// Live paths whose directory is not known as one: a crash came after a child was noted, and before the
    /// directory was. One look-up for each directory.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn orphans(&self) -> Result<Vec<RelPath>, IndexError> {
        let sql = "WITH RECURSIVE dirs(dir) AS ( \
                   SELECT min(dir) FROM records UNION ALL \
                   SELECT (SELECT min(dir) FROM records WHERE dir > dirs.dir) FROM dirs \
                   WHERE dirs.dir IS NOT NULL) SELECT dir FROM dirs WHERE dir IS NOT NULL";
        let mut statement = self.db.prepare_cached(sql).map_err(reading)?;
        let rows = statement.query_map((), |row| row.get::<_, Vec<u8>>(0)).map_err(reading)?;
        let mut orphans = Vec::new();
        for dir in rows {
            let Ok(dir) = RelPath::parse(&dir.map_err(reading)?) else { continue };
            if dir.is_root() || self.is_live_dir(&dir)? {
                continue;
            }
            let children = self.children(&dir)?.into_iter();
            orphans.extend(children.filter_map(|child| dir.join(&child.name).ok()));
        }
        Ok(orphans)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Incarnation, NodeId, Stamp, Version};

    fn record(path: &str, live: bool) -> Record {
        let meta = crate::model::Meta {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: crate::model::Mtime::default(),
            xattrs: Vec::new(),
        };
        let entry = crate::model::Entry { kind: crate::model::Kind::Dir, meta };
        let version = Version::edit(Stamp { counter: 1, node: NodeId(1) }, None);
        let path = RelPath::parse(path.as_bytes()).unwrap();
        Record { path, entry: live.then_some(entry), version }
    }

    fn index(paths: &[(&str, bool)]) -> (tempfile::TempDir, Index) {
        let folder = tempfile::tempdir().unwrap();
        let (mut index, _) = Index::open(&folder.path().join("index.db"), Incarnation(7)).unwrap();
        for (n, &(path, live)) in paths.iter().enumerate() {
            let lane = Lane::ALL[n % Lane::ALL.len()];
            index.store(&record(path, live), None, lane, None, 0).unwrap();
        }
        (folder, index)
    }

    #[test]
    fn from_the_back_what_is_in_a_directory_comes_before_it() {
        let paths = ["a", "a.b", "a.b/c", "a/b", "a/b/c", "a/d", "z"];
        let all: Vec<_> = paths.iter().map(|&path| (path, true)).chain([("gone", false)]).collect();
        let (_folder, index) = index(&all);
        for most in [1, 2, 3, 10] {
            let mut found: Vec<RelPath> = Vec::new();
            loop {
                let page = index.page_before(found.last(), most).unwrap();
                if page.is_empty() {
                    break;
                }
                found.extend(page.into_iter().map(|record| record.path));
            }
            assert_eq!(paths.len(), found.len(), "{found:?}");
            for (at, path) in found.iter().enumerate() {
                assert!(found[at + 1..].iter().all(|later| !later.is_below(path)), "{found:?}");
            }
        }
    }

    #[test]
    fn what_changed_is_told_unless_it_is_too_much_or_not_known_any_more() {
        let (_folder, mut index) = index(&[("a", true), ("b", false), ("c", true)]);
        let first = index.row(&record("a", true).path).unwrap().unwrap().sequence;
        let changed = |index: &Index, after, most| {
            let records = index.changed_after(after, most).unwrap();
            records
                .map(|records| records.into_iter().map(|r| r.path.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(Some(vec!["b".to_owned(), "c".to_owned()]), changed(&index, first, 2));
        assert_eq!(None, changed(&index, first, 1));
        assert_eq!(Some(Vec::new()), changed(&index, index.head(), 9));
        let lane = Lane::ALL[1];
        assert_eq!(1, index.drop_tombstones(lane, index.head(), u64::MAX, 9).unwrap());
        assert_eq!(None, changed(&index, first, 9), "a removal after it is forgotten");
        assert_eq!(Some(Vec::new()), changed(&index, index.head(), 9));
    }

    #[test]
    fn children_of_a_directory_that_is_not_known_are_found() {
        let known = [("a", true), ("a/b", true), ("a/b/c", true), ("d", false), ("e/f", false)];
        let (_folder, index) = index(&known);
        assert!(index.orphans().unwrap().is_empty());
        let (_folder, index) = self::index(&[("a/b/c", true), ("d/e", true), ("d", false)]);
        let found: Vec<_> = index.orphans().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(["a/b/c", "d/e"], *found);
    }
}
