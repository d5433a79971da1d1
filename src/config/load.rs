//! Finds what a configuration file needs around it and reads it.
//!
//! In: a path. Out: a [`Config`]. It reads the file and the host's name, looks through symbolic
//! links, and changes nothing.
#![allow(clippy::disallowed_methods, reason = "does I/O")]

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use super::{Config, ConfigError, FILE_BYTES_MAX, Surroundings};

/// Why a configuration could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("cannot read {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The file was read and is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl Config {
    /// Reads and checks the configuration in a file.
    ///
    /// # Errors
    /// [`LoadError`], when the file cannot be read, or is not a valid configuration.
    pub fn load(file: &Path) -> Result<Self, LoadError> {
        let read = |source| LoadError::Read { file: file.to_owned(), source };
        let text = read_bounded(file).map_err(read)?;
        let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let surroundings = Surroundings {
            file: &std::path::absolute(file).map_err(read)?,
            host_name: host_name.trim(),
            resolve: &resolve,
        };
        Ok(Self::parse(&text, &surroundings)?)
    }
}

fn read_bounded(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    // One byte more than allowed, so that the parser sees and reports what is too long.
    std::fs::File::open(file)?.take(FILE_BYTES_MAX as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

/// The path with every symbolic link in the part that exists looked through.
fn resolve(path: &Path) -> PathBuf {
    let resolved = path.ancestors().find_map(|existing| {
        let real = existing.canonicalize().ok()?;
        Some(real.join(path.strip_prefix(existing).ok()?))
    });
    resolved.unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_to_be_nested_through_a_symbolic_link() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("real/sub")).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("link")).unwrap();
        let file = dir.path().join("trefoil.toml");
        let text = "[node]\nname = \"a\"\nstate = \"state\"\n[[mount]]\nname = \"a\"\n\
            path = \"real\"\n[[mount]]\nname = \"b\"\npath = \"link/sub/new\"\n";
        std::fs::write(&file, text).unwrap();
        let error = Config::load(&file).unwrap_err().to_string();
        assert!(error.contains(":9:8: ") && error.contains("inside mount \"a\""), "{error}");
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let error = Config::load(Path::new("/nowhere/trefoil.toml")).unwrap_err();
        assert_eq!("cannot read /nowhere/trefoil.toml", error.to_string());
    }
}
