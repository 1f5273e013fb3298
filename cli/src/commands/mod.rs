//! The commands: plain functions that never see clap beyond the structs of `args.rs`.

mod command_line;
pub(crate) mod demo;
pub(crate) mod fetch;
mod fetch_report;
pub(crate) mod info;
pub(crate) mod install;
mod install_report;
pub(crate) mod list;
pub(crate) mod mirror_list;
pub(crate) mod mirror_probe;
mod mirrors;
mod package;
pub(crate) mod zck;
