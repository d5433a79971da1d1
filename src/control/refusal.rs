//! Why a request was not carried out: of which sort, in words, and what to do. Plain values.

use serde::{Deserialize, Serialize};

/// Why a request was not carried out.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{error}")]
pub struct Refusal {
    /// Of what sort it is.
    pub kind: RefusalKind,
    /// "cannot ...: reason".
    pub error: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Refusal {
    /// A refusal without a hint.
    pub fn new(kind: RefusalKind, error: impl Into<String>) -> Self {
        Self { kind, error: error.into(), hint: None }
    }

    /// The same refusal with a hint.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// The sort of a [`Refusal`], and so its HTTP status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusalKind {
    /// The request makes no sense (400).
    Invalid,
    /// There is no such thing (404).
    NotFound,
    /// Not as things are now (409).
    State,
    /// Something failed (500).
    Failed,
    /// Not yet or not any more (503).
    Unavailable,
}

impl RefusalKind {
    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Invalid => 400,
            Self::NotFound => 404,
            Self::State => 409,
            Self::Failed => 500,
            Self::Unavailable => 503,
        }
    }

    /// The sort that an HTTP status stands for.
    #[must_use]
    pub const fn from_status(status: u16) -> Self {
        match status {
            404 => Self::NotFound,
            409 => Self::State,
            503 => Self::Unavailable,
            400..500 => Self::Invalid,
            _ => Self::Failed,
        }
    }
}

/// A [`Refusal`] as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct RefusalBody {
    pub(super) error: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hint: Option<String>,
}
