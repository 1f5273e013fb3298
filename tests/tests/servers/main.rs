//! Files from real servers: nginx, docker-registry, s3s-fs and moto. What the mock servers believe
//! of a protocol is thereby compared with programs that others have written.
//!
//! A test says that it is skipped when its server is not on this machine.

mod bucket;
mod channel;
mod contract;
mod fixtures;
mod nginx;
mod registry;
mod s3;
mod together;
mod token;
mod who;
