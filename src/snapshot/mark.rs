//! Marks: whether a snapshot is pinned, or was removed. Pure; `docs/repository-format.md` has the lines.
//!
//! A manifest never changes, so what people decide of a snapshot stands beside it. Nodes tell each other
//! their marks, and the one that was set last is that of all.

use super::tree::FormatError;

const FIRST: &str = "trefoil mark 1";

/// What was decided of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Mark {
    /// When, in nanoseconds since 1970. A later one wins.
    pub changed_ns: u64,
    /// It is no snapshot any more.
    pub removed: bool,
    /// Nothing removes it by itself.
    pub pinned: bool,
}

impl Mark {
    /// Its text.
    #[must_use]
    pub fn encode(&self) -> String {
        let word = |is| if is { "yes" } else { "no" };
        let (removed, pinned) = (word(self.removed), word(self.pinned));
        format!("{FIRST}\nchanged {}\nremoved {removed}\npinned {pinned}\n", self.changed_ns)
    }

    /// What a text says.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn decode(text: &str) -> Result<Self, FormatError> {
        const WRONG: FormatError = FormatError("a line of a mark");
        let mut lines = text.lines();
        if lines.next() != Some(FIRST) {
            return Err(FormatError("the first line of a mark"));
        }
        let mut value = |name: &str| {
            let line = lines.next().and_then(|line| line.strip_prefix(name));
            line.and_then(|line| line.strip_prefix(' ')).ok_or(WRONG)
        };
        let word = |text| match text {
            "yes" => Ok(true),
            "no" => Ok(false),
            _ => Err(WRONG),
        };
        let changed_ns = value("changed")?.parse().map_err(|_| WRONG)?;
        let (removed, pinned) = (word(value("removed")?)?, word(value("pinned")?)?);
        if lines.next().is_some() {
            return Err(WRONG);
        }
        Ok(Self { changed_ns, removed, pinned })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written_and_nothing_else_is_one() {
        let mark = Mark { changed_ns: 1_796_450_400_123_456_789, removed: true, pinned: false };
        let text = mark.encode();
        assert_eq!(Ok(mark), Mark::decode(&text));
        for (from, to) in [("yes", "maybe"), ("changed ", "changed x"), ("mark 1", "mark 2")] {
            assert!(Mark::decode(&text.replace(from, to)).is_err(), "{to}");
        }
        assert!(Mark::decode(&format!("{text}more\n")).is_err());
    }

    #[test]
    fn the_last_mark_wins_and_at_one_moment_the_removal() {
        let kept = Mark { changed_ns: 5, removed: false, pinned: true };
        let removed = Mark { changed_ns: 5, removed: true, pinned: false };
        let later = Mark { changed_ns: 6, removed: false, pinned: false };
        assert_eq!(Some(later), [later, removed, kept].into_iter().max());
        assert_eq!(Some(removed), [kept, removed].into_iter().max());
    }
}
