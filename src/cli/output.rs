//! The only printer: results to stdout, notes and failures to stderr.
//!
//! A reader that went away is no error.

use std::io::{self, Write};

use anyhow::Context;
use serde::Serialize;

use super::Failure;

/// Where results and notes go.
pub struct Output {
    data: Box<dyn Write>,
    notes: Box<dyn Write>,
}

impl Output {
    /// To the process's own streams.
    #[must_use]
    pub fn standard() -> Self {
        Self::new(io::stdout(), io::stderr())
    }

    /// To these streams.
    pub fn new(data: impl Write + 'static, notes: impl Write + 'static) -> Self {
        Self { data: Box::new(data), notes: Box::new(notes) }
    }

    /// Prints a result; text without a newline at its end gets one.
    ///
    /// # Errors
    /// If stdout cannot be written, other than that its reader went away.
    pub fn data(&mut self, text: &str) -> Result<(), Failure> {
        let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        let written = write!(self.data, "{text}{end}").and_then(|()| self.data.flush());
        written_or_unread(written)
    }

    /// Prints a result as JSON, indented, and a newline.
    ///
    /// # Errors
    /// If stdout cannot be written, other than that its reader went away.
    pub fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).context("cannot write JSON")?;
        self.data(&text)
    }

    /// Where bytes that are a result go, as they are.
    pub fn bytes(&mut self) -> &mut dyn Write {
        &mut self.data
    }

    /// Says something that is not a result.
    pub fn note(&mut self, text: &str) {
        // There is nobody left to tell that stderr cannot be written.
        writeln!(self.notes, "{text}").ok();
    }

    /// Says what failed, why, and what to do.
    pub fn failure(&mut self, failure: &Failure) {
        self.note(&format!("error: {:#}", failure.error));
        if let Some(hint) = &failure.hint {
            self.note(&format!("hint: {hint}"));
        }
    }
}

/// Nothing, if it was written or nobody wants to read it.
pub(super) fn written_or_unread(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("cannot write to stdout").into())
        }
        _ => Ok(()),
    }
}

/// Rows under a heading, in columns as wide as need be, two spaces apart.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new<S: Into<String>>(heading: impl IntoIterator<Item = S>) -> Self {
        let mut table = Self { rows: Vec::new() };
        table.row(heading);
        table
    }

    pub(super) fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// One line a row, each after `indent`; nothing if there are no rows below the heading.
    pub(super) fn render(&self, indent: &str) -> String {
        if self.rows.len() < 2 {
            return String::new();
        }
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = indent.to_owned();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}  "));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}
