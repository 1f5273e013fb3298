//! The commands. They know the structs of `args.rs`, but not clap.

#[cfg(feature = "demo")]
pub(crate) mod demo;
pub(crate) mod fetch;
pub(crate) mod info;
pub(crate) mod install;
pub(crate) mod list;
pub(crate) mod mirror_list;
pub(crate) mod mirror_probe;
mod mirrors;
mod package;
pub(crate) mod zck;
