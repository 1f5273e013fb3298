//! Changing a prefix: the plan, the order, who owns which path, and a journal that makes the
//! change whole or undoes it.

mod claims;
mod draft;
mod execute;
mod failpoint;
mod journal;
mod layout;
mod linking;
mod order;
mod plan;
mod record;
mod removal;
mod undo;

pub use execute::{Summary, Transaction};
pub(crate) use journal::JOURNAL;
pub use order::topological_order;
pub use plan::{Plan, PlannedLink, Respec, Wanted};
pub(crate) use undo::{Recovery, recover};

#[cfg(test)]
mod tests;
