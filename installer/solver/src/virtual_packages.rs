//! What the machine offers: `__glibc`, `__linux`, `__cuda` and the like.

use rattler_conda_types::GenericVirtualPackage;
use rattler_virtual_packages::{
    DetectVirtualPackageError, VirtualPackageOverrides, VirtualPackages,
};

/// A virtual package could not be detected, or a variable that overrides one is malformed.
#[derive(Debug, thiserror::Error)]
#[error("what this machine offers (its virtual packages) could not be found out")]
pub struct VirtualPackageError(#[from] DetectVirtualPackageError);

/// Detects the virtual packages of this machine. The variables `CONDA_OVERRIDE_*` go before: a
/// version replaces what was detected, an empty value takes the package away. Sorted by name.
///
/// # Errors
///
/// When a variable is not a version, or the system cannot be asked.
pub fn detect_virtual_packages() -> Result<Vec<GenericVirtualPackage>, VirtualPackageError> {
    // Asking CUDA can take a second when its library is there; that no cache is kept for it here
    // is the price of not writing outside of the prefix.
    let detected = VirtualPackages::detect(&VirtualPackageOverrides::from_env(), None)?;
    let mut packages: Vec<_> = detected.into_generic_virtual_packages().collect();
    packages.sort();
    Ok(packages)
}
