//! What makes a transaction all or nothing: the lock, the journal, the rollback.

mod journal;
mod lock;
mod rollback;

pub(crate) use journal::{Journal, Scope, Stage};
pub use lock::LockedPrefix;
pub(crate) use rollback::{Recovery, finish, roll_back};
