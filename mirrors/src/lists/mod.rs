//! Lists of mirrors, in each format that is read.

pub(crate) mod condarc;
pub(crate) mod link_header;
pub(crate) mod list_error;
pub(crate) mod listed_digest;
pub(crate) mod metalink;
pub(crate) mod mirror_list;
pub(crate) mod mirror_source;
pub(crate) mod mirrors_file;
pub(crate) mod text;
mod toml_file;
mod yaml_file;
