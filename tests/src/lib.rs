//! The harness of the end-to-end tests, which are in `tests/`: a [`Sandbox`] in which the binary
//! runs, the demo channel, HTTP servers in this process, and real servers: [`Nginx`],
//! [`DockerRegistry`] and [`Moto`].

mod channel;
mod daemon;
mod moto;
mod nginx;
mod raw_server;
mod registry;
mod sandbox;
mod server;

pub use channel::{
    CHANNEL, demo_channel, expect_demo_runs, mirrors_file, mirrors_file_in_order, mirrors_file_of,
};
pub use moto::Moto;
pub use nginx::Nginx;
pub use raw_server::{Head, RawServer, response, target};
pub use registry::{DockerRegistry, RegistryAccess};
pub use sandbox::{Finished, Sandbox, finish, required, signal, taipan};
pub use server::{always, bytes_sent, serve, start_until_sent, wait_until_sent};
