//! engine
pub mod clock; pub mod fingerprint; pub mod reconcile;
