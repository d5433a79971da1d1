//! What other nodes have, what we have of them, and which applies are in flight.

use rusqlite::OptionalExtension;

use super::{Index, IndexError, Token, reading, signed, unsigned};
use crate::model::{Incarnation, Lane, NodeId, Record, RelPath, Sequence};

#[cfg(test)]
mod tests;

/// Positions with a peer, per lane in order of [`Lane::ALL`].
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Cursors {
    /// The life of the peer's index that `done` belongs to.
    pub incarnation: Incarnation,
    /// Up to where the peer's changes are durable here.
    pub done: Vec<(Lane, Sequence)>,
    /// Up to where the peer's changes have come here, done or not, as far as that is more.
    pub arrived: Vec<(Lane, Sequence)>,
    /// Up to where our changes are durable there.
    pub acknowledged: Vec<(Lane, Sequence)>,
}

/// As [`Index::told`]: the peer is linked.
const TOLD_ALL: i64 = i64::MAX;

/// The peer was linked when the power went: it may have heard of what was lost.
const TOLD_LOST: i64 = i64::MAX - 1;

impl Index {
    /// What is known of a peer; zeros if nothing is.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn cursors(&self, peer: NodeId) -> Result<Cursors, IndexError> {
        let sql = "SELECT incarnation FROM peers WHERE peer = ?1";
        let incarnation = self
            .db
            .query_row(sql, [signed(peer.0)], |row| row.get(0))
            .optional()
            .map_err(reading)?;
        let mut cursors = Cursors {
            incarnation: Incarnation(incarnation.map_or(0, unsigned)),
            ..Cursors::default()
        };
        let sql = "SELECT done, acknowledged FROM cursors WHERE peer = ?1 AND lane = ?2";
        let mut statement = self.db.prepare_cached(sql).map_err(reading)?;
        let sql = "SELECT until FROM arrived WHERE peer = ?1 AND lane = ?2";
        let mut come = self.db.prepare_cached(sql).map_err(reading)?;
        for lane in Lane::ALL {
            let until = come.query_row((signed(peer.0), lane.number()), |row| row.get(0));
            let until = until.optional().map_err(reading)?;
            cursors.arrived.extend(until.map(|until| (lane, Sequence(unsigned(until)))));
            let found = statement
                .query_row((signed(peer.0), lane.number()), |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
                .map_err(reading)?;
            let (done, acknowledged) = found.unwrap_or_default();
            cursors.done.push((lane, Sequence(unsigned(done))));
            cursors.acknowledged.push((lane, Sequence(unsigned(acknowledged))));
        }
        Ok(cursors)
    }

    /// A peer has another index than before: nothing that it told or was told counts any more. What it
    /// has `dropped` by now is not missed.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn forget_peer(
        &mut self,
        peer: NodeId,
        incarnation: Incarnation,
        dropped: &[(Lane, Sequence)],
    ) -> Result<(), IndexError> {
        self.begin()?;
        let id = signed(peer.0);
        self.execute("write", "DELETE FROM cursors WHERE peer = ?1", [id])?;
        self.execute("write", "DELETE FROM passed WHERE peer = ?1", [id])?;
        self.execute("write", "DELETE FROM had WHERE peer = ?1", [id])?;
        self.execute("write", "DELETE FROM arrived WHERE peer = ?1", [id])?;
        dropped.iter().try_for_each(|&(lane, until)| self.set_had(peer, lane, until))?;
        self.forget_via(peer)?;
        let sql = "INSERT OR REPLACE INTO peers (peer, incarnation) VALUES (?1, ?2)";
        self.execute("write", sql, (id, signed(incarnation.0))).map(drop)
    }

    /// A peer's index goes on as another life, which knows to have told this one up to `until`: what it
    /// told after that is to be told anew, and it may have forgotten whatever it told.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn continue_peer(
        &mut self,
        peer: NodeId,
        incarnation: Incarnation,
        until: &[(Lane, Sequence)],
    ) -> Result<(), IndexError> {
        self.begin()?;
        let id = signed(peer.0);
        let sql = "UPDATE cursors SET done = min(done, ?3) WHERE peer = ?1 AND lane = ?2";
        for lane in Lane::ALL {
            let until = until.iter().find(|at| at.0 == lane).map_or(Sequence(0), |at| at.1);
            self.execute("write", sql, (id, lane.number(), signed(until.0)))?;
        }
        self.execute("write", "DELETE FROM arrived WHERE peer = ?1", [id])?;
        self.forget_via(peer)?;
        let sql = "UPDATE peers SET incarnation = ?2 WHERE peer = ?1";
        self.execute("write", sql, (id, signed(incarnation.0))).map(drop)
    }

    /// Notes that a change which the peer told was passed over: by these rules its path is not mirrored.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn note_passed(
        &mut self,
        peer: NodeId,
        lane: Lane,
        sequence: Sequence,
        rules: [u8; 32],
    ) -> Result<(), IndexError> {
        self.begin()?;
        let sql = "INSERT OR IGNORE INTO passed (peer, lane, seq, rules) VALUES (?1, ?2, ?3, ?4)";
        let parameters = (signed(peer.0), lane.number(), signed(sequence.0), rules);
        self.execute("write", sql, parameters).map(drop)
    }

    /// By these rules the mount is mirrored now: what was passed over by others is asked for again.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn begin_rules(&mut self, rules: [u8; 32]) -> Result<(), IndexError> {
        self.begin()?;
        let sql = "UPDATE cursors SET done = min(done, seq - 1) FROM passed \
                   WHERE passed.peer = cursors.peer AND passed.lane = cursors.lane \
                   AND passed.rules != ?1";
        self.execute("write", sql, [rules])?;
        self.execute("write", "DELETE FROM passed WHERE rules != ?1", [rules])?;
        self.commit()
    }

    /// Whether what a peer has can be of this index as it is, and not of a later state: it is of a life
    /// that it had, no further than the peer can have heard of it; or of another index that the peer
    /// knew when the two were first linked.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn can_be_of(
        &mut self,
        peer: NodeId,
        life: Incarnation,
        cursors: &[(Lane, Sequence)],
    ) -> Result<bool, IndexError> {
        let sql = "SELECT own FROM lives WHERE incarnation = ?1";
        let own = self.db.query_row(sql, [signed(life.0)], |row| row.get(0)).optional();
        let own: Option<bool> = own.map_err(reading)?;
        let until = self.told(peer)?;
        let lost = until == Some(Sequence(unsigned(TOLD_LOST)));
        match own {
            // Nobody has heard of more of this life yet than of what it goes on from.
            Some(true) if lost && life == self.incarnation => {
                let begin = self.former()?.map_or(Sequence(0), |(_, head)| head);
                Ok(cursors.iter().all(|&(_, at)| at <= begin))
            }
            Some(true) => Ok(cursors.iter().all(|&(_, at)| at <= until.unwrap_or_default())),
            Some(false) => Ok(true),
            None if until.is_some() => Ok(false),
            None => {
                self.begin()?;
                let sql = "INSERT INTO lives (incarnation, own) VALUES (?1, FALSE)";
                self.execute("write", sql, [signed(life.0)])?;
                Ok(true)
            }
        }
    }

    /// Up to where a peer can have heard of this index: to where it was when they parted, or without a
    /// limit while they are linked. Nothing if they never were.
    fn told(&self, peer: NodeId) -> Result<Option<Sequence>, IndexError> {
        let sql = "SELECT until FROM told WHERE peer = ?1";
        let until = self.db.query_row(sql, [signed(peer.0)], |row| row.get(0)).optional();
        Ok(until.map_err(reading)?.map(|until| Sequence(unsigned(until))))
    }

    /// From now on the peer hears of whatever is stored. A power cut does not take that away.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn begin_telling(&mut self, peer: NodeId) -> Result<(), IndexError> {
        self.set_told(peer, TOLD_ALL)?;
        self.commit()?;
        self.sync()
    }

    /// The peer hears of nothing more.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn end_telling(&mut self, peer: NodeId) -> Result<(), IndexError> {
        let told = self.told(peer)? == Some(Sequence(unsigned(TOLD_ALL)));
        if told { self.set_told(peer, signed(self.head.0)) } else { Ok(()) }
    }

    fn set_told(&mut self, peer: NodeId, until: i64) -> Result<(), IndexError> {
        self.begin()?;
        let sql = "INSERT OR REPLACE INTO told (peer, until) VALUES (?1, ?2)";
        self.execute("write", sql, (signed(peer.0), until)).map(drop)
    }

    /// To be called for each run that goes on with the life of the last one: whoever was linked when
    /// that ended may have heard of all of it, and so may whoever was known to a release that did not
    /// note it.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn part_all(&mut self) -> Result<(), IndexError> {
        self.begin()?;
        self.part(signed(self.head.0))?;
        self.commit()
    }

    /// Nobody is linked; who was may have heard of it up to here.
    fn part(&self, until: i64) -> Result<(), IndexError> {
        let sql = "UPDATE told SET until = ?1 WHERE until = ?2";
        self.execute("write", sql, (until, TOLD_ALL))?;
        let sql = "INSERT OR IGNORE INTO told (peer, until) SELECT peer, ?1 FROM peers";
        self.execute("write", sql, [until])?;
        let sql = "INSERT OR REPLACE INTO lives SELECT incarnation, TRUE FROM state \
                   UNION SELECT incarnation, TRUE FROM former";
        self.execute("write", sql, ()).map(drop)
    }

    /// Another life begins: nobody has heard of that, and who was linked may have heard of what the
    /// former one lost.
    pub(super) fn part_with_life(&self) -> Result<(), IndexError> {
        self.part(TOLD_LOST)
    }

    /// A peer is to be told what it had told itself.
    fn forget_via(&self, peer: NodeId) -> Result<(), IndexError> {
        let sql = "UPDATE records SET via = 0 WHERE via = ?1";
        self.execute("write", sql, [signed(peer.0)]).map(drop)
    }

    /// Notes up to where a peer's changes are durable here.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn set_done(
        &mut self,
        peer: NodeId,
        lane: Lane,
        sequence: Sequence,
    ) -> Result<(), IndexError> {
        self.begin()?;
        let sql = "INSERT INTO cursors (peer, lane, done, acknowledged) VALUES (?1, ?2, ?3, 0) \
                   ON CONFLICT DO UPDATE SET done = ?3";
        let parameters = (signed(peer.0), lane.number(), signed(sequence.0));
        self.execute("write", sql, parameters)?;
        self.set_had(peer, lane, sequence)
    }

    /// Notes up to where a peer's changes have come here.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn set_arrived(
        &mut self,
        peer: NodeId,
        lane: Lane,
        sequence: Sequence,
    ) -> Result<(), IndexError> {
        self.begin()?;
        let sql = "INSERT OR REPLACE INTO arrived (peer, lane, until) VALUES (?1, ?2, ?3)";
        let parameters = (signed(peer.0), lane.number(), signed(sequence.0));
        self.execute("write", sql, parameters).map(drop)
    }

    fn set_had(&self, peer: NodeId, lane: Lane, until: Sequence) -> Result<(), IndexError> {
        let sql = "INSERT INTO had (peer, lane, until) VALUES (?1, ?2, ?3) \
                   ON CONFLICT DO UPDATE SET until = max(until, ?3)";
        let parameters = (signed(peer.0), lane.number(), signed(until.0));
        self.execute("write", sql, parameters).map(drop)
    }

    /// Whether a peer has dropped tombstones that this index never had: it was put back from a time
    /// when they were still to come. `dropped` is up to where it has, per lane.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn lacks(&self, peer: NodeId, dropped: &[(Lane, Sequence)]) -> Result<bool, IndexError> {
        let sql = "SELECT until FROM had WHERE peer = ?1 AND lane = ?2";
        let mut statement = self.db.prepare_cached(sql).map_err(reading)?;
        for &(lane, until) in dropped {
            let had = statement.query_row((signed(peer.0), lane.number()), |row| row.get(0));
            let had = had.optional().map_err(reading)?.map_or(0, unsigned);
            if had < until.0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Up to where tombstones are gone, for the lanes of which some are.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn dropped(&self) -> Result<Vec<(Lane, Sequence)>, IndexError> {
        let mut statement =
            self.db.prepare_cached("SELECT lane, until FROM dropped").map_err(reading)?;
        let rows =
            statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?))).map_err(reading)?;
        let rows: Vec<(u8, i64)> = rows.collect::<Result<_, _>>().map_err(reading)?;
        let known = |number| Lane::ALL.into_iter().find(|lane| lane.number() == number);
        let of = |(lane, until)| Some((known(lane)?, Sequence(unsigned(until))));
        Ok(rows.into_iter().filter_map(of).collect())
    }

    /// Tombstones are gone up to there.
    pub(super) fn set_dropped(&self, lane: Lane, until: Sequence) -> Result<(), IndexError> {
        let sql = "INSERT INTO dropped (lane, until) VALUES (?1, ?2) \
                   ON CONFLICT DO UPDATE SET until = max(until, ?2)";
        self.execute("write", sql, (lane.number(), signed(until.0))).map(drop)
    }

    /// Notes up to where our changes are durable at a peer.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn set_acknowledged(
        &mut self,
        peer: NodeId,
        lane: Lane,
        sequence: Sequence,
    ) -> Result<(), IndexError> {
        self.begin()?;
        let sql = "INSERT INTO cursors (peer, lane, done, acknowledged) VALUES (?1, ?2, 0, ?3) \
                   ON CONFLICT DO UPDATE SET acknowledged = ?3";
        let parameters = (signed(peer.0), lane.number(), signed(sequence.0));
        self.execute("write", sql, parameters).map(drop)
    }

    /// Notes that this record is about to be made visible. [`Index::commit`] and [`Index::sync`]
    /// come before the apply. Gives the apply's token, the same as [`Index::journaled`].
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn journal(&mut self, record: &Record) -> Result<Token, IndexError> {
        let bytes = record.encode();
        let token = token(&bytes);
        let Some((dir, name)) = record.path.split() else { return Ok(token) };
        self.begin()?;
        let sql = "INSERT OR REPLACE INTO journal (dir, name, record) VALUES (?1, ?2, ?3)";
        self.execute("write", sql, (dir, name, bytes)).map(|_| token)
    }

    /// The apply is over, whatever came of it.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn unjournal(&mut self, path: &RelPath) -> Result<(), IndexError> {
        let Some((dir, name)) = path.split() else { return Ok(()) };
        self.begin()?;
        let sql = "DELETE FROM journal WHERE dir = ?1 AND name = ?2";
        self.execute("write", sql, (dir, name)).map(drop)
    }

    /// Applies that were in flight when the index was last written.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn journaled(&self) -> Result<Vec<(Record, Token)>, IndexError> {
        let mut statement = self.db.prepare("SELECT record FROM journal").map_err(reading)?;
        let rows = statement.query_map((), |row| row.get::<_, Vec<u8>>(0)).map_err(reading)?;
        rows.map(|bytes| {
            let bytes = bytes.map_err(reading)?;
            let record = Record::decode(&bytes)
                .map_err(|source| IndexError::Decode { path: RelPath::root(), source })?;
            Ok((record, token(&bytes)))
        })
        .collect()
    }
}

/// Of the path and its version, which the record's bytes hold.
fn token(record: &[u8]) -> Token {
    let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(record).as_bytes();
    Token(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
}
