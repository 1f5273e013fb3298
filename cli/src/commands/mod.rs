//! The commands. They know the structs of `args.rs`, but not clap.

pub(crate) mod auth;
mod command_line;
#[cfg(feature = "demo")]
pub(crate) mod demo;
pub(crate) mod fetch;
pub(crate) mod index;
pub(crate) mod info;
pub(crate) mod install;
mod install_platform;
mod install_report;
pub(crate) mod list;
pub(crate) mod mirror_list;
pub(crate) mod mirror_probe;
pub(crate) mod mirror_status;
pub(crate) mod mirror_sync;
mod mirrors;
mod package;
pub(crate) mod upload;
pub(crate) mod zck;
