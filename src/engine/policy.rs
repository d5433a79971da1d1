//! Says which class a path falls under, and what that class means.
//!
//! In: rules (a pattern and a class each, in order) and the settings of each class. Out: the class
//! of a path, its settings, its lane. Pure: asked for every event, so it allocates little and
//! remembers nothing.
//!
//! **Patterns** are gitignore-style globs over the bytes of a path relative to its mount:
//! - without a slash (a trailing one does not count) a pattern matches at any depth; with one it
//!   starts at the mount's root. A leading slash means the root, too.
//! - `*` and `?` stop at a slash, `**` does not; `[a-z]` and `{a,b}` choose; `\` takes the next
//!   character as it is. `?` and `[a-z]` are about bytes.
//! - a pattern that matches a directory matches everything below it.
//!
//! **The first rule that matches wins.** One thing stands above the order: what is below a `local`
//! directory is `local`, because nobody lists or watches there. `.trefoil` at the root is always
//! `local`, the root itself never.

use std::{fmt, str::FromStr, time::Duration};

use globset::{Candidate, GlobBuilder, GlobSet, GlobSetBuilder};

use crate::model::{Lane, RelPath};

/// The directory at a mount's root that belongs to trefoil.
pub const OWN_DIR: &[u8] = b".trefoil";

/// Bytes of a pattern: longer than any meant by a person, short enough to compile at once.
pub const PATTERN_BYTES_MAX: usize = 1024;

/// Rules of one policy, presets included.
pub const RULES_MAX: usize = 1024;

/// What a path is to the application, and so how it is mirrored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
#[repr(u8)]
pub enum Class {
    /// Small files that steer the application, such as `env.php`: first, and never emptied rashly.
    Config = 0,
    /// Files that mean something by being there, such as a maintenance flag: first.
    Flag = 1,
    /// Visible on a peer only after everything its origin finished before it.
    Barrier = 2,
    /// What a deployment writes.
    Release = 3,
    /// Originals that nobody can make again.
    Precious = 4,
    /// Everything that has no other class.
    Normal = 5,
    /// What the application makes anew when it is missing.
    Derived = 6,
    /// Not mirrored.
    Local = 7,
}

impl Class {
    /// Every class, in the order of [`Class::number`].
    pub const ALL: [Self; 8] = [
        Self::Config,
        Self::Flag,
        Self::Barrier,
        Self::Release,
        Self::Precious,
        Self::Normal,
        Self::Derived,
        Self::Local,
    ];

    /// The name used in the configuration and in every output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Flag => "flag",
            Self::Barrier => "barrier",
            Self::Release => "release",
            Self::Precious => "precious",
            Self::Normal => "normal",
            Self::Derived => "derived",
            Self::Local => "local",
        }
    }

    /// The class's place in [`Class::ALL`].
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A word that names no class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a class; allowed: config, flag, barrier, release, precious, normal, derived, local")]
pub struct UnknownClass;

impl FromStr for Class {
    type Err = UnknownClass;

    fn from_str(name: &str) -> Result<Self, UnknownClass> {
        Self::ALL.into_iter().find(|class| class.name() == name).ok_or(UnknownClass)
    }
}

/// How many files may be deleted in ten minutes: the larger of a number and a part of the mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeleteBudget {
    /// So many.
    pub files: u64,
    /// So many of a hundred that the mount has.
    pub percent: u8,
}

impl DeleteBudget {
    /// The number, where the mount has so many files.
    #[must_use]
    pub fn of(self, files: u64) -> u64 {
        self.files.max(files.saturating_mul(self.percent.into()) / 100)
    }

    /// Whether every deletion waits.
    #[must_use]
    pub fn is_nothing(self) -> bool {
        self.files == 0 && self.percent == 0
    }
}

/// As in the configuration: `50`, `1%` or `50 or 1%`.
impl fmt::Display for DeleteBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.files, self.percent) {
            (files, 0) => f.pad(&files.to_string()),
            (0, percent) => f.pad(&format!("{percent}%")),
            (files, percent) => f.pad(&format!("{files} or {percent}%")),
        }
    }
}

/// Text that is no [`DeleteBudget`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a number of files or a percentage")]
pub struct UnknownBudget;

impl FromStr for DeleteBudget {
    type Err = UnknownBudget;

    fn from_str(text: &str) -> Result<Self, UnknownBudget> {
        let number = |text: &str| -> Result<u64, UnknownBudget> {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            Some(text).filter(|_| digits).and_then(|t| t.parse().ok()).ok_or(UnknownBudget)
        };
        let percent = |text: &str| -> Result<u8, UnknownBudget> {
            let percent = number(text.strip_suffix('%').ok_or(UnknownBudget)?)?;
            u8::try_from(percent).ok().filter(|&p| p <= 100).ok_or(UnknownBudget)
        };
        match text.split_once(" or ") {
            Some((files, part)) => Ok(Self { files: number(files)?, percent: percent(part)? }),
            None if text.ends_with('%') => Ok(Self { files: 0, percent: percent(text)? }),
            None => Ok(Self { files: number(text)?, percent: 0 }),
        }
    }
}

/// What a class means for the paths under it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClassSettings {
    /// How long a file that is still open for writing, or whose writer was not seen closing it,
    /// must be quiet before it is read.
    pub settle: Duration,
    /// Whether the loser of concurrent edits goes to the conflict store; otherwise it is dropped.
    pub keep_losers: bool,
    /// How long deleted and overwritten content stays in the trash; nothing: not kept.
    pub trash: Option<Duration>,
    /// How long a file that was emptied is held and looked at again before that spreads; nothing:
    /// not held.
    pub emptied_hold: Option<Duration>,
    /// Deletions made on one node that pass in ten minutes; more are held for approval. Nothing: any
    /// number passes.
    pub delete_budget: Option<DeleteBudget>,
    /// Whether snapshots take it.
    pub snapshot: bool,
}

impl ClassSettings {
    /// What a class means unless the configuration says otherwise.
    #[must_use]
    pub const fn default_of(class: Class) -> Self {
        const WEEK: Duration = Duration::from_hours(7 * 24);
        let settle = match class {
            Class::Config | Class::Flag | Class::Barrier => Duration::from_millis(50),
            Class::Release => Duration::from_millis(200),
            Class::Precious | Class::Normal | Class::Derived | Class::Local => {
                Duration::from_secs(1)
            }
        };
        let (trash, emptied_hold) = match class {
            Class::Config => (Some(WEEK), Some(Duration::from_secs(5))),
            Class::Precious | Class::Normal => (Some(WEEK), None),
            _ => (None, None),
        };
        let delete_budget = match class {
            Class::Config => Some(DeleteBudget { files: 0, percent: 0 }),
            Class::Precious => Some(DeleteBudget { files: 50, percent: 1 }),
            Class::Normal => Some(DeleteBudget { files: 1000, percent: 20 }),
            _ => None,
        };
        Self {
            settle,
            keep_losers: !matches!(class, Class::Derived),
            trash,
            emptied_hold,
            delete_budget,
            snapshot: !matches!(class, Class::Flag | Class::Derived | Class::Local),
        }
    }
}

/// The settings of every class.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClassTable([ClassSettings; Class::ALL.len()]);

impl Default for ClassTable {
    fn default() -> Self {
        Self(Class::ALL.map(ClassSettings::default_of))
    }
}

impl ClassTable {
    /// The settings of a class.
    #[must_use]
    pub fn get(&self, class: Class) -> &ClassSettings {
        &self.0[usize::from(class.number())]
    }

    /// The settings of a class, to change them.
    pub fn get_mut(&mut self, class: Class) -> &mut ClassSettings {
        &mut self.0[usize::from(class.number())]
    }
}

/// A glob that was checked; see the module's header for what it matches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern(Box<str>);

/// Why text is not a pattern, or rules are not a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Nothing, or only a slash.
    #[error("pattern is empty")]
    Empty,
    /// Longer than [`PATTERN_BYTES_MAX`].
    #[error("pattern is longer than {PATTERN_BYTES_MAX} bytes")]
    TooLong,
    /// Starts with `!`, which gitignore reads as "not".
    #[error("pattern starts with `!`; put a rule with another class before this one instead")]
    Negated,
    /// An empty, `.` or `..` component, or a NUL: no path has one.
    #[error("pattern has an empty, `.` or `..` component or a NUL and can match nothing")]
    Component,
    /// Not a glob.
    #[error("pattern is not a glob: {0}")]
    Glob(String),
    /// More than [`RULES_MAX`] rules.
    #[error("more than {RULES_MAX} rules")]
    TooMany,
}

impl Pattern {
    /// Parses a glob.
    ///
    /// # Errors
    /// [`PatternError`], when the text is no glob or can match nothing.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(PatternError::TooLong);
        }
        if text.starts_with('!') {
            return Err(PatternError::Negated);
        }
        let body = text.strip_prefix('/').unwrap_or(text);
        let body = body.strip_suffix('/').unwrap_or(body);
        if body.is_empty() {
            return Err(PatternError::Empty);
        }
        if body.contains('\0') || body.split('/').any(|c| matches!(c, "" | "." | "..")) {
            return Err(PatternError::Component);
        }
        let pattern = Self(text.into());
        let mut set = GlobSetBuilder::new();
        pattern.add_to(&mut set).map_err(|e| PatternError::Glob(e.kind().to_string()))?;
        set.build().map_err(|e| PatternError::Glob(e.kind().to_string()))?;
        Ok(pattern)
    }

    /// The text it was parsed from.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Adds two globs: what is named, and everything below it.
    fn add_to(&self, set: &mut GlobSetBuilder) -> Result<(), globset::Error> {
        let text = self.0.strip_suffix('/').unwrap_or(&self.0);
        let anchored = match text.strip_prefix('/') {
            Some(rest) => rest.to_owned(),
            None if text.contains('/') || text == "**" => text.to_owned(),
            None => format!("**/{text}"),
        };
        for glob in [&anchored, &format!("{anchored}/**")] {
            let mut builder = GlobBuilder::new(glob);
            builder.literal_separator(true).backslash_escape(true).empty_alternates(true);
            set.add(builder.build()?);
        }
        Ok(())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The classes of one mount's paths.
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Vec<(Pattern, Class)>,
    /// Two globs a rule, in the order of the rules.
    globs: GlobSet,
    settings: ClassTable,
}

impl Policy {
    /// A policy of these rules; the first that matches a path gives its class, and what no rule
    /// matches is `normal`.
    ///
    /// # Errors
    /// [`PatternError`], when the rules are too many or too large together.
    pub fn new(rules: Vec<(Pattern, Class)>, settings: ClassTable) -> Result<Self, PatternError> {
        if rules.len() > RULES_MAX {
            return Err(PatternError::TooMany);
        }
        let mut set = GlobSetBuilder::new();
        for (pattern, _) in &rules {
            pattern.add_to(&mut set).map_err(|e| PatternError::Glob(e.kind().to_string()))?;
        }
        let globs = set.build().map_err(|e| PatternError::Glob(e.kind().to_string()))?;
        Ok(Self { rules, globs, settings })
    }

    /// The class of a path, whether or not anything is there.
    #[must_use]
    pub fn class(&self, path: &RelPath) -> Class {
        if path.is_root() {
            return Class::Normal;
        }
        if path.components().next() == Some(OWN_DIR) {
            return Class::Local;
        }
        let bytes = path.as_bytes();
        let mut matches = Vec::new();
        let class = self.first_match(bytes, &mut matches);
        // A local rule that matches a directory matches what is below it, too: without one among
        // the matches no directory above can be local.
        let may_be_below_local =
            class != Class::Local && matches.iter().any(|&at| self.rules[at / 2].1 == Class::Local);
        if may_be_below_local {
            let slashes = bytes.iter().enumerate().filter(|&(_, &b)| b == b'/');
            for (end, _) in slashes {
                if self.first_match(&bytes[..end], &mut matches) == Class::Local {
                    return Class::Local;
                }
            }
        }
        class
    }

    fn first_match(&self, path: &[u8], matches: &mut Vec<usize>) -> Class {
        self.globs.matches_candidate_into(&Candidate::from_bytes(path), matches);
        matches.iter().min().map_or(Class::Normal, |&at| self.rules[at / 2].1)
    }

    /// The pattern that decides over a path; nothing where no rule matches.
    #[must_use]
    pub fn pattern_of(&self, path: &RelPath) -> Option<&Pattern> {
        let mut matches = Vec::new();
        self.first_match(path.as_bytes(), &mut matches);
        matches.into_iter().min().map(|at| &self.rules[at / 2].0)
    }

    /// The settings of a class.
    #[must_use]
    pub fn settings(&self, class: Class) -> &ClassSettings {
        self.settings.get(class)
    }

    /// The lane in which records of a class are announced. Records of `local` paths are not; their
    /// lane is the last that is.
    #[must_use]
    pub const fn lane(class: Class) -> Lane {
        match class {
            Class::Config | Class::Flag => Lane::Urgent,
            Class::Barrier | Class::Release => Lane::Release,
            Class::Precious | Class::Normal => Lane::Normal,
            Class::Derived | Class::Local => Lane::Derived,
        }
    }

    /// Whether the whole content of a directory is local, so that it need not be listed or watched.
    #[must_use]
    pub fn skips(&self, dir: &RelPath) -> bool {
        self.class(dir) == Class::Local
    }

    /// The rules, in order: the first that matches wins.
    #[must_use]
    pub fn rules(&self) -> &[(Pattern, Class)] {
        &self.rules
    }

    /// Equal on nodes with equal rules in equal order. Settings are each node's own affair and not
    /// in it.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("trefoil 2026 policy rules v1");
        for (pattern, class) in &self.rules {
            hasher.update(&(pattern.as_str().len() as u64).to_le_bytes());
            hasher.update(pattern.as_str().as_bytes());
            hasher.update(&[class.number()]);
        }
        *hasher.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests;
