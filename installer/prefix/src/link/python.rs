//! The python of an environment, which determines where files of `noarch: python` packages go.

use rattler_conda_types::PackageRecord;
use rattler_conda_types::package::EntryPoint;

use super::package::{dist_name, normalise};
use super::shebang;
use crate::error::PrefixError;
use crate::platform::BIN;

/// The python of an environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Python {
    pub(crate) major: u64,
    pub(crate) minor: u64,
    /// Relative to the prefix, with forward slashes.
    pub(crate) site_packages: String,
    /// `version-build`, the key of its byte code in the cache.
    pub(crate) build: String,
}

impl Python {
    /// From the record of the package `python`. It may state its site-packages (CEP 17).
    pub(crate) fn from_record(record: &PackageRecord) -> Result<Self, PrefixError> {
        let (major, minor) = record.version.as_major_minor().unwrap_or((0, 0));
        let site_packages = match record.python_site_packages_path.as_deref() {
            Some(path) => normalise(path).ok_or_else(|| PrefixError::SitePackagesEscape {
                package: dist_name(record),
                path: path.to_owned(),
            })?,
            None => format!("lib/python{major}.{minor}/site-packages"),
        };
        let build = format!("{}-{}", record.version.as_str(), record.build.as_str());
        Ok(Self {
            major,
            minor,
            site_packages,
            build,
        })
    }

    /// Whether a `noarch: python` package linked for one works with the other.
    pub(crate) fn same_layout(&self, other: &Self) -> bool {
        (self.major, self.minor, &self.site_packages)
            == (other.major, other.minor, &other.site_packages)
    }

    /// The interpreter, relative to the prefix.
    pub(crate) fn interpreter(&self) -> String {
        format!("{BIN}/python{}.{}", self.major, self.minor)
    }

    /// Where a path of a `noarch: python` package goes in the prefix.
    pub(crate) fn target(&self, path: &str) -> String {
        if let Some(rest) = path.strip_prefix("site-packages/") {
            format!("{}/{rest}", self.site_packages)
        } else if let Some(rest) = path.strip_prefix("python-scripts/") {
            format!("{BIN}/{rest}")
        } else {
            path.to_owned()
        }
    }

    /// Where the byte code of a module goes, relative to the prefix like the module.
    pub(crate) fn byte_code(&self, module: &str) -> Option<String> {
        let stem = module.strip_suffix(".py")?;
        if self.major < 3 {
            return Some(format!("{module}c"));
        }
        let (directory, name) = stem.rsplit_once('/').unwrap_or(("", stem));
        let separator = if directory.is_empty() { "" } else { "/" };
        Some(format!(
            "{directory}{separator}__pycache__/{name}.cpython-{}{}{}.pyc",
            self.major,
            self.minor,
            self.abi_flag()
        ))
    }

    /// A free-threaded build marks its directories and its byte code with a `t`.
    fn abi_flag(&self) -> &'static str {
        let directory = format!("python{}.{}t", self.major, self.minor);
        if self.site_packages.split('/').any(|part| part == directory) {
            "t"
        } else {
            ""
        }
    }

    /// The script that runs an entry point. `prefix` is absolute.
    pub(crate) fn entry_point_script(&self, prefix: &str, entry_point: &EntryPoint) -> String {
        let first_line = shebang::for_entry_point(&format!("{prefix}/{}", self.interpreter()));
        let EntryPoint {
            module, function, ..
        } = entry_point;
        // Of a dotted function (`Class.method`), the first name is imported.
        let import = function.split('.').next().unwrap_or(function);
        format!(
            "{first_line}# -*- coding: utf-8 -*-\n\
             import sys\n\
             \n\
             from {module} import {import}\n\
             \n\
             if __name__ == \"__main__\":\n    \
                 sys.exit({function}())\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use rattler_conda_types::{PackageName, VersionWithSource};

    use super::*;

    fn record(version: &str, site_packages: Option<&str>) -> PackageRecord {
        let mut record = PackageRecord::new(
            PackageName::new_unchecked("python"),
            version.parse::<VersionWithSource>().unwrap(),
            "0".parse().unwrap(),
        );
        record.python_site_packages_path = site_packages.map(ToOwned::to_owned);
        record
    }

    #[test]
    fn noarch_paths_are_mapped() {
        let python = Python::from_record(&record("3.11.7", None)).unwrap();
        assert_eq!(
            python.target("site-packages/a/b.py"),
            "lib/python3.11/site-packages/a/b.py"
        );
        assert_eq!(python.target("python-scripts/tool"), "bin/tool");
        assert_eq!(python.target("share/x"), "share/x");
        assert_eq!(
            python.byte_code("lib/a/b.py").as_deref(),
            Some("lib/a/__pycache__/b.cpython-311.pyc")
        );
        assert_eq!(
            python.byte_code("b.py").as_deref(),
            Some("__pycache__/b.cpython-311.pyc")
        );
        assert_eq!(python.byte_code("b.txt"), None);
        let old = Python::from_record(&record("2.7.18", None)).unwrap();
        assert_eq!(old.byte_code("lib/b.py").as_deref(), Some("lib/b.pyc"));
    }

    #[test]
    fn site_packages_may_move_but_not_escape() {
        let path = "lib/python3.13t/site-packages";
        let python = Python::from_record(&record("3.13.1", Some(path))).unwrap();
        assert_eq!(python.target("site-packages/m.py"), format!("{path}/m.py"));
        assert_eq!(
            python.byte_code("a/m.py").as_deref(),
            Some("a/__pycache__/m.cpython-313t.pyc")
        );
        for escape in ["../outside", "/abs", "lib/../../x", ""] {
            let error = Python::from_record(&record("3.13.1", Some(escape))).unwrap_err();
            assert!(
                matches!(error, PrefixError::SitePackagesEscape { .. }),
                "{escape}"
            );
        }
    }

    #[test]
    fn an_entry_point_imports_what_its_function_starts_with() {
        let python = Python::from_record(&record("3.11.7", None)).unwrap();
        let entry_point = "tool = pkg.cli:App.run".parse().unwrap();
        assert_eq!(
            python.entry_point_script("/env", &entry_point),
            "#!/env/bin/python3.11\n# -*- coding: utf-8 -*-\nimport sys\n\nfrom pkg.cli import App\n\nif __name__ == \"__main__\":\n    sys.exit(App.run())\n"
        );
    }
}
