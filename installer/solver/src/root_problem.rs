//! The root of a problem: what the request requires, so that parts of it can be left out.

use resolvo::{Problem, VersionSetId};

use crate::explanation::SpecOrigin;

/// A spec of the request, as the solver knows it.
#[derive(Debug, Clone)]
pub(crate) struct RootRequirement {
    pub(crate) origin: SpecOrigin,
    pub(crate) text: String,
    pub(crate) version_set: VersionSetId,
}

/// Everything at the root of a problem. Leaving requirements out makes an easier problem, which is
/// how those in conflict are found.
#[derive(Debug, Clone)]
pub(crate) struct RootProblem {
    /// The virtual packages of the machine. They are part of every solution, so that `constrains`
    /// on a virtual package is enforced.
    pub(crate) virtual_packages: Vec<VersionSetId>,
    pub(crate) requirements: Vec<RootRequirement>,
    /// Installed packages that no spec requires and that stay if possible.
    pub(crate) orphans: Vec<VersionSetId>,
}

impl RootProblem {
    pub(crate) fn problem(&self) -> Problem {
        let of = |origin| {
            let all = self.requirements.iter();
            all.filter(move |requirement| requirement.origin == origin)
                .map(|requirement| requirement.version_set)
        };
        let requirements = self.virtual_packages.iter().copied();
        let requirements = requirements.chain(of(SpecOrigin::Requested));
        let requirements = requirements.chain(self.orphans.iter().copied());
        Problem::new()
            .requirements(requirements.map(Into::into).collect())
            .constraints(of(SpecOrigin::Pin).collect())
    }

    /// The same with some of the requirements and without orphans.
    pub(crate) fn with(&self, requirements: Vec<RootRequirement>) -> Self {
        Self {
            virtual_packages: self.virtual_packages.clone(),
            requirements,
            orphans: Vec::new(),
        }
    }

    /// Removes the last orphan for which `is_involved` holds. Returns whether there was one.
    pub(crate) fn drop_orphan(
        &mut self,
        is_involved: impl Fn(&[VersionSetId]) -> Vec<bool>,
    ) -> bool {
        let found = is_involved(&self.orphans)
            .iter()
            .rposition(|&involved| involved);
        if let Some(found) = found {
            self.orphans.remove(found);
        }
        found.is_some()
    }
}
