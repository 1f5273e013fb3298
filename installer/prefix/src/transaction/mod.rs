//! Changing a prefix: the plan, the order, who owns which path, and the execution.

mod claims;
mod draft;
mod execute;
mod layout;
mod linking;
mod links;
mod order;
mod plan;
mod record;
mod removal;

pub use execute::{Summary, Transaction};
pub use plan::Plan;

#[cfg(test)]
mod tests;
