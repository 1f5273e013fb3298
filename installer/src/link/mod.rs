//! From an extracted package to files in a prefix: linking, prefix replacement, `noarch: python`,
//! byte code and link scripts.

mod bytecode;
mod error;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod method;
mod observer;
mod options;
mod package;
mod placeholder;
mod platform;
mod process;
mod python;
mod script;
mod shebang;

pub(crate) use bytecode::{Compilation, Module, compile};
pub use error::LinkError;
pub(crate) use method::{Linker, Methods, copy};
pub use observer::{LinkObserver, LinkWarning};
pub use options::{LinkMethod, LinkOptions};
pub use package::LinkPackage;
pub(crate) use package::{FileKind, PackageContents, PackageFile, dist_name, normalise};
pub(crate) use placeholder::Replacement;
pub(crate) use platform::{BIN, claim_key, create_executable, create_like, same_file};
pub(crate) use python::Python;
pub(crate) use script::{ScriptKind, ScriptRunner};
pub(crate) use shebang::replace_text;
