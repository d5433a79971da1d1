//! A path below a mount: bytes, parsed once, printed escaped.

use std::fmt;

use super::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX};

/// A path relative to a mount's root. Empty for the root itself; no empty, `.` or `..` component,
/// no NUL. Ordered by bytes: a directory comes before everything below it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Box<[u8]>);

/// Why bytes are not a path below a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Longer than [`PATH_BYTES_MAX`].
    #[error("path is longer than {PATH_BYTES_MAX} bytes")]
    TooLong,
    /// A component is longer than [`NAME_BYTES_MAX`].
    #[error("name is longer than {NAME_BYTES_MAX} bytes")]
    NameTooLong,
    /// An empty component: a leading, trailing or doubled slash.
    #[error("path has an empty component")]
    EmptyComponent,
    /// `.` or `..`.
    #[error("path has a `.` or `..` component")]
    DotComponent,
    /// A NUL byte.
    #[error("path has a NUL byte")]
    Nul,
}

impl RelPath {
    /// The mount's root.
    #[must_use]
    pub fn root() -> Self {
        Self(Box::default())
    }

    /// Parses bytes; empty is the root.
    ///
    /// # Errors
    /// [`PathError`], when the bytes could name something that is not below the mount.
    pub fn parse(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong);
        }
        if !bytes.is_empty() {
            bytes.split(|&b| b == b'/').try_for_each(check_name)?;
        }
        Ok(Self(bytes.into()))
    }

    /// The child called `name`.
    ///
    /// # Errors
    /// [`PathError`], when `name` is not one component or the path gets too long.
    pub fn join(&self, name: &[u8]) -> Result<Self, PathError> {
        check_name(name)?;
        if name.contains(&b'/') {
            return Err(PathError::EmptyComponent);
        }
        if self.0.len() + 1 + name.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong);
        }
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Ok(Self(bytes.into()))
    }

    /// Whether this is the mount's root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, without a leading or trailing slash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The directory this is in; nothing for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.split().map(|(dir, _)| Self(dir.into()))
    }

    /// The directory's bytes and the last name; nothing for the root.
    #[must_use]
    pub fn split(&self) -> Option<(&[u8], &[u8])> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|&b| b == b'/') {
            Some(at) => (&self.0[..at], &self.0[at + 1..]),
            None => (&[], &self.0),
        })
    }

    /// The last name; empty for the root.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.split().map_or(&[], |(_, name)| name)
    }

    /// The components, from the root down; none for the root.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/').filter(|c| !c.is_empty())
    }

    /// Whether this is strictly below `dir`.
    #[must_use]
    pub fn is_below(&self, dir: &Self) -> bool {
        dir.is_root() && !self.is_root()
            || self.0.len() > dir.0.len()
                && self.0.starts_with(&dir.0)
                && self.0[dir.0.len()] == b'/'
    }
}

fn check_name(name: &[u8]) -> Result<(), PathError> {
    match name {
        b"" => Err(PathError::EmptyComponent),
        b"." | b".." => Err(PathError::DotComponent),
        n if n.len() > NAME_BYTES_MAX => Err(PathError::NameTooLong),
        n if n.contains(&0) => Err(PathError::Nul),
        _ => Ok(()),
    }
}

/// Printable text as it is; everything else as `\xNN`, a backslash as `\\`, so that a name can
/// neither forge a log line nor be mistaken for another. The root is `.`.
impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '\\' => f.write_str("\\\\")?,
                    c if c.is_control() => write_bytes(f, c.encode_utf8(&mut [0; 4]).as_bytes())?,
                    c => write!(f, "{c}")?,
                }
            }
            write_bytes(f, chunk.invalid())?;
        }
        Ok(())
    }
}

fn write_bytes(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "\\x{b:02x}"))
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_leave_the_mount_is_not_a_path() {
        for bad in [&b"/a"[..], b"a/", b"a//b", b"..", b"a/../b", b"./a", b"a\0b", &[b'x'; 256]] {
            assert!(RelPath::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Err(PathError::TooLong), RelPath::parse(&b"a/".repeat(PATH_BYTES_MAX)));
    }

    #[test]
    fn names_are_bytes_and_print_on_one_line() {
        let path = RelPath::parse(b"a\n/\xff\\b").unwrap();
        assert_eq!("a\\x0a/\\xff\\\\b", path.to_string());
        assert_eq!(b"\xff\\b", path.name());
        assert_eq!(".", RelPath::root().to_string());
    }

    #[test]
    fn below_means_a_whole_component() {
        let p = |s: &str| RelPath::parse(s.as_bytes()).unwrap();
        assert!(p("a/b").is_below(&p("a")));
        assert!(!p("ab").is_below(&p("a")));
        assert!(!p("a").is_below(&p("a")));
        assert!(p("a").is_below(&RelPath::root()));
        assert_eq!(Some(RelPath::root()), p("a").parent());
        assert_eq!(p("a/b"), p("a").join(b"b").unwrap());
    }
}
