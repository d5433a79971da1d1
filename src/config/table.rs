//! Reads TOML tables key by key, so that every error can name key, value, line and what is allowed.
//!
//! In: the text of a configuration file. Out: typed values, each with where it stood, or a
//! [`ConfigError`]. A key that nobody asked for is an error with the nearest key that exists. Pure.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::engine::DeleteBudget;

/// Bytes of a configuration file: far more than anyone writes.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// What is wrong in a configuration file, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}:{line}:{column}: {what} at line {line}; {allowed}", file.display())]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// Counted from one.
    pub line: usize,
    /// Counted from one, in characters.
    pub column: usize,
    /// Key and value, and what is wrong with them.
    pub what: String,
    /// What is allowed, or what to do.
    pub allowed: String,
}

/// A configuration file's text, for turning positions into lines.
#[derive(Clone, Copy)]
pub(super) struct Source<'i> {
    pub(super) file: &'i Path,
    pub(super) text: &'i str,
}

impl<'i> Source<'i> {
    /// Parses the text into its outermost table.
    pub(super) fn parse(self) -> Result<Table<'i>, ConfigError> {
        if self.text.len() > FILE_BYTES_MAX {
            let allowed = format!("at most {FILE_BYTES_MAX} bytes");
            return Err(self.error(0..0, "the file is too long", allowed));
        }
        let table = DeTable::parse(self.text).map_err(|e| {
            let span = e.span().unwrap_or(0..0);
            self.error(span, format!("not TOML: {}", one_line(e.message())), "see https://toml.io")
        })?;
        let span = 0..0;
        Ok(Table::new(self, String::new(), span, table.into_inner()))
    }

    /// An error about what stands at `span`.
    pub(super) fn error(
        self,
        span: Range<usize>,
        what: impl Into<String>,
        allowed: impl Into<String>,
    ) -> ConfigError {
        let mut start = span.start.min(self.text.len());
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        let before = &self.text[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        ConfigError {
            file: self.file.to_owned(),
            line: before.bytes().filter(|&b| b == b'\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            what: what.into(),
            allowed: allowed.into(),
        }
    }
}

/// A table whose keys are taken one by one.
pub(super) struct Table<'i> {
    source: Source<'i>,
    /// As in `[node]`; empty for the outermost.
    name: String,
    /// Where the table stands.
    pub(super) span: Range<usize>,
    values: BTreeMap<String, (Range<usize>, Spanned<DeValue<'i>>)>,
    /// Every key that was asked for.
    known: Vec<&'static str>,
}

/// A value with its key and where it stands.
pub(super) struct Value<'i, T> {
    source: Source<'i>,
    key: &'static str,
    table: String,
    pub(super) span: Range<usize>,
    pub(super) value: T,
}

impl<'i, T> Value<'i, T> {
    /// The same place with another value.
    pub(super) fn with<U>(&self, value: U) -> Value<'i, U> {
        Value {
            source: self.source,
            key: self.key,
            table: self.table.clone(),
            span: self.span.clone(),
            value,
        }
    }

    /// An error about this value.
    pub(super) fn error(
        &self,
        what: impl std::fmt::Display,
        allowed: impl Into<String>,
    ) -> ConfigError {
        let place = in_table(&self.table);
        self.source.error(self.span.clone(), format!("`{}`{place} {what}", self.key), allowed)
    }
}

impl Value<'_, String> {
    /// The value parsed by `parse`, whose error says what is wrong, and after a `; ` what is allowed
    /// (`allowed` otherwise).
    pub(super) fn parse<T, E: std::fmt::Display>(
        &self,
        allowed: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, ConfigError> {
        parse(&self.value).map_err(|e| {
            // The message of a type that knows what is allowed ends in it.
            let text = e.to_string();
            let (why, allowed) = text.split_once("; ").unwrap_or((&text, allowed));
            self.error(format!("is {:?}: {why}", self.value), allowed)
        })
    }
}

impl<'i> Table<'i> {
    fn new(source: Source<'i>, name: String, span: Range<usize>, table: DeTable<'i>) -> Self {
        let values = table
            .into_iter()
            .map(|(key, value)| (key.get_ref().to_string(), (key.span(), value)))
            .collect();
        Self { source, name, span, values, known: Vec::new() }
    }

    fn take(&mut self, key: &'static str) -> Option<Value<'i, DeValue<'i>>> {
        self.known.push(key);
        let (_, value) = self.values.remove(key)?;
        Some(Value {
            source: self.source,
            key,
            table: self.name.clone(),
            span: value.span(),
            value: value.into_inner(),
        })
    }

    /// An error about the table as a whole.
    pub(super) fn error(&self, what: &str, allowed: impl Into<String>) -> ConfigError {
        let name = if self.name.is_empty() { "the file" } else { &self.name };
        self.source.error(self.span.clone(), format!("{name} {what}"), allowed)
    }

    /// A text.
    pub(super) fn string(
        &mut self,
        key: &'static str,
    ) -> Result<Option<Value<'i, String>>, ConfigError> {
        self.take(key).map(|value| to_string(&value)).transpose()
    }

    /// A text that has to be there.
    pub(super) fn required(
        &mut self,
        key: &'static str,
        allowed: &str,
    ) -> Result<Value<'i, String>, ConfigError> {
        self.string(key)?.ok_or_else(|| self.error(&format!("has no `{key}`"), allowed))
    }

    /// A list of texts; one text alone is a list, too.
    pub(super) fn strings(
        &mut self,
        key: &'static str,
    ) -> Result<Option<Vec<Value<'i, String>>>, ConfigError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let DeValue::Array(array) = &value.value else {
            return to_string(&value).map(|one| Some(vec![one]));
        };
        let texts = array.iter().map(|item| {
            to_string(&Value { span: item.span(), ..value.with(item.get_ref().clone()) })
        });
        texts.collect::<Result<_, _>>().map(Some)
    }

    /// A whole number.
    pub(super) fn number(&mut self, key: &'static str) -> Result<Option<u32>, ConfigError> {
        const ALLOWED: &str = "allowed: a number such as 7, without quotes";
        let Some(value) = self.take(key) else { return Ok(None) };
        match &value.value {
            DeValue::Integer(number) => u32::from_str_radix(number.as_str(), number.radix())
                .map(Some)
                .map_err(|_| value.error(format!("is {number}"), ALLOWED)),
            other => Err(value.error(format!("is {}", describe(other)), ALLOWED)),
        }
    }

    /// A budget of deletions, as a number or a text, or the text `off`.
    pub(super) fn budget_or_off(
        &mut self,
        key: &'static str,
    ) -> Result<Option<Option<DeleteBudget>>, ConfigError> {
        const ALLOWED: &str = "allowed: a number of files, a percentage such as \"1%\", the larger \
                               of both as \"50 or 1%\", or \"off\"";
        let Some(value) = self.take(key) else { return Ok(None) };
        match &value.value {
            DeValue::String(text) if text == "off" => Ok(Some(None)),
            DeValue::String(text) => match text.parse() {
                Ok(budget) => Ok(Some(Some(budget))),
                Err(error) => Err(value.error(format!("is {text:?}: {error}"), ALLOWED)),
            },
            DeValue::Integer(number) => {
                let parsed = u64::from_str_radix(number.as_str(), number.radix());
                parsed
                    .map(|files| Some(Some(DeleteBudget { files, percent: 0 })))
                    .map_err(|_| value.error(format!("is {number}"), ALLOWED))
            }
            other => Err(value.error(format!("is {}", describe(other)), ALLOWED)),
        }
    }

    /// A table below this one.
    pub(super) fn table(&mut self, key: &'static str) -> Result<Option<Self>, ConfigError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let name = format!("[{}]", self.path_of(key));
        match value.value {
            DeValue::Table(table) => Ok(Some(Self::new(value.source, name, value.span, table))),
            ref other => {
                Err(value.error(format!("is {}", describe(other)), format!("write {name}")))
            }
        }
    }

    /// A list of tables below this one.
    pub(super) fn tables(&mut self, key: &'static str) -> Result<Vec<Self>, ConfigError> {
        let Some(value) = self.take(key) else { return Ok(Vec::new()) };
        let name = format!("[[{}]]", self.path_of(key));
        let wrong = |span, other: &DeValue<'_>| {
            let at = Value { span, ..value.with(()) };
            at.error(format!("is {}", describe(other)), format!("write {name}"))
        };
        let DeValue::Array(array) = &value.value else {
            return Err(wrong(value.span.clone(), &value.value));
        };
        let tables = array.iter().map(|item| match item.get_ref() {
            DeValue::Table(table) => {
                Ok(Self::new(self.source, name.clone(), item.span(), table.clone()))
            }
            other => Err(wrong(item.span(), other)),
        });
        tables.collect()
    }

    fn path_of(&self, key: &str) -> String {
        match self.name.trim_matches(['[', ']']) {
            "" => key.to_owned(),
            name => format!("{name}.{key}"),
        }
    }

    /// Ends the table.
    ///
    /// # Errors
    /// The first key, in the order of the file, that nobody asked for.
    pub(super) fn finish(self) -> Result<(), ConfigError> {
        let first = self.values.iter().min_by_key(|(_, (span, _))| span.start);
        let Some((key, (span, _))) = first else { return Ok(()) };
        let nearest = self
            .known
            .iter()
            .map(|known| (strsim::damerau_levenshtein(key, known), known))
            .filter(|&(distance, known)| distance <= known.len().max(key.len()) / 3)
            .min();
        let allowed = match nearest {
            Some((_, known)) => format!("did you mean `{known}`?"),
            None => format!("allowed: {}", self.known.join(", ")),
        };
        let what = format!("unknown key {}{}", quoted(key), in_table(&self.name));
        Err(self.source.error(span.clone(), what, allowed))
    }
}

fn to_string<'i>(value: &Value<'i, DeValue<'i>>) -> Result<Value<'i, String>, ConfigError> {
    match &value.value {
        DeValue::String(text) => Ok(value.with(text.to_string())),
        other => Err(value.error(format!("is {}", describe(other)), "allowed: a text in quotes")),
    }
}

fn in_table(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!(" in {name}") }
}

/// A key as in the file, on one line.
fn quoted(key: &str) -> String {
    format!("`{}`", key.escape_debug())
}

fn describe(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Boolean(yes) => yes.to_string(),
        other => format!("of type {}", other.type_str()),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
