//! Transfers from real servers: nginx, docker-registry, s3s-fs and moto. They check that the mock servers
//! implement the protocols correctly.
//!
//! A test is reported as skipped when its server is not installed.

mod bucket;
mod channel;
mod contract;
#[path = "../../../transfer/tests/destination_suite/mod.rs"]
mod destination_suite;
mod destinations;
mod fixtures;
mod nginx;
mod registry;
mod s3;
mod together;
mod token;
mod who;
