//! End-to-end tests of the binary, with servers in process and with real ones.
//!
//! What the tests share: a [`Sandbox`] in which the binary runs, and real servers: [`Nginx`],
//! [`DockerRegistry`] and [`Moto`]. The tests themselves are in `tests/`.

mod daemon;
mod moto;
mod nginx;
mod registry;
mod sandbox;

pub use moto::Moto;
pub use nginx::Nginx;
pub use registry::{DockerRegistry, RegistryAccess};
pub use sandbox::{Finished, Sandbox, finish, required, taipan};
