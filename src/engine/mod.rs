//! The decisions, without I/O.

mod policy;

pub use policy::{
    Class, ClassSettings, ClassTable, OWN_DIR, PATTERN_BYTES_MAX, Pattern, PatternError, Policy,
    RULES_MAX, UnknownClass,
};
