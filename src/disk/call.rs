//! One system call: its label, what it does in words, and how it failed.
//!
//! In: a [`Call`] and the system call as a closure. Out: its result or [`Refused`]. Every call into
//! a mount goes through [`Call::run`] or [`Call::run_io`], so this is the one place to make a call
//! fail in a test ([`super::fault`]). It must never retry anything but an interruption.

use std::io;

use rustix::io::Errno;

use super::fault;

/// A system call as errors and fault injection name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// For tests and logs: `rename.apply`.
    pub label: &'static str,
    /// A verb and its object, as in "rename over the target".
    pub doing: &'static str,
}

/// The operating system refused a call.
#[derive(Debug, thiserror::Error)]
#[error("cannot {}", call.doing)]
pub struct Refused {
    /// Which call.
    pub call: Call,
    /// The operating system's reason.
    pub source: io::Error,
}

impl Call {
    pub(crate) const fn new(label: &'static str, doing: &'static str) -> Self {
        Self { label, doing }
    }

    /// This call's failure, where something else than the system refused.
    pub(crate) fn failed(self, source: io::Error) -> Refused {
        Refused { call: self, source }
    }

    /// Runs `f`, again if a signal interrupted it.
    pub(crate) fn run<T>(self, mut f: impl FnMut() -> Result<T, Errno>) -> Result<T, Refused> {
        let refused = |errno: Errno| Refused { call: self, source: errno.into() };
        fault::before(self.label).map_err(refused)?;
        let result = loop {
            match f() {
                Err(Errno::INTR) => {}
                other => break other,
            }
        };
        fault::after(self.label);
        result.map_err(refused)
    }

    /// The same for a call that the standard library makes, which knows of interruptions itself.
    pub(crate) fn run_io<T>(self, f: impl FnOnce() -> io::Result<T>) -> Result<T, Refused> {
        let refused = |source| Refused { call: self, source };
        fault::before(self.label).map_err(|errno| refused(errno.into()))?;
        let result = f();
        fault::after(self.label);
        result.map_err(refused)
    }
}

impl Refused {
    /// The error number, to branch on.
    pub(crate) fn errno(&self) -> Errno {
        Errno::from_io_error(&self.source).unwrap_or(Errno::IO)
    }

    /// Whether the disk or a quota is full.
    #[must_use]
    pub fn is_no_space(&self) -> bool {
        matches!(self.errno(), Errno::NOSPC | Errno::DQUOT)
    }

    /// The whole reason on one line: "cannot open: permission denied".
    #[must_use]
    pub fn reason(&self) -> String {
        let cause = self.source.to_string();
        let cause = cause.split(" (os error").next().unwrap_or_default();
        let mut chars = cause.chars();
        let first = chars.next().map(|c| c.to_ascii_lowercase()).into_iter();
        let cause: String = first.chain(chars).collect();
        format!("{self}: {cause}")
    }
}
