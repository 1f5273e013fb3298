//! From an extracted package to files in a prefix: linking, prefix replacement, `noarch: python`,
//! byte code and link scripts.

mod bytecode;
mod method;
mod observer;
mod options;
mod package;
mod prefix_replacement;
mod process;
mod python;
mod script;
mod shebang;

pub(crate) use bytecode::{Compilation, Module, compile};
pub(crate) use method::{Linker, Methods, copy};
pub use observer::{LinkObserver, LinkWarning};
pub use options::{LinkMethod, LinkOptions};
pub(crate) use package::{
    FileKind, LinkPackage, PackageContents, PackageFile, dist_name, normalise,
};
pub(crate) use prefix_replacement::Replacement;
pub(crate) use python::Python;
pub(crate) use script::{ScriptKind, ScriptRunner};
pub(crate) use shebang::replace_text;
