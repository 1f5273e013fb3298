//! The options of a transaction.

use std::path::PathBuf;

/// How a file of the store is made to appear in a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkMethod {
    /// The same inode under another name. Costs nothing, but an edit in place changes the store.
    HardLink,
    /// A copy that shares its blocks with the store until either is changed.
    Reflink,
    /// A symbolic link into the store. The prefix breaks when the store is cleaned.
    SoftLink,
    /// Another file with the same bytes.
    Copy,
}

/// The options of a transaction.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LinkOptions {
    /// The methods in order of preference. When none works for a file, it is copied, so
    /// `always_copy` is an empty list and `always_softlink` is `[SoftLink]`.
    pub methods: Vec<LinkMethod>,
    /// Whether the link scripts of packages run, as CEP 34 requires.
    pub run_scripts: bool,
    /// Whether the modules of `noarch: python` packages are compiled.
    pub compile_pyc: bool,
    /// The cache of byte code for other environments with the same python and packages. Compiling
    /// takes some milliseconds per module, and linking hardly any. The directory may be deleted at
    /// any time.
    pub byte_code_cache: Option<PathBuf>,
    /// Whether to change an environment that has the frozen marker of CEP 22.
    pub override_frozen: bool,
    /// The number of worker threads; 0 means one per processor.
    pub threads: usize,
    /// The `ROOT_PREFIX` of link scripts. `None` means the prefix itself.
    pub root_prefix: Option<PathBuf>,
    /// The tool and its version for the history, such as `("taipan", "0.1.0")`.
    pub tool: (String, String),
    /// The command line for the history, without secrets.
    pub command_line: String,
    /// The requested specs, for the history's `# update specs`.
    pub update_specs: Vec<String>,
    /// The specs of removed packages, for the history's `# remove specs`.
    pub remove_specs: Vec<String>,
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self {
            methods: vec![LinkMethod::HardLink, LinkMethod::Reflink],
            run_scripts: true,
            compile_pyc: true,
            byte_code_cache: None,
            override_frozen: false,
            threads: 0,
            root_prefix: None,
            tool: ("taipan".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            command_line: "taipan".to_owned(),
            update_specs: Vec::new(),
            remove_specs: Vec::new(),
        }
    }
}

impl LinkOptions {
    /// Uses these methods, in this order; copying is the last resort of every list.
    #[must_use]
    pub fn with_methods(mut self, methods: impl Into<Vec<LinkMethod>>) -> Self {
        self.methods = methods.into();
        self
    }

    /// Copies every file.
    #[must_use]
    pub fn with_always_copy(self) -> Self {
        self.with_methods([])
    }

    /// Runs the link scripts of packages, or does not.
    #[must_use]
    pub fn with_run_scripts(mut self, run: bool) -> Self {
        self.run_scripts = run;
        self
    }

    /// Compiles the modules of `noarch: python` packages, or does not.
    #[must_use]
    pub fn with_compile_pyc(mut self, compile: bool) -> Self {
        self.compile_pyc = compile;
        self
    }

    /// Uses this directory as the cache of byte code.
    #[must_use]
    pub fn with_byte_code_cache(mut self, directory: impl Into<PathBuf>) -> Self {
        self.byte_code_cache = Some(directory.into());
        self
    }

    /// Changes a frozen environment, too.
    #[must_use]
    pub fn with_override_frozen(mut self, override_frozen: bool) -> Self {
        self.override_frozen = override_frozen;
        self
    }

    /// Uses this number of worker threads; 0 means one per processor.
    #[must_use]
    pub fn with_threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Sets `ROOT_PREFIX` for link scripts.
    #[must_use]
    pub fn with_root_prefix(mut self, root: impl Into<PathBuf>) -> Self {
        self.root_prefix = Some(root.into());
        self
    }

    /// Names the tool, its version and the command line in the history.
    #[must_use]
    pub fn with_tool(
        mut self,
        name: impl Into<String>,
        version: impl Into<String>,
        command_line: impl Into<String>,
    ) -> Self {
        self.tool = (name.into(), version.into());
        self.command_line = command_line.into();
        self
    }

    /// Records these specs in the history as requested.
    #[must_use]
    pub fn with_update_specs(mut self, specs: Vec<String>) -> Self {
        self.update_specs = specs;
        self
    }

    /// Records these specs in the history as removed.
    #[must_use]
    pub fn with_remove_specs(mut self, specs: Vec<String>) -> Self {
        self.remove_specs = specs;
        self
    }
}
