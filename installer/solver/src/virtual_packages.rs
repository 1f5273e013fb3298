//! The virtual packages of a platform: `__glibc`, `__linux`, `__cuda` and so on.

use rattler_conda_types::{GenericVirtualPackage, Subdir};
use rattler_virtual_packages::{
    AmdGpu, AmdGpuArch, Archspec, Cuda, CudaArch, DetectVirtualPackageError, EnvOverride, LibC,
    Linux, Osx, Override, VirtualPackageOverrides, VirtualPackages, Windows,
};

/// A virtual package could not be detected, or a variable that overrides one is invalid.
#[derive(Debug, thiserror::Error)]
#[error("cannot detect virtual packages")]
pub struct VirtualPackageError(#[from] DetectVirtualPackageError);

/// The virtual packages of a platform: those of this machine, or what machines of another platform are assumed to have. The
/// variables `CONDA_OVERRIDE_*` override either: a version replaces the known one, an empty value removes the package.
/// Sorted by name.
///
/// # Errors
///
/// When a variable is not a version, or the detection fails.
pub fn virtual_packages(
    platform: Subdir,
) -> Result<Vec<GenericVirtualPackage>, VirtualPackageError> {
    let found = if Some(platform) == Subdir::current() {
        // Without a cache, the detection of CUDA can take a second. A cache would be a file outside of
        // the prefix.
        VirtualPackages::detect(&VirtualPackageOverrides::from_env(), None)?
    } else {
        assumed(platform)?
    };
    let mut packages: Vec<_> = found.into_generic_virtual_packages().collect();
    packages.sort();
    Ok(packages)
}

/// What machines of a platform are assumed to have. Nothing of this machine is in it.
fn assumed(platform: Subdir) -> Result<VirtualPackages, DetectVirtualPackageError> {
    let mut found = VirtualPackages::baseline_for_platform(platform);
    // A platform without Linux has no `__linux`, whatever the variable says.
    if found.win.is_some() {
        found.win = overridden::<Windows>(found.win)?;
    }
    if found.linux.is_some() {
        found.linux = overridden::<Linux>(found.linux)?;
    }
    if found.osx.is_some() {
        found.osx = overridden::<Osx>(found.osx)?;
    }
    if found.libc.is_some() {
        found.libc = overridden::<LibC>(found.libc)?;
    }
    found.archspec = overridden::<Archspec>(found.archspec)?;
    found.cuda = overridden::<Cuda>(None)?;
    if found.cuda.is_some() {
        found.cuda_arch = overridden::<CudaArch>(None)?;
    }
    found.amdgpu = overridden::<AmdGpu>(None)?;
    if found.amdgpu.is_some() {
        found.amdgpu_arch = overridden::<AmdGpuArch>(None)?;
    }
    Ok(found)
}

fn overridden<T: EnvOverride>(assumed: Option<T>) -> Result<Option<T>, DetectVirtualPackageError> {
    T::detect_with_fallback(&Override::DefaultEnvVar, || Ok(assumed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(platform: Subdir) -> Vec<String> {
        let packages = virtual_packages(platform).unwrap();
        packages
            .iter()
            .map(|it| it.name.as_normalized().to_owned())
            .collect()
    }

    #[test]
    fn another_platform_has_its_own_virtual_packages_and_none_of_this_machine() {
        assert_eq!(names(Subdir::Win64), ["__archspec", "__win"]);
        assert_eq!(names(Subdir::OsxArm64), ["__archspec", "__osx", "__unix"]);
        assert_eq!(
            names(Subdir::LinuxAarch64),
            ["__archspec", "__glibc", "__linux", "__unix"]
        );
        let packages = virtual_packages(Subdir::LinuxPpc64le).unwrap();
        let glibc = packages
            .iter()
            .find(|it| it.name.as_normalized() == "__glibc");
        assert_eq!(glibc.unwrap().version.to_string(), "2.28");
    }
}
