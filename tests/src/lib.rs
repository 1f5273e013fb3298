//! End-to-end tests of the binary, with servers in process and with real ones.
//!
//! What the tests share: a [`Sandbox`] in which the binary runs, and an [`Nginx`]. The tests
//! themselves are in `tests/`.

mod nginx;
mod sandbox;

pub use nginx::Nginx;
pub use sandbox::{Finished, Sandbox, finish, required, taipan};
