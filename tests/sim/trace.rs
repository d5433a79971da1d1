//! The readable trace of a history: inputs, outputs, records on one line each.

use trefoil::engine::{Hint, Input, Output};
use trefoil::model::{Entry, Found, Kind, Record};

use crate::world::World;

impl World {
    pub fn note_input(&mut self, at: usize, input: &Input) {
        if self.traces.is_some() {
            let text = match input {
                Input::Hinted(hints) if hints.is_empty() => return,
                Input::Tick => return,
                Input::Announced(a) => {
                    let (peer, lane, sequence) = (a.peer, a.lane, a.sequence.0 % 1_000_000_000_000);
                    let after = a.after.map(|after| after.0 % 1_000_000_000_000);
                    let theirs = show(&a.theirs);
                    format!("announced by {peer:?} {lane:?} {sequence} after {after:?}: {theirs}")
                }
                Input::Seen(seen) => match &seen.found {
                    Found::Entry { entry, .. } => {
                        format!("seen {} {}", seen.path, show_entry(entry))
                    }
                    other => format!("seen {} {other:?}", seen.path),
                },
                Input::Applied { path, .. } => format!("applied {path}"),
                Input::Hinted(hints) => {
                    let one = |hint: &Hint| format!("{} {:?} ", hint.path, hint.kind);
                    format!("hinted {}", hints.iter().map(one).collect::<String>())
                }
                Input::Swept(path) => format!("swept {path}"),
                Input::Journaled { record, visible } => {
                    format!("journaled {} visible {visible}", show(record))
                }
                other => format!("{other:?}"),
            };
            self.note(|_| format!("n{at} < {text}"));
        }
    }

    pub fn note_output(&mut self, at: usize, output: &Output) {
        if self.traces.is_some() {
            let text = match output {
                Output::Store { record, from, .. } => {
                    format!("store {} from {from:?}", show(record))
                }
                Output::Apply { record, ours, displaced, .. } => {
                    let ours = ours.as_ref().map(show);
                    format!("apply {} over {ours:?} {displaced:?}", show(record))
                }
                Output::Refresh { path, .. } => format!("refresh {path}"),
                other => format!("{other:?}"),
            };
            self.note(|_| format!("n{at} > {text}"));
        }
    }
}

/// An entry in a few letters.
pub fn show_entry(entry: &Entry) -> String {
    let what = match &entry.kind {
        Kind::Dir => "/".to_owned(),
        Kind::File { content, .. } => format!("{content:?}"),
        Kind::Symlink { .. } => "@".to_owned(),
    };
    let (mode, time) = (entry.meta.mode, entry.meta.mtime);
    format!("{what} {mode:o} {}.{:03}", time.secs % 100_000, time.nanos / 1_000_000)
}

/// A record on one line.
pub fn show(record: &Record) -> String {
    let what = record.entry.as_ref().map_or_else(|| "-".to_owned(), show_entry);
    let version = &record.version;
    let short = |n: u64| n % 1_000_000_000_000_000 / 1000;
    let pairs = |v: &trefoil::model::VersionVector| -> String {
        v.pairs().map(|(n, c)| format!("{:x}:{} ", n.0, short(c))).collect()
    };
    format!(
        "{} {what} by {:x}:{}{} [{}| {}] touched {:x}:{}",
        record.path,
        version.stamp.node.0,
        short(version.stamp.counter),
        if version.weak { " weak" } else { "" },
        pairs(&version.seen),
        pairs(&version.vector),
        version.touched.node.0,
        short(version.touched.counter),
    )
}
