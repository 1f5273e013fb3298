//! The virtual packages of the machine: `__glibc`, `__linux`, `__cuda` and so on.

use rattler_conda_types::GenericVirtualPackage;
use rattler_virtual_packages::{
    DetectVirtualPackageError, VirtualPackageOverrides, VirtualPackages,
};

/// A virtual package could not be detected, or a variable that overrides one is invalid.
#[derive(Debug, thiserror::Error)]
#[error("cannot detect virtual packages")]
pub struct VirtualPackageError(#[from] DetectVirtualPackageError);

/// Detects the virtual packages of this machine. The variables `CONDA_OVERRIDE_*` override
/// it: a version replaces the detected one, an empty value removes the package. Sorted by name.
///
/// # Errors
///
/// When a variable is not a version, or the detection fails.
pub fn detect_virtual_packages() -> Result<Vec<GenericVirtualPackage>, VirtualPackageError> {
    // Without a cache, the detection of CUDA can take a second. A cache would be a file outside of
    // the prefix.
    let detected = VirtualPackages::detect(&VirtualPackageOverrides::from_env(), None)?;
    let mut packages: Vec<_> = detected.into_generic_virtual_packages().collect();
    packages.sort();
    Ok(packages)
}
