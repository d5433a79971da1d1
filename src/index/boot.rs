//! What holds only while the machine runs: that the index may have changes which are not synced, and
//! which of the journaled applies have become visible.
//!
//! A file beside the index: the machine's boot, then a token for each apply since the journal was
//! last empty. A daemon that is killed leaves it behind; one that ends by itself removes it. What it
//! says of applies never counts after the power went, for then the disk may have forgotten them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::IndexError;

/// Changes with every start of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Bytes of a boot's id: a UUID as text.
const ID_BYTES: usize = 36;

/// Names one journaled apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

/// What the daemon that ran last has left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// The machine went down without the daemon ending first: the last commits may be lost.
    pub power_went: bool,
    /// Applies that became visible, as far as they are still journaled.
    pub visible: BTreeSet<Token>,
}

/// The file, while the daemon runs.
#[derive(Debug)]
pub struct Boot {
    path: PathBuf,
    file: File,
}

impl Boot {
    /// Reads what was left, and changes nothing.
    ///
    /// # Errors
    /// [`IndexError::Io`].
    pub fn left(path: &Path) -> Result<Left, IndexError> {
        match fs::read(path) {
            Ok(bytes) => Ok(parse(&bytes, &boot_id()?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Left::default()),
            Err(error) => Err(failed(error)),
        }
    }

    /// From now on the index may have changes that are not synced. What was left of this boot stays
    /// until [`Boot::clear`].
    ///
    /// # Errors
    /// [`IndexError::Io`].
    pub fn begin(path: &Path) -> Result<Self, IndexError> {
        begin(path, &boot_id()?).map_err(failed)
    }

    /// The apply is visible. If that cannot be written, who removes the file between a crash and the
    /// next start sees it come back.
    pub fn note_visible(&self, token: Token) {
        if let Err(error) = (&self.file).write_all(&token.0.to_le_bytes()) {
            tracing::debug!(%error, "cannot note that an apply is visible");
        }
    }

    /// No apply is journaled any more.
    pub fn clear(&self) {
        if let Err(error) = self.file.set_len(ID_BYTES as u64) {
            tracing::debug!(%error, "cannot clear the boot file");
        }
    }

    /// The index is synced and is not changed any more.
    ///
    /// # Errors
    /// [`IndexError::Io`]: the next start takes more care than it has to.
    pub fn end(&self) -> Result<(), IndexError> {
        fs::remove_file(&self.path).map_err(failed)
    }
}

fn begin(path: &Path, now: &[u8]) -> io::Result<Boot> {
    let mut file = File::options().read(true).append(true).create(true).open(path)?;
    if fs::read(path)?.get(..ID_BYTES) != Some(now) {
        file.set_len(0)?;
        file.write_all(now)?;
        file.sync_all()?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
    }
    Ok(Boot { path: path.to_owned(), file })
}

/// A file that is cut short was being written when the power went.
fn parse(bytes: &[u8], now: &[u8]) -> Left {
    match bytes.split_at_checked(ID_BYTES) {
        Some((id, tokens)) if id == now => {
            let (tokens, _) = tokens.as_chunks::<8>();
            let visible = tokens.iter().map(|bytes| Token(u64::from_le_bytes(*bytes))).collect();
            Left { power_went: false, visible }
        }
        _ => Left { power_went: true, visible: BTreeSet::new() },
    }
}

fn boot_id() -> Result<Vec<u8>, IndexError> {
    let mut id = fs::read(BOOT_ID).map_err(failed)?;
    id.resize(ID_BYTES, b' ');
    Ok(id)
}

fn failed(source: io::Error) -> IndexError {
    IndexError::Io { doing: "note the boot of", source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: [u8; ID_BYTES] = [b'1'; ID_BYTES];
    const TWO: [u8; ID_BYTES] = [b'2'; ID_BYTES];

    #[test]
    fn a_killed_daemon_leaves_what_became_visible() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.boot");
        assert_eq!(Left::default(), Boot::left(&path).unwrap());
        let boot = Boot::begin(&path).unwrap();
        boot.note_visible(Token(1));
        boot.clear();
        boot.note_visible(Token(2));
        boot.note_visible(Token(3));
        drop(boot);
        let visible = BTreeSet::from([Token(2), Token(3)]);
        assert_eq!(Left { power_went: false, visible }, Boot::left(&path).unwrap());
        let boot = Boot::begin(&path).unwrap();
        assert_eq!(2, Boot::left(&path).unwrap().visible.len(), "kept until it was used");
        boot.end().unwrap();
        assert_eq!(Left::default(), Boot::left(&path).unwrap());
    }

    #[test]
    fn what_became_visible_counts_no_more_after_the_power_went() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.boot");
        begin(&path, &ONE).unwrap().note_visible(Token(7));
        let went = Left { power_went: true, visible: BTreeSet::new() };
        assert_eq!(went, parse(&fs::read(&path).unwrap(), &TWO));
        begin(&path, &TWO).unwrap();
        assert_eq!(Left::default(), parse(&fs::read(&path).unwrap(), &TWO));
        assert_eq!(went, parse(b"", &ONE), "it was being written");
    }
}
