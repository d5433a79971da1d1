//! How a command ended: its exit code, and what is said about a failure.

use std::process::ExitCode;

use crate::{
    config::LoadError,
    control::{ClientError, types::Refusal},
    snapshot::RepositoryError,
};

/// How a command that was carried out ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Done (0).
    Done,
    /// What was compared differs, or what was waited for did not come (1).
    Differs,
    /// Done, and there are problems (3).
    Problems,
    /// What a check for monitoring says: 0 to 3, by other rules than those above.
    Plugin(u8),
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::SUCCESS,
            Outcome::Differs => Self::from(1),
            Outcome::Problems => Self::from(3),
            Outcome::Plugin(code) => Self::from(code),
        }
    }
}

/// Why a command was not carried out, and what to do next.
#[derive(Debug)]
pub struct Failure {
    /// The reasons, outermost first.
    pub error: anyhow::Error,
    /// The next command, or what to change.
    pub hint: Option<String>,
    /// Whether the command line or the configuration is wrong (exit 2; otherwise 1).
    pub usage: bool,
}

impl Failure {
    /// A failure with what to do about it.
    pub fn with_hint(error: impl Into<anyhow::Error>, hint: impl Into<String>) -> Self {
        Self { error: error.into(), hint: Some(hint.into()), usage: false }
    }

    /// A wrong command line.
    pub fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self { error: error.into(), hint: None, usage: true }
    }

    /// 1, or 2 for wrong usage.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(if self.usage { 2 } else { 1 })
    }
}

impl From<RepositoryError> for Failure {
    fn from(error: RepositoryError) -> Self {
        anyhow::Error::new(error).into()
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { error, hint: None, usage: false }
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        let hint = match &error {
            LoadError::Read { .. } => Some("name the file with --config FILE or TREFOIL_CONFIG"),
            LoadError::Config(_) => None,
        };
        let error = anyhow::Error::new(error).context("cannot load the configuration");
        Self { error, hint: hint.map(str::to_owned), usage: true }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let hint = match &error {
            ClientError::NotRunning { .. } => {
                Some("start it: `systemctl start trefoil`, or `trefoil daemon`")
            }
            ClientError::NotPermitted { .. } => {
                Some("run this as root, or as a member of the socket's group")
            }
            ClientError::Silent(_) => Some("see what it is doing: `journalctl -u trefoil`"),
            ClientError::Refused(Refusal { hint, .. }) => hint.as_deref(),
            ClientError::Broken(_) | ClientError::Write(_) => None,
        };
        let hint = hint.map(str::to_owned);
        Self { error: error.into(), hint, usage: false }
    }
}
